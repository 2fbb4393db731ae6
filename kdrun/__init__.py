"""kdrun: knowledge distillation from the command line, with numbers that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdrun.deployed import Loaded

__version__ = "0.1.0"


def load(path: str | Path, device: str = "cpu") -> Loaded:
    """A trained model and its preprocessing, from a run directory or a model file.

    Returns `(model, preprocess)`: `preprocess(image)` turns a PIL image or a path into a float tensor `(1, C, H, W)`,
    `model(tensor)` gives logits `(1, classes)`; `.classes` of the result holds the class names.
    """
    from kdrun.deployed import load as load_model  # torch is imported here, not when kdrun is

    return load_model(path, device)
