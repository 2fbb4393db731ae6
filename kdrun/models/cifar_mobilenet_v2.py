"""MobileNetV2 for 32-pixel images at a fraction of its width (Sandler et al. 2018, 1801.04381, as trained in the
distillation literature, Tian et al. 2020, 1910.10699): stride 1 in the second stage."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.models.initialise import kaiming

# channels, blocks, stride of the first block
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
LAST = 1280


def input_size(size: int, width: float, expansion: int, min_size: int) -> int:
    return max(size, min_size)


def build(classes: int, channels: int, size: int, width: float, expansion: int, min_size: int) -> nn.Module:
    now = int(32 * width)
    layers: list[nn.Module] = [_conv(channels, now, 3, stride=2)]
    for number, (outputs, blocks, stride) in enumerate(STAGES):
        outputs = int(outputs * width)
        for block in range(blocks):
            first_stage = number == 0
            layers.append(InvertedResidual(now, outputs, stride if block == 0 else 1, 1 if first_stage else expansion))
            now = outputs
    last = int(LAST * width) if width > 1 else LAST
    layers += [_conv(now, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
    model = nn.Sequential(*layers)
    kaiming(model)
    return model


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            _conv(inputs, wide, 1),
            _conv(wide, wide, 3, stride=stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())
