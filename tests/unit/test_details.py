"""What is kept of a measurement beyond its numbers: which samples, in which order, as which pictures."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kdrun.datasets.split import Split
from kdrun.stages import details as module
from kdrun.stages.details import MOST_PICTURES, Noted, disagreements
from kdrun.types import Batch, Outputs
from tests.conftest import mutated

CLASSES = ["a", "b", "c"]
COUNT = 40


class Says(nn.Module):
    """Answers with the logits of a table: rows in the order in which they are asked for."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.parts = iter(logits.split(7))

    def forward(self, inputs: Tensor) -> Outputs:
        return Outputs(next(self.parts), {})


def measured(kept: type = Noted) -> tuple[Noted, Split, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    own, expected = (torch.randn(COUNT, 3, generator=generator) for _ in range(2))
    pixels = torch.randint(0, 256, (2 * COUNT, 1, 8, 8), dtype=torch.uint8, generator=generator)
    part = Split(pixels, torch.arange(2 * COUNT) % 3, torch.arange(1, 2 * COUNT, 2))  # rows and places differ
    teacher = Says(expected)
    noted = kept(Says(own), lambda batch: teacher(batch.inputs))
    for rows in part.index.split(7):
        batch = Batch(part.pixels[rows], part.targets[rows], rows)
        noted(batch.inputs)
        noted.answer(batch)
    return noted, part, own, expected


def check(kept: type = Noted, find: object = disagreements) -> None:
    """Against slow loops over the samples."""
    noted, part, own, expected = measured(kept)
    found = find(noted, part, CLASSES)  # type: ignore[operator]
    differ = [place for place in range(COUNT) if own[place].argmax() != expected[place].argmax()]
    assert (found["count"], found["samples"]) == (len(differ), COUNT)
    assert len(found["shown"]) == min(MOST_PICTURES, len(differ))
    for one in found["shown"]:
        place = part.index.tolist().index(one["index"])
        assert place in differ
        assert one["true"] == CLASSES[int(part.targets[one["index"]])]
        assert one["student"] == CLASSES[int(own[place].argmax())]
        assert one["teacher"] == CLASSES[int(expected[place].argmax())]
        assert one["student_probability"] == pytest.approx(own[place].double().softmax(0).max().item())
        image = Image.open(io.BytesIO(base64.b64decode(one["png"])))
        assert list(image.tobytes()) == part.pixels[one["index"]].flatten().tolist()
    taught = sum(one["teacher"] == one["true"] for one in found["shown"])
    all_taught = sum(
        CLASSES[int(expected[place].argmax())] == CLASSES[int(part.targets[part.index[place]])] for place in differ
    )
    assert taught >= min(MOST_PICTURES // 2, all_taught)


def test_samples_seen_differently_are_those_that_they_are_said_to_be() -> None:
    check()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"index": int(part.index[place])', '"index": place'),
        ("part.index[place : place + 1].cpu()", "part.index[:1].cpu()"),
        ('"student": classes[int(own[place, 0])]', '"student": classes[int(expected[place, 0])]'),
        ("own[:, 0] != expected[:, 0]", "own[:, 0] != true"),
    ],
)
def test_a_mistake_in_them_is_noticed(before: str, after: str) -> None:
    wrong = mutated(module, before, after)
    with pytest.raises((AssertionError, ValueError)):
        check(wrong.Noted, wrong.disagreements)


def test_a_large_picture_is_made_small_and_a_colour_one_keeps_its_colours() -> None:
    pixels = torch.zeros(1, 3, 200, 100, dtype=torch.uint8)
    pixels[:, 1] = 255
    part = Split(pixels, torch.zeros(1, dtype=torch.long), torch.arange(1))
    image = Image.open(io.BytesIO(base64.b64decode(module.picture(part, 0))))
    assert image.size == (32, 64)
    assert image.getpixel((5, 5)) == (0, 255, 0)
