"""A module imports only from its own row and the rows below, and pure ones touch nothing outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROWS = [
    {"cli", "commands", "__main__"},
    {"sweeps", "launchers"},
    {"config", "composition", "overrides", "roles", "printed", "reports", "running", "launch"},
    {"stages"},
    {"assembly"},
    {"teachers", "loggers", "origins", "deployed", "progress", "cost"},
    {"records", "schema", "contradictions", "canonical", "identity", "saved", "terms"},
    {"engine", "datasets"},
    {"learner"},
    {
        "losses",
        "tasks",
        "models",
        "metrics",
        "taps",
        "tracing",
        "pairing",
        "adapters",
        "device",
        "schedule",
        "optimizers",
        "gain",
        "topk",
        "parallel",
    },
    {"types", "errors", "lookup", "redact", "stopping", "words", "processes", "__init__"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}
PURE = {
    "losses",
    "models",
    "taps",
    "tracing",
    "pairing",
    "adapters",
    "metrics",
    "types",
    "learner",
    "schedule",
    "optimizers",
    "gain",
    "topk",
}
OUTSIDE = {"os", "time", "datetime", "json", "hydra", "omegaconf", "yaml", "pathlib", "logging"}
FILES = sorted((ROOT / "kdrun").rglob("*.py"))


def place(file: Path) -> str:
    return file.relative_to(ROOT / "kdrun").parts[0].removesuffix(".py")


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [f"kdrun.{alias.name}" for alias in node.names] if module == "kdrun" else [module]
    return found


def backward(file: Path, source_row: int) -> list[str]:
    below = [name.split(".")[1] for name in imports(file) if name.startswith("kdrun.")]
    return [name for name in below if ROW.get(name, source_row) < source_row]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_and_pure_modules_stay_pure(file: Path) -> None:
    assert place(file) in ROW, "a new module needs its place in the list of rows, here and in docs/architecture.md"
    if place(file) != "__init__":
        assert not backward(file, ROW[place(file)])
    if place(file) in PURE:
        assert not {name.split(".")[0] for name in imports(file)} & OUTSIDE


def test_an_arrow_that_points_back_is_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "kd.py"
    wrong.write_text("from kdrun.engine import fit\n")
    assert backward(wrong, ROW["losses"]) == ["engine"]
