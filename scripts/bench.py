"""How fast kdrun is, against torchdistill and against loops written by hand: ratios in one run.

Every side of a comparison is a process of its own (`bench_jobs.py`, `bench_peer.py`), so that nothing of one is left to
the other. A round runs all sides once; rounds that other processes disturbed are made again; figures are medians.

    python scripts/bench.py [--rounds 5] [--steps 100] [--only '32 px*' compiled …] [--json FILE] [--write]

torchdistill is installed from the package index into an environment of its own, `--peer` (made when it is not there).
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
JOBS, PEER = (str(ROOT / "scripts" / name) for name in ("bench_jobs.py", "bench_peer.py"))
DISTURBED = 0.15  # of the machine's processors, taken by other processes
SWEEP = 8  # jobs
SMALL = [("resnet56", "resnet20"), ("wrn_40_2", "wrn_16_2")]
LARGE = [("resnet152", "mobilenet_v2"), ("resnet152", "mobilenet_v3_small")]
OWN_NAMES = {"mobilenet_v2": "mobilenet"}
Figures = dict[str, float]


@dataclass
class Row:
    """A ratio: of times (at most `goal`), or of speeds (at least)."""

    what: str
    ours: float
    theirs: float
    unit: str
    goal: float
    faster: bool = False  # is the ratio how many times faster we are?
    half: bool = False  # is the goal for machines that compute bf16 in hardware?
    rounds: int = 0
    others: float = 0.0  # of the processors, in the most disturbed of these rounds
    steps: int = 0

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours if self.faster else self.ours / self.theirs

    @property
    def verdict(self) -> str:
        met = self.ratio >= self.goal if self.faster else self.ratio <= self.goal
        return "met" if met else "needs bf16 hardware" if self.half and bf16() == "no" else "missed"


@dataclass
class Bench:
    """What is measured how often, by which Python."""

    peer: Path
    rounds: int
    only: list[str]

    def wants(self, group: str) -> bool:
        return any(fnmatch.fnmatch(group, pattern) for pattern in self.only)

    def run(
        self,
        group: str,
        sides: dict[str, list[str]],
        measure: Callable[[list[str]], Figures] | None = None,
        at_least: int = 1,
    ) -> dict[str, Figures]:
        """The medians of every side, over rounds in which each ran once."""
        rounds: list[dict[str, Figures]] = []
        shares, wanted = [], max(self.rounds, at_least)
        for attempt in range(2 * wanted):
            before, begin = others(), time.monotonic()
            found = {name: (measure or self._job)(words) for name, words in sides.items()}
            share = (others() - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
            told = {name: {key: float(f"{value:.4g}") for key, value in one.items()} for name, one in found.items()}
            print(f"{group}, attempt {attempt + 1}: others had {share:.0%}; {told}", file=sys.stderr, flush=True)
            if share < DISTURBED:
                rounds.append(found)
                shares.append(share)
            if len(rounds) == wanted:
                break
        if not rounds:
            raise SystemExit(f"{group}: other processes disturbed every round; run this on a machine that is idle")
        return {name: {key: median(one[name][key] for one in rounds) for key in rounds[0][name]} for name in sides} | {
            "rounds": {"count": len(rounds), "others": max(shares)}
        }

    def _job(self, words: list[str]) -> Figures:
        python = self.peer / "bin" / "python" if words[0] == PEER else Path(sys.executable)
        answer = subprocess.run([str(python), *words], capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SystemExit(f"{' '.join(words)}: {answer.stderr[-2000:]}")
        figures: Figures = json.loads(answer.stdout.splitlines()[-1])
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of each training at 32 px; a tenth of it at 224 px")
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of groups: 'start', '32 px, wrn*', …")
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-torchdistill")
    parser.add_argument("--json", type=Path, help="kept here after every row; what it has already is in the table too")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever starts a program often has it compiled
    install(options.peer)
    bench = Bench(options.peer, options.rounds, options.only)
    where = machine(bench)
    rows = {row.what: row for row in before(options.json, where)}
    for row in all_rows(bench, options):
        rows[row.what] = row
        if options.json:
            content = {"where": where, "rows": [asdict(one) for one in rows.values()]}
            options.json.write_text(json.dumps(content, indent=1) + "\n")
    text = f"{table(list(rows.values()))}\n\n{footer(where)}"
    print(text)
    if options.write:
        marked = re.compile("(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)
        PAGE.write_text(marked.sub(lambda found: f"{found[1]}{text}\n{found[2]}", PAGE.read_text()))


def before(file: Path | None, where: dict[str, str]) -> list[Row]:
    """What the file has from a run before this, of which the groups measured now are replaced."""
    if not file or not file.exists():
        return []
    content = json.loads(file.read_text())
    if content["where"] != where:
        raise SystemExit(f"{file} was measured with {content['where']}, not {where}; name another file for --json")
    return [Row(**row) for row in content["rows"]]


def install(peer: Path) -> None:
    """torchdistill with the torch that kdrun has."""
    if (peer / "bin" / "python").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(peer)], check=True)
    wanted = ["torchdistill", *(f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision"))]
    subprocess.run([str(peer / "bin" / "pip"), "install", "--quiet", *wanted], check=True)


def all_rows(bench: Bench, options: argparse.Namespace) -> Iterator[Row]:
    if bench.wants("start"):
        yield from start_rows(bench)
    for teacher, student in SMALL:
        group = f"32 px, {teacher} → {student}"
        if bench.wants(group):
            yield from small_rows(bench, group, (teacher, student), options.steps)
    for teacher, student in LARGE:
        group = f"224 px, {teacher} → {student}"
        if bench.wants(group):
            yield from large_rows(bench, group, (teacher, student), options.steps // 10)
    if bench.wants("launch"):
        yield from launch_rows(bench)
    for teacher, student in SMALL:
        group = f"compiled, {teacher} → {student}"
        if bench.wants(group):
            yield from compiled_rows(bench, group, (teacher, student), options.steps)
    if bench.wants("checkpoints"):
        found = bench.run("checkpoints", {"epochs": [JOBS, "epochs", *SMALL[0], "--steps", "200"]})
        ours, theirs = found["epochs"]["epoch"], found["epochs"]["without"]
        told = "checkpoints: an epoch of 100 steps, over the same without its saves"
        yield Row(told, ours, theirs, "s/epoch", 1.01, **kept(found))
    if bench.wants("input"):
        yield from input_rows(bench)


def start_rows(bench: Bench) -> Iterator[Row]:
    command = str(Path(sys.executable).with_name("kdrun"))

    def timed(words: list[str]) -> Figures:
        begin = time.perf_counter()
        subprocess.run([command, *words], capture_output=True, check=False)
        return {"seconds": time.perf_counter() - begin}

    goals = {"--help": 0.06, "distill --cfg job": 0.4, "distill optimiser.lr=1": 1.0}
    found = bench.run("start", {words: words.split() for words in goals}, timed, at_least=11)
    for words, goal in goals.items():
        told = ", a config error" if "=" in words else ""
        yield Row(f"start: kdrun {words}{told}", found[words]["seconds"], 1.0, "s", goal, **kept(found))


def input_rows(bench: Bench) -> Iterator[Row]:
    step = [JOBS, "kdrun", *SMALL[0], "--how", "stored", "--precision", "auto"]
    found = bench.run("input", {"input": [JOBS, "input"], "loader": [JOBS, "loader"], "step": step})
    ours, loader, step_of_it = (found[side]["step"] for side in ("input", "loader", "step"))
    told = "input: views, over a 2-worker DataLoader"
    yield Row(told, ours, loader, "s/batch", 6, faster=True, **kept(found))
    told = f"input: views, as a part of a stored step of {' → '.join(SMALL[0])}"
    yield Row(told, ours, step_of_it, "s/batch", 0.03, **kept(found))


def small_rows(bench: Bench, group: str, pair: tuple[str, str], steps: int) -> Iterator[Row]:
    more = ["--steps", str(steps)]
    sides = {
        "torchdistill": [PEER, *pair, *more],
        "auto": [JOBS, "kdrun", *pair, "--precision", "auto", *more],
        "strict": [JOBS, "kdrun", *pair, *more],
        "bare": [JOBS, "bare", *pair, *more],
        "stored": [JOBS, "kdrun", *pair, "--how", "stored", "--precision", "auto", *more],
        "bare student": [JOBS, "bare", *pair, "--how", "none", "--precision", "auto", *more],
    }
    row = StepRows(group, bench.run(group, sides), steps)
    yield row("cold, over torchdistill", "auto", ["torchdistill"], 3.0, faster=True, half=True)
    yield row("strict fp32, over torchdistill", "strict", ["torchdistill"], 1.2, faster=True)
    yield row("cold, step over bare teacher + student", "strict", ["bare"], 1.03)
    yield row("stored, step over bare student", "stored", ["bare student"], 1.03)
    yield row.sweep(64, 4)


def compiled_rows(bench: Bench, group: str, pair: tuple[str, str], steps: int) -> Iterator[Row]:
    own = [JOBS, "kdrun", *pair, "--steps", str(steps), "--compile"]
    sides = {"torchdistill": [PEER, *pair, "--steps", str(steps)], "auto": [*own, "--precision", "auto"], "strict": own}
    row = StepRows(group, bench.run(group, sides), steps)
    yield row("cold, over torchdistill", "auto", ["torchdistill"], 3.5, faster=True, half=True)
    yield row("strict fp32, over torchdistill", "strict", ["torchdistill"], 1.5, faster=True)


def large_rows(bench: Bench, group: str, pair: tuple[str, str], steps: int) -> Iterator[Row]:
    more = ["--size", "224", "--batch", "16", "--steps", str(steps)]
    own = [pair[0], OWN_NAMES.get(pair[1], pair[1])]
    sides = {
        "torchdistill": [PEER, *pair, *more],
        "auto": [JOBS, "kdrun", *own, "--precision", "auto", *more],
        "stored": [JOBS, "kdrun", *own, "--how", "stored", "--precision", "auto", *more],
        "bare": [JOBS, "bare", *own, "--precision", "auto", *more],
    }
    # the student alone by hand in either precision: torch's depthwise convolutions are slower in bf16
    alone = {f"bare student {precision}": precision for precision in (["auto"] if bf16() == "no" else ["fp32", "bf16"])}
    for side, precision in alone.items():
        sides[side] = [JOBS, "bare", *own, "--how", "none", "--precision", precision, *more]
    row = StepRows(group, bench.run(group, sides), steps)
    if pair == LARGE[0]:
        yield row("cold, over torchdistill", "auto", ["torchdistill"], 3.3, faster=True, half=True)
        yield row("stored, over torchdistill", "stored", ["torchdistill"], 5.0, faster=True, half=True)
        yield row.memory("auto", "bare", 1.1)
    yield row("cold, step over bare teacher + student", "auto", ["bare"], 1.03)
    yield row("stored, step over bare student", "stored", list(alone), 1.05)
    yield row.sweep(16, 5 if pair == LARGE[0] else 12)


@dataclass
class StepRows:
    """Rows of a group whose sides were timed over `steps` steps."""

    group: str
    found: dict[str, Figures]
    steps: int

    def __call__(self, what: str, ours: str, theirs: list[str], goal: float, **flags: bool) -> Row:
        """A side of ours against the fastest of theirs."""
        times = self.found[ours]["step"], min(self.found[side]["step"] for side in theirs)
        return self._row(what, times, "s/step", goal, **flags)

    def memory(self, ours: str, theirs: str, goal: float) -> Row:
        """The peak of a side of ours over that of one of theirs."""
        peaks = self.found[ours]["memory"], self.found[theirs]["memory"]
        return self._row("peak memory over the bare loop's", (peaks[0] / 2**20, peaks[1] / 2**20), "MiB", goal)

    def sweep(self, batch: int, goal: float) -> Row:
        """Eight jobs that share a store of as many samples as one of them sees, against eight of the peer: from the
        parts."""
        stored, peer = self.found["stored"], self.found["torchdistill"]
        ours = stored["fill"] * self.steps * batch + SWEEP * self.steps * stored["step"]
        what = f"sweep of {SWEEP} with its store filled, over {SWEEP} of torchdistill's (computed)"
        return self._row(what, (ours, SWEEP * self.steps * peer["step"]), "s", goal, faster=True, half=True)

    def _row(self, what: str, times: tuple[float, float], unit: str, goal: float, **flags: bool) -> Row:
        ours, theirs = times
        return Row(f"{self.group}: {what}", ours, theirs, unit, goal, steps=self.steps, **kept(self.found), **flags)


def launch_rows(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        own = [JOBS, "launch", *SMALL[0], "--folder", folder]
        found = bench.run("launch", {"kdrun": own, "torchdistill": [PEER, *SMALL[0], "--steps", "1"]})
    times = [found[side]["first"] for side in ("kdrun", "torchdistill")]
    yield Row("launch to the first optimizer step, over torchdistill", times[0], times[1], "s", 0.5, **kept(found))


def prepare(folder: Path) -> None:
    """640 images in ten classes, and a teacher's weights."""
    import numpy as np
    import torch
    from PIL import Image

    sys.path.insert(0, str(ROOT / "scripts"))
    from bench_jobs import Setting

    random = np.random.default_rng(0)
    for number in range(640):
        path = folder / "images" / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    given = argparse.Namespace(
        teacher=SMALL[0][0], student=SMALL[0][1], size=32, batch=64, precision="fp32", compile=False
    )
    state = Setting(given).source.teacher.model.net.net.state_dict()
    last = [name for name in state if name.startswith(("fc", "linear", "classifier"))]
    torch.save({name: tensor[:10] if name in last else tensor for name, tensor in state.items()}, folder / "teacher.pt")


def kept(found: dict[str, Figures]) -> dict[str, Any]:
    """What a row says of the rounds that its figures are medians of."""
    return {"rounds": int(found["rounds"]["count"]), "others": found["rounds"]["others"]}


def others() -> float:
    """Seconds of processor time that processes other than this one and its children have had since the start."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]
    own = os.times()
    return busy / os.sysconf("SC_CLK_TCK") - (own.user + own.system + own.children_user + own.children_system)


def bf16() -> str:
    from kdrun.device import bf16_instructions

    return bf16_instructions() or "no"


# ---------------------------------------------------------------------------------------------------------- output


def table(rows: list[Row]) -> str:
    lines = ["| what | kdrun | other | ratio | goal | | rounds x steps | others |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        start = row.what.startswith("start")
        other = "" if start else f"{row.theirs:.4g} {row.unit}"
        ratio = "" if start else f"{row.ratio:.3f}{'×' if row.faster else ''}"
        goal = f"{'≥' if row.faster else '≤'} {row.goal:g}{'×' if row.faster else ''}{'*' if row.half else ''}"
        cells = [
            row.what,
            f"{row.ours:.4g} {row.unit}",
            other,
            ratio,
            goal,
            row.verdict,
            f"{row.rounds} x {row.steps}" if row.steps else str(row.rounds),
            f"{row.others:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(bench: Bench) -> dict[str, str]:
    """The versions and the hardware that figures are of."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    asked = [str(bench.peer / "bin" / "python"), "-c", "import torchdistill; print(torchdistill.__version__)"]
    peer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return {
        **{name: version(name) for name in ("kdrun", "torch", "torchvision")},
        "torchdistill": peer,
        "Python": platform.python_version(),
        "processor": next((line.split(":")[1].strip() for line in lines if "model name" in line), ""),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16 in hardware": bf16(),
    }


def footer(where: dict[str, str]) -> str:
    return (
        f"{date.today()}; {', '.join(f'{name} {value}' for name, value in where.items())}. "
        "Medians of the rounds that are named, in which other processes had at most the part of the processors that is "
        "in the last column; batch 64 at 32 px, 16 at 224 px. "
        "Of loops by hand in two precisions the faster one counts. A `×` is how many times faster; without it, how "
        "much of the other's time or memory. \\* needs hardware that computes in bf16. Made by `scripts/bench.py`."
    )


if __name__ == "__main__":
    main()
