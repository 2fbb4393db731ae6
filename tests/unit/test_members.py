"""What the processes of a run do when they see different things, and when one of them dies: two are started."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kdrun import assembly, processes
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import split
from kdrun.errors import KdrunError
from kdrun.launch import launch
from kdrun.models.building import build
from kdrun.records.run import About, Run
from kdrun.records.store import Store, is_whole
from kdrun.stages.source import Source
from kdrun.stages.teacher import Taught

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
FOREVER = 1000  # seconds


def stored(config: dict[str, Any], patient: float) -> list[Path]:
    """The views that two processes store, the second of which has other threads, and sees views that are not there."""
    torch.set_num_threads(1 + processes.number())
    missing = Store.missing

    def hasty(store: Store, views: Sequence[int]) -> list[int]:
        seen = missing(store, views)
        return seen if processes.is_first() or len(views) > 1 else []

    Store.missing = hasty  # type: ignore[method-assign]
    signal.alarm(int(patient))  # one that waits for what the other does not do
    with processes.together("cpu"):
        pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        read = split(Raw(("a", "b", "c"), Labelled(pixels, torch.arange(60) % 3)), 0.2, 0, None)
        model = build(assembly.model_spec(config["model"], read, config["dataset"]), 0)
        source = Source(config, read, Taught(model, "f", "fp32", {}))
        source.fill()
        found: list[Path] = processes.told(lambda: [source.store.file(view) for view in source.views])
        assert source.store.file(0) == found[0]
    signal.alarm(0)
    return found


def test_what_one_process_sees_of_the_store_is_what_all_go_by(tmp_path: Path) -> None:
    words = ["teacher=mlp", "student=mlp", "student.widths=[5]", "augment=[flip]", "dataset.views=2", "epochs=4"]
    config = {**stage_config("distill", words), "output_dir": str(tmp_path)}
    views = launch(2, stored, config, 60)
    assert [is_whole(view) for view in views] == [True, True]
    assert len(list(tmp_path.glob("store/*/store.json"))) == 1


def apart(elsewhere: Path) -> None:
    """Two hosts, as it were, whose folders are not shared."""
    processes.SEEN = 0.5
    os.chdir("." if processes.is_first() else elsewhere)
    with processes.together("cpu"):
        Run.begin(About("train", "x", {"output_dir": "outputs", "run_dir": None, "seed": 0}, "f"))


def test_a_host_that_does_not_see_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(KdrunError, match="output_dir= on a folder that all of them see"):
        launch(2, apart, tmp_path / "elsewhere")
    assert len(list(tmp_path.glob("outputs/train/*"))) == 1


def held_up() -> None:
    """As by a call that no signal interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(FOREVER)


def left_alone(closing: int) -> None:
    """The second process dies. What then waits for it, as nccl does, is the end of the group and of the interpreter."""
    processes.CLOSING = closing
    dist.destroy_process_group = held_up
    atexit.register(held_up)
    with processes.together("cpu"):
        processes.everyone(0)
        if not processes.is_first():
            os.kill(os.getpid(), signal.SIGKILL)
        processes.everyone(1)


def test_a_process_that_is_left_alone_ends_whatever_holds_it_up() -> None:
    begin = time.monotonic()
    with pytest.raises(KdrunError, match="process 1 of 2 was killed by SIGKILL"):
        launch(2, left_alone, 1)
    assert time.monotonic() - begin < 25
