"""What the tests share: small models and data, the command line in this process, the real files where there are any."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def run(self) -> Path:
        """The run directory that the last line names."""
        return Path(
            next(line for line in self.out.splitlines()[::-1] if line.startswith("run: ")).removeprefix("run: ")
        )


@pytest.fixture
def kdrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Answer]]:
    """The command line, in this process and in an empty folder: `kdrun("distill", "epochs=1").code`."""
    from kdrun import cli

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["kdrun", *words])
        capsys.readouterr()
        code = cli.main()
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield call
    root.handlers[:], root.level = handlers, level  # Hydra sets up logging for a process that is about to end
    signal.signal(signal.SIGTERM, before)
    assert not logging.getLogger("kdrun").handlers, "a run left its log open"


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    folder = os.environ.get("KDRUN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("KDRUN_DATA names no folder of real data sets")
    return Path(folder)


@pytest.fixture(autouse=True)
def _quickly_composed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs are composed ten times as fast, except in e2e/, where Hydra does it itself."""
    if "e2e" not in request.path.parts:
        from kdrun import composition
        from tests.composing import quickly

        monkeypatch.setattr(composition, "composed", quickly)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded images go where the tests' files go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def mutated(module: ModuleType, before: str, after: str) -> ModuleType:
    """The module with a mistake put into its source: for negative controls."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert before in source, f"{module.__name__} no longer says {before!r}: the control would test nothing"
    other = ModuleType(module.__name__)
    other.__file__ = module.__file__
    sys.modules[f"mutated.{module.__name__}"] = other
    exec(compile(source.replace(before, after), module.__file__, "exec"), other.__dict__)
    return other
