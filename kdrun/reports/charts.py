"""The figures of a report: matplotlib's SVG, in the colours of the page that it stands in, light or dark.

Colours are written as names that no figure has by chance, and become variables of the page's style sheet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.errors import brief
from kdrun.reports.tables import scaled

INK, FAINT = "#010203", "#010204"
SERIES = [f"#0102{16 + number:02x}" for number in range(8)]
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {colour: f"var(--s{n})" for n, colour in enumerate(SERIES)}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "kdrun",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}
PLACED = re.compile(r"<\?xml.*?<svg ", re.DOTALL)
LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>|<!--.*?-->", re.DOTALL)
SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')
NUMBERED = re.compile(r'(id="|href="#|url\(#)')

MOST_INSIDE = 4  # curves whose names stand among them
Curve = tuple[str, Sequence[float], Sequence[float]]


class Figures:
    """Makes figures; each has identifiers of its own, so that many can stand in one page."""

    def __init__(self) -> None:
        import matplotlib

        matplotlib.use("svg")
        self.made = 0

    def curves(self, panels: Mapping[str, Sequence[Curve]]) -> str:
        """A panel for each name, with its curves over epochs."""
        panels = {name: curves for name, curves in panels.items() if curves}
        beside = 2.6 if max((len(curves) for curves in panels.values()), default=0) > MOST_INSIDE else 0.0
        size = (3.4 * max(len(panels), 1) + beside, 2.5)
        return self._drawn(size, (1, max(len(panels), 1)), lambda axes: _curves(axes, panels))

    def heat_map(
        self,
        rows: Sequence[str],
        columns: Sequence[str],
        cells: Mapping[tuple[int, int], tuple[float, str]],
        names: tuple[str, str],
    ) -> str:
        """Cells by row and column: a number, and what is written there."""
        size = (1.5 + 0.95 * len(columns), 1.0 + 0.5 * len(rows))
        return self._drawn(size, (1, 1), lambda axes: _heat_map(axes[0], rows, columns, cells, names))

    def scatter(self, panels: Mapping[str, Sequence[tuple[str, float, float]]], vertical: str) -> str:
        """A panel for each cost: `(name, cost, value)` of each setting; those that none beats in both are joined.

        They have a number there, that of `front`.
        """
        panels = {name: points for name, points in panels.items() if points}
        return self._drawn((3.4 * len(panels), 2.7), (1, len(panels)), lambda axes: _scatter(axes, panels, vertical))

    def bars(
        self, names: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], across: str
    ) -> str:
        """For each name a mark for each series: its value, with a line of plus and minus the second number."""
        size = (6.4, 0.9 + 0.32 * len(names) + 0.1 * len(series))
        return self._drawn(size, (1, 1), lambda axes: _marks(axes[0], names, series, across))

    def matrix(self, names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
        """A confusion matrix: row = true class, column = predicted."""
        side = 1.6 + 0.34 * len(names)
        return self._drawn((side + 0.2, side), (1, 1), lambda axes: _matrix(axes[0], names, counts))

    def signed(self, names: Sequence[str], values: Sequence[float], across: str) -> str:
        """A bar to the right or left for each name."""
        return self._drawn((4.2, 0.9 + 0.24 * len(names)), (1, 1), lambda axes: _signed(axes[0], names, values, across))

    def calibration(self, models: Mapping[str, Sequence[tuple[float, float, float]]]) -> str:
        """`(confidence, share correct, samples)` of each bin, for each model."""
        return self._drawn((3.3, 3.0), (1, 1), lambda axes: _calibration(axes[0], models))

    def _drawn(self, size: tuple[float, float], grid: tuple[int, int], draw: Any) -> str:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self.made += 1
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=size)
            draw(list(figure.subplots(*grid, squeeze=False).flat))
            file = io.StringIO()
            figure.savefig(
                file,
                format="svg",
                transparent=True,
                metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
            )
        return inline(file.getvalue(), self.made)


def inline(svg: str, number: int) -> str:
    """An SVG file as a part of a page: no header, the page's colours, identifiers that no other figure has."""
    svg = LEFT_OUT.sub("", PLACED.sub("<svg ", svg, count=1))
    svg = SIZE.sub(_as_wide_as_it_is, svg, count=1)
    svg = NUMBERED.sub(rf"\g<1>f{number}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def _as_wide_as_it_is(found: re.Match[str]) -> str:
    """The style sheet lets it shrink with the page, and not grow beyond its own width."""
    return f'style="--own: {float(found[1]) * 4 / 3:.0f}px"'  # points as pixels


def _curves(axes: Sequence[Any], panels: Mapping[str, Sequence[Curve]]) -> None:
    for axis, (name, curves) in zip(axes, panels.items(), strict=False):
        for number, (label, epochs, values) in enumerate(curves):
            mark = "o" if len(epochs) == 1 else ""
            axis.plot(
                epochs, values, color=SERIES[number % len(SERIES)], linewidth=1.6, marker=mark, label=brief(label, 40)
            )
        axis.set_title(name, loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(curves) > MOST_INSIDE:
            axis.figure.legend(*axis.get_legend_handles_labels(), fontsize=7.5, loc="outside right upper")
        elif len(curves) > 1:
            axis.legend(fontsize=7.5)


def _heat_map(
    axis: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[int, int], tuple[float, str]],
    names: tuple[str, str],
) -> None:
    from matplotlib.patches import Rectangle

    values = [value for value, _ in cells.values()]
    low, high = min(values), max(values)
    for (row, column), (value, written) in cells.items():
        share = 0.5 if high == low else (value - low) / (high - low)
        axis.add_patch(
            Rectangle(
                (column - 0.48, row - 0.46), 0.96, 0.92, facecolor=SERIES[0], alpha=0.08 + 0.52 * share, linewidth=0
            )
        )
        axis.text(column, row, written, ha="center", va="center", fontsize=8)
    axis.set_xlim(-0.6, len(columns) - 0.4)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xticks(range(len(columns)), [brief(one, 16) for one in columns])
    axis.set_yticks(range(len(rows)), [brief(one, 16) for one in rows])
    axis.set_ylabel(brief(names[0], 40))
    axis.set_xlabel(brief(names[1], 40))
    _bare(axis)


def front(panels: Mapping[str, Sequence[tuple[str, float, float]]]) -> list[str]:
    """The names of those that none beats in both, in one panel or another."""
    return list(dict.fromkeys(name for points in panels.values() for name, _, _ in _front(points)))


def _scatter(axes: Sequence[Any], panels: Mapping[str, Sequence[tuple[str, float, float]]], vertical: str) -> None:
    numbers = {name: str(number) for number, name in enumerate(front(panels), 1)}
    for axis, (name, points) in zip(axes, panels.items(), strict=False):
        axis.scatter(
            [cost for _, cost, _ in points],
            [value for _, _, value in points],
            s=22,
            color=SERIES[0],
            alpha=0.75,
            linewidths=0,
        )
        joined = _front(points)
        for one, cost, value in joined:
            at = (3, 3)  # points to the right and above
            axis.annotate(numbers[one], (cost, value), at, textcoords="offset points", fontsize=7.5, fontweight="bold")
        axis.plot(
            [cost for _, cost, _ in joined],
            [value for _, _, value in joined],
            color=SERIES[1],
            linewidth=1.2,
            drawstyle="steps-post",
        )
        axis.set_xlabel(name)
        if min(cost for _, cost, _ in points) > 0:
            _logarithmic(axis, points)
    axes[0].set_ylabel(vertical)


def _logarithmic(axis: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """With plain numbers at the ticks, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(cost for _, cost, _ in points), max(cost for _, cost, _ in points)
    axis.set_xscale("log")
    axis.set_xlim(low / 1.3, high * 1.3)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0,), numticks=6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value) if value >= 1000 else f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _front(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Those that no other beats in cost and in value, by rising cost."""
    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda one: (one[1], -one[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def _marks(
    axis: Any, names: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], across: str
) -> None:
    for number, (label, values) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * 0.18
        there = [(place + shift, *value) for place, value in enumerate(values) if value is not None]
        if there:
            places, middles, halves = zip(*there, strict=True)
            axis.errorbar(
                middles,
                places,
                xerr=halves,
                fmt="o",
                markersize=4.5,
                color=SERIES[number],
                ecolor=SERIES[number],
                elinewidth=1.2,
                label=label,
            )
    axis.set_yticks(range(len(names)), [brief(name, 48) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel(across)
    axis.figure.legend(fontsize=7.5, ncols=3, loc="outside upper center")


def _matrix(axis: Any, names: Sequence[str], counts: Sequence[Sequence[float]]) -> None:
    from matplotlib.patches import Rectangle

    for row, line in enumerate(counts):
        total = sum(line) or 1
        for column, count in enumerate(line):
            if count:
                colour = SERIES[0] if row == column else SERIES[1]
                axis.add_patch(
                    Rectangle(
                        (column - 0.48, row - 0.48),
                        0.96,
                        0.96,
                        facecolor=colour,
                        alpha=0.1 + 0.6 * count / total,
                        linewidth=0,
                    )
                )
                if len(names) <= 20:
                    axis.text(column, row, f"{count:g}", ha="center", va="center", fontsize=7)
    labels = [brief(name, 12) for name in names]
    axis.set_xticks(range(len(names)), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axis.set_yticks(range(len(names)), labels)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_aspect("equal")
    _bare(axis)


def _signed(axis: Any, names: Sequence[str], values: Sequence[float], across: str) -> None:
    colours = [SERIES[0] if value >= 0 else SERIES[1] for value in values]
    axis.barh(range(len(names)), values, color=colours, height=0.7)
    axis.set_yticks(range(len(names)), [brief(name, 24) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_xlabel(across)


def _calibration(axis: Any, models: Mapping[str, Sequence[tuple[float, float, float]]]) -> None:
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    for number, (name, bins) in enumerate(models.items()):
        there = [(confidence, correct) for confidence, correct, samples in bins if samples]
        if there:
            axis.plot(
                *zip(*there, strict=True), color=SERIES[number], marker="o", markersize=3, linewidth=1.3, label=name
            )
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("confidence")
    axis.set_ylabel("share correct")
    axis.legend(fontsize=7.5, loc="upper left")


def _bare(axis: Any) -> None:
    axis.grid(False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
