"""list taps: where a model answers with features, for one data set."""

from __future__ import annotations

import torch

from kdrun import assembly
from kdrun.canonical import Plain
from kdrun.errors import UsageError
from kdrun.models.building import build


def list_taps(config: Plain) -> str:
    """A line for each tap of the config's model: its name, the module's path, the shape for one sample."""
    data = assembly.read_data(config)
    model = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"]).tapped()
    probe = assembly.probe_images(data)
    assembly.tap(model, config["model"]["taps"], probe)
    with torch.no_grad():
        features = model.eval()(probe).features
    rows = [(name, model.taps[name], "x".join(map(str, one.shape[1:]))) for name, one in features.items()]
    if not rows:
        raise UsageError(f"{model.name} has no layers with weights, and so no taps")
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {path:<{widths[1]}}  {shape}" for name, path, shape in rows)
