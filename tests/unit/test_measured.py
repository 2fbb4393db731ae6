"""What is measured once: found again where nothing that decides it has changed, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun import device, lookup
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.models.building import Model, build
from kdrun.records import measured
from kdrun.reports.verdict import TIMES
from kdrun.stages import quality, teacher
from kdrun.stages.quality import Reference, quality_key
from kdrun.stages.teacher import Taught
from kdrun.teachers.lowered import Likeness
from tests.conftest import Answer

Ask = Callable[..., int]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Which measurement is told: the first one, or a later one."""
    done = []

    def told(anew: bool = False, **key: Any) -> int:
        def measure() -> dict[str, Any]:
            done.append(1)
            return {"number": len(done)}

        content = measured.remembered(tmp_path, {"weights": "a", "sizes": (1, 2), **key}, "it", measure, anew)
        return int(content["number"])

    return told


def test_it_is_found_again_under_its_key_unless_it_is_wanted_anew(ask: Ask) -> None:
    assert (ask(), ask()) == (1, 1)
    assert (ask(weights="b"), ask(weights="b"), ask()) == (2, 2, 1)
    assert (ask(anew=True), ask()) == (3, 3)


@pytest.mark.parametrize("what", ["code", "versions", "platform"])
def test_other_code_versions_or_machines_measure_anew(ask: Ask, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    ask()
    here = measured.environment()
    monkeypatch.setattr(measured, "environment", lambda: {**here, what: "another", "git": "another"})
    assert (ask(), ask()) == (2, 2)
    monkeypatch.setattr(measured, "environment", lambda: {**here, "git": "another"})
    assert ask() == 1, "code that is the same"


def test_with_a_plugin_nothing_is_remembered(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask()
    monkeypatch.setattr(lookup, "PLUGINS", ["mine"])
    assert (ask(), ask()) == (2, 3)


def test_a_changed_byte_is_measured_again_and_never_told(ask: Ask, tmp_path: Path) -> None:
    ask()
    (file,) = (tmp_path / "measured").glob("*.json")
    sound = file.read_bytes()
    for place in range(len(sound)):
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert ask() != 1, f"byte {place}"


def test_where_it_cannot_be_kept_it_is_measured_each_time(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "measured").write_text("in the way")
    assert (ask(), ask()) == (1, 2)


# ------------------------------------------------------------------------------------------------------- models


def data(seed: int = 0) -> Data:
    pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return split(Raw(("a", "b", "c"), Labelled(pixels, torch.arange(60) % 3)), 0.2, 0, None)


@cache
def model(seed: int = 0, mean: float = 0.5) -> Model:
    spec = {"kind": "mlp", "options": {"widths": [4], "dropout": 0.0}, "classes": ["a", "b", "c"], "channels": 3}
    return build({**spec, "size": 8, "network_channels": 3, "mean": [mean] * 3, "std": [1.0] * 3}, seed)


def fewer(part: str) -> Data:
    whole = getattr(data(), part)
    return replace(data(), **{part: replace(whole, index=whole.index[:-1])})


HERE = ("cpu", "fp32")
BESIDE = Reference(lambda batch: None, {"weights": "one"})  # type: ignore[arg-type, return-value]
CHANGES: dict[str, Callable[[pytest.MonkeyPatch], dict[str, Any]]] = {
    "weights": lambda _: quality_key(model(1), data(), HERE, BESIDE),
    "normalisation": lambda _: quality_key(model(0, 0.4), data(), HERE, BESIDE),
    "data": lambda _: quality_key(model(), data(1), HERE, BESIDE),
    "training samples": lambda _: quality_key(model(), fewer("train"), HERE, BESIDE),
    "validation samples": lambda _: quality_key(model(), fewer("validation"), HERE, BESIDE),
    "test samples": lambda _: quality_key(model(), fewer("test"), HERE, BESIDE),
    "precision": lambda _: quality_key(model(), data(), ("cpu", "bf16"), BESIDE),
    "no teacher": lambda _: quality_key(model(), data(), HERE, None),
    "teacher": lambda _: quality_key(model(), data(), HERE, replace(BESIDE, key={"weights": "other"})),
    "threads": lambda patch: (
        patch.setattr(torch, "get_num_threads", lambda: 7),
        quality_key(model(), data(), HERE, BESIDE),
    )[1],
}


def test_the_same_has_the_same_key() -> None:
    assert quality_key(model(), data(), HERE, BESIDE) == quality_key(model(), data(), HERE, BESIDE)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_thing_that_changes_a_number_changes_the_key(
    change: Callable[[pytest.MonkeyPatch], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = quality_key(model(), data(), HERE, BESIDE)
    assert change(monkeypatch) != before


def test_how_like_a_teacher_answers_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    sound = teacher._compared
    monkeypatch.setattr(teacher, "_compared", lambda *given: (asked.append(1), sound(*given))[1])
    config = {**stage_config("distill", ["teacher=mlp", "student=mlp", "dataset=cifar10"]), "output_dir": str(tmp_path)}
    found = [teacher.asked(Taught(model(seed), "f", "bf16", {}), config, data(), "cpu")[1] for seed in (0, 0, 1)]
    assert len(asked) == 2, "once for each of the teachers"
    assert isinstance(found[1].likeness, Likeness)
    assert found[0] == found[1]


def test_the_next_run_measures_its_student_only(kdrun: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[Any] = []  # that a model was measured on: of each model three
    sound = quality.totals_on
    monkeypatch.setattr(quality, "totals_on", lambda *given: (splits.append(given), sound(*given))[1])

    def numbers(answer: Answer) -> dict[str, float]:
        """Those of teacher and student alone."""
        assert answer.code == 0, answer.err
        summary = json.loads((answer.run / "summary.json").read_text())
        others = {key: value for key, value in summary.items() if key.startswith(("teacher/", "alone/"))}
        assert len(others) > 20
        return {key: value for key, value in others.items() if not key.endswith(TIMES)}

    words = ["distill", "teacher=cnn_tiny", "student=cnn_tiny", "teacher.train.epochs=2", "epochs=1"]
    words += ["dataset.limit=64", "teacher.outputs=stored", "device=cpu"]
    monkeypatch.setattr(device, "bf16_instructions", lambda: None)  # or the guard decides what the teacher is asked in
    first = kdrun(*words)
    assert len(splits) == 3 * 4, "teacher and baseline once trained, the student, the baseline beside the teacher"
    second = kdrun(*words, "loss.alpha=0.5")
    assert len(splits) == 3 * 5
    assert numbers(first) == numbers(second)
    for file in Path("outputs/measured").glob("*.json"):
        file.unlink()
    third = kdrun(*words, "loss.alpha=0.4")
    assert len(splits) == 3 * 8
    assert numbers(third) == numbers(first), "measured again"
    again = kdrun("reproduce", str(third.run))
    assert (again.code, len(splits)) == (0, 3 * 11), "what is reproduced is measured, whatever is known"
    assert "EXACT" in again.out
