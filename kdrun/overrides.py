"""What was typed: words read as Hydra's overrides, and one line for each that chooses or sets what there is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from kdrun.composition import keys_of
from kdrun.errors import brief, closest, did_you_mean, refuse, suggestion
from kdrun.roles import ROLES
from kdrun.words import is_about_launcher

MAY_BE_NONE = {"evaluate": ("dataset", "model")}  # groups without which a stage can do; experiment in all
UNREADABLE = (HydraException, ValueError, RecursionError)  # what the parser says to a word it cannot read


def known(
    stage: str, overrides: Sequence[str], groups: Mapping[str, list[str]], *, sweep: bool
) -> tuple[list[Override], list[str]]:
    """The words that can be read and choose what there is; and one line for each of the others."""
    parsed, mistakes = parsed_words(overrides)
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
        refuse(mistakes)  # what an experiment changes is unknown, and with it what else is wrong
    refused = [id(override) for override in wrong.values()]
    unknown = tuple(f"{mount}." for mount in wrong)  # the keys below a choice that does not exist are not known either
    return [one for one in parsed if id(one) not in refused and not one.key_or_group.startswith(unknown)], mistakes


def parsed_words(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    """The words that can be read, and one line for each of the others."""
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


def texts(parsed: Sequence[Override]) -> list[str]:
    """The overrides as they were typed."""
    return [str(override.input_line) for override in parsed]


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


def wrong_keys(parsed: Sequence[Override], groups: Mapping[str, list[str]], options: DictConfig) -> dict[str, str]:
    """A line for each key that the chosen options do not have, by key."""
    wrong, allowed = {}, keys_of(options)
    for override in parsed:
        key = override.key_or_group
        internal = key.split(".")[0] == "hydra" or key.startswith("hydra/")
        if key not in groups and not internal and not _exists(options, key):
            wrong[key] = no_such_key(key, allowed)
        elif override.is_add() and key in allowed and key not in groups:
            wrong[key] = f"+{key}: there is such a key already; write {key}=<value>"
        elif lost := _value_above(override, [one for one in parsed if one.key_or_group not in groups]):
            node = lost.partition("=")[0]
            wrong[key] = f"{key}: this would replace {lost}, which was typed too; write both as one, {node}='{{…}}'"
    return wrong


def _value_above(override: Override, parsed: Sequence[Override]) -> str | None:
    """`key=value` of another override, if it gives a plain value to a key that this one is below."""
    for other in parsed:
        above, value = other.key_or_group, other.value()
        if not override.key_or_group.startswith(f"{above}."):
            continue
        for part in override.key_or_group.removeprefix(f"{above}.").split("."):
            if value is None or isinstance(value, str | bool | int | float):
                return None if value is None else f"{above}={brief(value)}"
            above, value = f"{above}.{part}", value.get(part) if isinstance(value, dict) else None
    return None


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
