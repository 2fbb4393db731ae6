"""VGG with batch norm for small images: five stages, one linear layer on the pooled map (Simonyan, Zisserman 2014,
1409.1556, as trained in the distillation literature, Tian et al. 2020, 1910.10699)."""

from __future__ import annotations

from torch import nn

from kdrun.errors import UsageError
from kdrun.models.initialise import kaiming

CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


def input_size(size: int, min_size: int, depth: int) -> int:
    return max(size, min_size)


def build(classes: int, channels: int, size: int, depth: int, min_size: int) -> nn.Module:
    if depth not in CONVOLUTIONS:
        raise UsageError(f"there is no VGG of depth {depth}; allowed: {', '.join(map(str, CONVOLUTIONS))}")
    stages: list[nn.Module] = []
    for number, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True)):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        stages.append(nn.Sequential(*layers))
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    kaiming(model)
    return model
