"""Every augmentation against a slow loop over samples and pixels, and the same for a sample in any company."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from kdrun.datasets.augment import crop, cutmix, cutout, flip, mixup, rotate
from kdrun.datasets.augment.beta import beta
from kdrun.datasets.hashing import Draw
from tests.conftest import mutated

COUNT, HEIGHT, WIDTH = 24, 7, 10
INDEX = torch.arange(100, 100 + COUNT)


def pictures(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def draw() -> Draw:
    return Draw(0, 0, INDEX)


class Fixed(Draw):
    """Draws given numbers instead of random ones."""

    def __init__(self, **numbers: float) -> None:
        self.numbers = numbers

    def __call__(self, name: str) -> Tensor:
        return torch.full((COUNT,), float(self.numbers[name]))

    def below(self, name: str, limit: int) -> Tensor:
        assert self.numbers[name] < limit
        return torch.full((COUNT,), int(self.numbers[name]))


def slow_crop(image: Tensor, top: int, left: int, padding: int) -> Tensor:
    padded = torch.zeros(3, HEIGHT + 2 * padding, WIDTH + 2 * padding, dtype=torch.uint8)
    padded[:, padding : padding + HEIGHT, padding : padding + WIDTH] = image
    return padded[:, top : top + HEIGHT, left : left + WIDTH]


def slow_box(height: int, width: int, row: int, column: int) -> list[list[bool]]:
    top, left = row - height // 2, column - width // 2
    return [[top <= y < top + height and left <= x < left + width for x in range(WIDTH)] for y in range(HEIGHT)]


@pytest.mark.parametrize("padding", [1, 4])
def test_crop_is_a_slice_of_the_zero_padded_image(padding: int) -> None:
    images = pictures()
    tops, lefts = draw().below("top", 2 * padding + 1), draw().below("left", 2 * padding + 1)
    wanted = [slow_crop(images[i], int(tops[i]), int(lefts[i]), padding) for i in range(COUNT)]
    assert torch.equal(crop.apply(images, draw(), padding), torch.stack(wanted))
    assert {int(top) for top in tops} >= {0, 2 * padding}  # both ends happen


def test_flip_mirrors_the_drawn_samples_left_to_right() -> None:
    images = pictures()
    drawn = draw()("mirrored")
    wanted = [image if chance >= 0.3 else image.flip(-1) for image, chance in zip(images, drawn, strict=True)]
    flipped = flip.apply(images, draw(), 0.3)
    assert torch.equal(flipped, torch.stack(wanted))
    assert 0 < (flipped == images).all(dim=(1, 2, 3)).sum() < COUNT


def test_flip_never_and_always() -> None:
    images = pictures()
    assert torch.equal(flip.apply(images, draw(), 0.0), images)
    for image, flipped in zip(images, flip.apply(images, draw(), 1.0), strict=True):
        assert flipped[1, 2].tolist() == image[1, 2].tolist()[::-1]


@pytest.mark.parametrize(("size", "side"), [(0.5, 4), (1.0, 7), (0.01, 1)])
def test_cutout_zeroes_a_square_around_the_drawn_centre(size: float, side: int) -> None:
    images = pictures()
    rows, columns = draw().below("row", HEIGHT), draw().below("column", WIDTH)
    holed = cutout.apply(images, draw(), size)
    for i in range(COUNT):
        hole = torch.tensor(slow_box(side, side, int(rows[i]), int(columns[i])))
        assert torch.equal(holed[i] == 0, hole.expand(3, -1, -1))
        assert torch.equal(holed[i][:, ~hole], images[i][:, ~hole])


def test_cutmix_pastes_the_partners_box_and_shares_by_the_area_kept() -> None:
    images, partners = pictures(0), pictures(1)
    portions = beta(draw()("share"), 1.0)
    rows, columns = draw().below("row", HEIGHT), draw().below("column", WIDTH)
    mixed, share = cutmix.mix(images, partners, draw(), alpha=1.0)
    for i in range(COUNT):
        side = math.sqrt(1 - float(portions[i]))
        box = slow_box(round(side * HEIGHT), round(side * WIDTH), int(rows[i]), int(columns[i]))
        pasted = sum(map(sum, box))
        assert float(share[i]) == pytest.approx(1 - pasted / (HEIGHT * WIDTH), abs=1e-6)
        for y in range(HEIGHT):
            for x in range(WIDTH):
                source = partners if box[y][x] else images
                assert mixed[i, :, y, x].tolist() == source[i, :, y, x].tolist()


def test_a_share_taken_before_the_box_is_cut_off_would_be_noticed() -> None:
    """The usual mistake with CutMix: λ as drawn instead of the area that is left."""
    wrong = mutated(cutmix, "1 - pasted.float().mean(dim=(1, 2, 3))", "1 - side.square()")
    corner = Fixed(share=0.5, row=0, column=0)
    _, right_share = cutmix.mix(pictures(0), pictures(1), corner, alpha=1.0)
    _, wrong_share = wrong.mix(pictures(0), pictures(1), corner, alpha=1.0)
    assert right_share[0] > 0.8
    assert wrong_share[0] == pytest.approx(0.5, abs=1e-6)


def test_mixup_is_the_nearest_integer_to_the_convex_mix() -> None:
    images, partners = pictures(0), pictures(1)
    mixed, share = mixup.mix(images, partners, draw(), alpha=1.0)
    assert share.min() < 0.2
    assert share.max() > 0.8
    for i in range(COUNT):
        exact = share[i].double() * images[i].double() + (1 - share[i].double()) * partners[i].double()
        assert (mixed[i].double() - exact).abs().max() <= 0.5 + 1e-4


def test_mixup_with_a_share_of_one_is_the_image_itself() -> None:
    mixed, share = mixup.mix(pictures(0), pictures(1), Fixed(share=1.0), alpha=1.0)
    assert torch.equal(mixed, pictures(0))
    assert share.tolist() == [1.0] * COUNT


def test_a_mixup_that_truncates_would_be_noticed() -> None:
    mixed, _ = mutated(mixup, ".round()", ".floor()").mix(pictures(0), pictures(1), draw(), alpha=1.0)
    right, _ = mixup.mix(pictures(0), pictures(1), draw(), alpha=1.0)
    assert mixed.float().mean() == pytest.approx(float(right.float().mean()) - 0.5, abs=0.05)


def slow_rotate(image: Tensor, angle: float) -> Tensor:
    """Bilinear, about the centre, in pixel coordinates and float64."""
    height, width = image.shape[1:]
    turned = torch.zeros(image.shape, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            from_x = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2
            from_y = math.sin(angle) * x + math.cos(angle) * y + (height - 1) / 2
            left, top = math.floor(from_x), math.floor(from_y)
            for there_x, there_y in [(left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)]:
                if 0 <= there_x < width and 0 <= there_y < height:
                    weight = (1 - abs(from_x - there_x)) * (1 - abs(from_y - there_y))
                    turned[:, row, column] += weight * image[:, there_y, there_x]
    return turned


@pytest.mark.parametrize("degrees", [10.0, 180.0])
def test_rotate_is_bilinear_about_the_centre_also_when_not_square(degrees: float) -> None:
    images = pictures(count=6)
    some = Draw(0, 0, INDEX[:6])
    angles = (2 * some("angle") - 1) * math.radians(degrees)
    for image, turned, angle in zip(images, rotate.apply(images, some, degrees), angles, strict=True):
        assert (turned.double() - slow_rotate(image, float(angle))).abs().max() <= 0.5 + 1e-2


def test_a_rotation_that_forgets_the_aspect_ratio_would_be_noticed() -> None:
    images = pictures()
    wrong = mutated(rotate, " * height / width", "").apply(images, Fixed(angle=0.6), 90.0)
    assert (wrong[0].double() - slow_rotate(images[0], math.radians(18))).abs().max() > 20


def test_rotate_by_nothing_changes_nothing() -> None:
    assert torch.equal(rotate.apply(pictures(), draw(), 0.0), pictures())


@pytest.mark.parametrize(("angle", "quarters"), [(1.0, 1), (0.0, -1)])
def test_rotate_by_a_right_angle_is_a_turn_of_the_array(angle: float, quarters: int) -> None:
    square = pictures(height=9, width=9)
    assert torch.equal(rotate.apply(square, Fixed(angle=angle), 90.0), torch.rot90(square, quarters, (2, 3)))


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_beta_is_the_quantile_function(alpha: float) -> None:
    uniform = torch.linspace(0.001, 0.999, 999)
    wanted = torch.from_numpy(stats.beta.ppf(uniform.double().numpy(), alpha, alpha)).float()
    assert torch.allclose(beta(uniform, alpha), wanted, atol=1e-3)


def test_beta_of_one_is_the_identity_and_ends_at_the_ends() -> None:
    uniform = Draw(0, 0, torch.arange(5000))("any")
    assert torch.allclose(beta(uniform, 1.0), uniform, atol=1e-6)
    assert beta(torch.tensor([0.0, 1.0]), 0.3).tolist() == [0.0, 1.0]


def mixed_with_partners(module: ModuleType) -> Callable[..., Tensor]:
    def call(images: Tensor, drawn: Draw, **options: Any) -> Tensor:
        mixed, share = module.mix(images, 255 - images, drawn, **options)
        assert share.shape == (len(images),)
        assert share.dtype == torch.float32
        return mixed

    return call


EACH: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "crop": (crop.apply, {"padding": 4}),
    "flip": (flip.apply, {"probability": 0.5}),
    "cutout": (cutout.apply, {"size": 0.5}),
    "rotate": (rotate.apply, {"degrees": 30.0}),
    "mixup": (mixed_with_partners(mixup), {"alpha": 0.4}),
    "cutmix": (mixed_with_partners(cutmix), {"alpha": 1.0}),
}


@pytest.mark.parametrize("name", EACH)
def test_images_stay_uint8_of_their_shape_and_the_ones_given_are_not_written_to(name: str) -> None:
    apply, options = EACH[name]
    images = pictures()
    seen = apply(images, draw(), **options)
    assert (seen.dtype, seen.shape) == (torch.uint8, images.shape)
    assert not torch.equal(seen, images)
    assert torch.equal(images, pictures())


@pytest.mark.parametrize("name", EACH)
def test_a_sample_looks_the_same_alone_as_in_any_batch(name: str) -> None:
    apply, options = EACH[name]
    images = pictures(height=32, width=32)
    everyone = apply(images, draw(), **options)
    backwards = apply(images.flip(0), Draw(0, 0, INDEX.flip(0)), **options)
    assert torch.equal(backwards.flip(0), everyone)
    for i in range(COUNT):
        alone = apply(images[i : i + 1], Draw(0, 0, INDEX[i : i + 1]), **options)
        assert torch.equal(alone[0], everyone[i])


@pytest.mark.parametrize("name", EACH)
def test_samples_of_one_batch_are_drawn_apart(name: str) -> None:
    apply, options = EACH[name]
    same = pictures(count=1).expand(COUNT, -1, -1, -1)
    assert len({view.numpy().tobytes() for view in apply(same, draw(), **options)}) > 1
