"""A run may be killed, or run out of disk, at any file operation: nothing is lost, and it can be gone on with."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdrun.config import stage_config
from kdrun.records import checkpoints
from kdrun.records.files import unwritable
from kdrun.records.seal import sealed
from kdrun.records.store import is_whole
from tests.reliability import children
from tests.reliability.children import Ending

SHORT = ["dataset.limit=60", "checkpoint.every=1", "run_dir=X", "resume=auto", "device=cpu", "device.threads=1"]
BUDGET = ["teacher.train.epochs=1", "teacher.train.batch_size=20"]
TINY = ["model=cnn_tiny", "epochs=2"]
Record = Callable[[str, object], None]
FAST_POINTS = 6  # of the operations of a stage in the fast tests, evenly spread; all of them in the slow ones


@dataclass(frozen=True)
class Case:
    """A command, the config it composes to, and a folder with what it finds."""

    name: str
    words: list[str]
    config: dict[str, Any]
    prepared: Path
    whole: dict[str, Any]  # what an uninterrupted run leaves
    operations: list[str]


def command(name: str) -> tuple[list[str], dict[str, Any]]:
    words = {
        "train": ["train", *TINY, *SHORT],
        "train-teacher": ["train-teacher", "teacher=cnn_tiny", "epochs=2", "batch_size=20", *SHORT],
        "distill": ["distill", "teacher=cnn_tiny", *BUDGET, "epochs=2", *SHORT],
        "store": [
            "store",
            "fill",
            "teacher=cnn_tiny",
            *BUDGET,
            "epochs=3",
            "augment=flip",
            "device.threads=1",
            "dataset.limit=60",
        ],
        "evaluate": ["evaluate", "run=trained", "run_dir=X", "resume=auto", "device=cpu", "device.threads=1"],
    }[name]
    stage = "distill" if name == "store" else words[0].replace("-", "_")
    return words, stage_config(stage, words[2:] if name == "store" else words[1:])


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything about one command, with a whole run of it."""
    folder = tmp_path_factory.mktemp(request.param)
    words, config = command(request.param)
    prepared = folder / "prepared"
    prepared.mkdir()
    if request.param == "evaluate":
        training, config_of_training = command("train")
        assert children.run(prepared, training, config_of_training).code == 0
        (prepared / "X").rename(prepared / "trained")
    whole = shutil.copytree(prepared, folder / "whole")
    ending = children.run(whole, words, config)
    assert ending.code == 0, ending.err
    return Case(request.param, words, config, prepared, left(whole / "X"), ending.operations)


def left(run: Path) -> dict[str, Any]:
    """What a run leaves of numbers, times excepted; or a folder of runs without one, of stored outputs."""
    if not run.exists():
        stored = {file.name: file.read_bytes() for file in sorted(run.parent.rglob("*.bin"))}
        return {"summary": stored, "history": "", "weights": {}, "status": ""}
    summary = json.loads((run / "summary.json").read_text())
    model = run / "checkpoints" / "model.pt"
    history = run / "metrics.jsonl"
    return {
        "summary": {key: value for key, value in summary.items() if "_second" not in key},
        "history": history.read_text() if history.exists() else "",
        "weights": checkpoints.load(model)["state_dict"] if model.exists() else {},
        "status": json.loads((run / "run.json").read_text())["status"],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal to the last bit."""
    weights = one["weights"].keys() == other["weights"].keys() and all(
        torch.equal(one["weights"][key], other["weights"][key]) for key in one["weights"]
    )
    return weights and all(one[key] == other[key] for key in ("summary", "history", "status"))


def broken(folder: Path) -> list[str]:
    """Files that are not whole. What is still being written has a name of its own; a log is a stream of lines."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".jsonl":
                [json.loads(line) for line in file.read_text().splitlines()]
            elif file.suffix == ".yaml":
                assert yaml.safe_load(file.read_text()) is not None
            elif file.suffix == ".pt":
                checkpoints.load(file)
            elif file.suffix == ".bin":
                assert is_whole(file)
        except Exception as error:
            found.append(f"{file.name}: {error}")
    return found


def lost(ending: Ending, folder: Path) -> list[str]:
    """States that had been saved, and that are no longer there."""
    renamed = [line.split()[2] for line in ending.operations if line.startswith("replace ")]
    found = []
    for name in sorted({target for target in renamed if target.endswith("/last.pt")}):
        run = (folder / name).parents[1]
        states = [run / "checkpoints" / f"{state}.pt" for state in ("last", "previous")]
        epochs = [checkpoints.load(file)["training"]["epoch"] for file in states if file.exists()]
        completed = json.loads((run / "run.json").read_text())["status"] == "completed"
        if not completed and max(epochs, default=0) < renamed.count(name):
            found.append(f"{name}: {renamed.count(name)} epochs were saved, found are {epochs}")
    return found


def killed_at(case: Case, at: int, folder: Path, spoil: Callable[[], None] | None = None) -> list[str]:
    """Kill the run at an operation, go on with it, and say what is wrong with what is left."""
    here = shutil.copytree(case.prepared, folder)
    ending = children.run(here, case.words, case.config, at, "kill", spoil)
    if ending.code != -9:
        return [f"was to be killed, ended with {ending.code}: {ending.err}"]
    wrong = broken(here) or lost(ending, here)
    again = children.run(here, case.words, case.config, None, "kill", spoil)
    if again.code != 0:
        return [*wrong, f"going on ended with {again.code}: {again.err}"]
    wrong += [] if same(left(here / "X"), case.whole) else ["other numbers after going on"]
    wrong += [f"left behind: {part}" for part in (here / "X").rglob("*.part")]
    shutil.rmtree(here)
    return wrong


def full_at(case: Case, at: int, folder: Path, spoil: Callable[[], None] | None = None) -> list[str]:
    """Fill the disk at an operation; then make room and go on."""
    here = shutil.copytree(case.prepared, folder)
    ending = children.run(here, case.words, case.config, at, "full", spoil)
    lines = ending.err.splitlines()
    wrong = broken(here)
    if ending.code != 1 or len(lines) != 1:
        wrong.append(f"ended with {ending.code}, said {lines}")
    elif not all(word in lines[0] for word in ("cannot write", "bytes needed", "free", "No space left")):
        wrong.append(f"said {lines}")
    if not wrong:
        wrong += lost(ending, here)
    again = children.run(here, case.words, case.config)
    if again.code != 0 or not same(left(here / "X"), case.whole):
        wrong.append(f"going on ended with {again.code}: {again.err}")
    shutil.rmtree(here)
    return wrong


def needs_space(operation: str) -> bool:
    return operation.split()[0] in ("open", "write", "mkdir", "fsync")


def spread(points: Sequence[int]) -> list[int]:
    """So many of them, the first and the last among them."""
    return sorted({points[round(at * (len(points) - 1) / (FAST_POINTS - 1))] for at in range(FAST_POINTS)})


STAGES = pytest.mark.parametrize("case", ["train-teacher", "distill", "store", "evaluate"], indirect=True)


@STAGES
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(case: Case, tmp_path: Path) -> None:
    wrong = {at: killed_at(case, at, tmp_path / str(at)) for at in spread(range(len(case.operations)))}
    assert not {at: said for at, said in wrong.items() if said}


@STAGES
def test_a_full_disk_costs_one_line_and_nothing_that_was_saved(case: Case, tmp_path: Path) -> None:
    points = [at for at, operation in enumerate(case.operations) if needs_space(operation)]
    wrong = {at: full_at(case, at, tmp_path / str(at)) for at in spread(points)}
    assert not {at: said for at, said in wrong.items() if said}


@pytest.mark.slow
@STAGES
def test_every_point_of_a_kill(case: Case, tmp_path: Path, record_property: Record) -> None:
    wrong = {at: killed_at(case, at, tmp_path / str(at)) for at in range(len(case.operations))}
    record_property("points", f"{case.name} {sum(not said for said in wrong.values())}/{len(wrong)}")
    assert not {at: said for at, said in wrong.items() if said}


@pytest.mark.slow
@STAGES
def test_every_point_of_a_full_disk(case: Case, tmp_path: Path, record_property: Record) -> None:
    points = [at for at, operation in enumerate(case.operations) if needs_space(operation)]
    wrong = {at: full_at(case, at, tmp_path / str(at)) for at in points}
    record_property("points", f"{case.name} {sum(not said for said in wrong.values())}/{len(wrong)}")
    assert not {at: said for at, said in wrong.items() if said}


def naive_writer() -> None:
    """The mistake: a checkpoint written where it is to be found."""

    def save(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
        with path.open("wb") as file:
            torch.save(dict(content), file)

    checkpoints.save = save  # type: ignore[assignment]


def in_place() -> None:
    """The mistake: a file written where it is to be found, and left there half when the disk is full."""

    def save(path: Path, content: dict[str, Any], keep: Path | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        try:
            with path.open("wb") as file:
                file.write(sealed(buffer.getvalue()))
        except OSError as error:
            raise unwritable(path, buffer.tell(), error) from error

    checkpoints.save = save  # type: ignore[assignment]


def writes_of_the_state(case: Case, folder: Path, spoil: Callable[[], None]) -> list[int]:
    """The operations of a run with this mistake that write where a state is to be found."""
    ending = children.run(shutil.copytree(case.prepared, folder), case.words, case.config, spoil=spoil)
    return [at for at, said in enumerate(ending.operations) if said.startswith("write") and said.endswith("last.pt")]


@pytest.mark.parametrize("case", ["train"], indirect=True)
def test_a_naive_writer_is_noticed(case: Case, tmp_path: Path) -> None:
    writes = writes_of_the_state(case, tmp_path / "whole", naive_writer)
    assert killed_at(case, writes[len(writes) // 2], tmp_path / "cut", naive_writer)


@pytest.mark.parametrize("case", ["train"], indirect=True)
def test_a_writer_that_leaves_a_half_file_on_a_full_disk_is_noticed(case: Case, tmp_path: Path) -> None:
    at = writes_of_the_state(case, tmp_path / "whole", in_place)[-1]
    assert any(said.startswith("last.pt: ") for said in full_at(case, at, tmp_path / "full", in_place))
