"""Numbers as people read them, and lines in columns."""

from __future__ import annotations

from collections.abc import Sequence

from kdrun.reports.settings import Spread

PERCENT = ("accuracy", "agreement", "generalisation_gap", "top5", "precision", "recall", "f1")
GAIN = "gain"  # a difference of two shares: points, not percent
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def shown_number(key: str, value: float | None) -> str:
    """A number of a summary with its unit; nothing for None."""
    if value is None:
        return ""
    if key == GAIN:
        return f"{100 * value:+.2f} points"
    if key.endswith(PERCENT):
        return f"{100 * value:.2f} %"
    if key.endswith("gap_closed"):
        return f"{value:.0%}"
    if key.endswith("_seconds"):
        return f"{1000 * value:.2f} ms"
    if key.endswith("_per_second"):
        return f"{value:,.0f} images/s"
    if key.endswith("size_bytes"):
        return f"{value / 2**20:.2f} MB"
    if key.endswith(("parameters", "flops", "samples")):
        return scaled(value)
    return f"{value:.4f}"


def shown_difference(key: str, value: float) -> str:
    """The same for a difference, with its sign; of shares in points."""
    if key.endswith((*PERCENT, GAIN)):
        return f"{100 * value:+.2f}"
    return f"{'+' if value >= 0 else '-'}{shown_number(key, abs(value))}"


def shown_spread(key: str, value: Spread | None) -> str:
    """Mean ± standard deviation in the unit of the key; a single value alone."""
    if value is None:
        return ""
    if value.sd is None:
        return shown_number(key, value.mean)
    if key == GAIN:
        return f"{100 * value.mean:+.2f} ± {100 * value.sd:.2f} points"
    if key.endswith(PERCENT):
        return f"{100 * value.mean:.2f} ± {100 * value.sd:.2f} %"
    return f"{shown_number(key, value.mean)} ± {shown_number(key, value.sd)}"


def scaled(value: float) -> str:
    for size, unit in SCALES:
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns, the first line as the heading."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        shown.append("  ".join(cells).rstrip())
    shown.insert(1, "-" * max(len(line) for line in shown))
    return shown
