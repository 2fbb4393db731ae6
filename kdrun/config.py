"""Configs: checking them, and bringing them into the form that is saved.

No torch here: a mistake is answered before anything heavy is imported. An option's YAML is its schema: the keys and
types are those of its defaults, and a `limits:` node beside them holds ranges `[low, high]` or allowed words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdrun import composition
from kdrun.canonical import canonical
from kdrun.composition import UNFIT, composing, first_line, options_by_group, plain
from kdrun.contradictions import contradictions
from kdrun.errors import UsageError, brief, refuse
from kdrun.overrides import known, texts, wrong_keys
from kdrun.roles import ROLES
from kdrun.schema import Plain, sound, violations, with_floats, without_limits


def stage_config(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plain:
    """The checked config of a stage in the form that is saved. Raises `UsageError` with every mistake at once."""
    with composing(config_dirs):
        groups = options_by_group(config_dirs)
        parsed, mistakes = known(stage, overrides, groups, sweep=False)
        picked = [override for override in parsed if override.key_or_group in groups]
        options = composition.composed(stage, texts(picked), config_dirs)  # the chosen options, with nothing else typed
        strange = wrong_keys(parsed, groups, options)
        parsed = [override for override in parsed if override.key_or_group not in strange]
        mistakes += strange.values()
        try:
            config = composition.composed(stage, texts(parsed), config_dirs)
        except UsageError as error:
            refuse([*mistakes, str(error)])
        choices = config.hydra.runtime.choices
        schema = _schema(stage, config, choices, config_dirs) if choices.get("experiment") else plain(options)
        return checked(stage, config, schema, mistakes, config_dirs)


def job_config(stage: str, config: DictConfig, choices: Mapping[Any, Any], config_dirs: Sequence[Path] = ()) -> Plain:
    """The same for one job of a sweep, which Hydra has composed already."""
    with composing(config_dirs):
        return checked(stage, config, _schema(stage, config, choices, config_dirs), (), config_dirs)


def checked(
    stage: str, config: DictConfig, schema: Plain, mistakes: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> Plain:
    """Types, limits and contradictions, then the canonical form. Raises `UsageError`, with `mistakes` told first."""
    try:
        values = plain(config, resolve=True)
    except UNFIT as error:
        refuse([*mistakes, first_line(error)])
    found = [*mistakes, *violations(values, schema)]
    values = without_limits(with_floats(sound(values, schema), schema))
    refuse([*found, *contradictions(stage, values, config_dirs), *_wrong_places(values)])
    return canonical(stage, values, config_dirs)


def _schema(stage: str, config: DictConfig, choices: Mapping[Any, Any], config_dirs: Sequence[Path]) -> Plain:
    """The defaults of the options chosen in `config`, free of any value from the command line or an experiment."""
    groups = options_by_group(config_dirs)
    picked = []
    for key, value in choices.items():
        group, _, mount = str(key).partition("@")
        if isinstance(value, str) and group in groups and group != "experiment" and mount not in ROLES:
            picked.append(f"{key}={value}")
    for mount in ("augment", "teacher.train.augment"):  # lists of options are not among Hydra's choices
        node = OmegaConf.select(config, mount)
        if node:
            where = "augment" if mount == "augment" else f"augment@{mount}"
            picked = [text for text in picked if not text.startswith(f"{where}=")]
            picked.append(f"{where}=[{','.join(node)}]")
    picked += [f"{role}={choices[role]}" for role in ROLES if choices.get(role)]
    return plain(composition.composed(stage, picked, config_dirs))


def _wrong_places(config: Plain) -> Iterator[str]:
    for key in ("output_dir", "run_dir"):
        if re.match(r"\w{2,}:/", str(config[key])):
            yield f"{key}={brief(config[key])}: this is a URL; name a folder"
    output = Path(config["output_dir"])
    if output.exists() and not output.is_dir():
        yield f"output_dir={output}: this is a file; name a folder"
