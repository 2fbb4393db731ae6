"""One run in several processes, as a person starts, stops, kills and resumes it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kdrun.records import checkpoints
from kdrun.stages.reproduce import weights_differ
from scripts.scale_table import hosts

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
KDRUN = [sys.executable, "-m", "kdrun"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdrun"]
MODELS = ["teacher=mlp", "student=mlp", "student.widths=[8]", "teacher.train.epochs=1", "batch_size=50", "epochs=2"]
LONG = [*MODELS, "epochs=100000", "baseline=false", "run_dir=X", "device=cpu"]
ENDS_WITHIN = 30  # seconds
FLOATS = 1e-5  # what sums in another order may change


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kdrun(*words: str, by: list[str] = KDRUN, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*by, *words], capture_output=True, text=True, timeout=seconds, check=False)


def done(*words: str, by: list[str] = KDRUN) -> Path:
    """The run directory of a command that ends well."""
    ended = kdrun(*words, by=by)
    assert ended.returncode == 0, ended.stderr
    return Path(next(line for line in ended.stdout.splitlines() if line.startswith("run: ")).removeprefix("run: "))


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(found: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in found.items() if not key.endswith(("_seconds", "_per_second", "split"))}


def equal_within_float_error(one: Path, other: Path) -> None:
    before, after = (numbers(read(run, "summary.json")) for run in (one, other))
    assert after == pytest.approx(before, abs=FLOATS)
    for line, again in zip(lines(one), lines(other), strict=True):
        assert numbers(again) == pytest.approx(numbers(line), rel=FLOATS, abs=FLOATS)
    difference = weights_differ(one, other)
    assert difference is not None
    assert difference < FLOATS
    assert read(one, "confusion.json") == read(other, "confusion.json")
    seen = [read(run, "details.json")["disagreements"] for run in (one, other)]
    assert [(found["count"], found["samples"]) for found in seen] == [(seen[0]["count"], 359)] * 2


@pytest.fixture
def running(here: Path) -> Iterator[Any]:
    """Starts a long training in the background; waits until it has saved."""
    children: list[subprocess.Popen[str]] = []

    def start(*words: str, by: list[str] = KDRUN) -> subprocess.Popen[str]:
        with Path("out").open("w") as out, Path("err").open("w") as err:
            children.append(subprocess.Popen([*by, *words], stdout=out, stderr=err, text=True))
        wait_for(lambda: (here / "X" / "checkpoints" / "last.pt").exists() and len(lines(here / "X")) > 4)
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def wait_for(happened: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, Path("err").read_text()
        time.sleep(0.05)


def member(parent: int, number: int) -> int:
    """The process of this number that a launcher has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"PPid:\t{parent}\n" in (folder / "status").read_text()
            found = ours and f"RANK={number}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if found or (ours and told_rank(folder) == number):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"{parent} has no process {number}")


def told_rank(folder: Path) -> int | None:
    """Those of kdrun's launcher get their environment after they have started; they start in the order of ranks."""
    if b"spawn_main" not in (folder / "cmdline").read_bytes():
        return None
    parent = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("PPid:"))
    siblings = [
        int(other.name)
        for other in Path("/proc").glob("[0-9]*")
        if parent in (other / "status").read_text() and b"spawn_main" in (other / "cmdline").read_bytes()
    ]
    return sorted(siblings).index(int(folder.name))


def test_a_distillation_in_two_processes_is_that_of_one(here: Path) -> None:
    """Its teacher and its baseline too, which it trains first; the teacher's outputs are stored once, in shards."""
    one = done("distill", *MODELS, "output_dir=one")
    two = done("distill", *MODELS, "output_dir=two", "launch.processes=2")
    equal_within_float_error(one, two)
    for role in ("train", "store"):
        assert len(list((here / "two" / role).glob("[!.]*"))) == len(list((here / "one" / role).glob("[!.]*")))
    info = read(two, "run.json")
    assert info["device"]["processes"] == 2
    assert info["fingerprint"] == read(one, "run.json")["fingerprint"]
    assert "batch_norm" not in info
    said = Counter(line.partition(" INFO ")[2] for line in (two / "log.txt").read_text().splitlines())
    assert said[next(text for text in said if text.startswith("epoch 2/2"))] == 1

    files = {run: run / "checkpoints" / "model.pt" for run in (one, two)}
    assert checkpoints.load(files[one])["spec"] == checkpoints.load(files[two])["spec"]

    shutil.copytree(next((here / "one" / "train").glob("*")), here / "teacher")  # the same teacher: the same store
    words = ["distill", *MODELS, "teacher.run=teacher", "baseline=false", "teacher.outputs=stored", "device.threads=1"]
    words += ["augment=[crop]"]
    done(*words, "output_dir=alone")
    done(*words, "output_dir=shards", "launch.processes=2")
    views = [sorted((here / folder / "store").glob("*/view-*.bin")) for folder in ("alone", "shards")]
    assert sorted(view.name for view in views[0]) == ["view-00000.bin"] * 2 + ["view-00001.bin"], "and the test split"
    assert [view.relative_to(here / "alone") for view in views[0]] == [
        view.relative_to(here / "shards") for view in views[1]
    ]
    assert [view.read_bytes() for view in views[0]] == [view.read_bytes() for view in views[1]]


def test_training_and_evaluating_under_torchrun(here: Path) -> None:
    words = ["model=cnn_tiny", "epochs=2", "ema.decay=0.9", "accumulate=2", "grad_clip=1.0"]
    one = done("train", *words, "output_dir=one")
    two = done("train", *words, "output_dir=two", by=TORCHRUN)
    before, after = (read(run, "summary.json")["test/nll"] for run in (one, two))
    assert after == pytest.approx(before, abs=FLOATS)
    alone = read(done("evaluate", str(one), "output_dir=one"), "summary.json")
    shared = read(done("evaluate", str(one), "output_dir=two", by=TORCHRUN), "summary.json")
    assert numbers(shared) == pytest.approx(numbers(alone), rel=1e-12)  # the same batches, added in another order
    assert read(two, "run.json")["device"]["processes"] == 2


def test_a_run_of_two_processes_is_reproduced_by_two(here: Path) -> None:
    run = done("train", "model=cnn_tiny", "epochs=2", "dataset.limit=200", "launch.processes=2")
    for by in (KDRUN, TORCHRUN):
        again = kdrun("reproduce", str(run), by=by)
        assert again.returncode == 0, again.stdout + again.stderr
        assert again.stdout.count("EXACT: every number is the same") == 1
        assert again.stdout.count("epoch 2/2") == 1
    alone = kdrun("reproduce", str(run), "launch.processes=1", "--tolerance", str(FLOATS))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "environment: device.processes was 2, is 1" in alone.stdout
    assert "WITHIN TOLERANCE" in alone.stdout


def test_two_processes_that_are_compiled_train_as_one_that_is_not(here: Path) -> None:
    """… also with a term for which they gather outputs."""
    words = ["distill", *MODELS, "loss=rkd", "baseline=false", "dataset.limit=200", "device.threads=1"]
    one = done(*words, "output_dir=one")
    two = done(*words, "output_dir=two", "launch.processes=2", "device.compile=true")
    difference = weights_differ(one, two)
    assert difference is not None
    assert 0 < difference < FLOATS
    assert read(two, "run.json")["teacher_way"]["compiled"]


def test_what_is_not_for_several_processes_is_refused_in_one_line(here: Path) -> None:
    sweep = kdrun("train", "-m", "model=mlp", "seed=1,2", by=TORCHRUN)
    assert sweep.returncode != 0
    said = [line for line in sweep.stderr.splitlines() if line.startswith("kdrun:")]
    assert len(said) == 1
    assert "kdrun train -m model=mlp seed=1,2 launch.processes=2" in said[0]
    assert "exitcode  : 2" in sweep.stderr
    assert not list(here.glob("outputs/*"))
    small = kdrun("train", "model=mlp", "launch.processes=2", "batch_size=100000", "dataset.limit=50")
    assert (small.returncode, len(small.stderr.splitlines())) == (2, 1), small.stderr


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(here: Path, running: Any, first: int, then: int) -> None:
    words = ["model=mlp", "model.widths=[8]", "batch_size=50", "epochs=40", "run_dir=X", "schedule=cosine"]
    child = running("train", *words, f"launch.processes={first}")
    child.send_signal(signal.SIGUSR1)
    assert child.wait(ENDS_WITHIN) == 143
    assert Path("err").read_text() == "kdrun: interrupted by SIGUSR1\n"
    assert read(here / "X", "run.json")["status"] == "interrupted"
    assert kdrun("resume", "X", f"launch.processes={then}").returncode == 0
    assert read(here / "X", "run.json")["attempts"] == 2
    whole = done("train", *words[:-2], "schedule=cosine", "output_dir=whole")
    difference = weights_differ(whole, here / "X")
    assert difference is not None
    assert difference < 1e-3  # forty epochs of float error
    assert len(lines(here / "X")) == 80


@pytest.mark.parametrize("by", [KDRUN, TORCHRUN], ids=["kdrun", "torchrun"])
def test_a_killed_process_ends_the_run_which_can_be_gone_on_with(here: Path, running: Any, by: list[str]) -> None:
    child = running("distill", *LONG, *(["launch.processes=2"] if by == KDRUN else []), by=by)
    begin = time.monotonic()
    os.kill(member(child.pid, 1), signal.SIGKILL)
    assert child.wait(ENDS_WITHIN) == 1
    assert time.monotonic() - begin < ENDS_WITHIN
    said = [line for line in Path("err").read_text().splitlines() if line.startswith("kdrun:")]
    assert len(said) == 1
    assert "process 1 of 2" in said[0]
    assert read(here / "X", "run.json")["status"] == "failed"
    assert "process 1 of 2 has died" in read(here / "X", "run.json")["reason"]
    epochs = len(lines(here / "X"))
    again = running("resume", "X", "launch.processes=2")
    wait_for(lambda: len(lines(here / "X")) > epochs + 4)
    again.send_signal(signal.SIGTERM)
    assert again.wait(ENDS_WITHIN) == 143


def test_a_job_of_a_sweep_may_have_several_processes(here: Path) -> None:
    words = ["model=mlp", "model.widths=[8]", "epochs=1", "seed=1,2", "launch.processes=2"]
    ended = kdrun("train", "-m", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = sorted((here / "outputs" / "train").glob("*"))
    assert [read(run, "run.json")["device"]["processes"] for run in made] == [2, 2]


@pytest.fixture
def two_hosts() -> Iterator[Any]:
    """Network namespaces joined by a pair of virtual cables: launchers that know each other by address alone."""
    with ExitStack() as stack:
        try:
            run = stack.enter_context(hosts())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield run


@pytest.mark.netns
def test_two_hosts_train_as_one(here: Path, two_hosts: Any) -> None:
    words = ["train", "model=mlp", "model.widths=[8]", "epochs=2", "batch_size=50"]
    two_hosts(["-m", "kdrun", *words, "run_dir=hosts"])
    one = done(*words, "run_dir=one")
    assert read(here / "hosts", "run.json")["device"]["processes"] == 2
    before, after = (numbers(read(run, "summary.json")) for run in (one, here / "hosts"))
    assert after == pytest.approx(before, abs=FLOATS)
    difference = weights_differ(one, here / "hosts")
    assert difference is not None
    assert difference < FLOATS
