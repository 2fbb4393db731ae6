"""Files that somebody else may have written, read as data: nothing in them can run, fill memory or lead elsewhere.

Run directories are something people send each other, so that every one is read in this way, one's own too.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from kdrun.errors import KdrunError, UsageError, brief

DEEPEST = 20  # mappings and lists within each other
MOST_VALUES = 20_000  # in a YAML file: a config has some hundred
LARGEST = 2**63
MOST_OF_AN_OPTION = 1_000_000  # bytes
KEY = r"[\w\s.@/\[\]-]"
RESOLVER = re.compile(rf"\$\{{(?!(?:{KEY}|\$\{{{KEY}*\}})*\}})")  # ${oc.env:HOME}, not ${epochs} or ${a.${b}}
PACKAGE = re.compile(r"^\s*#\s*@package\s+[\w.]*hydra", re.MULTILINE)
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would wait for a writer
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, most: int = 1_000_000) -> dict[str, Any]:
    """The mapping in a YAML file of at most `most` bytes, without its `hydra` node. Raises `KdrunError`.

    Aliases and tags are refused: the first make much of little, the second make objects.
    """
    content = _parsed(path, read_text(path, most))
    if not isinstance(content, dict):
        raise KdrunError(f"{brief(path)} cannot be read as a config: it is no mapping of keys to values")
    return {key: value for key, value in content.items() if key != "hydra"}


def check_config_folder(folder: Path) -> None:
    """Raise `UsageError` when a YAML file in a `--config-dir` could make Hydra call something or tell a secret."""
    for file in sorted(folder.rglob("*.yaml")):
        try:
            text = read_text(file, MOST_OF_AN_OPTION)
            content = _parsed(file, text)
        except KdrunError as error:
            raise UsageError(str(error)) from error
        inside = file.relative_to(folder).parts[0] == "hydra" or PACKAGE.search(text) is not None
        for reason in ["it sets what is Hydra's"] if inside else _unsafe(content, top=True):
            raise UsageError(f"{brief(file)}: {reason}, which a file may not; give it on the command line instead")


def _unsafe(node: Any, top: bool = False) -> Iterator[str]:
    """Why an option's content is not handed to Hydra."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_" or (top and str(key).partition(".")[0] == "hydra"):
                yield f"it has a key {key}"
            if top and key == "defaults" and "hydra" in str(value):
                yield "its defaults name hydra"
            yield from _unsafe(value)
    elif isinstance(node, list):
        for value in node:
            yield from _unsafe(value)
    elif isinstance(node, str) and calls_resolver(node):
        yield f"{brief(node)} calls a resolver"


def calls_resolver(text: str) -> bool:
    """Would OmegaConf call something for this text? On a command line `$\\{` is another way to write `${`."""
    return RESOLVER.search(text.replace("\\", "")) is not None


def read_json(path: Path, most: int = 10_000_000) -> Any:
    """What is in a JSON file of at most `most` bytes; no NaN, no infinity. Raises `KdrunError`."""
    text = read_text(path, most)
    try:
        content = json.loads(text, parse_constant=_no_number)
        _only_plain_values(content)
    except (ValueError, RecursionError) as error:
        raise KdrunError(f"{brief(path)} cannot be read as JSON: {_reason(error)}") from error
    return content


def read_text(path: Path, most: int) -> str:
    """The text of a regular file of at most `most` bytes that lies in its folder. Raises `KdrunError`."""
    try:
        if leads_out(path, path.parent):
            raise KdrunError(f"{brief(path)} is a link that leads out of its folder; it is not followed")
        with open_regular(path) as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise KdrunError(f"{brief(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most:
        raise KdrunError(f"{brief(path)} is larger than the {most:,} bytes that are read of such a file")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise KdrunError(f"{brief(path)} cannot be read: it is no text (byte {error.start})") from error


def open_regular(path: Path) -> BinaryIO:
    """The open file, unless it is a folder, a pipe or a device. Raises `UsageError` for these, and `OSError`."""
    file = os.fdopen(os.open(path, FLAGS), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{brief(path)} is not a regular file")
    return file


def leads_out(path: Path, folder: Path) -> bool:
    """Is this a link to something that is not in this folder?"""
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def refuse_leading_out(run: Path) -> None:
    """Raise `UsageError` unless what a run writes is its own: what lies in it and in its `checkpoints`.

    Deeper down are folders of others, as wandb's, which has links of its own.
    """
    states = run / "checkpoints"
    for path in (*run.iterdir(), *(states.iterdir() if states.is_dir() else [])):
        if leads_out(path, run):
            raise UsageError(
                f"{brief(path)} is a link that leads out of {brief(run)}, which is not written to; "
                "put a copy of what it names in its place"
            )
        if not (path.is_symlink() or path.is_file() or path.is_dir()):
            raise UsageError(f"{brief(path)} is not a regular file; {brief(run)} is not written to")


def _parsed(path: Path, text: str) -> Any:
    try:
        _only_plain_yaml(text)
        content = LOADER(text).get_single_data()
        _only_plain_values(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KdrunError(f"{brief(path)} cannot be read as a config: {_reason(error)}") from error
    return content


def _only_plain_yaml(text: str) -> None:
    """Raise `ValueError` unless the YAML is mappings, lists and values, not too many and not too deep."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=LOADER)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("aliases (& and *) are not read")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"tags are not read: {brief(event.tag)}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or number > MOST_VALUES:
            raise ValueError(f"more than {DEEPEST} levels or {MOST_VALUES:,} values")


def _only_plain_values(node: Any, depth: int = 0) -> None:
    """Raise `ValueError` unless everything is text, a number that counts, true, false, null, or made of these."""
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels")
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str | int):
                raise ValueError(f"a key must be a word, not {brief(key)}")
            _only_plain_values(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            _only_plain_values(value, depth + 1)
    elif isinstance(node, int | float):
        if not math.isfinite(node) if isinstance(node, float) else abs(node) >= LARGEST:
            raise ValueError("numbers must be finite and within ±2^63")
    elif node is not None and not isinstance(node, str):
        raise ValueError(f"a {type(node).__name__} is no plain value")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _reason(error: Exception) -> str:
    """The first thing an error says, and where; what YAML quotes of the file is left out."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f" (line {mark.line + 1})"
    return brief(getattr(error, "problem", None) or " ".join(str(error).split())) + where
