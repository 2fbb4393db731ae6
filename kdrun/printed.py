"""Configs that Hydra prints: `--cfg job` shows what a job would be given, not the ranges that its values are held to.

kdrun's folder of options is read without their `limits`, and only while something is printed: checks need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from kdrun.records.foreign import LOADER
from kdrun.schema import without_limits

PRINTING = [False]


@contextmanager
def without_ranges() -> Iterator[None]:
    """Within it, what Hydra composes from kdrun's folder has no `limits`."""
    for plugin in (PrintedSource, PrintedSearchPath):
        Plugins.instance().register(plugin)
    PRINTING[0] = True
    try:
        yield
    finally:
        PRINTING[0] = False


class PrintedSource(FileConfigSource):
    """A folder of options, each read without its `limits`."""

    @staticmethod
    def scheme() -> str:
        return "printed"

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        text = file.read_text(encoding="utf-8")
        config = OmegaConf.create(without_limits(LOADER(text).get_single_data() or {}))
        return ConfigResult(self.provider, self.full_path(), config, header=self._get_header_dict(text))


class PrintedSearchPath(SearchPathPlugin):
    """Puts `PrintedSource` where Hydra would read the folder itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path() if PRINTING[0] else ():
            if element.provider == "main":
                element.path = f"{PrintedSource.scheme()}://{element.path}"
