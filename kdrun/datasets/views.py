"""Views: augmented versions of samples, as a pure function of (view seed, view number, sample number).

Teacher and student see exactly the same view (Beyer et al. 2021, 2106.05237), and the same call gives the same view
whatever the batch order, the number of workers or an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdrun.datasets.hashing import Draw
from kdrun.datasets.raw import Files
from kdrun.datasets.split import Split

Augmentation = tuple[str, ModuleType, dict[str, Any]]  # name, module, options


class Views:
    """The views of a training split. Augmentations of one image apply in the order given, a mixing one after them."""

    def __init__(self, train: Split, classes: int, seed: int, augmentations: Sequence[Augmentation]) -> None:
        self.train, self.classes, self.seed = train, classes, seed
        self.single = [one for one in augmentations if hasattr(one[1], "apply")]
        self.mixing = [one for one in augmentations if hasattr(one[1], "mix")]

    @property
    def moving(self) -> bool:
        """Does one view of a sample differ from another?"""
        return bool(self.single or self.mixing)

    @property
    def storable(self) -> bool:
        """Is a view a function of its sample alone? Streamed images are mixed within their batch."""
        return not (self.mixing and isinstance(self.train.pixels, Files))

    def __call__(self, index: Tensor, images: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """View number `view` of the samples: images like those given, and targets.

        Targets are class numbers `(B,)`, or `(B, C)` float where images are mixed.
        """
        targets = self.train.targets[index]
        images = self._alone(index, images, view)
        for name, module, options in self.mixing:
            draw = Draw(self.seed, view, index).within(name)
            partner, partners = self._partners(draw, index, images, view)
            images, share = module.mix(images, partners, draw, **options)
            first, second = (F.one_hot(t, self.classes).float() for t in (targets, self.train.targets[partner]))
            return images, share[:, None] * first + (1 - share[:, None]) * second
        return images, targets

    def _alone(self, index: Tensor, images: Tensor, view: int) -> Tensor:
        draw = Draw(self.seed, view, index)
        for name, module, options in self.single:
            images = module.apply(images, draw.within(name), **options)
        return images

    def _partners(self, draw: Draw, index: Tensor, images: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """Partners from the whole training split, each in its own view; from the batch where images are streamed."""
        if isinstance(self.train.pixels, Files):
            return index.roll(1), images.roll(1, dims=0)
        partner = self.train.index[draw.below("partner", len(self.train))]
        pixels = self.train.pixels[partner.to(self.train.pixels.device)].to(partner.device)
        return partner, self._alone(partner, pixels, view)
