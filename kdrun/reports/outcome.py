"""The table at the end of a run, from its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.errors import brief
from kdrun.records.files import read_json
from kdrun.records.runs import read_info
from kdrun.reports.advice import advice
from kdrun.reports.reading import Record
from kdrun.reports.tables import aligned, shown_number

Row = tuple[str, str]  # heading, key in the summary
ROWS: tuple[Row, ...] = (
    ("test accuracy", "test/accuracy"),
    ("test NLL", "test/nll"),
    ("test ECE", "test/ece"),
    ("train accuracy", "train/accuracy"),
    ("generalisation gap", "generalisation_gap"),
    ("agreement with teacher", "test/agreement"),
    ("KL from teacher", "test/kl"),
)
COSTS: tuple[Row, ...] = (
    ("parameters", "parameters"),
    ("FLOPs per image", "flops"),
    ("size", "size_bytes"),
    ("latency p50", "latency_p50_seconds"),
    ("latency p95", "latency_p95_seconds"),
    ("throughput", "throughput_per_second"),
)


def outcome(run: Path) -> str:
    """What a finished run found, as text: a table of its models side by side, and the verdict in words."""
    info, summary = read_info(run), read_json(run / "summary.json")
    roles = ["teacher", "student", "alone"] if info["stage"] == "distill" else ["model"]
    roles = [role for role in roles if f"{role}/parameters" in summary]
    lines = [["", *("student alone" if role == "alone" else role for role in roles)]]
    for heading, key in ROWS:
        named = [key if role in ("student", "model") else f"{role}/{key}" for role in roles]
        cells = [shown_number(key, summary.get(name)) for name in named]
        lines += [[heading, *cells]] if any(cells) else []
    for heading, key in COSTS:
        lines.append([heading, *(shown_number(key, summary.get(f"{role}/{key}")) for role in roles)])
    said = advice(Record(run, info, info["status"], summary))
    return "\n".join([*aligned(lines), "", *verdict(info, summary), *said, f"run: {run}"])


def verdict(info: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in words: gain, gap closed, and a warning where the comparison has no ground."""
    count, split = int(summary["test/samples"]), "test"
    data, seed = brief(info["data"]["name"]), brief(info["seeds"].get("seed", 0))
    said = [f"{split} split of {data}: n = {count:,}; one run, seed {seed}"]
    if "adapted" in info:
        said.append(brief(info["adapted"], 300))
    if "gain" not in summary:
        return said
    gain, closed = summary["gain"], summary["gap_closed"]
    said.append(f"gain over the student alone: {100 * gain:+.2f} points")
    if summary["teacher/test/accuracy"] <= summary["alone/test/accuracy"]:
        said.append("the teacher is not better than the student alone: there is no gap to close in these numbers")
    elif closed is not None:
        said.append(f"gap to the teacher closed: {closed:.0%}")
    else:
        said.append("gap closed: not stated, teacher and student alone differ by less than two standard errors")
    return said
