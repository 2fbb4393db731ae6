"""Wide residual networks for small images (Zagoruyko, Komodakis 2016, 1605.07146): pre-activation blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.errors import UsageError
from kdrun.models.initialise import kaiming


def build(classes: int, channels: int, size: int, depth: int, width: int, dropout: float) -> nn.Module:
    if (depth - 4) % 6:
        raise UsageError(f"a wide ResNet has 6n + 4 layers, not {depth}; allowed: 10, 16, 22, 28, 34, 40, …")
    return WideResNet(classes, channels, (depth - 4) // 6, width, dropout)


class WideResNet(nn.Module):
    def __init__(self, classes: int, channels: int, blocks: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, 16 * width, blocks, 1, dropout)
        self.stage2 = _stage(16 * width, 32 * width, blocks, 2, dropout)
        self.stage3 = _stage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.conv1(x))))
        return self.fc(F.relu(self.bn(x)).mean(dim=(2, 3)))


class PreActivationBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y = F.relu(self.bn2(self.conv1(active)))
        y = self.conv2(F.dropout(y, self.dropout, self.training))
        return y + (x if self.shortcut is None else self.shortcut(active))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride, dropout)
    return nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))
