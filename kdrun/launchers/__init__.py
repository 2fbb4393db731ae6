"""Who carries out the jobs of a sweep where kdrun's own processes do not: `hydra/launcher=<a file here>`.

An engine that exists starts jobs, kdrun keeps their record. A launcher is a file here with `REQUIRES` (a package),
`EXTRA`, `TYPED` (options that run commands or name a host, and are never taken from a file), `check()` and
`Engine(options, folder)`; its options are `conf/hydra/launcher/<name>.yaml`, under the names that Hydra's plugins use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from kdrun import lookup
from kdrun.errors import UsageError, brief, suggestion
from kdrun.records.foreign import read_yaml
from kdrun.schema import Plain, violations, with_floats, without_limits
from kdrun.sweeps.children import Task

CHOICE, OPTIONS = "hydra/launcher", "hydra.launcher."


class Engine(Protocol):
    """What carries out tasks, each by `kdrun.sweeps.children.attend` in some worker."""

    threads: int | None  # that a job has; None: as many as it finds
    look: float  # seconds between looks

    def submit(self, tasks: Sequence[Task]) -> None: ...

    def gone(self, keys: Iterable[str]) -> dict[str, str]:
        """Those tasks that it does not have (any longer), each with what it says has become of it."""

    def stop(self, keys: Iterable[str]) -> None:
        """Ask the tasks to save and to end; those that have not begun do not."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Launcher:
    """One that was chosen: `words` as they were typed."""

    name: str
    options: Plain
    words: Sequence[str]

    def engine(self, folder: Path) -> Engine:
        """For the sweep in this folder. Raises `UsageError`."""
        made: Engine = lookup.module("launchers", self.name).Engine(self.options, folder)
        return made


def chosen(words: Sequence[str], typed: bool = True) -> Launcher | None:
    """The launcher that these words choose, or None for kdrun's own.

    `typed`: by the person who runs kdrun, and not taken from a file. Raises `UsageError` for a name or an option that
    does not exist, a value that cannot be, and where what the launcher needs is not installed.
    """
    if not words:
        return None
    values = [_read(word) for word in words]
    picked = [value for key, value in values if key == CHOICE]
    strange = [key for key, _ in values if key != CHOICE and not key.startswith(OPTIONS)]
    if strange:
        raise UsageError(f"{brief(strange[0])}: not about a launcher; write {CHOICE}=<{'|'.join(names())}>")
    if not picked:
        raise UsageError(f"{values[0][0]}: an option of a launcher; choose one: {CHOICE}=<{'|'.join(names())}>")
    name = str(picked[-1])
    if name not in names():
        told = (
            f"there is no such launcher; {suggestion(name, names())}; without the word kdrun's own processes are used"
        )
        raise UsageError(f"{CHOICE}={brief(name)}: {told}")
    schema = read_yaml(_file(name))
    options = without_limits(schema)
    for key, value in values:
        if key != CHOICE:
            _put(options, key.removeprefix(OPTIONS).split("."), value)
    mistakes = list(violations(options, schema, OPTIONS))
    if mistakes:
        raise UsageError("\n".join(mistakes[:3]))
    module = lookup.module("launchers", name)
    foreign = [key for key, _ in values if not typed and key.removeprefix(OPTIONS).startswith(module.TYPED)]
    if foreign:
        told = "an option that can run commands is not taken from a file; give the command of the sweep again"
        raise UsageError(f"{foreign[0]}: {told}")
    if not _is_installed(module.REQUIRES):
        raise UsageError(f"{CHOICE}={name} needs {module.REQUIRES}; install it: pip install 'kdrun[{module.EXTRA}]'")
    module.check()
    return Launcher(name, with_floats(options, schema), list(words))


def names() -> list[str]:
    return sorted(file.stem for file in (lookup.conf_dir() / CHOICE).glob("*.yaml"))


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _file(name: str) -> Path:
    return lookup.conf_dir() / CHOICE / f"{name}.yaml"


def _read(word: str) -> tuple[str, Any]:
    """Key and value of a word. A leading `+`, which Hydra's plugins ask for with some options, is let through."""
    try:
        override = OverridesParser.create().parse_override(word.lstrip("+"))
    except (HydraException, ValueError, RecursionError) as error:
        raise UsageError(f"'{brief(word)}' is not an override; write key=value, a list as 'key=[a,b]'") from error
    if override.is_sweep_override():
        raise UsageError(f"{brief(word)}: a sweep has one launcher, and each of its options one value")
    return override.key_or_group, _plain(override.value())


def _plain(value: Any) -> Any:
    """Without the parser's own types."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if not isinstance(value, bool | int | float | None) else value


def _put(node: Plain, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            below = node[part] = {}
        node = below
    node[path[-1]] = value
