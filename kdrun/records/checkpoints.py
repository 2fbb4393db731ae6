"""Checkpoints: torch files of tensors and plain types that carry their own checksum.

`torch.load` ignores the checksums inside its archive, so that a flipped bit loads as other weights. kdrun's files end
in a zip comment with the sha256 of everything before it: torch and every zip tool read them as ever, and kdrun
refuses one whose bytes have changed.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdrun import processes
from kdrun.errors import UsageError, brief
from kdrun.records.files import write
from kdrun.records.foreign import open_regular
from kdrun.records.seal import MARK, TAIL, is_sealed, sealed

FIRST, LAST, END = b"PK\x03\x04", b"PK\x05\x06", 22  # how a zip begins; how its last record does, and its bytes
LONGEST_LIST = 10_000_000  # bytes that name what is in an archive: a tensor takes about a hundred


def save(path: Path, content: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write tensors and plain types (no numpy, no paths) as one whole file with a checksum.

    The file that was there before is renamed to `keep` where that is given.
    """
    if not processes.is_first():  # it would be serialised, and not written
        return
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    archive = buffer.getvalue()[:-2] + TAIL.to_bytes(2, "little")  # the last field of a zip: length of its comment
    write(path, sealed(archive), keep)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote. Raises `UsageError` when the file is not there, not kdrun's, or not what was written."""
    try:
        with open_regular(path) as file:
            if not (_looks_saved(file) and is_sealed(file)):
                raise UsageError(f"checkpoint {path} is damaged or not written by kdrun: its checksum does not match")
            _refuse_inflating(path)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise UsageError(f"checkpoint {path} holds more than tensors and plain values, which is not run") from error
    if not isinstance(content, dict):
        raise UsageError(f"checkpoint {path} holds a {type(content).__name__}, which kdrun does not save")
    return content


def _looks_saved(file: BinaryIO) -> bool:
    """Does an open file begin and end as those of `save` do? To hash a large one that does not would take long."""
    begin = file.read(len(FIRST))
    file.seek(max(0, os.fstat(file.fileno()).st_size - END - TAIL))
    end = file.read()
    return begin == FIRST and end.startswith(LAST) and end[END - 2 :].startswith(TAIL.to_bytes(2, "little") + MARK)


class _Sparing(io.BufferedReader):
    """A file of which nobody takes much at once: an archive may say that the list of what is in it is gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.path, self.size = path, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.size - self.tell() if size is None or size < 0 else size
        if wanted > LONGEST_LIST:
            raise UsageError(f"checkpoint {self.path} is an archive with a list of {wanted:,} bytes; it is not read")
        return super().read(wanted)


def _refuse_inflating(path: Path) -> None:
    """Raise `UsageError` for an archive that holds more than its file has bytes; torch writes uncompressed ones."""
    with _Sparing(path) as file:
        if not zipfile.is_zipfile(file):
            return
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, RuntimeError):  # RuntimeError: a version of zip that is not known
            return  # torch says what is wrong with it
        size = file.size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UsageError(f"checkpoint {path} is compressed, which torch's own files are not; it is not read")
    if sum(entry.file_size for entry in entries) > size:
        raise UsageError(f"checkpoint {path} says that it holds more than its {size:,} bytes; it is not read")


def is_ours(path: Path) -> bool:
    """Does the file end like one of kdrun's?"""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().startswith(MARK)


def load_foreign(path: Path) -> dict[str, Any]:
    """Any torch file that holds tensors and plain types, kdrun's own verified. Raises `UsageError`."""
    if not path.is_file():
        raise UsageError(f"checkpoint {path}: there is no such file")
    if is_ours(path):
        return load(path)
    _refuse_inflating(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may be anything, and torch raises anything for it
        reason = brief(str(error).split("\n")[0].partition(". This file can still be loaded")[0], 300)
        raise UsageError(
            f"checkpoint {path} cannot be read as tensors and plain values: it is no torch file, is cut short, "
            f"or holds code, which is not run ({reason})"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict")
    return content
