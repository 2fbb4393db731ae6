"""A saved experiment gives the same numbers again, and when it does not, what differs is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdrun.records import checkpoints, environment
from kdrun.records.files import write_json
from kdrun.records.manifest import read_jobs
from kdrun.reports import verdict
from kdrun.stages import optimise
from tests.conftest import Answer, mutated
from tests.reliability.test_crashes import left, same

Command = Callable[..., Answer]
SMALL = ["dataset.limit=120", "batch_size=20", "device=cpu"]
TEACHER = ["teacher=cnn_tiny", "teacher.train.epochs=1", "teacher.train.batch_size=20"]


@pytest.fixture
def trained(kdrun: Command) -> Path:
    return kdrun("train", "model=cnn_tiny", "epochs=2", "device.threads=1", *SMALL).run


def changed(file: Path, change: Callable[[Any], Any]) -> None:
    write_json(file, change(json.loads(file.read_text())))


def test_three_of_three_runs_of_one_config_are_the_same_to_the_bit(kdrun: Command) -> None:
    words = ["distill", *TEACHER, "student=cnn_tiny", "epochs=2", "augment=[flip,cutout]", *SMALL]
    first, second, third = (kdrun(*words).run for _ in range(3))
    assert same(left(first), left(second))
    assert same(left(first), left(third))
    shutil.move("outputs/distill", "elsewhere")  # or the sweep would find them
    assert kdrun(*words, "-m", "seed=1,0", "device.threads=1").code == 0
    jobs = read_jobs(next(Path("outputs/sweeps").iterdir()))
    again = Path("elsewhere") / first.name
    assert same(left(again), left(Path(jobs[1]["run"]))), "and so is one behind another in a sweep"


def test_how_often_is_measured_changes_no_number(kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "model=cnn_tiny", "epochs=2", "augment=[flip,cutout]", "ema.decay=0.9", *SMALL]
    once, measured = kdrun(*words).run, optimise.totals_on

    def three_times(*given: Any) -> Any:
        torch.rand(7)  # whoever takes random numbers from somewhere
        return [measured(*given) for _ in range(3)][-1]

    monkeypatch.setattr(optimise, "totals_on", three_times)
    assert same(left(once), left(kdrun(*words).run))


def test_exact_with_teacher_and_baseline_found_or_made_again(kdrun: Command) -> None:
    run = kdrun("distill", *TEACHER, "student=cnn_tiny", "epochs=2", *SMALL).run
    found = kdrun("reproduce", str(run))
    assert (found.code, found.err) == (0, "")
    assert "EXACT: every number is the same" in found.out
    assert "weights: equal to the last bit" in found.out
    assert len(list(Path("outputs/train").iterdir())) == 2
    rebuilt = kdrun("reproduce", str(run), "--rebuild")
    assert "EXACT" in rebuilt.out
    assert len(list(Path("outputs/train").iterdir())) == 4
    shutil.rmtree("outputs/train")
    assert "EXACT" in kdrun("reproduce", str(run)).out


def test_different_numbers_are_shown_with_their_first_epoch(kdrun: Command, trained: Path) -> None:
    more = {"\x1b[2Ja name that clears the screen": 1.0}
    changed(trained / "summary.json", lambda numbers: {**numbers, "test/nll": numbers["test/nll"] + 1e-6, **more})
    history = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    history[-1]["loss"] += 1e-7
    (trained / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    changed(trained / "run.json", lambda info: {**info, "versions": {**info["versions"], "torch": "1.0"}})
    answer = kdrun("reproduce", str(trained))
    assert answer.code == 1
    assert "DIFFERENT: 3 numbers" in answer.out
    assert "\x1b" not in answer.out
    loss = next(line for line in answer.out.splitlines() if line.startswith("train loss "))
    assert loss.split()[-1] == "2", "the first epoch that differs"
    assert "environment: versions.torch was 1.0, is " in answer.out


def test_within_tolerance_only_where_it_is_asked_for(kdrun: Command, trained: Path) -> None:
    changed(trained / "summary.json", lambda numbers: {**numbers, "test/nll": numbers["test/nll"] + 1e-4})
    assert kdrun("reproduce", str(trained)).code == 1
    within = kdrun("reproduce", str(trained), "--tolerance", "0.001")
    assert within.code == 0
    assert "WITHIN TOLERANCE: no number differs by more than 0.001" in within.out
    beyond = kdrun("reproduce", str(trained), "--tolerance=0.00001")
    assert beyond.code == 1
    assert "DIFFERENT: 1 numbers" in beyond.out


def resealed(run: Path, change: Callable[[Any], Any]) -> None:
    """The run's model with other weights, and a checksum that fits."""
    file = run / "checkpoints" / "model.pt"
    content = checkpoints.load(file)
    weights = {
        key: change(value) if value.is_floating_point() else value for key, value in content["state_dict"].items()
    }
    checkpoints.save(file, {**content, "state_dict": weights})


def test_weights_that_differ_are_told_and_no_tolerance_is_for_them(kdrun: Command, trained: Path) -> None:
    resealed(trained, lambda weights: weights + 5)
    answer = kdrun("reproduce", str(trained))
    assert (answer.code, "DIFFERENT: 0 numbers and the weights" in answer.out) == (1, True)
    within = kdrun("reproduce", str(trained), "--tolerance", "0.001")
    assert within.code == 0
    assert "weights: differ by up to 5, which no tolerance is for" in within.out
    resealed(trained, lambda weights: weights.double() - 5)
    assert "DIFFERENT" in kdrun("reproduce", str(trained), "--tolerance", "0.001").out, "float64 is another network"


@pytest.mark.parametrize("content", [None, {"format": 1}, {"format": 1, "spec": {}, "state_dict": {"a": "text"}}])
def test_a_model_that_is_none_cannot_be_compared(kdrun: Command, trained: Path, content: Any) -> None:
    file = trained / "checkpoints" / "model.pt"
    file.unlink()
    if content is not None:
        checkpoints.save(file, content)
    cannot_compare(kdrun, trained, "model")


def test_a_damaged_teacher_is_made_again_and_another_one_is_told(kdrun: Command) -> None:
    run = kdrun("distill", *TEACHER, "student=cnn_tiny", "epochs=1", "baseline=false", *SMALL).run
    teacher = next(Path("outputs/train").iterdir())
    resealed(teacher, lambda weights: weights * 1.1)
    other = kdrun("reproduce", str(run))
    assert (other.code, "environment: teacher_weights was" in other.out) == (1, True)
    file = teacher / "checkpoints" / "model.pt"
    file.write_bytes(file.read_bytes()[:-10])
    again = kdrun("reproduce", str(run))
    assert (again.code, "EXACT" in again.out) == (0, True)


def test_a_verdict_that_does_not_look_at_the_weights_is_noticed(tmp_path: Path) -> None:
    wrong = mutated(verdict, "if different or weights:", "if different:")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", {"test/accuracy": 0.5})
        write_json(tmp_path / name / "run.json", {})
    assert verdict.compare(tmp_path / "one", tmp_path / "two", 5.0).word == verdict.DIFFERENT
    assert wrong.compare(tmp_path / "one", tmp_path / "two", 5.0).word == verdict.EXACT


def cannot_compare(kdrun: Command, run: Path, why: str) -> None:
    before = sorted(Path("outputs").rglob("*"))
    answer = kdrun("reproduce", str(run))
    assert answer.code == 1
    assert answer.err.startswith("kdrun: cannot compare: ")
    assert why in answer.err
    assert len(answer.err.splitlines()) == 1
    assert sorted(Path("outputs").rglob("*")) == before, "nothing is made that could not be compared"


def test_what_cannot_be_compared_is_not_run(kdrun: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = json.loads((trained / "run.json").read_text())
    write_json(trained / "run.json", {**info, "status": "interrupted"})
    cannot_compare(kdrun, trained, "is interrupted, not completed")
    write_json(trained / "run.json", {**info, "data": {**info["data"], "fingerprint": "0" * 64}})
    cannot_compare(kdrun, trained, "the data is another")
    write_json(trained / "run.json", {**info, "code": "0" * 64})
    cannot_compare(kdrun, trained, "other code")
    write_json(trained / "run.json", {key: value for key, value in info.items() if key != "places"})
    cannot_compare(kdrun, trained, "does not say as it should: places")
    write_json(trained / "run.json", info)
    assert kdrun("reproduce", str(trained)).code == 0


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "checkpoints/model.pt"])
def test_what_it_would_be_compared_with_is_read_before_it_is_run(kdrun: Command, trained: Path, name: str) -> None:
    file = trained / name
    file.write_bytes(file.read_bytes()[:-10])
    cannot_compare(kdrun, trained, name)


def test_threads_default_to_the_recorded_number_and_may_be_changed(kdrun: Command, trained: Path) -> None:
    again = kdrun("reproduce", str(trained), "device.threads=2")
    made = Path(next(line.split()[-1] for line in again.out.splitlines() if line.startswith("again:")))
    assert json.loads((made / "run.json").read_text())["device"]["threads"] == 2
    assert "environment: device.threads was 1, is 2" in again.out
    once_more = kdrun("reproduce", str(made))
    made = Path(next(line.split()[-1] for line in once_more.out.splitlines() if line.startswith("again:")))
    assert json.loads((made / "run.json").read_text())["device"]["threads"] == 2
    for words in (["epochs=3"], ["seed=1"], ["output_dir=x"], ["--tolerance", "many"]):
        assert kdrun("reproduce", str(trained), *words).code == 2


def test_paths_of_models_are_those_of_the_folder_where_a_run_was_made(
    kdrun: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = kdrun("distill", f"teacher.run={trained}", "student=cnn_tiny", "epochs=1", "baseline=false", *SMALL).run
    measured = kdrun("evaluate", f"run={trained}", "device.threads=1").run
    runs = [str(run.absolute()) for run in (told, measured)]
    other = kdrun("train", "model=cnn_tiny", "epochs=1", "seed=7", *SMALL).run
    shutil.copytree(other, tmp_path / "elsewhere" / trained)  # another run of this name
    monkeypatch.chdir(tmp_path / "elsewhere")
    for run in runs:
        again = kdrun("reproduce", run)
        assert (again.code, "EXACT" in again.out) == (0, True)


def test_evaluations_are_reproduced_too(kdrun: Command, trained: Path) -> None:
    evaluated = kdrun("evaluate", str(trained)).run
    answer = kdrun("reproduce", str(evaluated))
    assert (answer.code, answer.err) == (0, "")
    assert "EXACT" in answer.out


def test_a_run_records_its_environment_by_an_allow_list(kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_VARIABLE", "planted value")
    monkeypatch.setattr(environment, "_run_git", lambda *words: "+ a change\n" * (200_000 if "diff" in words else 1))
    monkeypatch.setattr("kdrun.records.run.code_changes", environment.code_changes.__wrapped__)  # asked anew
    run = kdrun("train", "model=cnn_tiny", "epochs=1", *SMALL).run
    if (environment.ROOT / ".git").exists():
        assert (run / "code.diff").stat().st_size < 1_000_100
    assert "planted value" not in "".join(file.read_text() for file in run.iterdir() if file.is_file())
    info = json.loads((run / "run.json").read_text())
    assert {"git", "code", "versions", "platform", "device", "data", "places"} <= info.keys()
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == 1
