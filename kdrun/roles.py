"""`teacher=` and `student=` as two mounts of the `model` group: a new model is one file, never two.

Hydra asks its config sources for what a group holds. This one answers for the groups `teacher` and `student`, from the
names of the files in `model/`; only the options that a command chooses are ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

ROLES = ("teacher", "student")
FOLDERS: list[Path] = []  # those with a `model/` in them


def register_roles(folders: Sequence[Path]) -> None:
    """For every `model/<name>.yaml` in these folders, the options `teacher=<name>` and `student=<name>`."""
    FOLDERS[:] = folders
    for plugin in (RoleSource, RoleSearchPath):
        Plugins.instance().register(plugin)


class RoleSource(ConfigSource):
    """`teacher/<name>` and `student/<name>`: each is the model `<name>`, mounted there."""

    @staticmethod
    def scheme() -> str:
        return "roles"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ROLES

    def is_config(self, config_path: str) -> bool:
        role, _, name = config_path.removesuffix(".yaml").partition("/")
        return role in ROLES and any((folder / "model" / f"{name}.yaml").is_file() for folder in FOLDERS)

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml").partition("/")[2]
        mounted = OmegaConf.create({"defaults": [{"/model@_here_": name}]})
        return ConfigResult(self.provider, f"{self.scheme()}://", mounted, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path.strip("/") in ROLES:
            names = {file.stem for folder in FOLDERS for file in (folder / "model").glob("*.yaml")}
            return sorted(names) if results_filter != ObjectType.GROUP else []
        return list(ROLES) if not config_path and results_filter != ObjectType.CONFIG else []


class RoleSearchPath(SearchPathPlugin):
    """Lets Hydra ask `RoleSource`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("kdrun", f"{RoleSource.scheme()}://")
