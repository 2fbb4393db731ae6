"""A trained model, ready to answer: what `kdrun.load` and `kdrun predict` use."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from kdrun.datasets.raw import centre, open_image
from kdrun.errors import UsageError
from kdrun.models.building import Spec
from kdrun.models.prepared import Preprocess
from kdrun.records.models import load_model


class Loaded(NamedTuple):
    """A trained network and what turns an image into its input."""

    model: nn.Module
    preprocess: Ready

    @property
    def classes(self) -> list[str]:
        return self.preprocess.classes


class Ready:
    """`preprocess(image)`: a PIL image, a path, or uint8 pixels `(C, H, W)`, to a float tensor `(1, C, H, W)`."""

    def __init__(self, preprocess: Preprocess, spec: Spec) -> None:
        self.preprocess, self.classes, self.size = preprocess, list(spec["classes"]), spec["size"]
        self.resize = spec.get("resize")

    def __call__(self, image: Image.Image | str | Path | Tensor) -> Tensor:
        """Raises `UsageError` when a path is no readable image, or a tensor is no uint8 pixels."""
        with torch.no_grad():
            return self.preprocess(self.pixels(image).unsqueeze(0).to(self.preprocess.mean.device))

    def pixels(self, image: Image.Image | str | Path | Tensor) -> Tensor:
        if isinstance(image, Tensor):
            if image.dtype != torch.uint8 or image.dim() != 3:
                given = f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
                raise UsageError(f"pixels must be uint8 (C, H, W), from 0 to 255, not {given}; one image at a time")
            return image
        if isinstance(image, Image.Image):
            shorter = min(image.size)
            return centre(image, self.resize, self.size) if self.resize else centre(image, shorter, shorter)
        try:
            with open_image(image) as opened:
                return self.pixels(opened)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"{image} is not an image that can be read: {error}") from error


def load(path: str | Path, device: str = "cpu") -> Loaded:
    """See `kdrun.load`."""
    model = load_model(Path(path))
    net = model.net.to(device)
    return Loaded(net.net, Ready(net.preprocess, model.spec))
