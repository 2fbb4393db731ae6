"""What the stages share: where to compute, and what is said and kept of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from kdrun import parallel, processes
from kdrun.cost import costs
from kdrun.datasets.split import Data
from kdrun.device import check_compiler, keep_memory, layout, make_deterministic, pick_device, pick_precision, place
from kdrun.models.building import Model, Spec
from kdrun.origins import Origin
from kdrun.records.fingerprint import RESULT_VERSION
from kdrun.records.run import Run
from kdrun.records.state import StateFiles
from kdrun.schema import Plain

log = logging.getLogger("kdrun")


@dataclass(frozen=True)
class Setting:
    """Where and how exactly a model computes."""

    device: str
    precision: str

    def record(self) -> Plain:
        """For `run.json`."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        of_one = {"kind": self.device, "name": name, "threads": torch.get_num_threads(), "precision": self.precision}
        return {**of_one, "processes": processes.count()}


def use_device(config: Plain) -> str:
    """The device of a config, with threads, determinism and memory set for this process."""
    device = pick_device(config["device"]["name"])
    if config["device"]["threads"] is not None:
        torch.set_num_threads(config["device"]["threads"])
    if config["device"]["compile"]:
        check_compiler(device)
    make_deterministic(device)
    keep_memory()
    return device


def setting(config: Plain, device: str) -> Setting:
    return Setting(device, pick_precision(config["device"]["precision"], device))


def arithmetic(spec: Spec, device: str, precision: str) -> Plain:
    """Where and with what a model is computed, as far as the last bits of its answers depend on it."""
    parts = [spec, *(option for option in spec["options"].values() if isinstance(option, dict))]
    used = ["torch", *(name for name in ("torchvision", "timm") if any(part.get("kind") == name for part in parts))]
    return {
        "precision": precision,
        "layout": str(layout(device, precision)),
        "threads": torch.get_num_threads(),
        "device": device,
        "result_version": RESULT_VERSION,
        "libraries": {name: version(name) for name in used},
    }


def tell_adapted(run: Run, config: Plain, model: Model, origin: Origin | None, data: Data) -> None:
    """Say and record what of the model is not as it was named: larger images are fed, or its classifier is new."""
    own, fed = data.shape[1], model.spec["size"]
    if fed > own:
        _tell(run, "enlarged", f"images of {own}x{own} pixels are enlarged to {fed}x{fed} on the model's side")
    if origin is not None and not origin.complete:
        weights = config["model"]["checkpoint"] or config["model"]["weights"]
        _tell(run, "classifier", f"{weights} is for another number of classes: its classifier is trained anew")


def _tell(run: Run, what: str, said: str) -> None:
    log.info(said)
    run.note(**{what: said})


def tell_batch_norm(run: Run, learner: torch.nn.Module) -> None:
    """Say and record that several processes do not train a network with batch norm as one process would."""
    if processes.count() > 1 and parallel.norms(learner):
        how = parallel.kind_of_norms(learner)
        run.note(batch_norm=how)
        if how == "local":
            said = "takes its statistics from each process's part of a batch: the numbers are not those of one process"
            log.warning("batch norm %s", said)


def price(models: Mapping[str, Model], device: str) -> dict[str, float]:
    """What each model costs, by `<role>/<measure>`, in float32 with the threads of this process, the first one's."""
    if not processes.is_first():
        return {}
    priced = {}
    for role, model in models.items():
        spec = model.spec
        image = torch.zeros(1, spec["channels"], spec["size"], spec["size"], device=device)
        priced[role] = place(model.net, device, "fp32").float(), image
    return {f"{role}/{key}": value for role, found in costs(priced).items() for key, value in found.items()}


def state_files(run: Run, config: Plain) -> StateFiles:
    return StateFiles(run.path / "checkpoints", config["checkpoint"]["every"])


def conclude(states: StateFiles, config: Plain) -> None:
    """The run has what it is for: free what was needed to go on with it."""
    if config["checkpoint"]["keep"] == "model":
        states.drop()


def fill(model: Model, weights: Mapping[str, Tensor]) -> None:
    model.net.net.load_state_dict(dict(weights))
