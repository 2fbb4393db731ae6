"""What to try where a student did not learn: published weights belong to the published data and recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.reports.reading import Record


def advice(run: Record) -> list[str]:
    """A line for a student that ends less than half as good as its teacher though nothing clipped a strong term."""
    student, teacher = (run.summary.get(key) for key in ("test/accuracy", "teacher/test/accuracy"))
    if student is None or teacher is None or student >= teacher / 2 or run.config.get("grad_clip") is not None:
        return []
    measured = next((line for line in run.history() if any(key.startswith("gradient/") for key in line)), {})
    pulls = {name: pull for name, pull in _pulls(measured).items() if pull > 1}
    if not pulls:
        return []
    strongest = max(pulls, key=lambda name: pulls[name])
    return [
        f"the student did not learn: at first the gradient of {strongest} was {pulls[strongest]:,.0f} times that of "
        "the labels, and nothing clips it; try grad_clip=1.0, or a smaller weight"
    ]


def _pulls(line: Mapping[str, Any]) -> dict[str, float]:
    """How strong the gradient of each term is, with its weight, over that of the labels; none without labels."""
    strengths = {
        key.removeprefix("gradient/"): value * line.get(key.replace("gradient/", "weight/"), 0.0)
        for key, value in line.items()
        if key.startswith("gradient/")
    }
    labels = strengths.pop("task", 0.0)
    return {name: strength / labels for name, strength in strengths.items()} if labels else {}
