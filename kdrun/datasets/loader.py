"""Batches in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdrun import processes, stopping
from kdrun.datasets.raw import Files, Pixels
from kdrun.datasets.split import Split
from kdrun.datasets.views import Views
from kdrun.errors import KdrunError
from kdrun.types import Batch, Part


class TrainLoader:
    """Epochs of a training split: the order is a function of (seed, epoch), the views of (view seed, epoch).

    `balance` draws every class equally often; an epoch then still has about as many samples as the split. With
    `cycle` views, epoch e shows view e modulo that; otherwise each epoch shows a new one.
    """

    def __init__(
        self,
        split: Split,
        views: Views,
        batch_size: int,
        *,
        seed: int,
        balance: bool = False,
        cycle: int | None = None,
        workers: int = 0,
    ) -> None:
        self.split, self.views, self.batch_size = split, views, batch_size
        self.seed, self.balance, self.cycle, self.workers = seed, balance, cycle, workers

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(chunks(self._order(0), self.batch_size))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch `start` on: of each, the part that this process has."""
        index = self.split.index.cpu()[self._order(number)].to(self.split.index.device)
        dealt = [deal(batch) for batch in chunks(index, self.batch_size)[start:]]
        yield from self._batches([rows for rows, _ in dealt], [part for _, part in dealt], self.view(number))

    def view(self, epoch: int) -> int:
        """The number of the view that an epoch shows; without augmentation all views are one."""
        if not self.views.moving:
            return 0
        return epoch if self.cycle is None else epoch % self.cycle

    def ascending(self, view: int, batch_size: int) -> Iterator[Batch]:
        """One view of every sample in ascending order, so that what is computed of it depends on no batch order.

        Where there are several processes, each has its share of the batches.
        """
        batches = processes.mine(self.split.index.split(batch_size))
        yield from self._batches(batches, [None] * len(batches), view)

    def _batches(self, batches: Sequence[Tensor], parts: Sequence[Part | None], view: int) -> Iterator[Batch]:
        for rows, part, images in zip(batches, parts, fetch(self.split.pixels, batches, self.workers), strict=True):
            inputs, targets = self.views(rows, images.to(rows.device, non_blocking=True), view=view)
            yield Batch(inputs, targets, rows, view=view, part=part)

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        if not self.balance:
            return torch.randperm(len(self.split), generator=generator)
        of_class = self.split.targets[self.split.index].cpu()
        present = of_class.unique()
        each = len(self.split) // len(present)
        drawn = [_repeated(torch.nonzero(of_class == number).flatten(), each, generator) for number in present]
        everything = torch.cat(drawn)
        return everything[torch.randperm(len(everything), generator=generator)]


class PlainLoader:
    """A split in ascending order, without augmentation: for evaluation. Of several processes each has some batches."""

    def __init__(self, split: Split, batch_size: int, workers: int = 0) -> None:
        self.split, self.workers = split, workers
        self.batches = processes.mine(chunks(split.index, batch_size))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for rows, images in zip(self.batches, fetch(self.split.pixels, self.batches, self.workers), strict=True):
            yield Batch(images.to(rows.device, non_blocking=True), self.split.targets[rows], rows)


def chunks(order: Tensor, size: int) -> list[Tensor]:
    """Consecutive batches; a last batch of one joins the one before, since batch norm cannot train on one sample."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def deal(batch: Tensor) -> tuple[Tensor, Part | None]:
    """The samples of a batch that this process has, in its order; all of them where it is alone.

    Parts are neighbours, as equal as can be, and none has one sample alone (see `chunks`): of a small last batch some
    processes have none. They compute with its first samples, which then count for nothing.
    """
    several = processes.count()
    if several == 1:
        return batch, None
    parts = chunks(batch, max(2, -(-len(batch) // several)))
    sizes = [len(part) for part in parts] + [0] * (several - len(parts))
    number = processes.number()
    return parts[number] if sizes[number] else batch[:2], Part(number, tuple(sizes))


def fetch(pixels: Pixels, batches: Sequence[Tensor], workers: int) -> Iterator[Tensor]:
    """The images of each batch, where the pixels are: rows of a tensor, or files decoded ahead by worker processes.

    On the way to CUDA they lie in pinned memory, so that the copy runs beside the computation.
    """
    pinned = any(batch.device.type == "cuda" for batch in batches)
    if isinstance(pixels, Files):
        rows: Dataset[Any] = _Decoded(pixels, [batch.cpu() for batch in batches])
        own = torch.Generator()  # a DataLoader draws a seed it does not need, and must not take it from dropout's
        try:
            decoded = DataLoader(
                rows,
                batch_size=None,
                num_workers=workers,
                pin_memory=pinned,
                generator=own,
                worker_init_fn=stopping.linger,
                multiprocessing_context=_context(workers),
            )
            with stopping.deferred():  # what is raised while a process forks is printed, and lost
                images = iter(decoded)
            try:
                yield from images
            finally:
                if workers:  # by hand: the garbage collector would close their queues first, and then wait for them
                    images._shutdown_workers()  # type: ignore[attr-defined]
        except KdrunError as error:  # a worker's error arrives with the worker's traceback in its text
            raise KdrunError(str(error).strip().rsplit("KdrunError: ", 1)[-1]) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise KdrunError(
                f"a process that reads images has died ({str(error).splitlines()[0]}); the system may be short of "
                "memory: lower batch_size or dataset.workers"
            ) from error
    else:
        for batch in [batch.to(pixels.device) for batch in batches]:  # all before the first: no step waits for them
            taken = pixels[batch]
            yield taken.pin_memory() if pinned and not taken.is_cuda else taken


def _context(workers: int) -> str | None:
    """Workers are forked where that is possible: to import torch anew, in each epoch, would take seconds."""
    return "fork" if workers and "fork" in torch.multiprocessing.get_all_start_methods() else None


class _Decoded(Dataset[Tensor]):
    """One item per batch. Decoding is pure, so that the number of workers changes nothing."""

    def __init__(self, files: Files, batches: Sequence[Tensor]) -> None:
        self.files, self.batches = files, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        return self.files[self.batches[number]]


def _repeated(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the rows, each used once before any is used twice."""
    times = -(-count // len(rows))
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for _ in range(times)])[:count]
