"""What a deployed model costs: parameters, operations, bytes, time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

WARMUP = 3
RUNS = 20
BATCH = 32
SECONDS = 4.0  # a slow model is timed fewer than RUNS times


def cost(model: nn.Module, image: Tensor) -> dict[str, float]:
    """The price of a model in eval mode for one image `(1, C, H, W)`, in the threads that torch has now.

    flops: 2 x multiply-adds at batch 1. size_bytes: the weights as a file. latency: at batch 1, after warm-up.
    throughput: images per second at batch 32.
    """
    model.eval()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    with torch.no_grad():
        counter = FlopCounterMode(display=False)
        with counter:
            model(image)
        single = _times(lambda: model(image), image.device.type)
        many = _times(lambda: model(image.expand(BATCH, -1, -1, -1).contiguous()), image.device.type)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": counter.get_total_flops(),
        "size_bytes": buffer.getbuffer().nbytes,
        "latency_p50_seconds": median(single),
        "latency_p95_seconds": quantiles(single, n=20, method="inclusive")[-1],
        "throughput_per_second": BATCH / median(many),
    }


def _times(run: Callable[[], object], device: str) -> list[float]:
    """Seconds of each run, the device waited for; at least three."""
    seconds: list[float] = []
    begin = time.perf_counter()
    for number in range(WARMUP + RUNS):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= WARMUP:
            seconds.append(time.perf_counter() - start)
        if len(seconds) >= 3 and time.perf_counter() - begin > SECONDS:
            break
    return seconds
