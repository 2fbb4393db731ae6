"""What bf16, and convolutions whose gradients are kdrun's own, do to the step of a network on this processor.

Every step is forward, backward and SGD's update of one network on a batch that lies ready, on one thread; the four ways
take turns, and figures are medians.

    python scripts/convolutions_table.py [--rounds 7] [--write]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench_jobs import images
from tables import ROOT, put, where_made
from torch import Tensor, nn

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.device import autocast, keep_memory, place
from kdrun.models.building import build
from kdrun.models.convolutions import with_faster_convolutions

PAGE = ROOT / "docs" / "performance.md"
NETWORKS = [  # name, pixels, batch
    ("resnet20", 32, 64),
    ("wrn_16_2", 32, 64),
    ("cifar_mobilenet_v2_half", 32, 64),
    ("resnet50", 224, 8),
    ("vit_b_32", 224, 8),
    ("mobilenet", 224, 16),
    ("mobilenet_v3_small", 224, 16),
    ("mobilenet_v3_large", 224, 16),
    ("efficientnet_b0", 224, 16),
    ("mnasnet1_0", 224, 16),
    ("shufflenet_v2_x1_0", 224, 16),
    ("convnext_tiny", 224, 8),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    lines = [
        "| network, pixels, batch | fp32, torch's | fp32, kdrun's | bf16, torch's | bf16, kdrun's |",
        "|---|---|---|---|---|",
    ]
    for name, size, batch in NETWORKS:
        times = step_times(name, size, batch, options.rounds)
        first = next(iter(times.values()))
        cells = [f"{1000 * first:.0f} ms", *(f"{other / first:.2f}" for other in list(times.values())[1:])]
        lines.append(f"| {name}, {size}, {batch} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + (
        f"\n\nA step of training on one thread: its time with torch's convolutions in fp32, and that of the others as "
        f"a part of it; medians of n = {options.rounds}, taking turns. {where_made('convolutions_table')}"
    )
    print(text)
    if options.write:
        put(PAGE, "convolutions", text)


def step_times(name: str, size: int, batch: int, rounds: int) -> dict[str, float]:
    """Seconds of a step, by way."""
    config = stage_config("train", [f"model={name}", "dataset=cifar100"])
    data = images(batch, size)
    net = build(assembly.model_spec(config["model"], data, config["dataset"])).net.net
    ready = data.train.pixels.float() / 255, data.train.targets
    steps = {
        f"{precision}, {own}": step(net, *ready, precision, own == "kdrun")
        for precision in ("fp32", "bf16")
        for own in ("torch", "kdrun")
    }
    times: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(rounds + 1):
        for way, one in steps.items():
            begin = time.perf_counter()
            one()
            if number:  # what a first step makes ready is not counted
                times[way].append(time.perf_counter() - begin)
    return {way: statistics.median(found) for way, found in times.items()}


def step(net: nn.Module, pixels: Tensor, labels: Tensor, precision: str, own: bool) -> Callable[[], None]:
    student = place(copy.deepcopy(net), "cpu", precision).train()
    if own:
        with_faster_convolutions(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def once() -> None:
        with autocast("cpu", precision):
            logits = student(pixels)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return once


if __name__ == "__main__":
    main()
