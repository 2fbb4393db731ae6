"""The words of a command line: options with their values, `key=value` pairs, paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrun.errors import UsageError, brief

CONFIG_DIR = ("--config-dir", "-cd")


def option(words: list[str], *names: str) -> list[str]:
    """Every value of an option, given as `--name value` or `--name=value`. Raises `UsageError` when one is missing."""
    values, pending = [], False
    for word in words:
        flag, equals, value = word.partition("=")
        if pending:
            values.append(word)
            pending = False
        elif flag in names:
            values += [value] if equals else []
            pending = not equals
    if pending or "" in values:
        raise UsageError(f"{names[0]} needs a value")
    return values


def without_option(words: list[str], *names: str) -> list[str]:
    """The words without an option and its values."""
    skip, rest = False, []
    for word in words:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif word.partition("=")[0] not in names:
            rest.append(word)
    return rest


def positional_run(words: list[str]) -> list[str]:
    """A directory or file given by itself is `run=<it>`; quoted, since a path may hold what Hydra reads as grammar."""
    done = []
    before = ""
    for word in words:
        plain = not word.startswith(("-", "+", "~")) and "=" not in word and before not in CONFIG_DIR
        if plain and before not in ("--cfg", "-c", "--info", "-i", "--package", "-p"):
            done.append("run='" + word.replace("\\", "\\\\").replace("'", "\\'") + "'")
        else:
            done.append(word)
        before = word
    return done


def refuse_empty(words: list[str]) -> None:
    """Raise `UsageError` for an empty word: of a variable that is not set, and `Path("")` is the working folder."""
    if "" in words:
        raise UsageError("an empty word ('') names no run and no folder; write . for the folder where you are")


def key_values(words: list[str], allowed: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """`key=value` words by key, and the others. Raises `UsageError` for a key that is not allowed."""
    refuse_empty(words)
    keys, rest = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in allowed and not value:
            raise UsageError(f"{key}=: must be a path, a name or a number; leave it out for the default")
        if equals and key in allowed:
            keys[key] = value
        elif word.startswith("-") or (equals and not Path(word).exists()):
            raise UsageError(f"unknown word {brief(word)}; allowed keys: {', '.join(allowed)}")
        else:
            rest.append(word)
    return keys, rest


def number(name: str, text: str) -> float:
    """A number that is not negative. Raises `UsageError`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name}={brief(text)}: must be a number that is not negative, as 0.001")
    return value


def is_about_launcher(word: str) -> bool:
    """Does a word say who carries out a sweep?"""
    return word.lstrip("+").startswith(("hydra/launcher", "hydra.launcher."))


def overrides_of(words: list[str]) -> list[str]:
    """What sets a key, without options."""
    return [word for word in without_option(words, *CONFIG_DIR) if "=" in word and word[0] != "-"]


def by_key(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A config's values by the key one types for them: `loss.alpha`. An empty mapping is a value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from by_key(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
