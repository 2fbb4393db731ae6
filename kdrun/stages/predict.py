"""predict: the likeliest classes of images, by a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdrun.deployed import load


def predict(run: Path, images: Sequence[Path], top_k: int) -> list[tuple[Path, list[tuple[str, float]]]]:
    """For each image its `top_k` classes with probabilities, likeliest first. Raises `UsageError`."""
    model, preprocess = loaded = load(run)
    answers = []
    for path in images:
        with torch.no_grad():
            probabilities = model(preprocess(path)).softmax(dim=1)[0]
        best = probabilities.topk(min(top_k, len(loaded.classes)))
        named = [(loaded.classes[c], p) for p, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        answers.append((path, named))
    return answers
