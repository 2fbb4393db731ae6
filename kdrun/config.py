"""Configs: composing them, checking them, and bringing them into the form that is saved.

No torch here: a mistake is answered before anything heavy is imported. An option's YAML is its schema: the keys and
types are those of its defaults, and a `limits:` node beside them holds ranges `[low, high]` or allowed words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.canonical import Plain, canonical, contradictions, violations, with_floats, without_limits
from kdrun.errors import UsageError, suggestion
from kdrun.lookup import conf_dir

ROLES = ("teacher", "student")
GLOBAL_KEYS = ("hydra",)


def stage_config(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plain:
    """The checked config of a stage in the form that is saved. Raises `UsageError` with every mistake at once."""
    with composing(config_dirs):
        parsed = _parse(overrides)
        groups = _groups(config_dirs)
        _refuse(_wrong_choices(parsed, groups))
        picked = [override for override in parsed if override.key_or_group in groups]
        options = _compose(stage, _texts(picked), config_dirs)  # the chosen options, with nothing else typed
        _refuse(_wrong_keys(parsed, groups, options))
        config = _compose(stage, _texts(parsed), config_dirs)
        choices = config.hydra.runtime.choices
        schema = _schema(stage, config, choices, config_dirs) if choices.get("experiment") else _plain(options)
        return checked(stage, config, schema)


def check_sweep(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """The keys and choices of a sweep, before its first job: values are checked as each job starts."""
    with composing(config_dirs):
        parsed = _parse(overrides)
        groups = _groups(config_dirs)
        _refuse(_wrong_choices(parsed, groups))
        picked = [one for one in parsed if one.key_or_group in groups and not one.is_sweep_override()]
        options = _compose(stage, _texts(picked), config_dirs)
        if not any(one.key_or_group in groups and one.is_sweep_override() for one in parsed):
            _refuse(_wrong_keys(parsed, groups, options))  # otherwise the keys there are depend on the job


def job_config(stage: str, config: DictConfig, choices: Mapping[Any, Any], config_dirs: Sequence[Path] = ()) -> Plain:
    """The same for one job of a sweep, which Hydra has composed already."""
    with composing(config_dirs):
        return checked(stage, config, _schema(stage, config, choices, config_dirs))


def checked(stage: str, config: DictConfig, schema: Plain) -> Plain:
    """Types, limits and contradictions, then the canonical form. Raises `UsageError`."""
    try:
        values = _plain(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(_first_line(error)) from error
    _refuse(violations(values, schema))
    values = without_limits(with_floats(values, schema))
    _refuse(contradictions(stage, values))
    return canonical(stage, values)


@contextmanager
def composing(config_dirs: Sequence[Path]) -> Iterator[None]:
    """Hydra ready to compose: kdrun's configs, and `teacher` and `student` as two mounts of the `model` group."""
    register_roles(config_dirs)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="kdrun", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def register_roles(config_dirs: Sequence[Path] = ()) -> None:
    """For every `model/<name>.yaml`, the options `teacher=<name>` and `student=<name>`: a new model is one file."""
    store = ConfigStore.instance()
    for folder in (conf_dir(), *config_dirs):
        for file in sorted((folder / "model").glob("*.yaml")):
            for role in ROLES:
                store.store(group=role, name=file.stem, node={"defaults": [{"/model@_here_": file.stem}]})


# ------------------------------------------------------------------------------------------------ what was typed


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser, parsed, mistakes = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            mistakes.append(f"{text!r} is not an override; write key=value, a list as 'key=[a,b]'")
    _refuse(mistakes)
    return parsed


def _wrong_choices(parsed: Sequence[Override], groups: Mapping[str, list[str]]) -> Iterator[str]:
    for override in parsed:
        group = override.key_or_group
        if group in groups and not override.is_delete():
            for choice in _chosen(override):
                if choice not in groups[group]:
                    yield _no_such_choice(group, choice, groups[group])


def _wrong_keys(parsed: Sequence[Override], groups: Mapping[str, list[str]], options: DictConfig) -> Iterator[str]:
    for override in parsed:
        key = override.key_or_group
        internal = key.split(".")[0] == "hydra" or key.startswith("hydra/")
        if key not in groups and not internal and not _exists(options, key):
            yield _no_such_key(key, sorted(_paths(_plain(options), "")))


def _texts(parsed: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in parsed]


def _groups(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every group and its options, those in the user's own folders included."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    loader = hydra.config_loader
    names = [name for name in loader.get_group_options("", ObjectType.GROUP) if name != "hydra"]
    groups = {name: set(loader.get_group_options(name, ObjectType.CONFIG)) for name in names}
    for folder in config_dirs:
        for file in folder.rglob("*.yaml"):
            group, name = file.parent.relative_to(folder).as_posix(), file.stem
            if group != ".":
                groups.setdefault(group, set()).add(name)
    for file in (conf_dir() / "experiment").rglob("*/*.yaml"):  # experiments may be sorted into folders
        groups["experiment"].add(file.relative_to(conf_dir() / "experiment").with_suffix("").as_posix())
    return {name: sorted(options) for name, options in groups.items()}


def _chosen(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        value = value.list
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one is not None]


def _no_such_choice(group: str, choice: str, options: Sequence[str]) -> str:
    kind = "model" if group in ROLES else group
    more = f"; `kdrun list {kind}s` shows all" if kind in ("model", "dataset", "loss", "augment", "experiment") else ""
    return f"{group}={choice}: there is no such {kind}; {suggestion(choice, options)}{more.replace('losss', 'losses')}"


def _no_such_key(key: str, allowed: Sequence[str]) -> str:
    if key == "loss.alpha":
        weights = ", ".join(path for path in allowed if path.startswith("loss.") and path.endswith("weight"))
        return f"loss.alpha: this loss is no convex mix; set its weights: {weights}"
    parent, _, last = key.rpartition(".")
    siblings = [path for path in allowed if path.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    if not close and siblings:
        return f"unknown key {key}; {parent or 'the config'} has {', '.join(s.rpartition('.')[2] for s in siblings)}"
    same_end = [path for path in allowed if path.rpartition(".")[2] == last]
    return f"unknown key {key}; {suggestion(key, close or same_end or [p for p in allowed if '.' not in p], most=12)}"


def _exists(config: DictConfig, key: str) -> bool:
    """Is this a key of the config, or one below a node that takes free keys (null by default)?"""
    node: Any = config
    for part in key.split("."):
        if node is None:
            return True
        if not isinstance(node, DictConfig) or part not in node or part == "limits":
            return False
        node = node._get_node(part)
        node = None if node is None or node._is_none() else node
    return True


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if key in ("limits", *GLOBAL_KEYS):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


# ------------------------------------------------------------------------------------------------------- composing


def _compose(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path]) -> DictConfig:
    search = [f"file://{folder.resolve()}" for folder in config_dirs]
    extra = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    try:
        return compose(stage, [*extra, *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_first_line(error)) from error


def _schema(stage: str, config: DictConfig, choices: Mapping[Any, Any], config_dirs: Sequence[Path]) -> Plain:
    """The defaults of the options chosen in `config`, free of any value from the command line or an experiment."""
    groups = _groups(config_dirs)
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
    return _plain(_compose(stage, picked, config_dirs))


def _plain(config: DictConfig, resolve: bool = False) -> Plain:
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in GLOBAL_KEYS}


def _refuse(mistakes: Iterable[str]) -> None:
    lines = list(mistakes)
    if lines:
        raise UsageError("\n".join(lines))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).strip().split("\n")[0].split())
