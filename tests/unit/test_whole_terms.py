"""Each term as it is trained: which features it reads, through which adapters, each stage by which weight.

The formulas themselves are held against slow loops in `test_losses.py` and `test_feature_losses.py`; here what a term
makes of them is written out once more, for a pair of models with two stages.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.assembly import lookup_term
from kdrun.losses import Term
from kdrun.losses.ab import ab_loss
from kdrun.losses.adversarial import adversarial_loss
from kdrun.losses.at import at_loss
from kdrun.losses.cc import cc_loss
from kdrun.losses.crd import others
from kdrun.losses.dist import dist_loss
from kdrun.losses.dkd import dkd_loss
from kdrun.losses.fitnet import fitnet_loss
from kdrun.losses.fsp import fsp_loss
from kdrun.losses.ft import ft_loss
from kdrun.losses.mlld import mlld_loss
from kdrun.losses.nst import nst_loss
from kdrun.losses.ofd import mean_negative, ofd_loss
from kdrun.losses.pkt import pkt_loss
from kdrun.losses.reviewkd import context_loss
from kdrun.losses.rkd import rkd_angle_loss, rkd_distance_loss
from kdrun.losses.sp import sp_loss
from kdrun.losses.srd import srd_loss
from kdrun.losses.vid import vid_loss
from kdrun.taps import Tapped
from kdrun.types import Batch, Outputs
from tests.conftest import mutated

Features = Mapping[str, Tensor]
CLASSES = torch.arange(5) % 3
BATCH = Batch(torch.zeros(5, 1), CLASSES, torch.arange(5))


def outputs(first: int, second: int, width: int) -> Outputs:
    """Of five samples: maps of 4x4 and of 2x2 pixels with so many channels, an embedding, logits of three classes."""
    shapes = {"stage1": (5, first, 4, 4), "stage2": (5, second, 2, 2), "embedding": (5, width)}
    features = {tap: torch.randn(shape, dtype=torch.float64) for tap, shape in shapes.items()}
    return Outputs(torch.randn(5, 3, dtype=torch.float64), features)


def reviewed(term: Any, s: Features, t: Features) -> Tensor:
    deep, shallow = term.fusions
    below = deep.enter(s["stage2"])
    own, spread = shallow.enter(s["stage1"]), below.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    shares = torch.sigmoid(shallow.weigh[0](torch.cat([own, spread], dim=1)))
    fused = own * shares[:, :1] + spread * shares[:, 1:]
    return context_loss(deep.leave(below), t["stage2"]) + context_loss(shallow.leave(fused), t["stage1"])


def of_both(term: Any, s: Features, t: Features, adapters: Any) -> list[tuple[Tensor, Tensor]]:
    return [(adapters[number](s[tap]), t[tap]) for number, tap in enumerate(("stage1", "stage2"))]


def by_depth(term: Any, s: Features, t: Features) -> Tensor:
    shallow, deep = of_both(term, s, t, term.connectors)
    return ofd_loss(*shallow, mean_negative(shallow[1])) / 2 + ofd_loss(*deep, mean_negative(deep[1]))


def vid_of_both(term: Any, s: Features, t: Features) -> Tensor:
    assert all((F.softplus(raw) + 1e-5).tolist() == pytest.approx([5.0] * len(raw)) for raw in term.raw)
    return sum(vid_loss(*pair, raw) for pair, raw in zip(of_both(term, s, t, term.means), term.raw, strict=True))


def ab_of_both(term: Any, s: Features, t: Features) -> Tensor:
    shallow, deep = of_both(term, s, t, term.connectors)
    return 3 / 1000 * (ab_loss(*shallow, 1.0) / 2 + ab_loss(*deep, 1.0))


WHOLE: dict[str, Callable[[Any, Features, Features], Tensor]] = {
    "at": lambda _, s, t: sum(at_loss(s[tap], t[tap], "mean_square") for tap in ("stage1", "stage2")),
    "nst": lambda _, s, t: nst_loss(s["stage2"], t["stage2"]),
    "sp": lambda _, s, t: sp_loss(s["stage2"], t["stage2"]),
    "rkd": lambda _, s, t: (
        25 * rkd_distance_loss(s["embedding"], t["embedding"]) + 50 * rkd_angle_loss(s["embedding"], t["embedding"])
    ),
    "pkt": lambda _, s, t: pkt_loss(s["embedding"], t["embedding"]),
    "cc": lambda _, s, t: cc_loss(s["embedding"], t["embedding"], 0.4, 2),
    "srd": lambda term, s, t: srd_loss(term.projector(s["embedding"]), t["embedding"], 4.0, 1e-6),
    "fitnet": lambda term, s, t: fitnet_loss(term.regressors[0](s["stage1"]), t["stage1"]),
    "vid": vid_of_both,
    "ab": ab_of_both,
    "ofd": by_depth,
    "fsp": lambda term, s, t: fsp_loss(*zip(*of_both(term, s, t, term.adapters), strict=True)),
    "ft": lambda term, s, t: ft_loss(term.translator(s["stage2"]), term.encoder(t["stage2"])),
    "reviewkd": reviewed,
}


def check_features(kind: str, of: Callable[[str], type[Term]] = lookup_term) -> None:
    student, teacher = outputs(3, 4, 6), outputs(5, 6, 7)
    network = Tapped(nn.Sequential(nn.Identity(), nn.Identity()), {"stage1": "0", "stage2": "1"})
    term = of(kind)()
    term.build(student, teacher, network)
    term.double().eval().progress(0.5)
    expected = WHOLE[kind](term, student.features, teacher.features).item()
    assert term(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_term_is_its_formula_on_the_features_it_says_it_reads(kind: str) -> None:
    check_features(kind)


ANSWERS: dict[str, tuple[dict[str, Any], Callable[[Any, Tensor, Tensor], Tensor]]] = {  # options unlike each other
    "dkd": (
        {"temperature": 3.0, "target": 0.5, "others": 6.0},
        lambda _, s, t: dkd_loss(s, t, CLASSES, temperature=3.0, target=0.5, others=6.0),
    ),
    "dist": (
        {"temperature": 3.0, "within": 0.5, "across": 6.0},
        lambda _, s, t: dist_loss(s, t, temperature=3.0, within=0.5, across=6.0),
    ),
    "mlld": (
        {"temperatures": [1.0, 3.0], "of_samples": 0.5, "of_batch": 6.0, "of_classes": 2.0},
        lambda _, s, t: mlld_loss(s, t, [1.0, 3.0], (0.5, 6.0, 2.0)),
    ),
    "adversarial": (
        {"width": 4},
        lambda term, s, t: adversarial_loss(*(term.discriminator(one).squeeze(1) for one in (s, t))),
    ),
}


def check_answers(kind: str, of: Callable[[str], type[Term]] = lookup_term) -> None:
    options, formula = ANSWERS[kind]
    student, teacher = outputs(1, 1, 1), outputs(1, 1, 1)
    term = of(kind)(**options)
    term.build(student, teacher, None)
    expected = formula(term.double(), student.logits, teacher.logits).item()
    assert term(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_option_of_a_term_is_that_of_its_formula(kind: str) -> None:
    check_answers(kind)


def slow_step(points: list[Tensor], memory: Tensor, drawn: Tensor, scale: list[float]) -> tuple[float, list[float]]:
    """The loss of the first five of the samples of a memory, and the scales after it (0 where there were none)."""
    samples, loss, after = memory.shape[1], 0.0, []
    noise = drawn.shape[1] / samples
    for side in (0, 1):
        rows = [[row, *drawn[row].tolist()] for row in range(5)]
        p = [[math.exp(points[side][n] @ memory[1 - side][one] / 0.07) for one in row] for n, row in enumerate(rows)]
        present = samples * sum(map(sum, p)) / sum(map(len, p))
        after.append(0.3 * scale[side] + 0.7 * present if scale[side] else present)
        for own, *rest in p:
            loss -= math.log(own / after[side] / (own / after[side] + noise)) / 5
            loss -= sum(math.log(noise / (one / after[side] + noise)) for one in rest) / 5
    return loss, after


def check_memory(kind: str, of: Callable[[str], type[Term]] = lookup_term) -> None:
    """Three steps: against what is kept of the other model, over a scale that follows, and what is kept after it."""
    term: Any = of(kind)(momentum=0.3, width=8)
    targets = torch.arange(12) % 3
    term.remember(torch.arange(12), targets)
    student, teacher = outputs(1, 1, 6), outputs(1, 1, 7)
    term.build(student, teacher, None)
    term.double().train()
    memory, scale = term.memory.clone(), [0.0, 0.0]
    for step in range(3):
        torch.manual_seed(step)
        drawn = others(targets, CLASSES, 16384)
        both = zip(term.heads, (student, teacher), strict=True)
        points = [F.normalize(head(one.features["embedding"]), dim=1).detach() for head, one in both]
        expected, scale = slow_step(points, memory, drawn, scale)
        torch.manual_seed(step)
        assert term(student, teacher, BATCH).item() == pytest.approx(expected, rel=1e-9)
        for side in (0, 1):
            memory[side, :5] = F.normalize(0.3 * memory[side, :5] + 0.7 * points[side], dim=1)
        torch.testing.assert_close(term.memory, memory)
        student, teacher = outputs(1, 1, 6), outputs(1, 1, 7)


def test_crd_contrasts_with_a_memory_of_the_other_model() -> None:
    check_memory("crd")


MISTAKES = [
    ("at", check_features, "for s, t in maps]).sum()", "for s, t in maps]).mean()"),
    ("rkd", check_features, "self.distance * rkd_distance_loss", "self.angle * rkd_distance_loss"),
    ("ab", check_features, "2**depth * ab_loss", "ab_loss"),
    ("ofd", check_features, "(len(self.pairs) - 1 - number)", "number"),
    ("vid", check_features, "VARIANCE = 5.0", "VARIANCE = 0.5"),
    ("reviewkd", check_features, "fused * own + deeper * other", "fused * own"),
    ("ft", check_features, "factor = self.encoder(wanted)", "factor = self.encoder(wanted).abs()"),
    ("dkd", check_answers, "self.target, self.others)\n\n\n", "self.others, self.target)\n\n\n"),
    ("dist", check_answers, "self.within, self.across)\n", "self.across, self.within)\n"),
    ("crd", check_memory, "kept[1 - side].clone()", "kept[side].clone()"),
    ("crd", check_memory, "math.log(self.samples / scores.numel())", "0.0"),
    ("crd", check_memory, "before + math.log(self.momentum)", "before"),
    ("crd", check_memory, "(1 - self.momentum) * point", "point"),
]


@pytest.mark.parametrize(("kind", "check", "before", "after"), MISTAKES)
def test_a_mistake_in_what_a_term_makes_of_its_formula_is_noticed(
    kind: str, check: Callable[..., None], before: str, after: str
) -> None:
    wrong: ModuleType = mutated(importlib.import_module(f"kdrun.losses.{kind}"), before, after)
    name = lookup_term(kind).__name__
    with pytest.raises(AssertionError):
        check(kind, lambda _: getattr(wrong, name))
