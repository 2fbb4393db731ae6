"""What a deployed model costs: parameters, operations, bytes, time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles

import torch
from torch import Tensor, nn

ROUNDS = 3  # in each of which every model has its turn: what else the machine does falls on all of them
WARMUP, RUNS = 2, 7  # of a turn
BATCH = 32
SECONDS = 1.3  # in a turn; a slow model is timed fewer than RUNS times


def costs(models: Mapping[str, tuple[nn.Module, Tensor]]) -> dict[str, dict[str, float]]:
    """The price of each model in eval mode for an image `(1, C, H, W)` of its own, in the threads that torch has now.

    flops: 2 x multiply-adds at batch 1. size_bytes: the weights as a file. latency: at batch 1, after warm-up.
    throughput: images per second at batch 32.
    """
    single: dict[str, list[float]] = {name: [] for name in models}
    many: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for name, (model, image) in models.items():
                model.eval()
                batch = image.expand(BATCH, -1, -1, -1).contiguous()
                single[name] += _times(model, image)
                many[name] += _times(model, batch)
    return {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "flops": _flops(model, image),
            "size_bytes": _bytes(model),
            "latency_p50_seconds": median(single[name]),
            "latency_p95_seconds": quantiles(single[name], n=20, method="inclusive")[-1],
            "throughput_per_second": BATCH / median(many[name]),
        }
        for name, (model, image) in models.items()
    }


def _times(model: Callable[[Tensor], object], images: Tensor) -> list[float]:
    """Seconds of each run, the device waited for; at least one."""
    seconds: list[float] = []
    begin = time.perf_counter()
    for number in range(WARMUP + RUNS):
        start = time.perf_counter()
        model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        if number >= WARMUP:
            seconds.append(time.perf_counter() - start)
        if seconds and time.perf_counter() - begin > SECONDS:
            break
    return seconds


def _flops(model: nn.Module, image: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # imports triton: not before a training's first step

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())


def _bytes(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getbuffer().nbytes
