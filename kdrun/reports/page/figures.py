"""Which figures a report has: those over settings, and those of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.reports.board import Board, number_of
from kdrun.reports.charts import Curve, Figures, front
from kdrun.reports.reading import Record, mapping, number, text
from kdrun.reports.settings import Setting, comparable

MOST_MARKS, MOST_CLASSES, MOST_CURVES = 24, 40, 8
ROLES = ("student", "alone", "teacher", "model")
COSTS = {"parameters": "{role}/parameters", "FLOPs": "{role}/flops", "latency p50 (ms)": "{role}/latency_p50_seconds"}


@dataclass(frozen=True)
class Figure:
    caption: str
    svg: Any  # marked as safe: it is made here, and matplotlib escapes the text in it
    broad: bool = False


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    about: str
    figures: Sequence[Figure]


def sections(board: Board, figures: Figures) -> Iterator[Section]:
    """The parts of the page that look over all settings; one without a figure is left out."""
    made = [
        (
            "gain",
            "Teacher, student, student alone",
            "Test accuracy, mean ± sd over seeds. Alone: the same student and budget, without the teacher.",
            _sides(board, figures),
        ),
        (
            "grid",
            "Two keys against each other",
            "Validation accuracy in %, mean over seeds, n in brackets: what a choice may be made by.",
            _grids(board, figures),
        ),
        (
            "cost",
            "Accuracy against cost",
            "Test accuracy, mean over seeds. The line joins settings that no other beats in both; to choose one, use "
            "the validation accuracy of the leaderboard.",
            _costs(board, figures),
        ),
        ("curves", "Training", "Validation accuracy of one seed of each setting.", _learning(board, figures)),
    ]
    for anchor, title, about, drawn in made:
        found = list(drawn)
        if found:
            yield Section(anchor, title, about, found)


def run_figures(run: Record, figures: Figures) -> Iterator[Figure]:
    """What one run has on record: its curves, classes, confusion and calibration."""
    panels = training_panels(run.history())
    if any(panels.values()):
        yield _figure("Loss terms and accuracy over epochs", figures.curves(panels), broad=True)
    confusion, details = run.document("confusion"), run.document("details")
    names = _names(details.get("classes"))
    matrices = {role: _matrix(confusion.get(role)) for role in ROLES}
    own = matrices["student"] or matrices["model"]
    other = "alone" if matrices["alone"] else "teacher"
    if own and matrices[other] and len(own) == len(matrices[other]) <= MOST_CLASSES:
        shares = [_recall(one) for one in (own, matrices[other])]
        gains = [100 * (mine - theirs) for mine, theirs in zip(*shares, strict=True)]
        across = f"points of recall over the {'student alone' if other == 'alone' else 'teacher'}"
        yield _figure(
            f"Gains and losses by class, n test = {_total(own)}", figures.signed(_labels(names, own), gains, across)
        )
    if own and len(own) <= MOST_CLASSES:
        yield _figure(f"Confusion matrix, n test = {_total(own)}", figures.matrix(_labels(names, own), own))
    bins = {role: _bins(mapping(details.get("calibration")).get(role)) for role in ROLES}
    if any(bins.values()):
        known = {role: one for role, one in bins.items() if one}
        yield _figure("Calibration on the test split; dotted: as sure as right", figures.calibration(known))


def training_panels(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """Curves of the loss terms and of accuracy, from the lines of `metrics.jsonl`."""
    terms = sorted(
        {str(key) for line in history if line.get("split") == "train" for key in line if str(key).startswith("loss")}
    )
    losses = [_curve(history, "train", key, key.removeprefix("loss/")) for key in terms[:MOST_CURVES]]
    accuracies = [
        _curve(history, split, "accuracy", name) for split, name in (("train", "training views"), ("val", "validation"))
    ]
    return {"loss": [one for one in losses if one[1]], "accuracy": [one for one in accuracies if one[1]]}


def _curve(history: Sequence[Mapping[str, Any]], split: str, key: str, name: str) -> Curve:
    points = [(line["epoch"], number(line.get(key))) for line in history if line.get("split") == split]
    there = [(epoch, value) for epoch, value in points if value is not None]
    return name, [epoch for epoch, _ in there], [value for _, value in there]


def _figure(caption: str, svg: str, broad: bool = False) -> Figure:
    from markupsafe import Markup

    return Figure(caption, Markup(svg), broad)


def _sides(board: Board, figures: Figures) -> Iterator[Figure]:
    distilled = [row.setting for row in board.rows if row.setting.first.stage == "distill"][:MOST_MARKS]
    keys = {"student": "test/accuracy", "student alone": "alone/test/accuracy", "teacher": "teacher/test/accuracy"}
    series = {name: [_percent(one, key) for one in distilled] for name, key in keys.items()}
    if distilled:
        svg = figures.bars([one.name for one in distilled], series, "test accuracy (%)")
        yield _figure(f"{len(distilled)} settings in the order of the leaderboard; n in its rows", svg, broad=True)


def _percent(setting: Setting, key: str) -> tuple[float, float] | None:
    found = setting.spread(key)
    return None if found is None else (100 * found.mean, 100 * (found.sd or 0.0))


def _grids(board: Board, figures: Figures) -> Iterator[Figure]:
    """A map for each stage and data set in which two keys have several values: alpha and temperature before others."""
    for (stage, data), own in comparable(board.settings).items():
        pair = _two_keys(own)
        if pair is None:
            continue
        alike, where = _alike_but_for(pair, own)
        rows, columns = (sorted({one.words[key] for one in alike}, key=_order) for key in pair)
        cells = {
            (rows.index(one.words[pair[0]]), columns.index(one.words[pair[1]])): (
                found.mean,
                f"{100 * found.mean:.2f}\n({found.n})",
            )
            for one in alike
            if (found := one.spread("val/accuracy")) is not None
        }
        if len(cells) >= max(4, 0.7 * len(rows) * len(columns)):  # else the two keys were not crossed
            yield _figure(f"{stage} on {data}{where}", figures.heat_map(rows, columns, cells, pair))


def _alike_but_for(pair: tuple[str, str], own: Sequence[Setting]) -> tuple[list[Setting], str]:
    """The largest part of the settings that differ in these two keys alone, and what they have in common."""
    parts: dict[str, list[Setting]] = {}
    for one in own:
        rest = " ".join(f"{key}={value}" for key, value in one.words.items() if key not in pair)
        parts.setdefault(rest, []).append(one)
    common = max(parts, key=lambda rest: len(parts[rest]))
    return parts[common], f", {common}" if common else ""


def _two_keys(own: Sequence[Setting]) -> tuple[str, str] | None:
    """The two keys of a heat map: those with two to twelve values, alpha and temperature first."""
    counts = {key: len({one.words.get(key) for one in own}) for key in own[0].words}
    several = [key for key, count in counts.items() if 2 <= count <= 12]
    wanted = ("alpha", "temperature")
    several.sort(key=lambda key: wanted.index(key.rpartition(".")[2]) if key.rpartition(".")[2] in wanted else 2)
    return (several[0], several[1]) if len(several) >= 2 else None


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _costs(board: Board, figures: Figures) -> Iterator[Figure]:
    for (stage, data), own in comparable(board.settings).items():
        panels = {}
        for name, key in COSTS.items():
            scale = 1000 if name.startswith("latency") else 1
            found = [(one.name, one.spread(number_of(one, key)), one.spread("test/accuracy")) for one in own]
            panels[name] = [
                (text(n), scale * cost.mean, 100 * value.mean) for n, cost, value in found if cost and value
            ]
        sizes = [len({cost for _, cost, _ in panels[name]}) for name in ("parameters", "FLOPs")]
        if max(sizes) > 1:  # of one model there is nothing to choose by its cost
            svg = figures.scatter(panels, "test accuracy (%)")
            numbered = "; ".join(f"{number}: {name}" for number, name in enumerate(front(panels), 1))
            yield _figure(f"{stage} on {data}, {len(own)} settings. On a line: {numbered}", svg, broad=True)


def _learning(board: Board, figures: Figures) -> Iterator[Figure]:
    for (stage, data), own in comparable([row.setting for row in board.rows]).items():
        curves = [_curve(one.first.history(), "val", "accuracy", one.name) for one in own[:MOST_CURVES]]
        curves = [one for one in curves if len(one[1]) > 1]
        if curves:
            more = f", the first {len(curves)} of the leaderboard" if len(own) > len(curves) else ""
            yield _figure(f"{stage} on {data}{more}", figures.curves({"validation accuracy": curves}), broad=True)


def _names(values: Any) -> list[str]:
    return [text(one, 30) for one in values] if isinstance(values, list) else []


def _labels(names: Sequence[str], matrix: Sequence[Any]) -> list[str]:
    return list(names) if len(names) == len(matrix) else [str(number) for number in range(len(matrix))]


def _matrix(values: Any) -> list[list[float]]:
    """A square matrix of counts; empty where it is none."""
    rows = values if isinstance(values, list) else []
    square = all(isinstance(row, list) and len(row) == len(rows) for row in rows)
    counted = square and all((number(one) or 0) >= 0 and number(one) is not None for row in rows for one in row)
    return rows if counted else []


def _recall(matrix: Sequence[Sequence[float]]) -> list[float]:
    return [row[place] / sum(row) if sum(row) else 0.0 for place, row in enumerate(matrix)]


def _total(matrix: Sequence[Sequence[float]]) -> str:
    return f"{sum(map(sum, matrix)):,.0f}"


def _bins(values: Any) -> list[tuple[float, float, float]]:
    """`(confidence, share correct, samples)` of each bin that can be read."""
    found = []
    for one in values if isinstance(values, list) else []:
        numbers = [number(value) for value in one] if isinstance(one, list) and len(one) == 3 else []
        if len(numbers) == 3 and None not in numbers:
            samples, confidence, correct = (float(value) for value in numbers if value is not None)
            found.append((confidence, correct, samples))
    return found
