"""Checkpoints: torch files of tensors and plain types that carry their own checksum.

`torch.load` ignores the checksums inside its archive, so that a flipped bit loads as other weights. kdrun's files end
in a zip comment with the sha256 of everything before it: torch and every zip tool read them as ever, and kdrun
refuses one whose bytes have changed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdrun import processes
from kdrun.errors import UsageError, brief
from kdrun.records.files import write
from kdrun.records.seal import MARK, TAIL, is_sealed, sealed


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
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if not is_sealed(content):
        raise UsageError(f"checkpoint {path} is damaged or not written by kdrun: its checksum does not match")
    _refuse_inflating(path, io.BytesIO(content))
    try:
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"checkpoint {path} holds more than tensors and plain values, which is not run") from error
    return loaded


def _refuse_inflating(path: Path, file: Path | io.BytesIO) -> None:
    """Raise `UsageError` for an archive that holds more than its file has bytes; torch writes uncompressed ones."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            inflates = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except zipfile.BadZipFile:
        inflates = False  # torch says what is wrong with it
    if inflates:
        raise UsageError(f"checkpoint {path} is compressed, which torch's own files are not; it is not read")


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
    _refuse_inflating(path, path)
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
