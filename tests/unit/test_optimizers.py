"""torch's optimizers without its compiler: the same steps, and a launch that does not wait for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun.optimizers import OPTIMIZERS

TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MORE = {"sgd": {"momentum": 0.9, "nesterov": True}}
TRAIN = """
import os, sys
from kdrun import cli, engine
sys.argv = ["kdrun", "train", "epochs=1", "dataset.limit=64", "device=cpu"]
update = engine._update
engine._update = lambda *given: (update(*given), os._exit(6 + ("torch._dynamo" in sys.modules)))
cli.main()
"""


def weights(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> list[Tensor]:
    """After three steps, of which the last is of an optimizer that goes on from the state of the one before."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    optimizer = kind(net.parameters(), lr=0.1, **options)
    for step in range(3):
        if step == 2:
            state = optimizer.state_dict()
            optimizer = kind(net.parameters(), lr=0.3, **options)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        net(torch.rand(4, 5)).square().sum().backward()
        optimizer.step()
    return [weight.detach() for weight in net.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_and_states_are_those_of_torch(name: str) -> None:
    options = MORE.get(name, {})
    for own, torchs in zip(weights(OPTIMIZERS[name], **options), weights(TORCH[name], **options), strict=True):
        assert torch.equal(own, torchs)


def train(code: str, folder: Path) -> int:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=False).returncode


def test_the_first_step_imports_no_compiler(tmp_path: Path) -> None:
    assert train(TRAIN, tmp_path) == 6


def test_an_import_of_the_compiler_is_noticed(tmp_path: Path) -> None:
    """With torch's own optimizers."""
    own = "import kdrun.optimizers, torch.optim\nkdrun.optimizers.OPTIMIZERS['sgd'] = torch.optim.SGD\n"
    assert train(own + TRAIN, tmp_path) == 7
