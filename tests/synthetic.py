"""Run directories made up for tests of their readers: in the form of docs/run-format.md, with invented numbers."""

from __future__ import annotations

import base64
import io
import json
import random
import zlib
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CLASSES = ["0", "1", "2"]


def picture() -> str:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def config(seed: int = 0, alpha: float = 0.5, temperature: float = 4.0, **more: Any) -> dict[str, Any]:
    term = {"kind": "kd", "weight": alpha, "temperature": temperature}
    own = {"kind": "cnn", "widths": [8, 16]}
    training = {"epochs": 3, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 0.1}, "select": "best"}
    loss = {"task": {"kind": "cross_entropy", "weight": round(1 - alpha, 12)}, "terms": {"kd": term}}
    known = {"stage": "distill", "seed": seed, "dataset": {"kind": "digits"}, "teacher": {"kind": "mlp"}, "model": own}
    return {**known, **training, "loss": loss, "output_dir": "outputs", **more}


def summary(accuracy: float, alone: float = 0.9, teacher: float = 0.97) -> dict[str, float]:
    sides = {"test/accuracy": accuracy, "alone/test/accuracy": alone, "teacher/test/accuracy": teacher}
    costs = {f"student/{key}": value for key, value in (("parameters", 1900), ("flops", 47360))}
    more = {"val/accuracy": accuracy - 0.01, "test/nll": 0.2, "test/ece": 0.02, "test/agreement": 0.95, "test/kl": 0.05}
    return {
        **sides,
        **costs,
        **more,
        "test/samples": 359,
        "gain": accuracy - alone,
        "student/latency_p50_seconds": 1e-4,
    }


def synthetic_run(
    folder: Path,
    name: str = "a",
    accuracy: float = 0.93,
    numbers: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
    **of_config: Any,
) -> Path:
    """A completed distillation; `info` changes what `run.json` says, `numbers` what the summary says."""
    run = folder / name
    run.mkdir(parents=True)
    own = config(**of_config)
    said = {"format": 1, "stage": "distill", "status": "completed", "fingerprint": f"{zlib.crc32(name.encode()):064x}"}
    said |= {
        "seeds": {"seed": own["seed"]},
        "data": {"name": "digits", "fingerprint": "d"},
        "started": f"2026-01-01 {name}",
    }
    said |= {"parents": [{"role": "teacher", "run": "outputs/train/t"}], "device": {"name": "cpu", "precision": "fp32"}}
    (run / "run.json").write_text(json.dumps({**said, **(info or {})}))
    (run / "config.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    (run / "summary.json").write_text(json.dumps(summary(accuracy) if numbers is None else numbers))
    draw = random.Random(name)
    lines = []
    for epoch in (1, 2, 3):
        lines.append({"epoch": epoch, "split": "val", "accuracy": accuracy - 0.1 / epoch, "nll": 0.3})
        losses = {"loss": 1 / epoch + draw.random() / 10, "loss/task": 1 / epoch, "loss/kd": 0.5 / epoch}
        lines.append({"epoch": epoch, "split": "train", "lr": 0.1, **losses, "accuracy": accuracy})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    matrix = [[100, 10, 9], [5, 110, 5], [1, 9, 110]]
    (run / "confusion.json").write_text(json.dumps({"student": matrix, "teacher": matrix, "alone": matrix}))
    shown = {
        "index": 7,
        "true": "1",
        "student": "2",
        "student_probability": 0.9,
        "teacher": "1",
        "teacher_probability": 0.8,
    }
    seen = {"count": 18, "samples": 359, "shown": [{**shown, "png": picture()}]}
    bins = {"student": [[100, 0.5, 0.6], [259, 0.97, 0.96]]}
    (run / "details.json").write_text(json.dumps({"classes": CLASSES, "calibration": bins, "disagreements": seen}))
    return run
