"""Malicious files of every kind, through every command that reads them: nothing runs, and one line says why.

A process of its own runs them one after the other and watches: see child.py. The list of them is artefacts.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.security.artefacts import ARTEFACTS, SECRET

MOST_SECONDS, MOST_MEGABYTES, MOST_LINES = 5.0, 500, 3
Report = dict[str, Any]

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is watched through /proc")


def reports(folder: Path, *words: str) -> dict[str, list[Report]]:
    """What the watching process saw, by artefact."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.security.child", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = defaultdict(list)
    for line in answer.stdout.splitlines():
        report = json.loads(line)
        found[report["artefact"]].append(report)
    return found


def complaints(report: Report, harmless: bool) -> list[str]:
    """What is wrong with the way in which a command met an artefact."""
    said = report["out"] + report["err"]
    raw = {
        char for char in said if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 or char == "\u202e"
    }
    wrong = {
        "foreign code left its marker": report["marker"],
        f"forbidden: {report['forbidden'][:3]}": report["forbidden"],
        f"files of somebody else are gone, new or changed: {report['touched']}": report["touched"],
        f"exit code {report['code']}": report["code"] not in ((0, 1, 2) if harmless else (1, 2)),
        f"took {report['seconds']:.1f} s": report["seconds"] > MOST_SECONDS,
        f"took {report['megabytes']:.0f} MB": report["megabytes"] > MOST_MEGABYTES,
        "ran out of memory": "out of memory" in report["err"],
        f"said {report['err']!r}": report["err"].count("\n") > MOST_LINES or "Traceback" in said,
        "said nothing": report["code"] in (1, 2) and not report["err"].strip(),
        f"wrote {sorted(raw)!r} to the terminal": raw,
        "told a secret": SECRET in said,
    }
    return [text for text, is_so in wrong.items() if is_so]


@pytest.mark.parametrize(
    "words", [("--sample",), pytest.param((), marks=pytest.mark.slow)], ids=["one command each", "every command"]
)
def test_nothing_runs(words: tuple[str, ...], tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """One test for all: the process that reads them takes a minute for every command, which nobody should pay twice."""
    seen = reports(tmp_path / "all", *words)
    wrong: dict[str, dict[str, list[str]]] = {}
    for one in ARTEFACTS:
        assert seen[one.name], "no command was run"
        complaints_of = {" ".join(report["words"]): complaints(report, one.harmless) for report in seen[one.name]}
        if any(complaints_of.values()):
            wrong[one.name] = {words: said for words, said in complaints_of.items() if said}
    record_property("artefacts", f"{len(ARTEFACTS) - len(wrong)}/{len(ARTEFACTS)}")
    assert not wrong


def test_there_are_some_fifty_of_them() -> None:
    assert len({one.name for one in ARTEFACTS}) == len(ARTEFACTS) >= 50


def test_the_classic_mistakes_are_noticed(tmp_path: Path) -> None:
    """`torch.load(weights_only=False)` and an unsafe YAML loader: the artefacts run, and the same watch sees it."""
    names = ["code_in_a_legacy_checkpoint", "code_in_a_model_file", "a_bare_pickle"]
    found = reports(tmp_path / "unsafe", "--unsafe", "--sample", *names, "a_python_object_in_a_config")
    assert set(found) == {*names, "a_python_object_in_a_config"}
    for name, several in found.items():
        assert any(report["marker"] for report in several), name
        assert any(report["forbidden"] for report in several), name
        assert any("foreign code left its marker" in complaints(report, False) for report in several), name
