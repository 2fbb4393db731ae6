"""What several distillations of a sweep share, made before them, where they cannot be sure to wait for one another."""

from __future__ import annotations

from kdrun import assembly
from kdrun.identity import baseline_training
from kdrun.progress import shown
from kdrun.schema import Plain
from kdrun.stages.common import use_device
from kdrun.stages.source import source_of
from kdrun.stages.teacher import find_teacher
from kdrun.stages.train import ensure


def prepare(config: Plain, need: str) -> str:
    """Make one of the things that a distillation needs, if it is not there, and say where it is.

    `need`: `teacher`, `baseline`, or `store`: the teacher's outputs, where the distillation would use stored ones.
    """
    with shown():
        if need == "store":
            source = source_of(config)
            if source.choose(shared=True) != "stored":
                return "none: the teacher is asked live"
            source.fill()
            return str(source.store.path)
        device = use_device(config)
        data = assembly.read_data(config)
        if need == "baseline":
            return str(ensure(baseline_training(config), data, device, "baseline")[0])
        parent = find_teacher(config, data, device).parent
        return str(parent.get("run") or parent["checkpoint"])
