"""The recipes of the CIFAR-100 table: the protocol of the field, and the numbers they are held against."""

from __future__ import annotations

import re

import pytest
import yaml

from kdrun.config import stage_config
from kdrun.lookup import conf_dir

FOLDER = conf_dir() / "experiment" / "cifar100"
RECIPES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "protocol")
FAST = ["resnet32x4_resnet8x4_dkd", "vgg13_cifar_mobilenet_v2_half_crd"]
PUBLISHED = re.compile(
    r"^# CIFAR-100: (\w+) teaches (\w+) with (\w+); published: \d\d\.\d\d % \(teacher \d\d\.\d\d %, "
)
OTHERS = {"resnet32x4": 8.0, "wrn_40_2": 6.0, "resnet56": 2.0, "resnet110": 2.0, "vgg13": 6.0}  # the authors' for dkd


def check_recipe(name: str) -> None:
    config = stage_config("distill", [f"experiment=cifar100/{name}"])
    recipes = {"student": config, "teacher": config["teacher"]["train"]}
    for role, recipe in recipes.items():
        slow = role == "student" and "mobilenet" in name
        sgd = {"kind": "sgd", "lr": 0.01 if slow else 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
        assert recipe["optimizer"] == sgd
        assert list(recipe["augment"]) == ["crop", "flip"]
        assert recipe["schedule"] == {
            "kind": "multistep",
            "warmup": 0.0,
            "milestones": [0.625, 0.75, 0.875],
            "gamma": 0.1,
        }
        assert (recipe["epochs"], recipe["batch_size"], recipe["select"]) == (240, 64, "last")
        assert (recipe["label_smoothing"], recipe["ema"], recipe["accumulate"]) == (0.0, {"decay": None}, 1)
    assert (config["dataset"]["kind"], config["dataset"]["validation"]) == ("cifar100", 0.0)
    assert config["dataset"]["mean"] == [0.5071, 0.4867, 0.4408]
    loss = name.rpartition("_")[2]
    assert list(config["loss"]["terms"]) == [loss]
    assert config["loss"]["task"]["weight"] == (0.1 if loss == "kd" else 1.0)
    if loss == "dkd":
        (others,) = [value for teacher, value in OTHERS.items() if name.startswith(f"{teacher}_")]
        assert config["loss"]["terms"]["dkd"]["others"] == others


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in RECIPES]
)
def test_a_recipe_is_in_the_protocol_of_the_field(name: str) -> None:
    check_recipe(name)


def test_there_is_a_recipe_for_each_published_number_and_it_says_what_it_is() -> None:
    assert len(RECIPES) == 6 * 8 + 2
    for name in RECIPES:
        content = (FOLDER / f"{name}.yaml").read_text()
        told = PUBLISHED.match(content.split("\n")[1])
        assert told is not None, name
        assert "_".join(told.groups()) == name
        chosen = {key: value for entry in yaml.safe_load(content)["defaults"][1:] for key, value in entry.items()}
        assert chosen == {"override /teacher": told[1], "override /student": told[2], "override /loss": told[3]}


def test_a_recipe_that_leaves_the_protocol_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage_config
    monkeypatch.setitem(
        globals(), "stage_config", lambda stage, words: real(stage, [*words, "optimizer.nesterov=true"])
    )
    with pytest.raises(AssertionError):
        check_recipe(FAST[0])
