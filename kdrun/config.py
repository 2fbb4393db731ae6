"""Configs: composing them, checking them, and bringing them into the form that is saved.

No torch here: a mistake is answered before anything heavy is imported. An option's YAML is its schema: the keys and
types are those of its defaults, and a `limits:` node beside them holds ranges `[low, high]` or allowed words.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.canonical import canonical
from kdrun.contradictions import contradictions
from kdrun.errors import UsageError, brief, closest, did_you_mean, suggestion
from kdrun.lookup import conf_dir
from kdrun.records.foreign import LOADER
from kdrun.roles import ROLES, register_roles
from kdrun.schema import Plain, sound, violations, with_floats, without_limits
from kdrun.words import is_about_launcher

yaml.SafeLoader = LOADER  # what OmegaConf reads configs with: in C, a tenth of the start
GLOBAL_KEYS = ("hydra",)
OF_THE_TEACHER = ("teacher", "dataset", "augment", "device", "output_dir")
MAY_BE_NONE = {"evaluate": ("dataset", "model")}  # groups without which a stage can do; experiment in all
UNREADABLE = (HydraException, ValueError, RecursionError)  # what the parser says to a word it cannot read
UNFIT = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    TypeError,
    RecursionError,
)  # … and composing


def stage_config(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plain:
    """The checked config of a stage in the form that is saved. Raises `UsageError` with every mistake at once."""
    with composing(config_dirs):
        groups = _groups(config_dirs)
        parsed, mistakes = _known(stage, overrides, groups, sweep=False)
        picked = [override for override in parsed if override.key_or_group in groups]
        options = _compose(stage, _texts(picked), config_dirs)  # the chosen options, with nothing else typed
        strange = _wrong_keys(parsed, groups, options)
        parsed = [override for override in parsed if override.key_or_group not in strange]
        mistakes += strange.values()
        try:
            config = _compose(stage, _texts(parsed), config_dirs)
        except UsageError as error:
            _refuse([*mistakes, str(error)])
        choices = config.hydra.runtime.choices
        schema = _schema(stage, config, choices, config_dirs) if choices.get("experiment") else _plain(options)
        return checked(stage, config, schema, mistakes, config_dirs)


def check_sweep(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """The keys, the choices and every value of a sweep, and its first job whole, before that is started.

    What only some combinations get wrong, each job says when it starts. Raises `UsageError`.
    """
    with composing(config_dirs):
        groups = _groups(config_dirs)
        parsed, mistakes = _known(stage, overrides, groups, sweep=True)
        _refuse(mistakes)
        picked = [one for one in parsed if one.key_or_group in groups and not one.is_sweep_override()]
        options = _compose(stage, _texts(picked), config_dirs)
        swept = [one.package or one.key_or_group for one in parsed if one.key_or_group in groups and one not in picked]
        unsure = tuple(f"{mount}." for mount in swept)  # what keys are below these depends on the job
        if "experiment" not in swept:
            certain = [one for one in parsed if not one.key_or_group.startswith(unsure)]
            _refuse(_wrong_keys(certain, groups, options).values())
            _refuse(_wrong_values([one for one in certain if one.key_or_group not in groups], options))
    stage_config(stage, jobs_of(overrides)[0], config_dirs)


def without_globs(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """The overrides of a sweep with the options named that `loss=glob(f*)` stands for. Raises `UsageError` for none."""
    groups, named = _groups(config_dirs), []
    for text in overrides:
        read = _parse([text])[0]
        pattern = read[0].value() if read else None
        if isinstance(pattern, Glob):
            key = read[0].key_or_group
            options = pattern.filter(groups.get(key, []))
            if not options:
                raise UsageError(f"{brief(text)}: names nothing; {suggestion(key, list(groups.get(key, groups)))}")
            text = f"{key}={','.join(options)}"
        named.append(text)
    return named


def jobs_of(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep: every combination of the swept values, the last key changing fastest."""
    several: list[list[str]] = []
    for one in _parse(overrides)[0]:
        if one.is_sweep_override():
            several.append([f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()])
        else:
            several.append([str(one.input_line)])
    return [list(job) for job in itertools.product(*several)]


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that a sweep gives several values."""
    return [one.key_or_group for one in _parse(overrides)[0] if one.is_sweep_override()]


def jobs_that_share_a_teacher(overrides: Sequence[str]) -> int:
    """How many jobs of a sweep differ in nothing that a teacher's outputs depend on."""
    jobs = 1
    for override in _parse(overrides)[0]:
        value = override.value() if override.is_sweep_override() else None
        if isinstance(value, ChoiceSweep) and override.key_or_group.split(".")[0] not in OF_THE_TEACHER:
            jobs *= len(value.list)
    return jobs


def job_config(stage: str, config: DictConfig, choices: Mapping[Any, Any], config_dirs: Sequence[Path] = ()) -> Plain:
    """The same for one job of a sweep, which Hydra has composed already."""
    with composing(config_dirs):
        return checked(stage, config, _schema(stage, config, choices, config_dirs), (), config_dirs)


def checked(
    stage: str, config: DictConfig, schema: Plain, mistakes: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> Plain:
    """Types, limits and contradictions, then the canonical form. Raises `UsageError`, with `mistakes` told first."""
    try:
        values = _plain(config, resolve=True)
    except UNFIT as error:
        _refuse([*mistakes, _first_line(error)])
    found = [*mistakes, *violations(values, schema)]
    values = without_limits(with_floats(sound(values, schema), schema))
    _refuse([*found, *contradictions(stage, values, config_dirs), *_wrong_places(values)])
    return canonical(stage, values, config_dirs)


@contextmanager
def composing(config_dirs: Sequence[Path]) -> Iterator[None]:
    """Hydra ready to compose: kdrun's configs, and `teacher` and `student` as two mounts of the `model` group."""
    register_roles([conf_dir(), *config_dirs])
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="kdrun", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before


# ------------------------------------------------------------------------------------------------ what was typed


def _known(
    stage: str, overrides: Sequence[str], groups: Mapping[str, list[str]], *, sweep: bool
) -> tuple[list[Override], list[str]]:
    """The words that can be read and choose what there is; and one line for each of the others."""
    parsed, mistakes = _parse(overrides)
    wrong = {}
    for override in parsed:
        several = override.is_sweep_override() and not sweep
        lines = [_several(override)] if several else list(_wrong_choices(stage, override, groups))
        if is_about_launcher(str(override.input_line)):
            told = "a launcher carries out the jobs of `kdrun distill -m` and `kdrun train -m`, and nothing else"
            lines = [f"{override.key_or_group}: {told}"]
        if lines:
            wrong[override.package or override.key_or_group] = override
            mistakes += lines
    if any(override.key_or_group == "experiment" for override in wrong.values()):
        _refuse(mistakes)  # what an experiment changes is unknown, and with it what else is wrong
    refused = [id(override) for override in wrong.values()]
    unknown = tuple(f"{mount}." for mount in wrong)  # the keys below a choice that does not exist are not known either
    return [one for one in parsed if id(one) not in refused and not one.key_or_group.startswith(unknown)], mistakes


def _parse(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    parser, parsed, mistakes = OverridesParser.create(), [], []
    for text in overrides:
        try:
            read = parser.parse_overrides([text])
        except UNREADABLE:
            read = []
        if read and read[0].key_or_group:
            parsed += read
        else:
            mistakes.append(f"'{brief(text)}' is not an override; write key=value, a list as 'key=[a,b]'")
    return parsed, mistakes


def _several(override: Override) -> str:
    key, values = override.key_or_group, str(override.input_line).partition("=")[2]
    told = f"{brief(key)}={brief(values)}: several values are a sweep, which needs -m (kdrun distill -m …)"
    return f"{told}; a list is written '{brief(key)}=[…]'"


def _wrong_choices(stage: str, override: Override, groups: Mapping[str, list[str]]) -> Iterator[str]:
    group = override.key_or_group
    if override.is_delete():
        yield f"~{brief(group)}: nothing can be removed; leave it out to keep its default"
    elif group in groups:
        try:
            choices = _chosen(override)
        except UNREADABLE:
            choices = [str(override.input_line)]
        if override.is_add() and group != "experiment":
            yield f"+{group}: one is chosen already; write {group}={brief(choices[0] if choices else '<name>')}"
        if not choices:
            yield f"{group}=[]: names nothing" + ("; write augment=none" if group == "augment" else "")
        if len(choices) > 1 and group != "augment" and not override.is_sweep_override():
            yield f"{group}={brief(choices)}: takes one name; only augment takes a list"
        for choice in choices:
            if choice == "null" and group not in ("experiment", *MAY_BE_NONE.get(stage, ())):
                yield f"{group}=null: kdrun {stage.replace('_', '-')} needs one; leave it out to keep the default"
            elif choice != "null" and choice not in groups[group]:
                yield no_such_choice(group, choice, groups[group])


def _wrong_keys(parsed: Sequence[Override], groups: Mapping[str, list[str]], options: DictConfig) -> dict[str, str]:
    """A line for each key that the chosen options do not have, by key."""
    wrong, allowed = {}, keys_of(options)
    for override in parsed:
        key = override.key_or_group
        internal = key.split(".")[0] == "hydra" or key.startswith("hydra/")
        if key not in groups and not internal and not _exists(options, key):
            wrong[key] = no_such_key(key, allowed)
        elif override.is_add() and key in allowed and key not in groups:
            wrong[key] = f"+{key}: there is such a key already; write {key}=<value>"
    return wrong


def _wrong_values(swept: Sequence[Override], options: DictConfig) -> Iterator[str]:
    """A line for each value that a sweep gives a key and that the chosen options do not allow there."""
    schema, parser = _plain(options), OverridesParser.create()
    for override in swept:
        if override.is_sweep_override():
            for text in override.sweep_string_iterator():
                one = parser.parse_override(f"{override.key_or_group}={text}")
                given = copy.deepcopy(options)
                OmegaConf.update(given, override.key_or_group, one.value(), force_add=True)
                yield from violations(_plain(given, resolve=True), schema)


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a composed config, with its path."""
    named = [name for name in config.hydra.runtime.choices if name == "experiment"]  # a choice without a node
    return sorted([*_paths(_plain(config), ""), *named])


def _texts(parsed: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in parsed]


def _groups(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
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


def _chosen(override: Override) -> list[str]:
    value = override.value()
    swept = [Override._convert_value(one) for one in value.list] if isinstance(value, ChoiceSweep) else [value]
    named = [one for each in swept for one in (each if isinstance(each, list) else [each])]
    return ["null" if one is None else str(one) for one in named]


def no_such_choice(group: str, choice: str, options: Sequence[str]) -> str:
    kind = "model" if group in ROLES else group
    more = f"; `kdrun list {kind}s` shows all" if kind in ("model", "dataset", "loss", "augment", "experiment") else ""
    told = f"{group}={brief(choice)}: there is no such {kind}; {suggestion(choice, options)}"
    return told + more.replace("losss", "losses")


def no_such_key(key: str, allowed: Sequence[str]) -> str:
    if key == "loss.alpha":
        weights = ", ".join(path for path in allowed if path.startswith("loss.") and path.endswith("weight"))
        return f"loss.alpha: this loss is no convex mix; set its weights: {weights}"
    parent, _, last = key.rpartition(".")
    siblings = [path for path in allowed if path.rpartition(".")[0] == parent]
    same_end = [path for path in allowed if path.rpartition(".")[2] == last]  # lr for optimizer.lr
    close = closest(key, allowed) or (same_end if len(same_end) <= 3 else [])
    told = f"unknown key {brief(key)}; "
    if close:
        return told + did_you_mean(close)
    if parent and siblings:
        return f"{told}{parent} has {', '.join(path.rpartition('.')[2] for path in siblings)}"
    return told + suggestion(key, [path for path in allowed if "." not in path], most=12)


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
    except UNFIT as error:
        raise UsageError(_no_choice_here(stage, error) or _first_line(error)) from error


def _no_choice_here(stage: str, error: Exception) -> str | None:
    """What to say of a group that exists and is none of this stage's choices, as `model=` in `kdrun distill`."""
    group = re.match(r"Could not override '([^']+)'", str(error))
    if group is None:
        return None
    choices = compose(stage, return_hydra_config=True).hydra.runtime.choices
    own = sorted(str(name) for name in choices if not {"@", "/"} & set(str(name)) or ".train." in str(name))
    return f"{group[1]}: kdrun {stage.replace('_', '-')} has no such choice; it has {', '.join(own)}"


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


def _wrong_places(config: Plain) -> Iterator[str]:
    output = Path(config["output_dir"])
    if output.exists() and not output.is_dir():
        yield f"output_dir={output}: this is a file; name a folder"


def _refuse(mistakes: Iterable[str]) -> None:
    """Raise `UsageError` if there are mistakes: all of them are named, in three lines at most."""
    lines = list(dict.fromkeys(mistakes))
    if len(lines) > 3:
        others = ", ".join(_subject(line) for line in lines[2:])
        lines[2:] = [f"and {len(lines) - 2} more mistakes: {brief(others, 500)}"]
    if lines:
        raise UsageError("\n".join(lines))


def _subject(mistake: str) -> str:
    """The key or word that a mistake is about: what stands before `=value`, a colon or an explanation."""
    return re.split(r"[=:; ]", mistake.removeprefix("unknown key ").removeprefix("'"), maxsplit=1)[0]


def _first_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: this is not YAML: {error.problem}"
    return brief(" ".join(str(error).strip().split("\n")[0].split()), 300)
