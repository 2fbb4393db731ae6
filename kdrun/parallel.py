"""One training in several processes: each has its part of every batch, and all take the step of the whole batch.

DDP averages gradients over the processes. That is the gradient of the whole batch where (1) the mean over a part counts
by the part's size, and (2) what compares samples with each other is given those of all processes. Where a batch is
whole, everything here is an identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdrun.processes import count
from kdrun.types import Batch, Outputs, Part

APART = 0x9E3779B97F4A7C15  # between the seeds of two processes: 2^64 over the golden ratio, as hashes use it


# ----------------------------------------------------------------------------------------------- around the terms


def weighed(loss: Tensor, batch: Batch) -> Tensor:
    """A mean over a part, with a gradient whose average over the processes is that of the mean over the batch."""
    if batch.part is None:
        return loss
    factor = len(batch.part.sizes) * batch.own / batch.whole
    return factor * loss + (1 - factor) * loss.detach()


def of_all(student: Outputs, teacher: Outputs | None, batch: Batch) -> tuple[Outputs, Outputs | None, Batch]:
    """Outputs, targets and numbers of the whole batch, in its order, the same in every process.

    Features are gathered when a term reads them; inputs stay those of the part.
    """
    part = batch.part
    if part is None:
        return student, teacher, batch
    targets = None if batch.targets is None else gathered(batch.targets, part)
    whole = replace(batch, targets=targets, index=gathered(batch.index, part), part=None)
    return _outputs(student, part), None if teacher is None else _outputs(teacher, part), whole


def gathered(own: Tensor, part: Part) -> Tensor:
    """What all processes have, `(whole, …)`, of `(own or more, …)`.

    Every process computes the same loss of it, so each knows the gradient of its own part without being told; times
    the number of processes, since DDP averages.
    """
    found: Tensor = _Gather.apply(own[: part.sizes[part.number]], part)
    return found


def _outputs(outputs: Outputs, part: Part) -> Outputs:
    return Outputs(gathered(outputs.logits, part), _Features(outputs.features, part))


class _Features(Mapping[str, Tensor]):
    """The features of all processes, by tap. All processes read the same ones in the same order."""

    def __init__(self, own: Mapping[str, Tensor], part: Part) -> None:
        self.own, self.part = own, part

    def __getitem__(self, tap: str) -> Tensor:
        return gathered(self.own[tap], self.part)

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, part: Part) -> Tensor:
        ctx.part = part
        padded = own.new_zeros(max(part.sizes), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in part.sizes]
        dist.all_gather(found, padded)
        return torch.cat([one[:size] for one, size in zip(found, part.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        sizes = ctx.part.sizes
        return gradients[0].split(sizes)[ctx.part.number] * len(sizes), None


@contextmanager
def own_numbers(batch: Batch) -> Iterator[None]:
    """Inside, each process draws its own random numbers (dropout); afterwards all go on with the same ones."""
    if batch.part is None:
        yield
        return
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        if batch.part.number:  # the first one draws as a single process does
            torch.manual_seed((torch.initial_seed() + batch.part.number * APART) % 2**63)
        yield


# ------------------------------------------------------------------------------------------------ around the steps


def parallel(learner: nn.Module, phases: bool) -> nn.Module:
    """The learner as the engine calls it: itself, or with its gradients averaged over the processes as they are made.

    Buffers are not sent around: those of a term follow from the whole batch and are the same everywhere, and those of
    a batch norm are used in evaluation alone (see `same_buffers`). With `phases` some parameters are idle in each.
    """
    if count() == 1:
        return learner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what is to replace `broadcast_buffers` sends them at the start
        return nn.parallel.DistributedDataParallel(
            _Losses(learner), broadcast_buffers=False, find_unused_parameters=phases
        )


class _Losses(nn.Module):
    """A learner through whose losses alone gradients come: DDP waits for those of everything that has one."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch, teacher: Outputs | None) -> tuple[Outputs, dict[str, Tensor]]:
        outputs, losses = self.learner(batch, teacher)
        return Outputs(outputs.logits.detach()), losses


def silent(module: nn.Module, until_later: bool) -> AbstractContextManager[None]:
    """Inside, gradients stay where they are made, when more are to be added to them before the step."""
    if until_later and isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def averaged(values: Tensor) -> Tensor:
    """The mean over the processes."""
    return values if count() == 1 else summed(values.contiguous()) / count()


def summed(values: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    if count() > 1:
        dist.all_reduce(values)
    return values


def same_buffers(model: nn.Module) -> None:
    """Give the model the first process's statistics of batch norms, so that all evaluate one model."""
    if count() > 1:
        for norm in norms(model):
            for buffer in norm.buffers():
                dist.broadcast(buffer, src=0)


def norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms that keep statistics."""
    return [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def kind_of_norms(model: nn.Module) -> str:
    """`synchronised` where they take their statistics from the whole batch, `local` where from a process's part."""
    return "synchronised" if all(isinstance(one, nn.SyncBatchNorm) for one in norms(model)) else "local"


def synchronised(learner: nn.Module, device: str) -> None:
    """On CUDA, where torch can, every batch norm takes its statistics from the whole batch."""
    if device == "cuda" and count() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(learner)
