"""A run that stopped goes on to the very bits of one that did not, whatever its recipe and wherever it stopped."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdrun import lookup, stopping
from kdrun.config import stage_config
from kdrun.errors import KdrunError
from kdrun.records import checkpoints
from kdrun.records.state import StateFiles
from kdrun.stages import optimise as optimise_module
from kdrun.stages.distill import distill
from kdrun.stages.resume import resume
from kdrun.stages.source import fill_store
from tests.conftest import mutated
from tests.reliability.test_crashes import Record, left, same

OPTIMIZERS = sorted(file.stem for file in (lookup.conf_dir() / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(file.stem for file in (lookup.conf_dir() / "schedule").glob("*.yaml"))
# a teacher with augmentation is asked live, one without is asked once and stored
RECIPES = list(itertools.product(OPTIMIZERS, SCHEDULES, ["fp32", "bf16"], ["none", "flip"]))
# in the fast test each optimizer, schedule, precision and kind of teacher is met, not every product of them
PAIRS = [RECIPES[number] for number in range(0, len(RECIPES), 7)]


def config_of(folder: Path, *words: str) -> dict[str, Any]:
    config = stage_config(
        "distill",
        [
            "teacher=mlp",
            "teacher.widths=[8]",
            "student=cnn_tiny",
            "teacher.train.epochs=1",
            "epochs=3",
            "dataset.limit=128",
            "batch_size=32",
            "baseline=false",
            "device=cpu",
            "device.threads=1",
            "ema.decay=0.9",
            *words,
        ],
    )
    return {**config, "output_dir": str(folder / "outputs")}


@contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """A signal comes when the training has asked so many times whether to stop: after each update, and each epoch."""
    asked, requested = itertools.count(), stopping.requested

    def asking() -> bool:
        if next(asked) == steps:
            signal.raise_signal(signal.SIGTERM)
        return requested()

    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    stopping.listen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "requested", asking)
        with pytest.raises(stopping.Stopped):
            yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping.forget()


def cut_and_gone_on(config: dict[str, Any], folder: Path, steps: int) -> dict[str, Any]:
    """What is left by a run that is stopped after so many updates and then gone on with."""
    with stopped_after(steps):
        distill({**config, "run_dir": str(folder)})
    torch.manual_seed(random.randrange(1000))
    assert resume(folder) == folder
    return left(folder)


def compared(folder: Path, recipe: tuple[str, str, str, str], stops: list[int], *more: str) -> list[int]:
    """The stops after which the numbers are other ones than without a stop."""
    optimizer, schedule, precision, augment = recipe
    words = [f"optimizer={optimizer}", f"schedule={schedule}", f"device.precision={precision}", f"augment=[{augment}]"]
    config = config_of(folder, *words[:3], *([] if augment == "none" else [words[3]]), *more)
    whole = left(distill({**config, "run_dir": str(folder / "whole")}))
    return [stop for stop in stops if not same(cut_and_gone_on(config, folder / f"cut{stop}", stop), whole)]


@pytest.mark.parametrize("recipe", PAIRS, ids="-".join)
def test_every_recipe_goes_on_to_the_same_bits(recipe: tuple[str, str, str, str], tmp_path: Path) -> None:
    assert not compared(tmp_path, recipe, [RECIPES.index(recipe) % 10 + 1])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
def test_every_recipe_goes_on_from_anywhere(recipe: tuple[str, str, str, str], tmp_path: Path) -> None:
    assert not compared(tmp_path, recipe, [1, 3, 4, 7, 10])


def test_the_fast_test_meets_every_option_once() -> None:
    for place, options in enumerate((OPTIMIZERS, SCHEDULES, ["fp32", "bf16"], ["none", "flip"])):
        assert {recipe[place] for recipe in PAIRS} == set(options)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"training": self.training.state_dict()', '"training": {**self.training.state_dict(), "step": 0}'),
        ('self.run.recall(state["history"])', "pass"),
        ('setattr(self, key, state["choice"][key])', "pass"),
    ],
)
def test_a_state_that_lacks_something_is_noticed(
    before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(optimise_module, before, after)
    monkeypatch.setattr("kdrun.stages.distill.optimise", wrong.optimise)
    assert compared(tmp_path, ("sgd", "cosine", "fp32", "flip"), [6, 10])


def picture_folder(folder: Path) -> Path:
    draw = random.Random(0)
    for split, name, number in itertools.product(("train", "test"), "ab", range(12)):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        pixels = bytes(draw.randrange(256) for _ in range(12 * 12 * 3))
        Image.frombytes("RGB", (12, 12), pixels).save(folder / split / name / f"{number}.png")
    return folder


def streamed(folder: Path, workers: int) -> list[str]:
    """Words for images that are read from files whenever they are needed: six updates in an epoch."""
    data = ["dataset=image_folder", f"dataset.path={picture_folder(folder / 'pictures')}", "dataset.size=12"]
    small = ["dataset.limit=null", "batch_size=4", "teacher.train.batch_size=4"]
    return [*data, "dataset.cache_gb=0", *small, f"dataset.workers={workers}"]


@pytest.mark.parametrize(
    ("workers", "teacher"), [(0, "live"), (2, "live"), pytest.param(2, "stored", marks=pytest.mark.slow)]
)
def test_streamed_images_go_on_in_mid_epoch_with_any_number_of_workers(
    workers: int, teacher: str, tmp_path: Path
) -> None:
    own = [f"teacher.outputs={teacher}", *(["augment=flip"] if teacher == "live" else [])]
    config = config_of(tmp_path, *streamed(tmp_path, workers), *own)
    alone = left(distill({**config_of(tmp_path, *streamed(tmp_path, 0), *own), "run_dir": str(tmp_path / "whole")}))
    assert same(cut_and_gone_on(config, tmp_path / "cut", 7), alone)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
def test_every_recipe_goes_on_with_two_workers(recipe: tuple[str, str, str, str], tmp_path: Path) -> None:
    assert not compared(tmp_path, recipe, [RECIPES.index(recipe) % 17 + 1], *streamed(tmp_path, 2))


def test_an_epoch_that_was_trained_and_not_validated_is_validated_after(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    whole = left(distill({**config, "run_dir": str(tmp_path / "whole")}))
    measured, calls = optimise_module.totals_on, itertools.count()

    def interrupted(*words: Any) -> Any:
        if next(calls) == 1:
            raise stopping.Stopped(2)
        return measured(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimise_module, "totals_on", interrupted)
        with pytest.raises(stopping.Stopped):
            distill({**config, "run_dir": str(tmp_path / "cut")})
    assert checkpoints.load(tmp_path / "cut" / "checkpoints" / "last.pt")["unmeasured"]["epoch"] == 1
    resume(tmp_path / "cut")
    assert same(left(tmp_path / "cut"), whole)


def test_a_teacher_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    config = config_of(tmp_path, "teacher.train.epochs=2")
    whole = left(distill({**config, "run_dir": str(tmp_path / "whole")}))
    shutil.rmtree(tmp_path / "outputs")
    with stopped_after(2):
        distill({**config, "run_dir": str(tmp_path / "again"), "resume": "auto"})
    assert not (tmp_path / "again").exists()
    distill({**config, "run_dir": str(tmp_path / "again"), "resume": "auto"})
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 1
    assert same(left(tmp_path / "again"), whole)


# ----------------------------------------------------------------------------------------------- damaged checkpoints


def states(folder: Path) -> StateFiles:
    """A folder with two good states, of epochs 1 and 2."""
    files = StateFiles(folder, 1)
    for epoch in (1, 2):
        files.save({"epoch": epoch, "weights": torch.arange(200.0) * epoch})
    return files


def damage_noticed(folder: Path, seed: int = 0) -> tuple[int, int]:
    """(noticed, tried) of 300 single flipped bits and every kind of truncation of `last`."""
    files = states(folder)
    good, draw = files.last.read_bytes(), random.Random(seed)
    flipped = []
    for _ in range(300):
        place = draw.randrange(len(good))
        flipped.append(good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :])
    cut = [good[:length] for length in {0, 1, 50, len(good) // 2, len(good) - 100, len(good) - 1}]
    noticed = 0
    for content in flipped + cut:
        files.last.write_bytes(content)
        loaded = files.load()
        noticed += loaded is not None and loaded["epoch"] == 1
    return noticed, len(flipped + cut)


def test_any_damage_is_noticed_and_the_previous_state_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Record
) -> None:
    noticed, tried = damage_noticed(tmp_path)
    record_property("damage", f"{noticed}/{tried}")
    assert noticed == tried == 306
    assert "going on from" in caplog.text


def test_a_reader_that_does_not_check_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(path: Path) -> Any:
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:
            raise checkpoints.UsageError("unreadable") from error

    monkeypatch.setattr(checkpoints, "load", trusting)
    noticed, tried = damage_noticed(tmp_path)
    assert noticed < tried


def test_with_both_states_damaged_nothing_is_made_up(tmp_path: Path) -> None:
    files = states(tmp_path)
    for file in (files.last, files.previous):
        file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(KdrunError, match="nothing is left to go on from"):
        files.load()


def test_auto_saves_as_often_as_a_hundredth_of_the_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("kdrun.records.state.time.monotonic", lambda: clock[0])
    files = StateFiles(tmp_path, "auto")

    def slow(*words: Any, **more: Any) -> None:
        clock[0] += 2.5

    monkeypatch.setattr(checkpoints, "save", slow)
    saved = []
    for epoch in range(1, 31):
        clock[0] += 30.0
        if files.due(epoch):
            files.save({})
            saved.append(epoch)
    assert saved == [1, 10, 19, 28]  # 250 s of training between saves of 2.5 s
    assert [epoch for epoch in range(1, 10) if StateFiles(tmp_path, 3).due(epoch)] == [3, 6, 9]


def test_what_is_stored_since_does_not_change_a_run_half_way(tmp_path: Path) -> None:
    """Live and stored answers may differ in their last bits; a run keeps to the one it began with."""
    config = config_of(tmp_path, "augment=[flip]")
    whole = left(distill({**config, "run_dir": str(tmp_path / "whole")}))
    with stopped_after(6):
        distill({**config, "run_dir": str(tmp_path / "cut")})
    fill_store(config)
    distill({**config, "run_dir": str(tmp_path / "cut"), "resume": "auto"})
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["teacher_outputs"] == "live"
    assert same(left(tmp_path / "cut"), whole)
    fresh = distill({**config, "run_dir": str(tmp_path / "fresh")})
    assert json.loads((fresh / "run.json").read_text())["teacher_outputs"] == "stored"
