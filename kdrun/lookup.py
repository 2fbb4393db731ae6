"""Finding things by file name: `kdrun/losses/kd.py` is the loss `kd`. Other packages add theirs with `--plugin`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from kdrun.errors import UsageError, brief, suggestion

PLUGINS: list[str] = []  # packages laid out like kdrun: my_package/losses/…


def module(folder: str, name: str) -> ModuleType:
    """The module `name` in `kdrun/<folder>/`, or in the same folder of a plugin. Raises `UsageError`."""
    if name.isidentifier():
        for package in ("kdrun", *PLUGINS):
            path = f"{package}.{folder}.{name}"
            if _exists(f"{package}.{folder}") and _exists(path):
                return importlib.import_module(path)
    raise UsageError(f"there is no {folder.replace('/', '.')} kind {brief(name)!r}; {suggestion(name, names(folder))}")


def names(folder: str) -> list[str]:
    """The names of all modules in `kdrun/<folder>/` and in the plugins' folders of that name."""
    found = set()
    for package in ("kdrun", *PLUGINS):
        if _exists(f"{package}.{folder}"):
            paths = importlib.import_module(f"{package}.{folder}").__path__
            found |= {entry.name for entry in pkgutil.iter_modules(paths) if not entry.ispkg}
    return sorted(found)


def conf_dir() -> Path:
    """The configs that ship with kdrun: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def add_plugin(name: str) -> None:
    """Admit another package's losses, models, data sets and metrics. Raises `UsageError` when it cannot be found."""
    if not all(part.isidentifier() for part in name.split(".")) or not _exists(name):
        told = "there is no such package; install it, or run where it can be imported"
        raise UsageError(f"--plugin {brief(name)}: {told}")
    PLUGINS.append(name)


def _exists(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False
