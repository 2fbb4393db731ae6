"""A search: ranges checked first, trials gone on with where they stopped, hopeless ones cut off; validation decides."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdrun.records.manifest import read_jobs
from kdrun.sweeps import tune as tune_module
from tests.conftest import ROOT, Answer, mutated

pytest.importorskip("optuna", reason="the extra kdrun[tune]")
Command = Callable[..., Answer]
TINY = ["teacher=cnn_tiny", "student=cnn_tiny", "teacher.train.epochs=1", "dataset.limit=200", "batch_size=20"]
TINY += ["teacher.train.batch_size=20", "device=cpu", "device.threads=1"]


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    return {job["job"]: job for job in read_jobs(next((folder / "outputs" / "sweeps").glob("tune_*")))}


def test_a_search_goes_on_where_it_stopped(kdrun: Command, tmp_path: Path) -> None:
    first = kdrun("tune", *TINY, "epochs=2", "trials=2")
    assert (first.code, first.err) == (0, "")
    assert "2 trials: 2 completed" in first.out
    assert "best on validation, of 2: loss.alpha=" in first.out
    assert "the config as it is: validation accuracy" in first.out
    assert "beats the config as it is" in first.out or "does not beat the config as it is" in first.out
    runs = {path: (path / "summary.json").read_bytes() for path in Path("outputs/distill").iterdir()}
    assert len(runs) == 3
    more = kdrun("tune", *TINY, "epochs=2", "trials=3")
    assert "trial 3 of 3: completed" in more.out
    assert "trial 2" not in more.out
    assert {path: (path / "summary.json").read_bytes() for path in runs} == runs
    folder = next(Path("outputs/sweeps").iterdir())
    assert kdrun("resume", str(folder)).code == 0
    assert list(jobs(tmp_path)) == ["default", "0000", "0001", "0002"]
    assert "best on validation" in kdrun("report", str(folder), "--format", "md").out


def test_a_trial_that_was_cut_off_is_gone_on_with(kdrun: Command, tmp_path: Path) -> None:
    assert kdrun("tune", *TINY, "epochs=2", "trials=1").code == 0
    import optuna

    folder = next(Path("outputs/sweeps").iterdir())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name="kdrun", storage=f"sqlite:///{folder / 'study.db'}")
    study.ask({"loss.alpha": optuna.distributions.FloatDistribution(0.05, 0.95)})  # as if killed right after
    more = kdrun("tune", *TINY, "epochs=2", "trials=2")
    assert "2 trials: 2 completed" in more.out
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


def test_a_trial_of_somebody_else_s_study_sets_nothing_but_what_is_searched(kdrun: Command) -> None:
    """Cut off, and with a key and a value of its own choice: words of a config, were they believed."""
    import optuna

    folder = Path("outputs/sweeps/theirs")
    folder.mkdir(parents=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="kdrun", storage=f"sqlite:///{folder / 'study.db'}", direction="maximize")
    study.ask({"data_dir": optuna.distributions.CategoricalDistribution(["${oc.env:HOME}"])})
    answer = kdrun("tune", *TINY, "epochs=1", "trials=2", "sweep.name=theirs")
    assert answer.code == 0, answer.err
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "oc.env" not in answer.out + (folder / "manifest.jsonl").read_text()


def test_a_hopeless_trial_is_cut_off(kdrun: Command, tmp_path: Path) -> None:
    """A good learning rate, then none at all: the second never gets better than by chance."""
    import optuna

    (tmp_path / "mine" / "search").mkdir(parents=True)
    text = "# Mine.\nprune: {after_trials: 1, after_epochs: 1}\nspace: {optimizer.lr: {choices: [0.1, 0.0]}}\n"
    (tmp_path / "mine" / "search" / "hopeless.yaml").write_text(text)
    folder = tmp_path / "outputs" / "sweeps" / "tune_mine"
    folder.mkdir(parents=True)
    study = optuna.create_study(study_name="kdrun", storage=f"sqlite:///{folder / 'study.db'}", direction="maximize")
    for rate in (0.1, 0.0):
        study.enqueue_trial({"optimizer.lr": rate})
    cut_off = study.ask()
    assert cut_off.suggest_categorical("optimizer.lr", [0.1, 0.0]) == 0.1
    cut_off.report(0.5, 1)  # the study has its first epoch already, which is no reason to warn
    words = ["--config-dir", "mine", "search=hopeless", "trials=2", "epochs=60", *TINY, "sweep.name=tune_mine"]
    answer = kdrun("tune", *words)
    assert (answer.code, answer.err) == (0, "")
    found = jobs(tmp_path)
    assert [found[key]["status"] for key in ("default", "0000", "0001")] == ["completed", "completed", "pruned"]
    assert "below the median of earlier trials" in found["0001"]["reason"]
    lines = (Path(found["0001"]["run"]) / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["epoch"] for line in lines) < 60
    assert "best on validation, of 1: optimizer.lr=0.1" in answer.out
    told = kdrun("report", str(folder), "--format", "md").out
    assert "pruned: optimizer.lr=0.0" in told
    assert "which may change this" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search=kdd"], "did you mean kd?"),
        (["trials=0"], "trials=0: must be a whole number"),
        (["loss.alpha=0.5"], "search=kd looks for it"),
        (["dataset.validation=0"], "a search chooses by the validation split"),
        (["sweep.jobs=2"], "one after the other; leave it out"),
        (["loss=dkd"], "loss.alpha: this loss is no convex mix"),
        (["optimizer.lrr=1"], "did you mean optimizer.lr?"),
        (["--frob"], "usage: kdrun tune"),
        (["kd"], "usage: kdrun tune"),
        (["logger.api_key=hidden"], "set it in the environment: logger.api_key"),
        (["--config-dir", "nowhere"], "there is no such folder"),
        (["--config-dir", "mine", "search=wide"], "loss.temperature=0.001: must be between"),
        (["--config-dir", "mine", "search=wrong"], "space.optimizer.lr: low must be a number below high"),
        (["--config-dir", "mine", "search=none"], "space: must map keys to ranges"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_before_anything_is_trained(words: list[str], said: str, kdrun: Command) -> None:
    Path("mine/search").mkdir(parents=True)
    spaces = {
        "wide": "{loss.temperature: {low: 0.001, high: 2.0}}",
        "wrong": "{optimizer.lr: {low: 2, high: 1}}",
        "none": "{}",
    }
    for name, space in spaces.items():
        Path(f"mine/search/{name}.yaml").write_text(f"# Mine.\nspace: {space}\n")
    answer = kdrun("tune", *words)
    assert answer.code == 2
    assert 1 <= len(answer.err.splitlines()) <= 3
    assert said in answer.err
    assert not Path("outputs").exists()


def two_trials(folder: Path) -> Path:
    """One trial is better on validation, the other on the test split."""
    lines = []
    for name, val, test in (("default", 0.5, 0.5), ("0000", 0.9, 0.6), ("0001", 0.7, 0.8)):
        (folder / name).mkdir()
        numbers = {"val/accuracy": val, "test/accuracy": test, "test/samples": 100}
        (folder / name / "summary.json").write_text(json.dumps(numbers))
        job = {"job": name, "overrides": [], "setting": name, "status": "completed", "run": str(folder / name)}
        lines.append(json.dumps(job) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines))
    return folder


def test_validation_decides_and_the_default_stands_beside(tmp_path: Path) -> None:
    told = tune_module.found(two_trials(tmp_path))
    assert "best on validation, of 2: 0000: validation accuracy 90.00 %, test accuracy 60.00 %" in told
    assert "the search beats the config as it is: +40.00 points on validation, +10.00 on the test split" in told


def test_a_search_that_chooses_on_the_test_split_is_noticed(tmp_path: Path) -> None:
    wrong = mutated(tune_module, 'CRITERION = "val/accuracy"', 'CRITERION = "test/accuracy"')
    assert "best on validation, of 2: 0001" in wrong.found(two_trials(tmp_path))


@pytest.mark.slow
def test_thirty_trials_killed_and_gone_on_with(tmp_path: Path) -> None:
    """Killed three times with everything it started; some pruned; the verdict is told."""
    words = [sys.executable, "-m", "kdrun", "tune", "teacher=cnn", "student=cnn_tiny", "teacher.train.epochs=6"]
    words += ["epochs=8", "device=cpu", "device.threads=1", "trials=30"]
    chance, environment = random.Random(0), {**os.environ, "PYTHONPATH": str(ROOT)}
    for wanted in (4, 10, 18):
        process = subprocess.Popen(
            words, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        while sum(1 for _ in tmp_path.glob("outputs/distill/tune_*")) < wanted:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(chance.random())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = [job["status"] for key, job in jobs(tmp_path).items() if key != "default"]
    assert len(found) == 30
    assert set(found) <= {"completed", "reused", "pruned"}
    assert found.count("pruned") >= 1
    assert "the search beats the config as it is" in done.stdout or "does not beat the config as it is" in done.stdout
