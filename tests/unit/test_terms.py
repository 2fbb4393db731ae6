"""The loss of a config: its terms written short and in full, and what changes while training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from kdrun import assembly, canonical, engine
from kdrun.canonical import expanded_loss
from kdrun.config import stage_config
from kdrun.errors import UsageError
from kdrun.learner import Learner
from kdrun.lookup import conf_dir
from kdrun.saved import checked_run_config
from kdrun.schedule import between
from kdrun.taps import Tapped
from kdrun.terms import kinds
from kdrun.types import Batch, Outputs
from tests.conftest import mutated

MIX = "loss.terms={kd: 0.9, logit_std: 9}"
WRONG = {
    "loss=mix": "loss=mix has no terms: name them with their weights",
    "loss=mix loss.terms=3": "loss.terms=3: name them with their weights",
    "loss=mix loss.terms={kdd:1}": "loss.terms.kdd: there is no such loss as kdd; did you mean kd",
    "loss=mix loss.terms={soft:{kind:kdd}}": "there is no such loss as kdd; did you mean kd",
    "loss=mix loss.terms={kd:{temprature:1}}": "unknown key loss.terms.kd.temprature; did you mean temperature?",
    "loss=mix loss.terms={kd:{temperature:0}}": "loss.terms.kd.temperature=0: must be between 0.05",
    "loss=mix loss.terms={kd:1e9}": "loss.terms.kd.weight=1000000000.0: must be between 0.0",
    "loss=mix loss.terms={kd:nan}": "numbers must be finite",
    "loss=mix loss.terms={kd:null}": "loss.terms.kd.weight=null: must be a number",
    "loss=mix loss.terms={kd:much}": "loss.terms.kd.weight=much: must be a number, not a word",
    "loss=mix loss.terms={task:{kind:kd}}": "'task' is the task loss",
    "loss=mix loss.alpha=1 loss.terms={kd:1}": "loss.alpha: this loss is no convex mix",
    "loss=mix loss.terms={1:2}": "loss.terms.1: no name for a term",
    "loss=mix loss.terms={kd:{weight:{1:2,from:1,to:0}}}": "unknown key loss.terms.kd.weight.1",
    "loss=dkd loss.alpha=1": "set its weights: loss.task.weight, loss.terms.dkd.weight",
    "loss=dkd loss.temperature=2": "did you mean loss.terms.dkd.temperature",
    "loss=dkd loss.terms.dkd.tempraure=2": "did you mean loss.terms.dkd.temperature?",
    "loss=dkd loss.terms.dkd.temperature=0": "loss.terms.dkd.temperature=0: must be between 0.05",
    "loss.temperature={from:8,to:0}": "loss.temperature.to=0: must be between 0.05",
    "loss.temperature={form:8}": "unknown key loss.temperature.form; did you mean from?",
    "loss.temperature={from:8}": "a course over the training needs from and to",
    "loss.temperature={from:8,to:1,shape:square}": "loss.temperature.shape=square: allowed: linear, cosine",
    "loss.alpha={from:2,to:0}": "loss.alpha.from=2: must be between 0.0 and 1.0",
    "loss.alpha={from:1}": "a course over the training needs from and to",
    "optimizer.lr={from:1,to:0}": "must be a number, not a mapping",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_with_a_loss_is_said(words: str) -> None:
    with pytest.raises(UsageError) as told:
        stage_config("distill", words.split())
    assert WRONG[words] in str(told.value)


def test_a_mistake_in_a_mix_is_answered_without_torch() -> None:
    code = (
        "import sys\nfrom kdrun.config import stage_config\nfrom kdrun.errors import UsageError\n"
        "try: stage_config('distill', ['loss=mix', 'loss.terms={kdd: 1}'])\n"
        "except UsageError: print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_mix_expands_with_the_options_of_each_yaml() -> None:
    loss = stage_config("distill", ["loss=mix", MIX, "loss.task.weight=0.1"])["loss"]
    assert loss == {
        "task": {"kind": "cross_entropy", "weight": 0.1},
        "terms": {
            "kd": {"kind": "kd", "weight": 0.9, "temperature": 4.0, "confidence": 0.0},
            "logit_std": {"kind": "logit_std", "weight": 9.0, "temperature": 2.0},
        },
    }
    assert expanded_loss(loss) == loss
    assert isinstance(loss["terms"]["logit_std"]["weight"], float)


def test_a_mix_knows_the_losses_of_a_config_dir(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "ours.yaml").write_text("kind: ours\nalpha: 0.5\nscale: 2.0\ntask:\n  kind: cross_entropy\n")
    loss = {"task": {"kind": "cross_entropy", "weight": 1.0}, "terms": {"ours": 3}}
    expected = {"ours": {"kind": "ours", "weight": 3.0, "scale": 2.0}}
    assert expanded_loss(loss, [tmp_path])["terms"] == expected


def test_two_terms_of_one_kind_have_two_names() -> None:
    words = ["loss=mix", "loss.terms={soft: {kind: kd, temperature: 8}, sharp: {kind: kd, weight: 1, temperature: 1}}"]
    terms, weights = assembly.terms(stage_config("distill", words))
    assert list(terms) == ["task", "soft", "sharp"]
    assert weights == {"task": 1.0, "soft": 0.9, "sharp": 1.0}
    assert [terms[name].temperature for name in ("soft", "sharp")] == [8.0, 1.0]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return stage_config("distill", ["loss=mix", MIX])


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_a_saved_config_of_every_loss_is_accepted_as_it_is(kind: str, whole: dict[str, Any]) -> None:
    changing = {"weight": {"from": 2.0, "to": 1.0, "shape": "cosine"}}
    for term in (3, {}, changing):
        config = {**whole, "loss": expanded_loss({"task": whole["loss"]["task"], "terms": {kind: term}})}
        assert checked_run_config(yaml.safe_load(yaml.safe_dump(config))) == config


def test_a_saved_config_with_a_wrong_term_is_refused(whole: dict[str, Any]) -> None:
    for change in ({"temperature": 0.0}, {"kind": "kdd"}, {"temprature": 1.0}):
        terms = {"kd": {**whole["loss"]["terms"]["kd"], **change}}
        with pytest.raises(UsageError, match=r"the saved config: .*(between 0.05|did you mean)"):
            checked_run_config({**whole, "loss": {**whole["loss"], "terms": terms}})


def test_a_name_that_torch_has_taken_is_refused() -> None:
    with pytest.raises(UsageError, match=r"loss.terms.keys: this name is taken"):
        assembly.terms(stage_config("distill", ["loss=mix", "loss.terms={keys: {kind: kd}}"]))


def test_a_mapping_of_taps_is_no_course_and_mlld_needs_a_temperature() -> None:
    loss = stage_config("distill", ["loss=mix", "loss.terms={at: {pairs: {from: stage1, to: stage2}}}"])["loss"]
    assert loss["terms"]["at"]["pairs"] == {"from": "stage1", "to": "stage2"}
    with pytest.raises(UsageError, match="mlld needs at least one temperature"):
        assembly.terms(stage_config("distill", ["loss=mlld", "loss.terms.mlld.temperatures=[]"]))


def test_every_term_of_a_yaml_is_of_the_kind_it_says() -> None:
    for file in (conf_dir() / "loss").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        for node in (content.get("terms") or {}).values():
            assert node["kind"] in kinds()


# ---------------------------------------------------------------------------------------- what changes while training


def test_a_course_in_closed_form() -> None:
    assert [between(done, 8.0, 0.0) for done in (0.0, 0.25, 1.0)] == [8.0, 6.0, 0.0]
    assert [between(done, 0.0, 1.0, until=0.5) for done in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert [round(between(done, 0.0, 1.0, "cosine"), 12) for done in (0.0, 1 / 3, 0.5, 1.0)] == [0.0, 0.25, 0.5, 1.0]
    assert between(0.0, 3.0, 1.0, until=0.0) == 1.0


def test_weights_warmup_and_options_follow_the_training() -> None:
    changing = "{warmup: 0.5, weight: {from: 4, to: 2}, temperature: {from: 8, to: 1, shape: cosine}}"
    parts, weights = assembly.terms(stage_config("distill", ["loss=mix", f"loss.terms={{kd: 1, dkd: {changing}}}"]))
    learner = Learner(Tapped(nn.Identity()), parts, weights)
    for done, weight, temperature in ((0.0, 0.0, 8.0), (0.25, 0.5 * 3.5, None), (0.5, 3.0, 4.5), (0.75, 2.5, None)):
        learner.progress(done)
        assert learner.weights_now() == {"task": 1.0, "kd": 1.0, "dkd": pytest.approx(weight)}
        assert temperature is None or learner.terms["dkd"].temperature == pytest.approx(temperature)
    logits = torch.randn(4, 3)
    _, losses = learner(Batch(logits, torch.arange(4) % 3, torch.arange(4)), Outputs(torch.randn(4, 3)))
    assert learner.total(losses).item() == pytest.approx((losses["task"] + losses["kd"] + 2.5 * losses["dkd"]).item())


def check_alpha(module: ModuleType) -> None:
    """By a linear and a cosine course, and at every point of it: what the term loses the task gains."""
    loss = stage_config("distill", ["loss.alpha={from: 0.8, to: 0.2, shape: cosine, until: 0.5}"])["loss"]
    assert loss == expanded_loss(loss)
    short = {"kind": "kd", "alpha": {"from": 1, "to": 0}, "task": {"kind": "cross_entropy"}, "temperature": 4.0}
    for node, ends in ((loss, (0.8, 0.5, 0.2, 0.2)), (short, (1.0, 0.75, 0.5, 0.0))):
        config = {"loss": module.expanded_loss(node), "label_smoothing": 0.0}
        learner = Learner(Tapped(nn.Identity()), *assembly.terms(config))
        for done, alpha in zip((0.0, 0.25, 0.5, 1.0), ends, strict=True):
            learner.progress(done)
            assert learner.weights_now() == {"task": pytest.approx(1 - alpha), "kd": pytest.approx(alpha)}


def test_alpha_may_change_while_training_and_the_mix_stays_convex() -> None:
    check_alpha(canonical)
    wrong = mutated(canonical, "_rest(alpha[end])", "alpha[end]")
    with pytest.raises(AssertionError):
        check_alpha(wrong)


class Batches:
    """Four batches an epoch."""

    def __len__(self) -> int:
        return 4

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for rows in torch.arange(16).split(4)[start:]:
            yield Batch(torch.sin(rows[:, None] * torch.arange(1.0, 6.0)), rows % 3, rows)


def trained(module: ModuleType, interrupted: bool) -> tuple[Any, list[dict[str, float]]]:
    """The weights after three epochs, and what these reported; interrupted, another learner does the second half."""

    def training() -> Any:
        torch.manual_seed(4)
        student = Tapped(nn.Linear(5, 3))
        words = ["loss=mix", "loss.terms={ctkd: {curriculum: 0.9}, dkd: {warmup: 0.9}}"]
        learner = Learner(student, *assembly.terms(stage_config("distill", words)))
        return module.Training(learner, torch.optim.SGD(learner.parameters(), lr=0.1), "cpu", "fp32", None)

    def teacher(batch: Batch) -> Outputs:
        return Outputs(torch.cos(batch.index[:, None] * torch.arange(1.0, 4.0)))

    made, reports = training(), []
    recipe = module.Recipe(3, lambda step, steps: 1.0, "cpu", "fp32", seed=1)
    if interrupted:
        updates = iter(range(6))
        reports += [
            one
            for one in module.fit(made, teacher, Batches(), recipe, lambda: next(updates) == 4)  # in the second epoch
            if one.finished
        ]
        state, made = made.state_dict(), training()
        made.load_state_dict(state)
    reports += [one for one in module.fit(made, teacher, Batches(), recipe) if one.finished]
    return made.learner.state_dict(), [report.metrics for report in reports]


def check_that_a_resumed_training_is_the_same(module: ModuleType) -> None:
    (whole, told), (halves, told_again) = trained(module, False), trained(module, True)
    assert told == told_again
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert "terms.ctkd.position" in whole
    warm = [[min(1.0, step / 12 / 0.9) for step in range(first, first + 4)] for first in (0, 4, 8)]
    assert [one["weight/dkd"] for one in told] == pytest.approx([sum(shares) / 4 for shares in warm])
    assert [one["weight/ctkd"] for one in told] == pytest.approx([0.9] * 3)
    assert all({"loss/task", "loss/ctkd", "loss/dkd", "loss"} <= one.keys() for one in told)


def test_a_resumed_training_takes_up_its_courses_where_they_were() -> None:
    check_that_a_resumed_training_is_the_same(engine)
    forgetful = mutated(engine, "learner.progress(step / steps)", "learner.progress(training.step / steps)")
    with pytest.raises(AssertionError):
        check_that_a_resumed_training_is_the_same(forgetful)
