"""Samples that student and teacher see differently, as far as a run's record has them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from kdrun.reports.reading import Record, mapping, number, text

MOST_PICTURES, MOST_OF_A_PICTURE = 12, 40_000  # characters of base64
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sample:
    index: str
    true: str
    student: str
    student_share: str
    teacher: str
    teacher_share: str
    png: str  # base64


def gallery(run: Record) -> tuple[str, list[Sample]]:
    """How often the two differ, in words, and the samples. Nothing where the record has nothing of it."""
    record = mapping(run.document("details").get("disagreements"))
    count, samples = number(record.get("count")), number(record.get("samples"))
    listed = record.get("shown")
    shown = [_sample(one) for one in listed[:MOST_PICTURES] if _has_picture(one)] if isinstance(listed, list) else []
    if count is None or not samples or not shown:
        return "", []
    told = f"Student and teacher give different classes for {count:,.0f} of {samples:,.0f} test samples"
    return f"{told} ({count / samples:.1%}). Shown are {len(shown)} of them, those where the student is surest.", shown


def _sample(one: dict[str, Any]) -> Sample:
    words = {key: text(one.get(key), 30) for key in ("index", "true", "student", "teacher")}
    shares = {f"{role}_share": _share(one.get(f"{role}_probability")) for role in ("student", "teacher")}
    return Sample(**words, **shares, png=one["png"])


def _share(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:.0%}"


def _has_picture(one: Any) -> bool:
    png = one.get("png") if isinstance(one, dict) else None
    if not isinstance(png, str) or len(png) > MOST_OF_A_PICTURE:
        return False
    try:
        return base64.b64decode(png, validate=True).startswith(SIGNATURE)
    except (binascii.Error, ValueError):
        return False
