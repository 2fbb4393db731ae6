"""Fingerprints: the identity of a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULT_VERSION = 5  # raised when a change of the code alters numbers


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what decides a result, and of the code's result version."""
    content = {"result_version": RESULT_VERSION, **identity}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
