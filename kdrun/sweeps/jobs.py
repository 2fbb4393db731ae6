"""The words of a sweep: what is wrong with them, before its first job is started, and the jobs that they stand for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from omegaconf import DictConfig, OmegaConf

from kdrun import composition
from kdrun.composition import GLOBAL_KEYS, composing, options_by_group, plain
from kdrun.config import stage_config
from kdrun.errors import UsageError, brief, refuse, suggestion
from kdrun.overrides import known, parsed_words, texts, wrong_keys
from kdrun.records.foreign import calls_resolver
from kdrun.schema import violations

OF_THE_TEACHER = ("teacher", "dataset", "augment", "device", "output_dir")


def check_sweep(stage: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """The keys, the choices and every value of a sweep, and its first job whole, before that is started.

    What only some combinations get wrong, each job says when it starts. Raises `UsageError`.
    """
    with composing(config_dirs):
        groups = options_by_group(config_dirs)
        parsed, mistakes = known(stage, overrides, groups, sweep=True)
        refuse([*mistakes, *called(overrides)])
        picked = [one for one in parsed if one.key_or_group in groups and not one.is_sweep_override()]
        options = composition.composed(stage, texts(picked), config_dirs)
        swept = [one.package or one.key_or_group for one in parsed if one.key_or_group in groups and one not in picked]
        unsure = tuple(f"{mount}." for mount in swept)  # what keys are below these depends on the job
        if "experiment" not in swept:
            certain = [one for one in parsed if not one.key_or_group.startswith(unsure)]
            refuse(wrong_keys(certain, groups, options).values())
            refuse(_wrong_values([one for one in certain if one.key_or_group not in groups], options))
    if all(one.is_discrete_sweep() for one in parsed if one.is_sweep_override()):
        stage_config(stage, jobs_of(overrides)[0], config_dirs)


def called(overrides: Sequence[str]) -> Iterator[str]:
    """A line for each word that calls a resolver, as `${oc.env:HOME}`: a sweep is gone on with by its words, read from
    a file that could be anybody's. A reference such as `${seed}` is none, and what is Hydra's own is not kept."""
    for word in overrides:
        key = word.partition("=")[0]
        if calls_resolver(word) and not key.lstrip("+").startswith("hydra"):
            yield f"{brief(key)}: a sweep keeps its words in a file, which may not call a resolver; write the value"


def without_globs(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """The overrides of a sweep with the options named that `loss=glob(f*)` stands for. Raises `UsageError` for none."""
    groups, named = options_by_group(config_dirs), []
    for text in overrides:
        read = parsed_words([text])[0]
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
    """The overrides of each job of a sweep: every combination of the swept values, the last key changing fastest.

    Raises `UsageError` for an interval, which only a sweeper of Hydra's knows to take values from.
    """
    several: list[list[str]] = []
    for one in parsed_words(overrides)[0]:
        if one.is_sweep_override() and not one.is_discrete_sweep():
            raise UsageError(
                f"{brief(str(one.input_line))}: an interval has no values to go through; name some, or use kdrun tune"
            )
        if one.is_sweep_override():
            several.append([f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()])
        else:
            several.append([str(one.input_line)])
    return [list(job) for job in itertools.product(*several)]


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that a sweep gives several values."""
    return [one.key_or_group for one in parsed_words(overrides)[0] if one.is_sweep_override()]


def jobs_that_share_a_teacher(overrides: Sequence[str]) -> int:
    """How many jobs of a sweep differ in nothing that a teacher's outputs depend on."""
    jobs = 1
    for override in parsed_words(overrides)[0]:
        value = override.value() if override.is_sweep_override() else None
        if isinstance(value, ChoiceSweep) and override.key_or_group.split(".")[0] not in OF_THE_TEACHER:
            jobs *= len(value.list)
    return jobs


def _wrong_values(swept: Sequence[Override], options: DictConfig) -> Iterator[str]:
    """A line for each value that a sweep gives a key and that the chosen options do not allow there."""
    schema, parser = plain(options), OverridesParser.create()
    for override in swept:
        key = override.key_or_group
        if key.split(".")[0] in GLOBAL_KEYS or not override.is_discrete_sweep():
            continue
        for text in override.sweep_string_iterator():
            typed = OmegaConf.create({"value": parser.parse_override(f"{key}={text}").value()}, parent=options)
            node: Any = plain(typed, resolve=True)["value"]
            for part in reversed(key.split(".")):
                node = {part: node}
            yield from violations(node, schema)
