"""Bytes that tell whether they are as they were written: content, a mark, and the sha256 of the content."""

from __future__ import annotations

import hashlib

MARK = b"kdrun-sha256:"
TAIL = len(MARK) + 64


def tail(digest: str) -> bytes:
    """What is written behind a content with this sha256."""
    return MARK + digest.encode()


def sealed(content: bytes) -> bytes:
    return content + tail(hashlib.sha256(content).hexdigest())


def is_sealed(content: bytes) -> bool:
    """Is this what `sealed` gave? Nothing is copied: a checkpoint may be large."""
    return content[-TAIL:] == tail(hashlib.sha256(memoryview(content)[:-TAIL]).hexdigest())
