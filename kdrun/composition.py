"""Composing: what there is to choose from, in kdrun's own folder and the user's, and what Hydra makes of a choice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun import stopping
from kdrun.errors import UsageError, brief
from kdrun.lookup import conf_dir
from kdrun.records.foreign import LOADER
from kdrun.roles import ROLES, register_roles
from kdrun.schema import Plain

yaml.SafeLoader = LOADER  # what OmegaConf reads configs with: in C, a tenth of the start
GLOBAL_KEYS = ("hydra",)
UNFIT = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError)


@contextmanager
def composing(config_dirs: Sequence[Path]) -> Iterator[None]:
    """Hydra ready to compose: kdrun's configs, and `teacher` and `student` as two mounts of the `model` group.

    A request to stop waits until that is done: OmegaConf, cut off in the middle, makes a mistake in the config of it.
    """
    register_roles([conf_dir(), *config_dirs])
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with stopping.deferred(), initialize_config_dir(str(conf_dir()), job_name="kdrun", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def options_by_group(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every group and its options, those in the user's own folders included; options may be sorted into folders."""
    groups: dict[str, set[str]] = {}
    for folder in (conf_dir(), *config_dirs):
        for file in folder.rglob("*.yaml"):
            parts = file.relative_to(folder).with_suffix("").parts
            if parts[0] in GLOBAL_KEYS:
                continue  # who carries out a sweep is no part of a job
            for depth in range(1, len(parts)):
                groups.setdefault("/".join(parts[:depth]), set()).add("/".join(parts[depth:]))
    groups |= dict.fromkeys(ROLES, groups["model"])
    return {name: sorted(options) for name, options in groups.items()}


def composed(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> DictConfig:
    """The config of a stage, Hydra's own node in it; within `composing`. Raises `UsageError`."""
    search = [f"file://{folder.resolve()}" for folder in config_dirs]
    extra = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    try:
        return compose(stage, [*extra, *overrides], return_hydra_config=True)
    except UNFIT as error:
        raise UsageError(told(stage, error)) from error


def told(stage: str, error: Exception) -> str:
    """What to say of a composition that failed, in one line."""
    return _no_choice_here(stage, error) or first_line(error)


def _no_choice_here(stage: str, error: Exception) -> str | None:
    """What to say of a group that exists and is none of this stage's choices, as `model=` in `kdrun distill`, and of a
    key that nothing is known of, below a node that takes free ones, as `loss.terms.at` of a mix."""
    group = re.match(r"Could not override '([^']+)'", str(error))
    if group is None:
        return None
    node, _, last = group[1].rpartition(".")
    if node:
        whole = f"{node}='{{{last}: …}}'"
        return f"{group[1]}: {node} has no such key yet; write {whole} with all it is to hold, or +{group[1]}=…"
    choices = compose(stage, return_hydra_config=True).hydra.runtime.choices
    own = sorted(str(name) for name in choices if not {"@", "/"} & set(str(name)) or ".train." in str(name))
    return f"{group[1]}: kdrun {stage.replace('_', '-')} has no such choice; it has {', '.join(own)}"


def plain(config: DictConfig, resolve: bool = False) -> Plain:
    """The config as dictionaries and lists, without what is Hydra's own."""
    made = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items() if key not in GLOBAL_KEYS}


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a composed config, with its path."""
    named = [name for name in config.hydra.runtime.choices if name == "experiment"]  # a choice without a node
    return sorted([*_paths(plain(config), ""), *named])


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if key in ("limits", *GLOBAL_KEYS):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def first_line(error: Exception) -> str:
    """What Hydra, OmegaConf or YAML say, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: this is not YAML: {error.problem}"
    return brief(" ".join(str(error).strip().split("\n")[0].split()), 300)
