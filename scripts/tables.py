"""What the scripts of tables share: runs that exist already, mean and spread, and where a table stands in a page."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdrun.config import stage_config
from kdrun.errors import KdrunError
from kdrun.records.fingerprint import RESULT_VERSION
from kdrun.records.foreign import read_yaml
from kdrun.records.manifest import job_key
from kdrun.records.runs import read_info
from kdrun.saved import checked_run_config

ROOT = Path(__file__).resolve().parents[1]
Summary = dict[str, Any]


class Runs:
    """The completed runs of `kdrun distill` under a folder, found by what their config asks for, not by what was typed:
    a run from before a default was changed is another one, and so is one of a kdrun that gave other numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, Path] = {}
        for file in sorted(folder.glob("distill/*/summary.json")):
            self._add(file.parent)

    def find(self, words: Sequence[str]) -> Path | None:
        """The newest run of this command line."""
        return self.places.get(job_key(stage_config("distill", list(words))))

    def get(self, words: Sequence[str]) -> Path:
        """The same; run now if there is none."""
        place = self.find(words)
        if place is None:
            print(f"running: kdrun distill {' '.join(words)}", file=sys.stderr, flush=True)
            before = set(self.folder.glob("distill/*"))
            command = [sys.executable, "-m", "kdrun", "distill", *words, f"output_dir={self.folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for path in set(self.folder.glob("distill/*")) - before:
                self._add(path)
            place = self.find(words)
            assert place is not None, f"kdrun distill {' '.join(words)} left no completed run"
        return place

    def summary(self, words: Sequence[str]) -> Summary:
        """The numbers of the run of this command line; run now if there is none."""
        return summary(self.get(words))

    def _add(self, run: Path) -> None:
        try:
            config = checked_run_config(read_yaml(run / "config.yaml"))
        except KdrunError:
            return  # of another kdrun
        if read_info(run)["result_version"] == RESULT_VERSION:
            self.places[job_key(config)] = run


def summary(run: Path) -> Summary:
    return json.loads((run / "summary.json").read_text())


def percent(runs: list[Summary], key: str, sign: str = "") -> str:
    return spread([100 * one[key] for one in runs], f"{{:{sign}.2f}}")


def spread(values: list[float], form: str) -> str:
    """Mean ± sd; a value that did not vary (one teacher for all seeds) stands alone."""
    mean = form.format(statistics.mean(values))
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(values))}"


def footer(seeds: Sequence[int], script: str) -> str:
    """What must stand beside a number of runs: n, seeds, how it was chosen, and where it was made."""
    return (
        f"Accuracy and gap in %, mean ± sd over n = {len(seeds)} seeds ({', '.join(map(str, seeds))}) of the student; "
        "one teacher (`teacher.seed=0`), one split. 10 % of the training data held out, epoch chosen there, test split "
        f"read once. {where_made(script)}"
    )


def where_made(script: str) -> str:
    """Versions, hardware, and the script."""
    model = next((line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")), "")
    flags = next((line for line in cpuinfo() if line.startswith("flags")), "")
    simd = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "none")
    return (
        f"torch {version('torch')}, Python {platform.python_version()}, {model or platform.processor()}, "
        f"{simd}. Made by `scripts/{script}.py`."
    )


def cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of this name, where it has them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = page.read_text()
    if begin in content:
        before, _, rest = content.partition(begin)
        page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
