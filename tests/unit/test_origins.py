"""Weights somebody else trained: how files are read, and how misfits are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrun.errors import UsageError
from kdrun.models.building import Model, build
from kdrun.origins import load_origin

CLASSES = ["a", "b", "c"]


def model(classes: list[str] = CLASSES, seed: int = 0, shortcut: str = "projection") -> Model:
    options = {"depth": 8, "width": 1, "stem_width": 1, "shortcut": shortcut}
    spec = {"kind": "cifar_resnet", "options": options, "classes": classes, "channels": 1, "size": 8}
    return build({**spec, "network_channels": 1, "mean": [0.0], "std": [1.0]}, seed)


def node(path: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "cifar_resnet", "checkpoint": str(path), "weights": None, "rename": None, "mean": None, **changes}


def state(seed: int = 1, **options: Any) -> dict[str, Tensor]:
    return dict(model(seed=seed, **options).net.net.state_dict())


def same(loaded: Model, expected: dict[str, Tensor]) -> bool:
    own = loaded.net.net.state_dict()
    return all(torch.equal(own[key], value) for key, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("under", [None, "state_dict", "model"])
def test_the_usual_layouts_are_read(tmp_path: Path, prefix: str, under: str | None) -> None:
    tensors = {prefix + key: value for key, value in state().items()}
    torch.save(tensors if under is None else {under: tensors, "epoch": 3}, tmp_path / "x.pt")
    loaded = model()
    origin = load_origin(loaded, node(tmp_path / "x.pt"), CLASSES)
    assert origin is not None
    assert origin.complete
    assert same(loaded, state())


def test_prefixes_are_renamed(tmp_path: Path) -> None:
    torch.save({key.replace("fc.", "linear."): value for key, value in state().items()}, tmp_path / "x.pt")
    loaded = model()
    with pytest.raises(UsageError, match=r"missing fc\.weight, fc\.bias; not in the model linear\.weight"):
        load_origin(loaded, node(tmp_path / "x.pt"), CLASSES)
    load_origin(loaded, node(tmp_path / "x.pt", rename={"linear": "fc"}), CLASSES)
    assert same(loaded, state())
    with pytest.raises(UsageError, match="has no such prefix"):
        load_origin(loaded, node(tmp_path / "x.pt", rename={"head": "fc"}), CLASSES)


def test_a_renamed_key_takes_no_other_ones_place(tmp_path: Path) -> None:
    torch.save({**state(), "linear.weight": torch.zeros(3, 64)}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"would have two values for fc\.weight"):
        load_origin(model(), node(tmp_path / "x.pt", rename={"linear": "fc"}), CLASSES)


def test_other_classes_keep_the_body_and_get_a_new_head(tmp_path: Path) -> None:
    torch.save(state(classes=["x"] * 7), tmp_path / "x.pt")
    loaded, fresh = model(), model()
    origin = load_origin(loaded, node(tmp_path / "x.pt"), CLASSES)
    assert origin is not None
    assert not origin.complete
    own, body = loaded.net.net.state_dict(), state(classes=["x"] * 7)
    assert all(torch.equal(own[key], value) for key, value in body.items() if not key.startswith("fc."))
    assert torch.equal(own["fc.weight"], fresh.net.net.state_dict()["fc.weight"])


def test_another_architecture_is_refused_with_first_keys_and_a_way_out(tmp_path: Path) -> None:
    torch.save(state(shortcut="pad"), tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"does not fit this model: missing .*first keys are conv1.*shortcut="):
        load_origin(model(), node(tmp_path / "x.pt"), CLASSES)
    load_origin(model(shortcut="pad"), node(tmp_path / "x.pt"), CLASSES)


def test_other_class_names_are_refused(tmp_path: Path) -> None:
    torch.save({"spec": model(["a", "c", "b"]).spec, "state_dict": state()}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="knows the classes a, c, b; the data has a, b, c"):
        load_origin(model(), node(tmp_path / "x.pt"), CLASSES)


def test_normalisation_comes_with_kdruns_own_files_unless_it_is_given(tmp_path: Path) -> None:
    spec = {**model().spec, "mean": [0.3], "std": [0.2]}
    torch.save({"spec": spec, "state_dict": state()}, tmp_path / "x.pt")
    loaded = model()
    load_origin(loaded, node(tmp_path / "x.pt"), CLASSES)
    assert loaded.spec["mean"] == [0.3]
    assert loaded.net.preprocess.std.item() == pytest.approx(0.2)
    given = model()
    load_origin(given, node(tmp_path / "x.pt", mean=[0.0]), CLASSES)
    assert given.spec["mean"] == [0.0]


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "note": "x"}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match="has no tensors, only epoch, note"):
        load_origin(model(), node(tmp_path / "x.pt"), CLASSES)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_origin(model(), node(tmp_path / "none.pt"), CLASSES)


def test_weights_are_torchvisions_alone() -> None:
    with pytest.raises(UsageError, match="weights=X are torchvision's"):
        load_origin(model(), node(Path("x"), checkpoint=None, weights="X"), CLASSES)
