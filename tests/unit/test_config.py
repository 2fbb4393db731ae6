"""Configs: what is refused and in which words, the canonical form, and what a fingerprint does and does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdrun.canonical import expanded_loss
from kdrun.composition import composing
from kdrun.config import stage_config
from kdrun.errors import UsageError
from kdrun.identity import baseline_training, identity, teacher_training
from kdrun.printed import without_ranges
from kdrun.records.fingerprint import fingerprint
from kdrun.sweeps.jobs import check_sweep, jobs_of, without_globs
from tests.composing import COMPOSE

REFUSED = [
    ("distill", ["teacher=resnt152"], "teacher=resnt152: there is no such model; did you mean resnet152?"),
    ("distill", ["augment=[crop,fip]"], "augment=fip: there is no such augment; did you mean flip?"),
    ("distill", ["loss.alpa=0.5"], "unknown key loss.alpa; did you mean loss.alpha?"),
    ("distill", ["optimizr.lr=1"], "unknown key optimizr.lr; did you mean optimizer.lr?"),
    ("distill", ["+extra=1"], "unknown key extra"),
    ("distill", ["loss.alpha=1.5"], "loss.alpha=1.5: must be between 0.0 and 1.0"),
    ("distill", ["loss.temperature=0"], "loss.temperature=0: must be between 0.05 and 1000.0"),
    ("distill", ["optimizer.lr=nan"], "optimizer.lr=nan: numbers must be finite"),
    ("distill", ["optimizer.lr=inf"], "optimizer.lr=inf: numbers must be finite"),
    ("distill", ["epochs=1.5"], "epochs=1.5: must be a whole number, not a number"),
    ("distill", ["epochs=many"], "epochs=many: must be a whole number, not a word"),
    ("distill", ["epochs=true"], "epochs=True: must be a whole number, not true or false"),
    ("distill", ["baseline=1"], "baseline=1: must be true or false, not a whole number"),
    ("distill", ["select=worst"], "select=worst: allowed: best, last"),
    ("distill", ["grad_clip=false"], "grad_clip=False: must be a number or null, not true or false"),
    ("distill", ["early_stopping.patience=2.5"], "must be a whole number or null"),
    ("distill", ["device.precision=fp8"], "device.precision=fp8: allowed: auto, fp32, bf16, fp16"),
    ("distill", ["device=cpu", "device.precision=fp16"], "device.precision=fp16 works on CUDA only"),
    ("distill", ["loss=labels"], "nothing is distilled"),
    (
        "distill",
        ["loss=labels", "loss.alpha=0.5"],
        "loss.alpha: this loss is no convex mix; set its weights: loss.task",
    ),
    ("train", ["loss=kd"], "loss=kd needs a teacher"),
    ("distill", ["teacher.run=somewhere", "teacher.checkpoint=x.pt"], "both name a teacher"),
    ("train", ["model.checkpoint=x.pt", "model.weights=y"], "both name weights"),
    ("train", ["augment=[mixup,cutmix]"], "augment has mixup and cutmix; use one of them"),
    ("train", ["dataset.validation=0", "early_stopping.patience=3"], "needs a validation split"),
    ("train", ["schedule=multistep", "schedule.milestones=[0.7,0.5]"], "must rise"),
    ("train", ["model.widths=[a]", "model=mlp"], "must be a list"),
    ("train", ["what is this"], "is not an override"),
    ("train", ["schedule.kind=cosin"], "choose it with schedule=<name>"),
    ("distill", ["teacher.kind=mlp"], "choose it with teacher=<name>"),
    ("distill", ["loss.task.kind=kd"], "loss.task.kind=kd: allowed: cross_entropy, squared_error"),
    ("distill", ["teacher.rename=linear"], "must map key prefixes"),
    ("distill", ["student.mean=grey"], "must be a list of numbers"),
    ("train", ["model=mlp", "model.widths=[0]"], "must be whole numbers above 0"),
    ("train", ["run_dir=5"], "must be a path or null"),
]


@pytest.mark.parametrize(("stage", "overrides", "words"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_refused_in_words(stage: str, overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        stage_config(stage, overrides)
    assert words in str(caught.value)


def test_all_mistakes_are_told_at_once_in_three_lines() -> None:
    with pytest.raises(UsageError) as caught:
        stage_config("distill", ["loss.alpha=2", "epochs=0", "seed=-1", "device.precision=x"])
    lines = str(caught.value).splitlines()
    assert [line.split("=")[0] for line in lines[:2]] == ["device.precision", "seed"]
    assert lines[2] == "and 2 more mistakes: epochs, loss.alpha"


def test_limits_hold_again_once_something_has_been_printed() -> None:
    with without_ranges(), composing([]):
        assert "limits" not in COMPOSE("distill", [], []).loss
    with pytest.raises(UsageError, match="must be between"):
        stage_config("distill", ["loss.alpha=1.5"])


def test_whole_numbers_are_numbers_and_quotes_are_words() -> None:
    config = stage_config("distill", ["optimizer.lr=1", "loss.temperature=2", "teacher.checkpoint='a b.pt'"])
    assert config["optimizer"]["lr"] == 1
    assert config["teacher"]["checkpoint"] == "a b.pt"


def test_a_convex_loss_expands_to_task_and_term_without_rounding_dirt() -> None:
    config = stage_config("distill", ["loss.alpha=0.7", "loss.temperature=2.0"])
    assert config["loss"] == {
        "task": {"kind": "cross_entropy", "weight": 0.3},
        "terms": {"kd": {"kind": "kd", "weight": 0.7, "temperature": 2.0, "confidence": 0.0}},
    }
    assert expanded_loss(config["loss"]) == config["loss"]


def test_free_keys_and_lists_of_options_pass() -> None:
    origin = ["model.checkpoint=x.pt", "model.rename={linear: fc}"]
    config = stage_config("train", ["model=resnet20", *origin, "augment=[crop,flip]"])
    assert config["model"]["rename"] == {"linear": "fc"}
    assert list(config["augment"]) == ["crop", "flip"]


def test_an_option_of_a_users_own_folder_is_checked_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = "# Mine.\nkind: mlp\nwidths: [7]\ndropout: 0.1\nlimits:\n  dropout: [0.0, 0.5]\n"
    (tmp_path / "model" / "mine.yaml").write_text(text)
    config = stage_config("distill", ["teacher=mine", "student=mine"], [tmp_path])
    assert config["teacher"]["widths"] == config["model"]["widths"] == [7]
    with pytest.raises(UsageError, match=r"student\.dropout=0\.9: must be between"):
        stage_config("distill", ["student=mine", "student.dropout=0.9"], [tmp_path])


def test_an_experiment_is_checked_against_the_defaults_not_against_itself(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = (
        "# @package _global_\n# Wrong.\ndefaults:\n  - override /teacher: mlp\nepochs: many\nteacher:\n  dropout: 7.0\n"
    )
    (tmp_path / "experiment" / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        stage_config("distill", ["experiment=wrong"], [tmp_path])
    assert {line.split("=")[0] for line in str(caught.value).splitlines()} == {"epochs", "teacher.dropout"}


# ------------------------------------------------------------------------------------------------- fingerprints


def marks(*overrides: str, stage: str = "distill") -> dict[str, str]:
    """Fingerprints of the trainings a config asks for, on data and hardware that do not change."""
    config = stage_config(stage, list(overrides))
    trainings = {"own": config}
    if stage == "distill":
        trainings |= {"teacher": teacher_training(config), "alone": baseline_training(config)}
    return {name: fingerprint(identity(one, "data", "fp32", {})) for name, one in trainings.items()}


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=0.5", "epochs=3", "seed=7", "augment=flip", "label_smoothing=0.1", "student=mlp", "loss.alpha=0.2"],
)
def test_no_key_of_the_student_changes_the_teacher(override: str) -> None:
    before, after = marks(), marks(override)
    assert after["teacher"] == before["teacher"]
    assert after["own"] != before["own"]


TEACHERS = ["teacher.seed=1", "teacher.train.epochs=2", "teacher.train.optimizer.lr=0.5", "teacher=mlp"]


@pytest.mark.parametrize("override", TEACHERS)
def test_keys_of_the_teacher_change_the_teacher_and_not_the_baseline(override: str) -> None:
    before, after = marks(), marks(override)
    assert after["teacher"] != before["teacher"]
    assert after["alone"] == before["alone"]


@pytest.mark.parametrize("override", ["loss.temperature=1", "loss.alpha=0.1", "loss=hard", "teacher=mlp"])
def test_the_baseline_does_not_know_how_one_distills(override: str) -> None:
    assert marks(override)["alone"] == marks()["alone"]


@pytest.mark.parametrize("override", ["output_dir=x", "data_dir=y", "device.threads=1", "run_dir=z", "baseline=false"])
def test_places_and_threads_are_not_in_a_fingerprint(override: str) -> None:
    assert marks(override) == marks()


def test_train_teacher_train_and_distill_mean_the_same_teacher() -> None:
    own = marks("teacher=resnet8", stage="train_teacher")["own"]
    assert own == marks("teacher=resnet8")["teacher"]
    budget = ["training@_global_=teacher"]
    assert own == marks("model=resnet8", *budget, stage="train")["own"]


def test_a_whole_number_and_its_float_are_one_config_and_the_order_of_augmentations_is_not() -> None:
    assert marks("loss.temperature=4", "optimizer.lr=1") == marks("loss.temperature=4.0", "optimizer.lr=1.0")
    assert marks("augment=[crop,flip]")["own"] != marks("augment=[flip,crop]")["own"]


def test_an_alias_is_the_model_it_stands_for() -> None:
    assert marks("student=mobilenet") == marks("student=mobilenet_v2")


def test_data_precision_and_parents_are_in_a_fingerprint() -> None:
    config: dict[str, Any] = stage_config("train", [])
    arguments = [("d", "fp32", {}), ("e", "fp32", {}), ("d", "bf16", {}), ("d", "fp32", {"teacher": "x"})]
    assert len({fingerprint(identity(config, *one)) for one in arguments}) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["loss.alpha=0.5,7", "seed=0,1"],
        ["seed=0,1", "loss.temperature=nan,4"],
        ["epochs=1,two", "teacher=cnn,mlp"],
        ["teacher=cnn,mlp", "loss.alpha=7"],
        ["seed=0,1", "loss.terms.task.weight=1,2"],
    ],
    ids=" ".join,
)
def test_a_sweep_with_one_wrong_value_is_refused_before_its_first_job(words: list[str]) -> None:
    with pytest.raises(UsageError):
        check_sweep("distill", words)


def test_a_sweep_of_everything_that_may_be_swept_is_not_refused() -> None:
    words = ["loss.temperature=0.5,1", "seed=range(3)", "optimizer=sgd,adam", "augment=none,[flip],[crop,flip]"]
    words += ["student.taps=null,{stage1:layer1}", "dataset.limit=null,60", "teacher.run='a','b'", "optimizer.lr=1,0.1"]
    check_sweep("distill", words)
    assert "augment=[crop,flip]" in jobs_of(words)[-1]
    for job in jobs_of(words)[:: len(jobs_of(words)) - 1]:
        stage_config("distill", job)


def test_a_term_may_be_written_in_parts() -> None:
    whole = stage_config("distill", ["loss=mix", "loss.terms={kd: 0.9, at: {weight: 9, form: norm}}"])
    parts = ["loss.terms={kd: 0.9, at: {weight: 9}}", "+loss.terms.at.form=norm", "teacher=resnet20"]
    assert stage_config("distill", ["loss=mix", *parts])["loss"] == whole["loss"]


def test_an_interval_is_left_to_those_who_can_search_it() -> None:
    words = ["loss.alpha=interval(0.1,0.9)", "seed=0,1"]
    check_sweep("distill", words)  # with a sweeper of Hydra's it has a meaning
    with pytest.raises(UsageError, match="use kdrun tune"):
        jobs_of(words)


def test_a_glob_stands_for_the_options_that_it_fits(tmp_path: Path) -> None:
    own = tmp_path / "loss" / "fitting.yaml"
    own.parent.mkdir()
    own.touch()
    words = ["loss=glob(fit*)", "student=glob([resnet1*,cnn],exclude=resnet1??)", "seed=0,1"]
    found = ["loss=fitnet,fitnet_two_stage,fitting", "student=cnn,resnet14,resnet18", "seed=0,1"]
    assert without_globs(words, [tmp_path]) == found
    for nothing in ("loss=glob(x*)", "lss=glob(*)"):
        with pytest.raises(UsageError, match="names nothing; "):
            without_globs([nothing])


@pytest.mark.parametrize("name", ["kd@v2", "lr,x", "a: b", "α=0.5", "~x", "..x"])
def test_a_sweep_is_named_as_a_folder_may_be(name: str) -> None:
    assert stage_config("train", [f'sweep.name="{name}"'])["sweep"]["name"] == name
