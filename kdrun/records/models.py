"""Model files: what is deployed, self-describing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdrun.errors import UsageError
from kdrun.models.building import Model, build, outline
from kdrun.records import checkpoints
from kdrun.records.runs import completed
from kdrun.saved import checked_spec


def save_model(path: Path, model: Model, state: Mapping[str, Tensor]) -> None:
    """What is deployed: the weights and the spec that says how to build and feed the network."""
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    checkpoints.save(path, {"format": 1, "spec": model.spec, "state_dict": tensors})


def model_file(path: Path) -> Path:
    """The model file of a completed run, or the file itself. Raises `UsageError`."""
    if path.is_dir():
        completed(path)
        path = path / "checkpoints" / "model.pt"
    if not path.is_file():
        raise UsageError(f"{path}: there is no such run directory or model file")
    return path


def load_model(path: Path) -> Model:
    """A trained model from a run directory or model file, in eval mode."""
    content = checkpoints.load(model_file(path))
    if "spec" not in content or not isinstance(content.get("state_dict"), dict):
        raise UsageError(f"{path} is a checkpoint of kdrun's, but not a model; use checkpoints/model.pt of a run")
    spec, state = checked_spec(content["spec"], path), content["state_dict"]
    wanted = outline(spec)  # a network takes no memory before its weights are known to be those of the file
    sound = all(isinstance(value, Tensor) and value.is_contiguous() for value in state.values())
    if not sound or wanted != {key: value.shape for key, value in state.items()}:
        raise UsageError(f"model file {path}: its weights are not those of the network it describes")
    model = build(spec)
    model.net.net.load_state_dict(state)
    model.net.eval()
    return model
