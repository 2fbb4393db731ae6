"""Every loss that can be chosen trains for an epoch from the command line, and its numbers are on record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdrun.records.foreign import read_yaml
from kdrun.saved import checked_run_config
from kdrun.terms import kinds
from tests.conftest import Answer

Command = Callable[..., Answer]
TINY = ["student=cnn_tiny", "teacher=cnn_tiny", "dataset.limit=60", "epochs=1", "teacher.train.epochs=1"]
TINY += ["baseline=false", "teacher.outputs=live", "batch_size=16", "teacher.train.batch_size=16"]
CHOICES = {kind: [f"loss={kind}"] for kind in sorted(kinds())}
CHOICES["mix"] = ["loss=mix", "loss.terms={kd: 0.9, logit_std: 9}"]
CHOICES["changing"] = ["loss=dkd", "loss.terms.dkd.temperature={from: 8, to: 1}", "loss.task.weight={from: 1, to: 0}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs, so that the teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


def _at_first(terms: list[str]) -> list[str]:
    """The terms that count in the first step, at which gradients are measured."""
    phased = [name for name in terms if kinds().get(name, {}).get("first")]
    return phased or ["task", *terms]


@pytest.mark.parametrize("name", CHOICES)
def test_a_loss_trains_from_the_command_line(name: str, kdrun: Command, runs: Path) -> None:
    done = kdrun("distill", *TINY, *CHOICES[name], f"output_dir={runs}")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    (trained,) = [line for line in lines if line["split"] == "train"]
    config = read_yaml(done.run / "config.yaml")
    terms = list(config["loss"]["terms"])
    assert {key for key in trained if key.startswith("loss/")} == {f"loss/{one}" for one in ["task", *terms]}
    assert {key for key in trained if key.startswith("weight/")} == {f"weight/{one}" for one in ["task", *terms]}
    assert {key for key in trained if key.startswith("gradient/")} >= {f"gradient/{one}" for one in _at_first(terms)}
    checked_run_config(config, done.run)
    shutil.rmtree(done.run)


TAPS = {
    "mlp": "stage1     3:input  500\nembedding  3:input  500\n",
    "cnn_tiny": "stage1     1        8x8x8\nstage2     4        16x4x4\nembedding  7:input  64\n",
}


@pytest.mark.parametrize("model", TAPS)
def test_the_taps_of_a_model_are_listed_with_their_modules_and_shapes(model: str, kdrun: Command) -> None:
    answer = kdrun("list", "taps", f"model={model}", "dataset=digits")
    assert (answer.code, answer.err, answer.out) == (0, "", TAPS[model])


def test_a_list_of_taps_says_what_it_needs(kdrun: Command) -> None:
    assert "usage: kdrun list taps model=<name> dataset=<name>" in kdrun("list", "taps").err
    assert "did you mean cnn" in kdrun("list", "taps", "model=cnnn").err
    told = kdrun("list", "taps", "model=cnn_tiny", "model.taps={stage1: nowhere}")
    assert told.code == 2
    assert "names module 'nowhere'" in told.err
