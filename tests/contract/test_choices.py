"""Everything that can be chosen: each YAML composes and has its module, each module its YAML, each model a size."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from omegaconf import OmegaConf

from kdrun import lookup
from kdrun.config import stage_config
from kdrun.lookup import conf_dir
from kdrun.models.building import Spec, build, outline
from kdrun.printed import PrintedSource
from kdrun.schema import violations, without_limits
from tests.conftest import ROOT

FILES = sorted(conf_dir().rglob("*.yaml"))
MODELS = sorted(file.stem for file in (conf_dir() / "model").glob("*.yaml"))
SMALL = ["mlp", "cnn", "cnn_tiny", "resnet8", "resnet8x4", "wrn_16_2", "vgg8", "cifar_mobilenet_v2_half", "mobilenet"]
SMALL += ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "resnet18", "timm"]
FAMILIES = {"model": "models", "dataset": "datasets", "augment": "datasets.augment"}
GROUPS = ["dataset", "loss", "augment", "optimizer", "schedule", "device", "experiment", "logger"]
PUBLISHED = {  # parameters in the papers: He et al. 2015 (CIFAR-10, option A), Tian et al. 2020 and Chen et al. 2022
    ("resnet20", 10, "pad"): 0.27,
    ("resnet32", 10, "pad"): 0.46,
    ("resnet44", 10, "pad"): 0.66,
    ("resnet56", 10, "pad"): 0.85,
    ("resnet110", 10, "pad"): 1.7,
    ("resnet8", 100, None): 0.08,
    ("resnet14", 100, None): 0.18,
    ("resnet20", 100, None): 0.28,
    ("resnet32", 100, None): 0.47,
    ("resnet56", 100, None): 0.86,
    ("resnet110", 100, None): 1.74,
    ("resnet8x4", 100, None): 1.23,
    ("resnet32x4", 100, None): 7.43,
    ("wrn_16_2", 100, None): 0.70,
    ("wrn_40_1", 100, None): 0.57,
    ("wrn_40_2", 100, None): 2.26,
    ("vgg8", 100, None): 3.97,
    ("vgg13", 100, None): 9.46,
    ("cifar_mobilenet_v2_half", 100, None): 0.81,
}
EXACT = {("resnet20", 10, "pad"): 269_722, ("resnet56", 10, "pad"): 853_018, ("resnet20", 100, None): 278_324}


def spec(name: str, channels: int, size: int, classes: int = 10, **changes: object) -> Spec:
    node = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    options = {key: value for key, value in node.items() if key not in ("kind", "limits")} | changes
    module = lookup.module("models", node["kind"])
    adapted = getattr(module, "input_size", lambda size, **_: size)(size, **options)
    network = getattr(module, "CHANNELS", channels)
    known = {"kind": node["kind"], "options": options, "classes": [str(n) for n in range(classes)]}
    sizes = {"channels": channels, "size": adapted, "network_channels": network}
    return {**known, **sizes, "mean": [0.5] * channels, "std": [0.25] * channels}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_what_is_printed_is_what_hydra_reads_but_for_the_limits(file: Path) -> None:
    name = str(file.relative_to(conf_dir()))
    printed, read = (source("main", str(conf_dir())).load_config(name) for source in (PrintedSource, FileConfigSource))
    assert printed.header == read.header
    assert repr(OmegaConf.to_container(printed.config)) == repr(without_limits(OmegaConf.to_container(read.config)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(conf_dir())))
def test_a_config_says_what_it_is_for_and_names_no_code(file: Path) -> None:
    first = next(line for line in file.read_text().splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ")
    assert len(first) > 10
    assert "_target_" not in file.read_text()


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parent.name in FAMILIES], ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_an_option_has_its_module(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    for kind in list(content) if file.parent.name == "augment" else [content["kind"]]:
        assert lookup.module(FAMILIES[file.parent.name], kind)


@pytest.mark.parametrize(("group", "folder"), FAMILIES.items())
def test_a_module_that_can_be_chosen_has_its_option(group: str, folder: str) -> None:
    entry = {"model": "build", "dataset": "read", "augment": ("apply", "mix")}[group]
    entries = (entry,) if isinstance(entry, str) else entry
    made = {n for n in lookup.names(folder) if any(hasattr(lookup.module(folder, n), one) for one in entries)}
    contents = [yaml.safe_load(file.read_text()) for file in (conf_dir() / group).glob("*.yaml")]
    named = {kind for one in contents for kind in (list(one) if group == "augment" else [one["kind"]])}
    assert made - {"building", "prepared", "reused"} == named  # `reused` comes of a loss


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_within_its_own_limits(name: str) -> None:
    content = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    assert list(violations(content, content)) == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_and_passes_its_own_limits(group: str) -> None:
    for file in (conf_dir() / group).glob("*.yaml"):
        stage = "train" if file.stem == "labels" else "distill"
        terms = ["loss.terms={kd: 1}"] if file.stem == "mix" else []  # the one option that cannot do without a value
        assert stage_config(stage, [f"{group}={file.stem}", *terms])["stage"] == stage


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_and_answers_on_fake_tensors(name: str) -> None:
    for channels, size in ((1, 8), (3, 32)):
        made = spec(name, channels, size)
        with nullcontext() if name.startswith("regnet") else torch.device("meta"):  # regnet computes its widths
            model = build(made)
        images = torch.zeros(2, channels, size, size, device="meta")
        assert model.net.to("meta").eval()(images).shape == (2, 10)
        shapes = {name: weight.shape for name, weight in model.net.net.state_dict().items()}
        assert outline(made) == shapes, "what a model file is held against before its weights are loaded"


@pytest.mark.parametrize("name", SMALL)
def test_small_models_train_for_real(name: str) -> None:
    model = build(spec(name, 1, 8))
    images, labels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), torch.arange(4)
    torch.nn.functional.cross_entropy(model.net(images), labels).backward()
    grads = [p.grad for p in model.net.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(("name", "classes", "shortcut"), PUBLISHED)
def test_parameter_counts_are_those_of_the_papers(name: str, classes: int, shortcut: str | None) -> None:
    changes = {} if shortcut is None else {"shortcut": shortcut}
    with torch.device("meta"):
        net = build(spec(name, 3, 32, classes, **changes)).net
    count = sum(parameter.numel() for parameter in net.parameters())
    published = PUBLISHED[name, classes, shortcut]
    digits = 1 if published == 1.7 else 2
    assert round(count / 1e6, digits) == published
    assert EXACT.get((name, classes, shortcut), count) == count


def test_equal_seeds_give_equal_models_and_do_not_disturb_other_random_numbers() -> None:
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    first, second, other = (build(spec("resnet8", 1, 8), seed) for seed in (4, 4, 5))
    assert torch.equal(torch.randn(3), expected)
    states = [model.net.state_dict()["net.conv1.weight"] for model in (first, second, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_every_command_of_the_readme_names_options_that_exist() -> None:
    commands = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        lines = [line.split("#")[0].strip() for line in page.read_text().splitlines()]
        commands += [shlex.split(line) for line in lines if line.startswith("kdrun ")]
    composed = 0
    for command in commands:
        if (
            command[1] in ("distill", "train", "train-teacher")
            and "-m" not in command
            and "--" not in " ".join(command)
        ):
            overrides = [word for word in command[2:] if "=" in word and "…" not in word and "<" not in word]
            stage_config(command[1].replace("-", "_"), overrides)
            composed += 1
    assert composed >= 3
