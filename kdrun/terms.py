"""The terms that a loss can have, by kind: what `conf/loss/*.yaml` say of them. No torch.

A YAML is either convex and written short (`kind`, `alpha` and the term's options) or has its `terms` written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdrun.lookup import conf_dir
from kdrun.records.foreign import read_yaml

WEIGHTS = [0.0, 1.0e6]  # the limits of a convex term's weight, once it is written out
SHAPES = ["linear", "cosine"]


def kinds(folders: Sequence[Path] = ()) -> dict[str, dict[str, Any]]:
    """The node of a term of each kind, as it stands in `loss.terms.<name>`: kind, weight, options and `limits`.

    `folders` are those of `--config-dir`.
    """
    files = [file for folder in (conf_dir(), *folders) for file in sorted((folder / "loss").glob("*.yaml"))]
    found = [(node["kind"] == file.stem, node) for file in files for node in _nodes(_read(file))]
    own_last = sorted(found, key=lambda one: one[0])  # a kind's own file says its defaults, where others use it too
    return {node["kind"]: node for _, node in own_last}


def course_schema(default: float, limit: list[float] | None) -> dict[str, Any]:
    """What a number that changes while training is written as: `{from: 8, to: 1, shape: cosine, until: 0.5}`."""
    limits: dict[str, Any] = {"shape": SHAPES, "until": [0.0, 1.0]}
    if limit is not None:
        limits |= {"from": limit, "to": limit}
    return {"from": default, "to": default, "shape": SHAPES[0], "until": 1.0, "limits": limits}


def _nodes(option: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "kind" in option:
        own = {key: value for key, value in option.items() if key not in ("kind", "alpha", "task", "limits")}
        limits = {key: limit for key, limit in (option.get("limits") or {}).items() if key != "alpha"}
        weight = option.get("alpha", 1.0)
        yield {"kind": option["kind"], "weight": weight, **own, "limits": {"weight": WEIGHTS, **limits}}
    for name, node in (option.get("terms") or {}).items():
        yield {"kind": name, **node}


@cache
def _read(file: Path) -> dict[str, Any]:
    return read_yaml(file)
