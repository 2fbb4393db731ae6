"""Bytes that tell whether they are as they were written: content, a mark, and the sha256 of the content."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

MARK = b"kdrun-sha256:"
TAIL = len(MARK) + 64
PIECE = 2**20  # bytes


def tail(digest: str) -> bytes:
    """What is written behind a content with this sha256."""
    return MARK + digest.encode()


def sealed(content: bytes) -> bytes:
    return content + tail(hashlib.sha256(content).hexdigest())


def is_sealed(file: BinaryIO) -> bool:
    """Does an open file hold what `sealed` gave? It is read in pieces: a checkpoint may be large."""
    digest, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - TAIL
    file.seek(0)
    while left > 0 and (piece := file.read(min(left, PIECE))):
        digest.update(piece)
        left -= len(piece)
    return left == 0 and file.read() == tail(digest.hexdigest())
