"""Finding a data set's files, checking that their bytes are known, and fetching them where that is possible."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdrun.errors import KdrunError, UsageError

TIMEOUT = 20  # seconds without an answer


def cache_folder() -> Path:
    """Where a user's caches are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdrun"


@dataclass(frozen=True)
class Known:
    """One file: where it lies in the data folder, the checksums accepted (sha256 or MD5), where it can be had."""

    path: str
    digests: tuple[str, ...]
    url: str | None = None


def locate(folder: Path, alternatives: list[Known], verify: bool) -> Path:
    """The first of `alternatives` that is there, fetched if none is.

    Raises `UsageError` when a file's bytes are unknown (unless `verify` is off) or none can be had.
    """
    for known in alternatives:
        path = folder / known.path
        if path.is_file():
            if verify:
                check(path, known)
            return path
    for known in alternatives:
        if known.url is not None:
            return fetch(folder, known)
    wanted = " or ".join(known.path for known in alternatives)
    raise UsageError(f"data file missing: put {wanted} into {folder}, or name another folder with data_dir=")


def inflated(path: Path, opened: IO[bytes] | gzip.GzipFile | bz2.BZ2File, most: int) -> bytes:
    """What a compressed file holds. Raises `UsageError` beyond `most` bytes: a small file may inflate to anything."""
    content = opened.read(most + 1)
    if len(content) > most:
        raise UsageError(f"{path} inflates to more than the {most:,} bytes that are read of such a file")
    return content


def check(path: Path, known: Known) -> None:
    """Raise `UsageError` unless the file has one of the known checksums."""
    content = path.read_bytes()
    if not _known(content, known):
        got = ", ".join(f"{name} {hashlib.new(name, content).hexdigest()}" for name in ("md5", "sha256"))
        raise UsageError(f"{path} is not the published file ({got}); replace it, or set dataset.verify=false to use it")


def fetch(folder: Path, known: Known) -> Path:
    """Download to a temporary name, verify, rename. Raises `UsageError` where there is no network."""
    assert known.url is not None
    path = folder / known.path
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(known.url, timeout=TIMEOUT) as answer:
            content = answer.read()
        if not _known(content, known):
            got = hashlib.sha256(content).hexdigest()
            raise UsageError(f"{known.url} did not give the published {path} (sha256 {got}); get it elsewhere")
        path.parent.mkdir(parents=True, exist_ok=True)  # no folder is left where nothing can be had
        part.write_bytes(content)
        part.replace(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", error)
        raise UsageError(
            f"data file missing: put {known.path} into {folder}, or name another folder with data_dir= "
            f"(a download was tried: {reason})"
        ) from error
    except OSError as error:
        raise KdrunError(f"cannot write {path}: {error}") from error
    finally:
        if part.exists():
            part.unlink()
    return path


def _kind(digest: str) -> str:
    return {32: "md5", 64: "sha256"}[len(digest)]


def _known(content: bytes, known: Known) -> bool:
    return any(hashlib.new(_kind(digest), content).hexdigest() == digest for digest in known.digests)
