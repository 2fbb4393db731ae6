"""Which device computes, and in which precision."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

from kdrun import processes
from kdrun.errors import UsageError

Module = TypeVar("Module", bound=nn.Module)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST = 2**31 - 1  # bytes


def pick_device(name: str) -> str:
    """The device to use: `auto` is cuda, then mps, then cpu. Raises `UsageError` for one that is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[name]:
        found = ", ".join(kind for kind, here in present.items() if here)
        raise UsageError(f"device={name}: there is none on this machine; found: {found}; use device=auto")
    return name


def pick_precision(asked: str, device: str) -> str:
    """The precision of forward and backward: fp32, bf16 or fp16. `auto` follows a rule, never a timing.

    bf16 where the hardware multiplies it natively: on CUDA from compute capability 8, on a CPU with AMX tiles or with
    AVX-512's instructions for it. Everything else is fp32.
    """
    if asked == "fp16" and device != "cuda":
        raise UsageError(f"device.precision=fp16 needs a CUDA device, not {device}; use bf16, fp32 or auto")
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device == "cpu" and bf16_instructions() else "fp32"


def bf16_instructions() -> str | None:
    """With which this processor multiplies it. AVX-512's do twice the work of float32's, AMX's more."""
    return "AMX" if torch.cpu._is_amx_tile_supported() else "AVX-512" if torch.cpu._is_avx512_bf16_supported() else None


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """The context in which a forward pass runs at `precision`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device, dtype=dtype, enabled=precision != "fp32")


def place(model: Module, device: str, precision: str) -> Module:
    """The model on its device, in the memory layout in which its convolutions are fastest there.

    On a CPU that is channels last, in every precision (0.7 to 1.05 of the time of a step, most often 0.85); on CUDA in
    half precision only. Other layouts sum in another order: last bits differ.
    """
    model.to(device)
    return model.to(memory_format=torch.channels_last) if layout(device, precision) == torch.channels_last else model


def layout(device: str, precision: str) -> torch.memory_format:
    last = device == "cpu" or (device == "cuda" and precision != "fp32")
    return torch.channels_last if last else torch.contiguous_format


def check_compiler(device: str) -> None:
    """Raise `UsageError` when there is nothing that `torch.compile` could make machine code with."""
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if device == "cpu" and not any(shutil.which(name) for name in compilers if name):
        raise UsageError(
            "device.compile=true: there is no C++ compiler here, which torch.compile needs on a CPU; install one "
            "(g++ or clang++), or use device.compile=false"
        )


def compile_module(module: nn.Module, device: str) -> None:
    """From its first call on, run a module as machine code made for it; on CUDA as one graph of all its kernels, unless
    some of them are what processes tell each other."""
    module.compile(mode="reduce-overhead" if device == "cuda" and processes.count() == 1 else None)


def room_for_data(device: str) -> float:
    """Bytes that each split's pixels may take on the device: a quarter of what is free on CUDA, anything elsewhere."""
    return torch.cuda.mem_get_info()[0] / 4 if device == "cuda" else float("inf")


def seed_all(device: str, seed: int, epoch: int, step: int) -> None:
    """Random numbers (dropout) as a function of where the training stands: there is no state to remember.

    `torch.manual_seed` would do, but costs as much as a small model's step where there is no CUDA.
    """
    number = ((seed * 1_000_003 + epoch) * 1_000_003 + step) % 2**63
    torch.default_generator.manual_seed(number)
    if device == "cuda":
        torch.cuda.manual_seed(number)
    elif device == "mps":
        torch.mps.manual_seed(number)


def make_deterministic(device: str) -> None:
    """Ask for deterministic algorithms; what has none on CUDA warns and is recorded as a promise not made."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # nothing here reads what it has not written
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_memory() -> None:
    """Have the process keep the memory that it frees. Only glibc can be told so; elsewhere nothing is done.

    Each step of a training frees its activations and asks for as much again. glibc hands so large pieces back to the
    system, which clears every page before it gives it out again: at 224 px a fifth of a step's time.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, MOST)
        library.mallopt(M_TRIM_THRESHOLD, MOST)
