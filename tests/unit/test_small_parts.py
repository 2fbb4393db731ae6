"""Schedules, gain, taps, preparation of images, cost: one concept each, closed forms."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from kdrun.cost import costs
from kdrun.deployed import Ready
from kdrun.device import pick_precision
from kdrun.errors import UsageError, suggestion
from kdrun.gain import gain
from kdrun.models.prepared import Preprocess, with_channels
from kdrun.schedule import factor
from kdrun.taps import Tapped


def test_schedules_in_closed_form() -> None:
    assert [factor(step, 4, "constant") for step in range(4)] == [1, 1, 1, 1]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [factor(step, 4, "cosine") for step in range(4)] == pytest.approx(cosine)
    steps = [factor(step, 240, "multistep", milestones=[0.625, 0.75, 0.875]) for step in (0, 149, 150, 180, 210, 239)]
    assert steps == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])
    rise = [factor(step, 100, "one_cycle", warmup=0.25) for step in range(25)]
    assert rise == pytest.approx([(step + 1) / 26 for step in range(25)])
    assert factor(25, 100, "one_cycle", warmup=0.25) == pytest.approx(1)
    assert 0 < factor(99, 100, "one_cycle", warmup=0.25) < 0.01


def test_gain_and_gap_closed() -> None:
    told = gain(student=0.90, alone=0.80, teacher=0.95, samples=1000)
    assert told == pytest.approx({"gain": 0.10, "gap_closed": 0.10 / 0.15})


def test_gap_closed_is_not_stated_over_noise() -> None:
    standard_error = math.sqrt((0.9 * 0.1 + 0.88 * 0.12) / 100)
    assert 2 * standard_error > 0.02
    assert gain(0.91, 0.88, 0.90, samples=100)["gap_closed"] is None
    assert gain(0.91, 0.88, 0.90, samples=100_000)["gap_closed"] == pytest.approx(1.5)


def test_a_tap_gives_what_the_module_returned() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    outputs = Tapped(net, {"embedding": "1"})(torch.ones(2, 3))
    assert torch.equal(outputs.features["embedding"], net[:2](torch.ones(2, 3)))


def test_a_tap_before_an_operation_in_place_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="overwrites its output in place"):
        Tapped(net, {"stage1": "0"})(torch.ones(2, 3))
    with pytest.raises(UsageError, match="does not have"):
        Tapped(net, {"stage1": "layer9"})


def test_preparation_scales_normalises_resizes_and_repeats_channels() -> None:
    prepare = Preprocess(channels=1, size=(4, 4), mean=[0.5], std=[0.25], network_channels=3)
    images = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(prepare(images), torch.full((2, 3, 4, 4), 2.0))
    assert prepare(torch.full((2, 3, 9, 9), 255, dtype=torch.uint8)).shape == (2, 3, 4, 4)
    torch.testing.assert_close(prepare(torch.ones(1, 3, 8, 8)), torch.full((1, 3, 4, 4), 2.0))


def test_colour_becomes_grey_as_pil_does_it() -> None:
    colour = torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8)
    grey = Image.fromarray(colour.permute(1, 2, 0).numpy()).convert("L")
    ours = with_channels(colour[None].float(), 1)[0, 0]
    theirs = torch.tensor(
        list(grey.getdata() if not hasattr(grey, "get_flattened_data") else grey.get_flattened_data())
    )
    assert (ours.flatten() - theirs).abs().max() <= 1


def test_ready_reads_paths_images_and_tensors(tmp_path: Path) -> None:
    prepare = Preprocess(1, (8, 8), [0.0], [1.0], 1)
    ready = Ready(prepare, {"classes": ["a"], "size": 8})
    picture = Image.new("L", (8, 8), 51)
    picture.save(tmp_path / "x.png")
    for given in (tmp_path / "x.png", str(tmp_path / "x.png"), picture, torch.full((1, 8, 8), 51, dtype=torch.uint8)):
        torch.testing.assert_close(ready(given), torch.full((1, 1, 8, 8), 0.2))
    (tmp_path / "y.png").write_text("no image")
    with pytest.raises(UsageError, match=r"y\.png is not an image"):
        ready(tmp_path / "y.png")


def test_flops_are_twice_the_multiply_adds() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Linear(5, 2, bias=False))
    told = costs({"it": (net, torch.zeros(1, 3, 2, 2))})["it"]
    assert told["flops"] == 2 * (12 * 5 + 5 * 2)
    assert told["parameters"] == 12 * 5 + 5 * 2
    assert 0 < told["latency_p50_seconds"] <= told["latency_p95_seconds"]


@pytest.mark.parametrize(("amx", "avx512"), [(True, True), (False, True), (False, False)])
def test_precision_follows_hardware(amx: bool, avx512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert pick_precision("auto", "cpu") == ("bf16" if amx or avx512 else "fp32")
    assert pick_precision("fp32", "cpu") == "fp32"
    with pytest.raises(UsageError, match="fp16 needs a CUDA device"):
        pick_precision("fp16", "cpu")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_is_freed_is_not_asked_for_again() -> None:
    """New pages in ten steps of 64 MB, before and after: a first use of memory makes each of its pages."""
    code = """
import resource, torch
from kdrun.device import keep_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = pages()
keep_memory()
pages()  # those that are then kept
print(given_back, pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < 100 < given_back


def test_suggestions_name_what_is_close_or_what_is_allowed() -> None:
    assert suggestion("resnt152", ["resnet152", "mlp"]) == "did you mean resnet152?"
    assert suggestion("zzz", ["b", "a"]) == "allowed: a, b"
