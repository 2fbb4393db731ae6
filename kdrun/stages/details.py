"""What is kept of a measurement beyond its numbers: samples that a student and its teacher see differently."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kdrun import processes
from kdrun.datasets.split import Split
from kdrun.engine import Answer
from kdrun.types import Batch, Inputs, Outputs

MOST_PICTURES, LARGEST_PICTURE = 12, 64  # how many, and pixels of a side


class Noted(nn.Module):
    """A model and its teacher whose answers are noted in passing, so that no sample is looked at twice."""

    def __init__(self, model: nn.Module, teacher: Answer) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher
        self.own: list[Tensor] = []  # (B, 2): class and its probability
        self.expected: list[Tensor] = []

    def forward(self, inputs: Inputs) -> Outputs:
        outputs: Outputs = self.model(inputs)
        self.own.append(_likeliest(outputs.logits))
        return outputs

    def answer(self, batch: Batch) -> Outputs:
        outputs = self.teacher(batch)
        self.expected.append(_likeliest(outputs.logits))
        return outputs


def _likeliest(logits: Tensor) -> Tensor:
    probability, chosen = logits.detach().double().softmax(dim=1).max(dim=1)
    return torch.stack([chosen.double(), probability], dim=1).cpu()


def disagreements(noted: Noted, part: Split, classes: Sequence[str]) -> dict[str, Any] | None:
    """How many samples of a split the two see differently, and some of them as pictures.

    Shown are those where the student is surest: half of them ones where the teacher is right, as far as there are any.
    Of several processes the first one knows them.
    """
    notes = processes.joined(noted.own), processes.joined(noted.expected)
    if not processes.is_first():
        return None
    own, expected = (torch.cat(one) for one in notes)
    true = part.targets[part.index].cpu()
    different = torch.nonzero(own[:, 0] != expected[:, 0]).flatten().tolist()
    different.sort(key=lambda place: -own[place, 1].item())
    taught = [place for place in different if expected[place, 0] == true[place]]
    others = [place for place in different if expected[place, 0] != true[place]]
    half = max(MOST_PICTURES // 2, MOST_PICTURES - len(others))
    places = [*taught[:half], *others[: MOST_PICTURES - min(half, len(taught))]]
    shown = [
        {
            "index": int(part.index[place]),
            "true": classes[int(true[place])],
            "student": classes[int(own[place, 0])],
            "student_probability": own[place, 1].item(),
            "teacher": classes[int(expected[place, 0])],
            "teacher_probability": expected[place, 1].item(),
            "png": picture(part, place),
        }
        for place in places
    ]
    return {"count": len(different), "samples": len(true), "shown": shown}


def picture(part: Split, place: int) -> str:
    """A sample as a small PNG in base64."""
    row = part.index[place : place + 1].cpu()
    pixels = part.pixels[row if not isinstance(part.pixels, Tensor) else row.to(part.pixels.device)][0].cpu()
    array = pixels.permute(1, 2, 0).numpy() if pixels.shape[0] == 3 else pixels[0].numpy()
    image = Image.fromarray(array)
    image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
