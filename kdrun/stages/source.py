"""A teacher's answers to what a training shows it: live, or from the store, which is filled first."""

from __future__ import annotations

import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun import assembly, processes
from kdrun.datasets import hashing, views
from kdrun.datasets.split import Data
from kdrun.engine import Answer
from kdrun.errors import UsageError
from kdrun.learner import Learner
from kdrun.models.building import build
from kdrun.pairing import EMBEDDING
from kdrun.progress import counted
from kdrun.records.lock import one_at_a_time
from kdrun.records.runs import read_info
from kdrun.records.store import Store, weights_fingerprint
from kdrun.schema import Plain
from kdrun.stages.common import arithmetic, use_device
from kdrun.stages.quality import Reference
from kdrun.stages.teacher import Taught, asked, find_teacher
from kdrun.teachers.stored import StoredTeacher, answers
from kdrun.types import Batch

BATCH = 256  # of the canonical pass: part of the key, since the last bits of a logit depend on it
log = logging.getLogger("kdrun")


def outputs_before(unfinished: Path | None) -> str | None:
    """How the teacher was asked in the attempts before: what is stored since then does not change a run half-way."""
    if unfinished is None or not (unfinished / "run.json").exists():
        return None
    before: str | None = read_info(unfinished).get("teacher_outputs")
    return before if before in ("live", "stored") else None


class Source:
    """One teacher's answers for one training: live, or from the store."""

    def __init__(self, config: Plain, data: Data, teacher: Taught) -> None:
        self.config, self.teacher = config, teacher
        self.live, self.way = asked(teacher, config, data, data.train.index.device.type)
        self.loader = assembly.train_loader(config, data)
        self.index = data.train.index.sort().values
        self.views = sorted({self.loader.view(epoch) for epoch in range(config["epochs"])})
        self.storable = not assembly.reads_features(config)
        self.store = self.store_of(data)

    def serve(self, learner: Learner, data: Data, probe: Tensor) -> None:
        """Said once the loss is built: one that reads a vector before the classifier can be served from a store."""
        if not assembly.reads_features(self.config) or assembly.teacher_taps(learner) != {EMBEDDING}:
            return
        with torch.no_grad():
            embedding = self.live.model(probe).features[EMBEDDING]
        if embedding.dim() == 2:
            self.storable, self.live.kept_features = True, {EMBEDDING: embedding.shape[1]}
            self.store = self.store_of(data)

    def store_of(self, data: Data) -> Store:
        """Where the answers to the views of the training split are kept, or would be."""
        moving = self.loader.views.moving
        return self._store(
            data,
            self.index,
            augment=[[name, options] for name, options in self.config["augment"].items()],
            view_seed=self.config["dataset"]["view_seed"] if moving else None,
            view_code=self._view_code() if moving else None,
            batch_size=BATCH,
        )

    def store_of_test(self, data: Data) -> Store:
        """Where those to the test split are, which has one view."""
        same: Plain = {"augment": [], "view_seed": None, "view_code": None}
        return self._store(data, data.test.index, split="test", batch_size=assembly.EVALUATION_BATCH, **same)

    def _store(self, data: Data, index: Tensor, **seen: Any) -> Store:
        folder = Path(self.config["output_dir"]) / "store"
        key = processes.told(lambda: {**self._key(data), "samples": weights_fingerprint({"index": index}), **seen})
        return Store.of(folder, key, (len(index), len(data.classes)))  # told, since hosts may differ in threads

    def choose(self, shared: bool = False) -> str:
        """`live` or `stored`. Raises `UsageError` when stored is asked for and views cannot be."""
        asked = self.config["teacher"]["outputs"]
        if asked == "stored" and not self.storable:
            raise UsageError(
                "teacher.outputs=stored: a term of this loss reads the teacher's stages, and only logits and the "
                "embedding are stored; use teacher.outputs=auto"
            )
        if asked == "live" or not self.storable:
            return "live"
        if not self.loader.views.storable:
            if asked == "stored":
                raise UsageError(
                    "teacher.outputs=stored: streamed images are mixed within their batch, so that a view of one is no "
                    "function of it; use teacher.outputs=live, or a larger dataset.cache_gb"
                )
            return "live"
        fits = len(self.views) * self.store.view_bytes <= self.config["store"]["max_gb"] * 1e9
        pays = shared or len(self.views) < self.config["epochs"]
        return "stored" if asked == "stored" or (fits and (pays or not self.store.missing(self.views))) else "live"

    def answers(self, how: str) -> Answer:
        """The teacher to train with; the store is filled first where it has to be."""
        if how == "live":
            return self.live
        self.fill()
        read = {view: self.store.read(view) for view in self.views}
        return StoredTeacher(read, self.index, self.live.fingerprint)

    def reference(self, how: str, data: Data) -> Reference:
        """The teacher whose answers to the test split a model's are compared with: live, or asked once for all runs."""
        store = self.store_of_test(data)
        if how == "live":
            return Reference(self.live, store.key)
        loader = assembly.plain_loader(self.config, data.test)
        self._fill(store, {0: "test split"}, lambda _: iter(loader), len(loader))
        return Reference(StoredTeacher({0: store.read(0)}, data.test.index, self.live.fingerprint), store.key)

    def fill(self) -> None:
        """Ask the teacher for every view that is not stored yet."""
        total = -(-len(self.index) // (BATCH * processes.count()))
        names = {view: f"view {view}" for view in self.views}
        self._fill(self.store, names, lambda view: self.loader.ascending(view, BATCH), total)
        log.info("teacher: its outputs for %d views are in %s", len(self.views), self.store.path)

    def _fill(
        self, store: Store, views: Mapping[int, str], shown: Callable[[int], Iterator[Batch]], total: int
    ) -> None:
        """Store those of the named views that are missing, `total` batches each. Of several processes one does."""
        waiting = f"teacher: another process is storing its outputs in {store.path}; waiting"
        with one_at_a_time(store.path.parent, store.path.name, waiting):
            missing = processes.told(lambda: store.missing(list(views)))
            if missing:
                _tell_size(store, len(missing))
            for view in missing:
                if not processes.told(partial(store.missing, [view])):
                    continue  # stored meanwhile by a run that the lock does not keep out
                batches = shown(view)
                if view == missing[0]:
                    batches = _tell_time(batches, total * len(missing))
                found = answers(self.live, counted(batches, total, f"teacher, {views[view]}"))
                if found is not None:
                    store.write(view, found)
        processes.told(store.used)  # not before the first one has written everything

    def _key(self, data: Data) -> Plain:
        """Everything that changes a stored logit, but for what is shown to the teacher."""
        live = self.live
        return {
            "weights": self.teacher.weights,
            "spec": self.teacher.model.spec,
            "taps": {name: {"at": live.model.taps[name], "width": width} for name, width in live.kept_features.items()},
            "data": data.fingerprint,
            "top_k": self.teacher.top_k,
            "type": "float32" if live.precision == "fp32" else "float16",
            "folded": self.way.folded,
            "compiled": self.way.compiled,
            **arithmetic(self.teacher.model.spec, live.device, live.precision),
        }

    def _view_code(self) -> str:
        """sha256 of the code that makes views: a change of it makes other views."""
        used = self.loader.views.single + self.loader.views.mixing
        sources = [inspect.getsource(module) for module in (views, hashing, *(module for _, module, _ in used))]
        return hashlib.sha256("\n".join(sources).encode()).hexdigest()


def _tell_size(store: Store, count: int) -> None:
    size, samples = count * store.view_bytes / 1e6, f"{store.shape[0]:,}"
    what = "the test split's" if store.key.get("split") == "test" else f"{count} views of"
    log.info("teacher: storing its outputs for %s %s samples: %.1f MB", what, samples, size)


def _tell_time(batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    """The batches; how long all of them will take is told as soon as one is answered."""
    begin = time.monotonic()
    for number, batch in enumerate(batches):
        if number == 1:
            log.info("teacher: that takes about %.0f s", (time.monotonic() - begin) * total)
        yield batch


def fill_store(config: Plain) -> Store:
    """Store the outputs of a distillation's teacher, so that runs find them. Raises `UsageError` as `Source.choose`."""
    source = source_of(config)
    source.choose()
    source.fill()
    return source.store


def source_of(config: Plain) -> Source:
    """The teacher of a distillation, found or made, as its training would ask it."""
    device = use_device(config)
    data = assembly.read_data(config)
    teacher = find_teacher(config, data, device)
    resident = assembly.on_device(data, device)
    source = Source(config, resident, teacher)
    student = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"])
    probe = assembly.probe_images(resident)
    source.serve(assembly.learner(config, student, source.live.model, probe, resident.train), resident, probe)
    return source
