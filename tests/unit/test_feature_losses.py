"""Losses on features: values by slow loops in float64, gradients, what their papers say of them, and any two models."""

from __future__ import annotations

import copy
import importlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from kdrun import assembly, lookup
from kdrun.assembly import lookup_term
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.engine import fit
from kdrun.errors import UsageError
from kdrun.lookup import conf_dir
from kdrun.losses.ab import ab_loss
from kdrun.losses.adversarial import adversarial_loss
from kdrun.losses.at import at_loss
from kdrun.losses.cc import cc_loss
from kdrun.losses.crd import crd_loss, similarities
from kdrun.losses.fitnet import fitnet_loss
from kdrun.losses.fsp import fsp_loss
from kdrun.losses.ft import ft_loss
from kdrun.losses.nst import nst_loss
from kdrun.losses.ofd import ofd_loss
from kdrun.losses.pkt import EPSILON, pkt_loss
from kdrun.losses.reviewkd import context_loss
from kdrun.losses.rkd import rkd_angle_loss, rkd_distance_loss
from kdrun.losses.simkd import simkd_loss
from kdrun.losses.sp import sp_loss
from kdrun.losses.srd import srd_loss
from kdrun.losses.vid import vid_loss
from kdrun.models.building import Model, build
from kdrun.teachers.live import LiveTeacher
from tests.conftest import mutated

KINDS = [name for name in lookup.names("losses") if name != "term" and lookup_term(name).features]
MAPS = [((2, 3, 4, 4), (2, 3, 4, 4)), ((3, 2, 2, 2), (3, 5, 4, 4)), ((2, 4, 4, 4), (2, 2, 2, 2))]
POINTS = [((4, 3), (4, 3)), ((5, 2), (5, 7)), ((3, 6), (3, 4))]
SAME = [((2, 3, 4, 4), (2, 3, 4, 4)), ((3, 2, 8, 8), (3, 2, 8, 8)), ((4, 5, 1, 1), (4, 5, 1, 1))]
RAW = torch.tensor([-1.0, 0.5, 2.0, -3.0, 1.0], dtype=torch.float64)

# ------------------------------------------------------------------------------------------------- slow references


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(one * one for one in vector))
    return [one / length for one in vector]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def pooled(grid: list[list[float]], side: int) -> list[list[float]]:
    step = len(grid) // side
    cells = range(side)
    block = [(i, j) for i in range(step) for j in range(step)]
    return [[sum(grid[r * step + i][c * step + j] for i, j in block) / step**2 for c in cells] for r in cells]


def slow_attention(maps: list[list[list[float]]], side: int) -> list[float]:
    size, channels = len(maps[0]), len(maps)
    energy = [[sum(maps[d][r][c] ** 2 for d in range(channels)) / channels for c in range(size)] for r in range(size)]
    return unit([value for row in pooled(energy, side) for value in row])


def slow_at(student: Tensor, teacher: Tensor, form: str) -> float:
    side = min(student.shape[3], teacher.shape[3])
    squares = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(slow_attention(s, side), slow_attention(t, side), strict=True)
        squares.append(sum((a - b) ** 2 for a, b in pairs))
    if form == "norm":
        return sum(math.sqrt(one) for one in squares) / len(squares) / 2
    return sum(squares) / len(squares) / side**2


def slow_sp(student: Tensor, teacher: Tensor) -> float:
    grams = []
    for feature in (student, teacher):
        rows = feature.flatten(1).tolist()
        grams.append([unit([dot(a, b) for b in rows]) for a in rows])
    count = len(student)
    return sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(count) for j in range(count)) / count**2


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def slow_rkd_distance(student: Tensor, teacher: Tensor) -> float:
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if i != j]
    scaled = []
    for points in (student.tolist(), teacher.tolist()):
        lengths = [math.dist(points[i], points[j]) for i, j in pairs]
        scaled.append([one * len(lengths) / sum(lengths) for one in lengths])
    return sum(huber(s - t) for s, t in zip(*scaled, strict=True)) / len(pairs)


def slow_rkd_angle(student: Tensor, teacher: Tensor) -> float:
    def cosine(points: list[list[float]], i: int, j: int, k: int) -> float:
        one, other = ([a - b for a, b in zip(points[end], points[j], strict=True)] for end in (i, k))
        return dot(unit(one), unit(other))

    numbers = range(len(student))
    triplets = [(i, j, k) for i in numbers for j in numbers for k in numbers if len({i, j, k}) == 3]
    return sum(huber(cosine(student.tolist(), *one) - cosine(teacher.tolist(), *one)) for one in triplets) / len(
        triplets
    )


def slow_pkt(student: Tensor, teacher: Tensor) -> float:
    def conditional(points: list[list[float]], i: int, j: int) -> float:
        kernel = [(dot(unit(points[i]), unit(other)) + 1) / 2 for other in points]
        return kernel[j] / sum(one for k, one in enumerate(kernel) if k != i)

    total, count = 0.0, len(student)
    for i in range(count):
        for j in range(count):
            if i != j:
                p, q = conditional(teacher.tolist(), i, j), conditional(student.tolist(), i, j)
                total += p * (math.log(p + EPSILON) - math.log(q + EPSILON))
    return total / count**2


def slow_mse(student: Tensor, teacher: Tensor) -> float:
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def slow_vid(mean: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for at, value in each(teacher):
        variance = math.log1p(math.exp(RAW[at[1]].item())) + 1e-5
        total += (mean[at].item() - value) ** 2 / variance + math.log(variance)
    return total / 2 / teacher.numel()


def each(maps: Tensor) -> Iterator[tuple[tuple[int, int, int, int], float]]:
    b, d, h, w = maps.shape
    for at in ((i, j, k, m) for i in range(b) for j in range(d) for k in range(h) for m in range(w)):
        yield at, maps[at].item()


def slow_cc(student: Tensor, teacher: Tensor) -> float:
    def kernel(a: Sequence[float], b: Sequence[float]) -> float:
        cosine = dot(unit(a), unit(b))
        return math.exp(-0.8) * (1 + 0.8 * cosine + 0.8**2 / 2 * cosine**2)

    s, t = student.tolist(), teacher.tolist()
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s))]
    return sum((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in pairs) / len(pairs)


def slow_nst(student: Tensor, teacher: Tensor) -> float:
    side, total = min(student.shape[3], teacher.shape[3]), 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        x, y = ([unit([v for row in pooled(one, side) for v in row]) for one in maps] for maps in (s, t))
        for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
            total += sign * sum(dot(i, j) ** 2 for i in a for j in b) / len(a) / len(b)
    return total / len(student)


def slow_srd(student: Tensor, teacher: Tensor) -> float:
    def columns(points: Tensor) -> list[list[float]]:
        out = []
        for column in points.T.tolist():
            mean = sum(column) / len(column)
            variance = sum((one - mean) ** 2 for one in column) / len(column)
            out.append([(one - mean) / math.sqrt(variance + 1e-5) for one in column])
        return out

    pairs = zip(columns(student), columns(teacher), strict=True)
    total = sum(abs(a - b) ** 4 for s, t in pairs for a, b in zip(s, t, strict=True))
    return math.log(1e-6 + total / len(student))


def slow_context(student: Tensor, teacher: Tensor) -> float:
    size = student.shape[3]
    sides = [size, *(side for side in (4, 2, 1) if side < size)]
    total = 0.0
    for level, side in enumerate(sides):
        squares = []
        for s, t in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True):
            rows = zip(pooled(s, side), pooled(t, side), strict=True)
            squares += [(a - b) ** 2 for one, other in rows for a, b in zip(one, other, strict=True)]
        total += 0.5**level * sum(squares) / len(squares)
    return total / sum(0.5**level for level in range(len(sides)))


MARGIN = torch.tensor([-0.5, 0.0, -1.0, -0.2, -2.0], dtype=torch.float64)
NEGATIVES = torch.nn.functional.normalize(torch.sin(torch.arange(180.0, dtype=torch.float64)).view(6, 5, 6), dim=2)


def slow_ofd(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for at, held in each(teacher):
        margin, answer = MARGIN[at[1]].item(), student[at].item()
        if held > 0:
            total += (answer - held) ** 2
        else:
            total += max(0.0, answer - max(held, margin)) ** 2
    return total / len(student)


def slow_ab(student: Tensor, teacher: Tensor) -> float:
    hinge = [max(0.0, 1 - student[at].item() * (1 if value > 0 else -1)) for at, value in each(teacher)]
    return sum(one**2 for one in hinge) / len(student)


def slow_ft(student: Tensor, teacher: Tensor) -> float:
    pairs = [(unit(s), unit(t)) for s, t in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True)]
    differences = [abs(a - b) for s, t in pairs for a, b in zip(s, t, strict=True)]
    return sum(differences) / len(differences)


def three(maps: Tensor) -> list[Tensor]:
    """Three stages made of one map: the whole, half its pixels a side with other channels, one channel of that."""
    half = maps[:, :, ::2, ::2].flip(1)
    return [maps, half, half[:, :1].sin()]


def slow_fsp(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for step in (0, 1):
        squares = []
        for n in range(len(student)):
            flows = []
            for maps in (student, teacher):
                bottom, top = three(maps)[step][n].tolist(), three(maps)[step + 1][n].tolist()
                side = len(top[0])
                low = [[v for row in pooled(one, side) for v in row] for one in bottom]
                flows.append([dot(a, [v for row in b for v in row]) / side**2 for a in low for b in top])
            squares += [(a - b) ** 2 for a, b in zip(*flows, strict=True)]
        total += sum(squares) / len(squares)
    return total


def slow_crd(student: Tensor, teacher: Tensor) -> float:
    """Noise-contrastive estimation with K = 5 of N = 40 samples, scores over the scale e^1.5."""
    noise, total = 5 / 40, 0.0
    for n, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        p = [math.exp(dot(unit(s), other) / 0.5) / math.exp(1.5) for other in (unit(t), *NEGATIVES[n].tolist())]
        total -= math.log(p[0] / (p[0] + noise)) + sum(math.log(noise / (one + noise)) for one in p[1:])
    return total / len(student)


def whole_crd(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (torch.nn.functional.normalize(one, dim=1, eps=1e-6) for one in (student, teacher))
    kept = torch.cat([t, NEGATIVES.flatten(0, 1)])
    chosen = [[n, *(len(s) + 5 * n + k for k in range(5))] for n in range(len(s))]
    scores = similarities(s, kept, torch.tensor(chosen), 0.5)
    return crd_loss(scores, torch.tensor(1.5, dtype=torch.float64), 5 / 40)


def slow_adversarial(student: Tensor, teacher: Tensor) -> float:
    def sigmoid(one: float) -> float:
        return 1 / (1 + math.exp(-one))

    pairs = zip(student[:, 0].tolist(), teacher[:, 0].tolist(), strict=True)
    return -sum(math.log(sigmoid(t)) + math.log(1 - sigmoid(s)) for s, t in pairs) / len(student)


Fast, Slow = Callable[..., Tensor], Callable[..., float]
Shapes = list[tuple[tuple[int, ...], tuple[int, ...]]]
EQUAL_POINTS: Shapes = [((4, 3), (4, 3)), ((6, 5), (6, 5))]
REFERENCES: dict[str, tuple[Fast, Slow, Shapes, float]] = {  # fast (looked up when called), slow, shapes, floor
    "at": (lambda s, t: at_loss(s, t, "mean_square"), lambda s, t: slow_at(s, t, "mean_square"), MAPS, 0.0),
    "at norm": (lambda s, t: at_loss(s, t, "norm"), lambda s, t: slow_at(s, t, "norm"), MAPS, 0.0),
    "sp": (lambda s, t: sp_loss(s, t), slow_sp, [*MAPS, *POINTS], 0.0),
    "rkd distance": (lambda s, t: rkd_distance_loss(s, t), slow_rkd_distance, POINTS, 0.0),
    "rkd angle": (lambda s, t: rkd_angle_loss(s, t), slow_rkd_angle, POINTS, 0.0),
    "pkt": (lambda s, t: pkt_loss(s, t), slow_pkt, POINTS, 0.0),
    "fitnet": (lambda s, t: fitnet_loss(s, t), slow_mse, SAME, 0.0),
    "cc": (lambda s, t: cc_loss(s, t, 0.4, 2), slow_cc, POINTS, 0.0),
    "nst": (lambda s, t: nst_loss(s, t), slow_nst, MAPS, 0.0),
    "srd": (lambda s, t: srd_loss(s, t, 4.0, 1e-6), slow_srd, EQUAL_POINTS, math.log(1e-6)),
    "reviewkd": (lambda s, t: context_loss(s, t), slow_context, SAME, 0.0),
    "simkd": (lambda s, t: simkd_loss(s, t), slow_mse, SAME, 0.0),
    "ft": (lambda s, t: ft_loss(s, t), slow_ft, SAME, 0.0),
    "fsp": (lambda s, t: fsp_loss(three(s), three(t)), slow_fsp, SAME[:2], 0.0),
}
# These have no floor that equality reaches: `ofd` wants the margin, `ab` signs with a margin, the two others contrast.
UNLIKE: dict[str, tuple[Fast, Slow, Shapes]] = {
    "ofd": (lambda s, t: ofd_loss(s, t, MARGIN[: s.shape[1]]), slow_ofd, SAME),
    "ab": (lambda s, t: ab_loss(s, t, 1.0), slow_ab, SAME),
    "crd": (lambda s, t: whole_crd(s, t), slow_crd, [((4, 6), (4, 6)), ((6, 6), (6, 6))]),
    "adversarial": (lambda s, t: adversarial_loss(s[:, 0], t[:, 0]), slow_adversarial, EQUAL_POINTS),
}
REFERENCES |= {name: (*entry, math.nan) for name, entry in UNLIKE.items()}
CASES = [(name, shapes) for name, (_, _, all_shapes, _) in REFERENCES.items() for shapes in all_shapes]


def pair(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    return torch.randn(shapes[0], dtype=torch.float64), torch.randn(shapes[1], dtype=torch.float64)


@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
def test_value_is_that_of_slow_loops(name: str, shapes: Any) -> None:
    fast, slow, _, _ = REFERENCES[name]
    student, teacher = pair(shapes)
    assert fast(student, teacher).item() == pytest.approx(slow(student, teacher), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "shapes"), CASES, ids=str)
def test_gradient_is_that_of_finite_differences(name: str, shapes: Any) -> None:
    student, teacher = pair(shapes)
    assert torch.autograd.gradcheck(lambda s: REFERENCES[name][0](s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", REFERENCES)
def test_batch_order_does_not_matter_and_equality_is_the_floor(name: str) -> None:
    fast, _, shapes, floor = REFERENCES[name]
    student, teacher = pair(shapes[0])
    order = torch.randperm(len(student))
    if name != "crd":  # whose negatives here belong to a place in the batch
        assert fast(student[order], teacher[order]).item() == pytest.approx(fast(student, teacher).item(), rel=1e-9)
    if name in UNLIKE:
        return
    assert fast(student, student.clone()).item() == pytest.approx(floor, abs=1e-12)
    assert fast(student, teacher).item() > floor


@pytest.mark.parametrize("name", REFERENCES)
def test_the_gradient_is_finite_at_the_floor_for_zeros_and_for_equal_samples(name: str) -> None:
    fast, _, shapes, _ = REFERENCES[name]
    student, teacher = pair(shapes[0])
    for start in (teacher if student.shape == teacher.shape else student, student * 0, student[:1].expand_as(student)):
        leaf = start.clone().requires_grad_()
        value = fast(leaf, teacher)
        value.backward()
        assert leaf.grad is not None
        assert torch.isfinite(value)
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().max() < 1e6


def test_vid_is_the_likelihood_of_a_gaussian_and_learns_its_variance() -> None:
    mean, teacher = pair(((2, 5, 2, 3), (2, 5, 2, 3)))
    assert vid_loss(mean, teacher, RAW).item() == pytest.approx(slow_vid(mean, teacher), rel=1e-10)
    deviation = (nn.functional.softplus(RAW) + 1e-5).sqrt()[:, None, None].expand_as(mean)
    likelihood = torch.distributions.Normal(mean, deviation).log_prob(teacher).mean()
    expected = -likelihood - math.log(2 * math.pi) / 2
    assert vid_loss(mean, teacher, RAW).item() == pytest.approx(expected.item(), rel=1e-10)
    leaves = (mean.requires_grad_(), RAW.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda m, raw: vid_loss(m, teacher, raw), leaves)


def test_relations_are_blind_to_a_turn_and_a_scale() -> None:
    student, teacher = pair(((6, 4), (6, 4)))
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    congruence = partial(cc_loss, gamma=0.4, order=2)
    for fast in (rkd_distance_loss, rkd_angle_loss, sp_loss, pkt_loss, congruence):
        assert fast(2.5 * student @ turn, teacher).item() == pytest.approx(fast(student, teacher).item(), rel=1e-9)
        assert fast(2.5 * teacher @ turn, teacher).item() == pytest.approx(0, abs=1e-12)


MISTAKES = [
    ("at", "F.normalize(resized(maps.pow(2)", "F.normalize(resized(maps", "at"),  # no square
    ("at", ".mean() / 2", ".mean()", "at norm"),
    ("sp", "F.normalize(flat @ flat.T, dim=1)", "F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T", "sp"),
    ("rkd", "lengths / _mean(lengths, far)", "lengths / lengths.mean()", "rkd distance"),
    ("rkd", "triplets = other[:, :, None] &", "triplets = other[:, :, None] |", "rkd angle"),
    ("pkt", "kernel = kernel * (1 -", "kernel = kernel * (1 - 0 *", "pkt"),
    (
        "pkt",
        "p, q = neighbours(teacher), neighbours(student)",
        "q, p = neighbours(teacher), neighbours(student)",
        "pkt",
    ),
    ("fitnet", "F.mse_loss(guided, hint)", "F.mse_loss(guided, hint, reduction='sum')", "fitnet"),
    ("cc", "math.exp(-2 * gamma)", "math.exp(-gamma)", "cc"),
    ("nst", "- 2 * kernels[2]", "- kernels[2]", "nst"),
    ("nst", "flatten(2), dim=2", "flatten(2), dim=1", "nst"),  # normalised over channels
    ("srd", "difference.sum(dim=1).mean()", "difference.mean()", "srd"),
    ("reviewkd", "weights[-1] / 2", "weights[-1]", "reviewkd"),
    ("reviewkd", "/ sum(weights)", "", "reviewkd"),
    ("simkd", "F.mse_loss(projected, teacher)", "F.l1_loss(projected, teacher)", "simkd"),
    ("ofd", "(student > target) | (target > 0)", "(target > 0)", "ofd"),
    ("ofd", "torch.maximum(teacher,", "torch.minimum(teacher,", "ofd"),
    ("ab", "student, -student)", "-student, student)", "ab"),
    ("ab", "margin - wanted", "-wanted", "ab"),
    ("ft", "one.flatten(1), dim=1", "one, dim=2", "ft"),
    ("fsp", "/ one.shape[2]", "", "fsp"),
    ("crd", "odds[:, 1:]).sum(dim=1)", "odds[:, 1:]).mean(dim=1)", "crd"),
    ("crd", "log_scale - math.log(noise)", "log_scale + math.log(noise)", "crd"),
    ("adversarial", "F.logsigmoid(-of_student)", "F.logsigmoid(of_student)", "adversarial"),
]


@pytest.mark.parametrize(("kind", "before", "after", "name"), MISTAKES, ids=lambda one: one[:24])
def test_the_reference_notices_the_mistake(
    kind: str, before: str, after: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(importlib.import_module(f"kdrun.losses.{kind}"), before, after)
    functions = [key for key in list(globals()) if key.endswith("_loss") and hasattr(wrong, key)]
    for function in functions:
        monkeypatch.setitem(globals(), function, getattr(wrong, function))
    with pytest.raises(AssertionError):
        test_value_is_that_of_slow_loops(name, REFERENCES[name][2][1])


# --------------------------------------------------------------------------------------------------- any two models


class SmallViT(nn.Module):
    """Two patches a side, a class token, two blocks: the smallest transformer of torchvision's kind."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        from torchvision.models import VisionTransformer

        self.net = VisionTransformer(8, 4, 2, 2, 12, 24, num_classes=classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def data() -> Data:
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    return split(Raw(("a", "b", "c"), Labelled(pixels, torch.arange(40) % 3)), 0.2, 0, None)


def config_of(kind: str, *words: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(kind, words))


@cache
def _composed(kind: str, words: tuple[str, ...]) -> dict[str, Any]:
    return stage_config("distill", [f"loss={kind}", "epochs=1", "batch_size=8", "optimizer.lr=0.01", *words])


def model(name: str, known: Data, **options: Any) -> Model:
    node = yaml.safe_load((conf_dir() / "model" / f"{'mlp' if name == 'vit' else name}.yaml").read_text())
    origin = dict.fromkeys(("checkpoint", "weights", "rename", "mean", "std", "taps"))
    node = {key: value for key, value in {**node, **origin, **options}.items() if key != "limits"}
    built = build(assembly.model_spec(node, known, {"mean": [0.5], "std": [0.25]}))
    if name == "vit":
        built.net.net = SmallViT()
    return built


def trained(kind: str, teacher: str, student: str, precision: str = "fp32", *words: str) -> tuple[Any, Any, Any]:
    """The training after an epoch, the teacher, and the last report."""
    known, config = data(), config_of(kind, *words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        taught, learns = model(teacher, known), model(student, known)
    live = LiveTeacher(taught.tapped(), "f", "cpu", precision)
    made = assembly.learner(config, learns, live.model, assembly.probe_images(known), known.train)
    training = assembly.training(config, made, "cpu", precision)
    before = {name: one.detach().clone() for name, one in made.named_parameters()}
    recipe = assembly.recipe(config, "cpu", precision)
    *_, report = fit(training, live, assembly.train_loader(config, known), recipe)
    return training, live, (report, before)


SLOW = [("resnet18", "mobilenet"), ("cnn", "vit"), ("wrn_16_2", "vgg8")]
PAIRS = [
    ("resnet8x4", "resnet8"),
    ("vit", "cnn"),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW),
]


@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=str)
def test_any_pair_of_models_builds_every_loss_and_its_gradient_reaches_all_but_the_teacher(
    teacher: str, student: str
) -> None:
    """Without a word of configuration; one learner per loss, in half precision as well, where the models are small."""
    small = "cnn" in (teacher, student)
    known = data()
    taught, learns = model(teacher, known), model(student, known)
    live = LiveTeacher(taught.tapped(), "f", "cpu", "fp32")
    batch = next(iter(assembly.train_loader(config_of("at"), known).epoch(0)))
    apart = [[kind for kind in KINDS if lookup_term(kind).stays is stays] for stays in (True, False)]
    for kinds in [[kind] for kind in KINDS] if small else apart:
        config = config_of("at")
        config["loss"]["terms"] = {kind: config_of(kind)["loss"]["terms"][kind] for kind in kinds}
        made = assembly.learner(config, learns, live.model, assembly.probe_images(known), known.train)
        made.progress(0.5 if lookup_term(kinds[0]).stays else 0.0)  # in the phase in which they count
        for half in (False, True)[: 2 if small else 1]:
            made.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                _, losses = made.train()(batch, live(batch))
            assert all(losses[kind].dtype == torch.float32 and losses[kind].shape == () for kind in kinds)
            assert all(torch.isfinite(losses[kind]) for kind in kinds)
            torch.stack([losses[kind] for kind in kinds]).sum().backward()
            reached = [one.grad for one in made.student.parameters() if one.grad is not None]
            assert any(one.abs().sum() > 0 for one in reached), kinds
            assert all(torch.isfinite(one).all() for one in reached)
            of_terms = made.terms.named_parameters()
            for name, adapter in (one for one in of_terms if not one[0].startswith(PARAPHRASER)):
                assert adapter.grad is not None, name
                assert torch.isfinite(adapter.grad).all()
            assert all(one.grad is None and not one.requires_grad for one in taught.net.parameters())
        assert not {id(one) for one in made.parameters()} & {id(one) for one in taught.net.parameters()}


PARAPHRASER = ("ft.encoder", "ft.decoder")  # trained in the first phase alone
FLAT = ["sp", "rkd", "pkt", "cc", "srd", "crd", "fitnet", "fitnet_two_stage", "vid", "ofd", "ab", "ft", "simkd"]
LACKS = {"at": "maps", "nst": "maps", "reviewkd": "maps", "fsp": "two stages"}  # what perceptrons have not


@pytest.mark.parametrize("kind", KINDS)
def test_perceptrons_learn_from_each_other_or_are_told_what_is_missing(kind: str) -> None:
    if kind in FLAT:
        training, _, (report, before) = trained(kind, "mlp", "mlp")
        assert math.isfinite(report.metrics["loss"])
        after = dict(training.learner.named_parameters())
        assert not any(torch.equal(before[name], after[name]) for name in before if "terms" in name)
    else:
        with pytest.raises(
            UsageError, match=rf"loss.terms.{kind}, teacher mlp, student mlp: .*{LACKS[kind]} .*stage1 \(500,\)"
        ):
            trained(kind, "mlp", "mlp")


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_trains_in_half_precision_and_adapters_are_saved_with_the_learner(kind: str) -> None:
    training, _, (report, before) = trained(kind, "resnet8", "cnn", "bf16")
    assert all(math.isfinite(value) for value in report.metrics.values())
    after = dict(training.learner.named_parameters())
    adapters = [name for name in before if name.startswith(f"terms.{kind}.")]
    assert not any(torch.equal(before[name], after[name]) for name in adapters)
    assert {id(after[name]) for name in adapters} <= {
        id(one) for group in training.optimizer.param_groups for one in group["params"]
    }
    other, *_ = trained(kind, "resnet8", "cnn", "bf16", "seed=3")
    other.learner.load_state_dict(training.learner.state_dict())
    assert all(
        torch.equal(value, other.learner.state_dict()[key]) for key, value in training.learner.state_dict().items()
    )
    assert not any("terms" in key for key in training.student.state_dict())


def test_adapters_depend_on_the_seed_alone() -> None:
    known = data()

    def regressor(seed: int) -> Tensor:
        learns, taught = model("cnn", known), model("resnet8", known)
        made = assembly.learner(
            config_of("fitnet", f"seed={seed}"), learns, taught.tapped(), assembly.probe_images(known)
        )
        return made.state_dict()["terms.fitnet.regressors.0.convolutions.0.weight"]

    assert torch.equal(regressor(1), regressor(1))
    assert not torch.equal(regressor(1), regressor(2))


@pytest.mark.parametrize("kind", KINDS)
def test_relational_terms_say_so(kind: str) -> None:
    assert lookup_term(kind).relational == (kind in ("sp", "rkd", "pkt", "cc", "srd", "crd"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_paper_stands_on_the_first_line_and_its_default_in_the_yaml(kind: str) -> None:
    document = importlib.import_module(f"kdrun.losses.{kind}").__doc__ or ""
    assert re.search(r"\b20\d\d, .*(\b\d{4}\.\d{4,5}\b|Flow|Fast Optimization)", document.splitlines()[0])
    weights = {"at": 1000, "sp": 3000, "rkd": 1, "pkt": 30000, "fitnet": 100, "vid": 1, "cc": 0.02, "nst": 50}
    weights |= {"srd": 2, "reviewkd": 5, "simkd": 1, "ofd": 1e-3, "crd": 0.8, "ft": 200, "ab": 1, "fsp": 50}
    weights |= {"fitnet_two_stage": 100}
    assert config_of(kind)["loss"]["terms"][kind]["weight"] == weights[kind]


# -------------------------------------------------------------------------------------------------------- refusals


def test_told_taps_and_pairs_hold() -> None:
    known = data()
    words = ["student.taps={stage1: '1', embedding: '7:input'}", "loss.terms.at.pairs={stage1: stage3}"]
    config = config_of("at", *words)
    learns, taught = model("cnn", known), model("resnet8", known).tapped()
    made = assembly.learner(config, learns, taught, assembly.probe_images(known))
    assert made.student.taps == {"stage1": "1", "embedding": "7:input"}
    assert made.terms["at"].pairs == [("stage1", "stage3")]
    config = config_of("at", "loss.terms.at.pairs={stage1: stage9}")
    with pytest.raises(UsageError, match="tap 'stage9' is not in the teacher; it has stage1"):
        assembly.learner(config, learns, taught, assembly.probe_images(known))


def test_taps_bear_on_a_distillation_and_on_no_training_with_labels() -> None:
    from kdrun.identity import baseline_training, identity, teacher_training

    def known(config: dict[str, Any]) -> Any:
        return identity(config, "d", "fp32", {})

    plain = config_of("at")
    told = config_of("at", "student.taps={stage1: '1'}", "teacher.taps={stage1: stage2}")
    assert known(plain) != known(told)
    for part in (baseline_training, teacher_training):
        assert known(part(plain)) == known(part(told))
    with pytest.raises(UsageError, match=r"student\.taps=1: must map taps to modules"):
        config_of("at", "student.taps=1")


# ---------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("kind", ["at", "fitnet"])
def test_a_student_learns_from_features_and_is_shipped_without_adapters(kdrun: Callable[..., Any], kind: str) -> None:
    words = ["teacher=resnet8", "student=cnn_tiny", "teacher.train.epochs=1", "epochs=1", "batch_size=20"]
    words += [
        "teacher.train.batch_size=20",
        "dataset.limit=60",
        "baseline=false",
        f"loss={kind}",
        "checkpoint.keep=all",
    ]
    answer = kdrun("distill", *words)
    assert (answer.code, answer.err) == (0, "")
    run: Path = answer.run
    file = torch.load(run / "checkpoints" / "model.pt", weights_only=True)
    assert set(file["state_dict"]) == set(build(file["spec"]).net.net.state_dict())
    assert yaml.safe_load((run / "config.yaml").read_text())["loss"]["terms"][kind]["kind"] == kind
    again = kdrun("reproduce", str(run))
    assert "EXACT" in again.out
    refused = kdrun("distill", *words, "teacher.outputs=stored")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
