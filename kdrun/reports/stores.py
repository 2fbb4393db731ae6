"""Stores of teacher outputs, a line each."""

from __future__ import annotations

from datetime import datetime

from kdrun.errors import brief
from kdrun.records.store import Kept


def line(kept: Kept) -> str:
    store = kept.store
    spec = store.key.get("spec") or {}
    options = spec.get("options") or {}
    augment = ", ".join(name for name, _ in store.key.get("augment") or []) or "no augmentation"
    shown = "test split" if store.key.get("split") == "test" else augment
    used = datetime.fromtimestamp(kept.used).strftime("%Y-%m-%d %H:%M")
    what = options.get("name") or "-".join(
        [str(spec.get("kind")), *(str(options[k]) for k in ("depth",) if k in options)]
    )
    return brief(
        f"{store.path}  {what}  {len(kept.views)} views of {store.shape[0]:,} samples x {store.shape[1]:,} classes, "
        f"{shown}, {store.key.get('type')}, {kept.size / 1e6:,.1f} MB, used {used}",
        1000,
    )
