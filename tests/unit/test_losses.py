"""Every loss formula against slow loops in float64, its gradient, and what its paper says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from kdrun.losses import dist, dkd, kd, logit_std, mlld, tfkd, wsld
from kdrun.losses.ctkd import CTKD, reversed_gradient
from kdrun.losses.dist import correlation, dist_loss
from kdrun.losses.dkd import DKD, dkd_loss
from kdrun.losses.hard import hard_loss
from kdrun.losses.kd import KD, confidence_weights, kd_loss, weighted_kd_loss
from kdrun.losses.logit_mse import logit_mse_loss
from kdrun.losses.logit_std import logit_std_loss
from kdrun.losses.mlld import mlld_loss
from kdrun.losses.prob_mse import prob_mse_loss
from kdrun.losses.soft_ce import soft_ce_loss
from kdrun.losses.squared_error import squared_error_loss
from kdrun.losses.tfkd import tfkd_loss
from kdrun.losses.wsld import sample_weights
from kdrun.types import Batch, Outputs
from tests.conftest import mutated

SHAPES = [(1, 2), (3, 5), (8, 10), (2, 100)]
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow_kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_soft_ce(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_mse(student: list[list[float]], teacher: list[list[float]]) -> float:
    squares = [(a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


def slow_hard(student: Tensor, teacher: Tensor) -> float:
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    return -sum(math.log(softmax(s)[max(range(len(t)), key=t.__getitem__)]) for s, t in rows) / len(student)


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def slow_dkd(student: Tensor, teacher: Tensor, temperature: float, target: float, others: float) -> float:
    total = 0.0
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        right = row % len(s)
        q, p = softmax(s, temperature), softmax(t, temperature)
        total += target * divergence([p[right], 1 - p[right]], [q[right], 1 - q[right]])
        without = [[one for place, one in enumerate(logits) if place != right] for logits in (t, s)]
        total += others * divergence(*(softmax(logits, temperature) for logits in without))
    return temperature**2 * total / len(student)


def pearson(one: list[float], other: list[float]) -> float:
    a, b = ([value - sum(values) / len(values) for value in values] for values in (one, other))
    spread = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / spread if spread else 0.0


def slow_dist(student: Tensor, teacher: Tensor, temperature: float, within: float, across: float) -> float:
    q, p = ([softmax(row, temperature) for row in logits.tolist()] for logits in (student, teacher))
    rows = [pearson(a, b) for a, b in zip(q, p, strict=True)]
    columns = [pearson([*a], [*b]) for a, b in zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)]
    lacking = within * (1 - sum(rows) / len(rows)) + across * (1 - sum(columns) / len(columns))
    return temperature**2 * lacking


def slow_logit_std(student: Tensor, teacher: Tensor, temperature: float) -> float:
    def scores(row: list[float]) -> list[float]:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
        return [(value - mean) / (deviation + 1e-7) for value in row]

    pair = ([scores(row) for row in logits.tolist()] for logits in (student, teacher))
    return slow_kd(*(torch.tensor(rows, dtype=torch.float64) for rows in pair), temperature)


def slow_mlld(student: Tensor, teacher: Tensor) -> float:
    def similarities(rows: list[list[float]]) -> list[float]:
        return [sum(x * y for x, y in zip(a, b, strict=True)) for a in rows for b in rows]

    def squares(one: list[float], other: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))

    total = 0.0
    for temperature in TEMPERATURES:
        q, p = ([softmax(row, temperature) for row in logits.tolist()] for logits in (student, teacher))
        turned_q, turned_p = ([list(column) for column in zip(*rows, strict=True)] for rows in (q, p))
        total += slow_kd(student, teacher, temperature)
        total += squares(similarities(q), similarities(p)) / len(q)
        total += squares(similarities(turned_q), similarities(turned_p)) / len(turned_q)
    return total


def slow_ctkd(student: Tensor, teacher: Tensor) -> float:
    return slow_kd(student, teacher, 1 + 20 / (1 + math.exp(-1.0)))


def slow_wsld(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        of_student, of_teacher = (-math.log(softmax(logits)[row % len(logits)]) for logits in (s, t))
        weight = 1 - math.exp(-of_student / (of_teacher + 1e-7))
        total += weight * divergence(softmax(t, temperature), softmax(s, temperature))
    return temperature**2 * total / len(student)


def slow_tfkd(student: Tensor, correct: float, temperature: float) -> float:
    classes = student.shape[1]
    virtual = torch.full_like(student, (1 - correct) / (classes - 1))
    for row in range(len(student)):
        virtual[row, row % classes] = correct
    return slow_kd(student, virtual.log(), temperature)


def right(logits: Tensor) -> Tensor:
    """Row b belongs to class b modulo C."""
    return torch.arange(len(logits)) % logits.shape[1]


def whole_wsld(student: Tensor, teacher: Tensor, classes: Tensor | None = None) -> Tensor:
    targets = right(student) if classes is None else classes
    return weighted_kd_loss(student, teacher, 4.0, sample_weights(student, teacher, targets))


def whole_ctkd(student: Tensor, teacher: Tensor) -> Tensor:
    term = CTKD().double()
    return term(Outputs(student), Outputs(teacher), Batch(student, None, torch.arange(len(student))))


Fast = Callable[..., Tensor]  # of student and teacher; those that look at labels also of classes
REFERENCES: dict[str, tuple[Fast, Callable[[Tensor, Tensor], float]]] = {
    "kd": (lambda s, t: kd_loss(s, t, 4.0), lambda s, t: slow_kd(s, t, 4.0)),
    "kd T=1": (lambda s, t: kd_loss(s, t, 1.0), lambda s, t: slow_kd(s, t, 1.0)),
    "soft_ce": (lambda s, t: soft_ce_loss(s, t, 2.5), lambda s, t: slow_soft_ce(s, t, 2.5)),
    "logit_mse": (logit_mse_loss, lambda s, t: slow_mse(s.tolist(), t.tolist())),
    "prob_mse": (
        prob_mse_loss,
        lambda s, t: slow_mse([softmax(row) for row in s.tolist()], [softmax(row) for row in t.tolist()]),
    ),
    "hard": (hard_loss, slow_hard),
    "dkd": (
        lambda s, t, c=None: dkd_loss(s, t, right(s) if c is None else c, 4.0, 1.0, 8.0),
        lambda s, t: slow_dkd(s, t, 4.0, 1.0, 8.0),
    ),
    "dist": (lambda s, t: dist_loss(s, t, 4.0, 1.0, 2.0), lambda s, t: slow_dist(s, t, 4.0, 1.0, 2.0)),
    "logit_std": (lambda s, t: logit_std_loss(s, t, 2.0), lambda s, t: slow_logit_std(s, t, 2.0)),
    "mlld": (lambda s, t: mlld_loss(s, t, TEMPERATURES), slow_mlld),
    "ctkd": (whole_ctkd, slow_ctkd),
    "wsld": (whole_wsld, lambda s, t: slow_wsld(s, t, 4.0)),
    "tfkd": (
        lambda s, t, c=None: tfkd_loss(s, right(s) if c is None else c, 0.99, 20.0),
        lambda s, t: slow_tfkd(s, 0.99, 20.0),
    ),
}
WITH_LABELS = {"dkd", "wsld", "tfkd"}
# What the papers say of each: zero when student and teacher agree; blind to a constant added to the student's logits of
# a sample, and to their scale. `hard`, `soft_ce` and `tfkd` have a floor above zero, or one that is not the teacher.
ZERO = {"kd", "kd T=1", "logit_mse", "prob_mse", "dkd", "dist", "logit_std", "mlld", "ctkd", "wsld"}
SHIFT = set(REFERENCES) - {"logit_mse"}
SCALE = {"logit_std"}


def pair(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(shape, dtype=torch.float64), 3 * torch.randn(shape, dtype=torch.float64)


def check_value(fast: Fast, slow: Callable[[Tensor, Tensor], float], shape: tuple[int, int]) -> None:
    student, teacher = pair(shape)
    assert fast(student, teacher).item() == pytest.approx(slow(student, teacher), rel=1e-10, abs=1e-14)


def check_zero(fast: Fast) -> None:
    logits, _ = pair((5, 9))
    assert fast(logits, logits.clone()).item() == pytest.approx(0, abs=1e-12)


def check_shift(fast: Fast) -> None:
    student, teacher = pair((5, 9))
    moved = student + 10 * torch.randn(5, 1, dtype=torch.float64)
    assert fast(moved, teacher).item() == pytest.approx(fast(student, teacher).item(), rel=1e-9)


def check_scale(fast: Fast) -> None:
    student, teacher = pair((5, 9))
    assert fast(7 * student, 0.3 * teacher).item() == pytest.approx(fast(student, teacher).item(), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_value_is_that_of_slow_loops(name: str, shape: tuple[int, int]) -> None:
    check_value(*REFERENCES[name], shape)


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - {"wsld"}))  # whose weights have no gradient: see below
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    student, teacher = pair((4, 6))
    assert torch.autograd.gradcheck(lambda s: REFERENCES[name][0](s, teacher), student.requires_grad_())


def test_a_gradient_that_is_cut_is_noticed() -> None:
    student, teacher = pair((4, 6))
    cut = mutated(logit_std, "centred.square()", "centred.detach().square()")
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda s: cut.logit_std_loss(s, teacher, 2.0), student.requires_grad_())


@pytest.mark.parametrize("name", REFERENCES)
def test_batch_order_does_not_matter(name: str) -> None:
    student, teacher = pair((7, 5))
    order = torch.randperm(7)
    fast = REFERENCES[name][0]
    labels = (right(student)[order],) if name in WITH_LABELS else ()
    moved = fast(student[order], teacher[order], *labels).item()
    assert moved == pytest.approx(fast(student, teacher).item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_what_the_paper_says_of_equal_shifted_and_scaled_logits(name: str) -> None:
    """Each property where it holds, and nowhere else: the table is a claim in both directions."""
    for check, holds in ((check_zero, ZERO), (check_shift, SHIFT), (check_scale, SCALE)):
        if name in holds:
            check(REFERENCES[name][0])
        else:
            with pytest.raises(AssertionError):
                check(REFERENCES[name][0])


def fast_of(module: ModuleType, name: str) -> Fast:
    """The formula of a module as `REFERENCES` calls it."""
    calls: dict[str, Fast] = {
        "kd": lambda s, t: module.kd_loss(s, t, 4.0),
        "dkd": lambda s, t: module.dkd_loss(s, t, right(s), 4.0, 1.0, 8.0),
        "dist": lambda s, t: module.dist_loss(s, t, 4.0, 1.0, 2.0),
        "logit_std": lambda s, t: module.logit_std_loss(s, t, 2.0),
        "mlld": lambda s, t: module.mlld_loss(s, t, TEMPERATURES),
        "wsld": lambda s, t: weighted_kd_loss(s, t, 4.0, module.sample_weights(s, t, right(s))),
        "tfkd": lambda s, t: module.tfkd_loss(s, right(s), 0.99, 20.0),
    }
    return calls[name]


MISTAKES = [  # module, what it says, what it would say
    (kd, "kl_div(log_student, log_teacher", "kl_div(log_teacher, log_student"),
    (dkd, "arange(1, count", "arange(0, count"),
    (dkd, "(target * of_target + others *", "(others * of_target + target *"),
    (dkd, "temperature**2", "temperature"),
    (dist, "values - values.mean(dim=dim, keepdim=True)", "values"),
    (dist, "dim=0", "dim=1"),
    (logit_std, "dim=1", "dim=0"),
    (logit_std, ".square().mean(", ".square().sum("),
    (mlld, "for each in levels", "for each in levels[1:]"),
    (mlld, "/ student.shape[1]", "/ student.shape[0]"),
    (mlld, "p_student @ p_student.T - p_teacher @ p_teacher.T", "p_student @ p_teacher.T"),
    (wsld, "-of_student / (of_teacher", "-of_teacher / (of_student"),
    (tfkd, "(student.shape[1] - 1)", "student.shape[1]"),
]


@pytest.mark.parametrize(("module", "before", "after"), MISTAKES)
def test_a_mistake_in_a_formula_is_noticed(module: ModuleType, before: str, after: str) -> None:
    name = module.__name__.rpartition(".")[2]
    check_value(fast_of(module, name), REFERENCES[name][1], (3, 5))
    with pytest.raises(AssertionError):
        check_value(fast_of(mutated(module, before, after), name), REFERENCES[name][1], (3, 5))


def test_correlation_forgives_shift_and_positive_scale_of_probabilities() -> None:
    one, other = pair((6, 4))
    torch.testing.assert_close(correlation(3 * one + 5, other, 0), correlation(one, other, 0))
    torch.testing.assert_close(correlation(-one, other, 1), -correlation(one, other, 1))
    assert torch.equal(correlation(torch.ones(3, 2), torch.randn(3, 2), 0), torch.zeros(2))


def test_dkd_is_kd_when_the_others_count_as_much_as_the_teacher_doubts() -> None:
    """Zhao et al. 2022, equation 6: KL = KL of the target + (1 - p_y) KL of the others, sample by sample."""
    student, teacher = pair((1, 6))
    doubt = 1 - softmax(teacher[0].tolist(), 4.0)[0]
    expected = kd_loss(student, teacher, 4.0).item()
    assert dkd_loss(student, teacher, right(student), 4.0, 1.0, doubt).item() == pytest.approx(expected, rel=1e-10)


def slow_confident_kd(student: Tensor, teacher: Tensor, power: float) -> float:
    sure = [max(softmax(row)) ** power for row in teacher.tolist()]
    rows = zip(sure, student.tolist(), teacher.tolist(), strict=True)
    total = sum(weight * divergence(softmax(t, 4.0), softmax(s, 4.0)) for weight, s, t in rows)
    return 16 * total / sum(sure)


def check_confidence(module: ModuleType) -> None:
    student, teacher = pair((6, 4))
    batch = Batch(student, None, torch.arange(6))
    for power in (0.0, 1.0, 2.5):
        value = module.KD(4.0, power)(Outputs(student), Outputs(teacher), batch).item()
        assert value == pytest.approx(slow_confident_kd(student, teacher, power), rel=1e-10)


def test_kd_weighs_a_sample_by_how_sure_its_teacher_is() -> None:
    check_confidence(kd)
    student, teacher = pair((6, 4))
    weights = confidence_weights(teacher, 3.0)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.argmax() == teacher.softmax(1).amax(1).argmax()
    assert torch.autograd.gradcheck(lambda s: weighted_kd_loss(s, teacher, 4.0, weights), student.requires_grad_())
    with pytest.raises(AssertionError):
        check_confidence(mutated(kd, "weights / weights.mean()", "weights"))


def test_wsld_weighs_a_sample_by_how_much_worse_the_student_is_and_weights_have_no_gradient() -> None:
    student, teacher = pair((6, 4))
    weights = sample_weights(student.requires_grad_(), teacher, right(student))
    assert not weights.requires_grad
    assert ((weights > 0) & (weights <= 1)).all()
    assert torch.autograd.gradcheck(lambda s: weighted_kd_loss(s, teacher, 4.0, weights), student)
    sure = torch.nn.functional.one_hot(right(student), 4).double()
    assert (sample_weights(30 * sure, sure, right(student)) < 1e-6).all()
    torch.testing.assert_close(sample_weights(student, teacher, sure), weights)  # soft classes, as mixing makes them


def test_tfkd_is_least_for_the_virtual_teacher_itself() -> None:
    student, _ = pair((4, 5))
    virtual = torch.full((4, 5), 0.01 / 4, dtype=torch.float64).scatter(1, right(student)[:, None], 0.99).log()
    assert tfkd_loss(virtual, right(student), 0.99, 20.0).item() == pytest.approx(0, abs=1e-12)


def test_ctkd_learns_its_temperature_against_the_student() -> None:
    """Its gradient is that of finite differences, times minus the curriculum's factor: 0, then a half, then 1."""
    student, teacher = pair((4, 6))
    term = CTKD(curriculum=0.4).double()
    batch = Batch(student, None, torch.arange(4))
    position = term.position.item()
    step = 1e-6
    ends = [kd_loss(student, teacher, 1 + 20 / (1 + math.exp(-one))) for one in (position + step, position - step)]
    slope = (ends[0] - ends[1]).item() / (2 * step)
    for done, factor in ((0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)):
        term.progress(done)
        (gradient,) = torch.autograd.grad(term(Outputs(student), Outputs(teacher), batch), term.position)
        assert gradient.item() == pytest.approx(-factor * slope, rel=1e-6, abs=1e-12)
    assert list(term.state_dict()) == ["position"]
    assert torch.equal(reversed_gradient(student, 0.3), student)


def test_a_term_takes_soft_classes_and_says_when_there_are_no_labels() -> None:
    student, teacher = pair((3, 4))
    soft = torch.nn.functional.one_hot(right(student), 4).double()
    both = [Batch(student, targets, torch.arange(3)) for targets in (right(student), soft)]
    values = [DKD()(Outputs(student), Outputs(teacher), batch).item() for batch in both]
    assert values[0] == values[1]
    with pytest.raises(TypeError, match="needs labels"):
        DKD()(Outputs(student), Outputs(teacher), Batch(student, None, torch.arange(3)))


@pytest.mark.parametrize("fast", [logit_std_loss, lambda s, t, _: dist_loss(s, t, 1.0, 1.0, 1.0)])
def test_constant_logits_have_a_finite_gradient(fast: Fast) -> None:
    student = torch.zeros(3, 5, requires_grad=True)
    fast(student, torch.randn(3, 5), 2.0).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_soft_ce_floor_is_the_teachers_entropy_and_its_gradient_is_that_of_kd() -> None:
    student, teacher = pair((6, 4))
    entropy = -sum(p * math.log(p) for row in teacher.tolist() for p in softmax(row, 3.0)) / 6
    assert soft_ce_loss(teacher, teacher, 3.0).item() == pytest.approx(9 * entropy)
    gradients = []
    for loss in (kd_loss, soft_ce_loss):
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, 3.0).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_kd_at_high_temperature_is_matching_of_centred_logits() -> None:
    student, teacher = pair((5, 8))
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = centred.pow(2).sum(1).mean() / (2 * 8)  # Hinton et al. 2015, section 2.1
    assert kd_loss(student, teacher, 1e3).item() == pytest.approx(limit.item(), rel=1e-2)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 50), st.floats(-30, 30), st.integers(2, 12))
def test_kd_is_at_least_zero_and_blind_to_a_shift(temperature: float, shift: float, classes: int) -> None:
    student, teacher = pair((3, classes))
    value = kd_loss(student, teacher, temperature).item()
    assert value >= -1e-9
    assert kd_loss(student + shift, teacher, temperature).item() == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_the_gradient_of_kd_keeps_its_size_when_the_temperature_rises() -> None:
    student, teacher = pair((8, 10))
    sizes = []
    for temperature in (10.0, 20.0, 40.0):
        leaf = student.clone().requires_grad_()
        kd_loss(leaf, teacher, temperature).backward()
        assert leaf.grad is not None
        sizes.append(leaf.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.5  # without T² it would fall by 16


def test_squared_error_takes_class_numbers_and_soft_classes() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    expected = ((0.5 - 0) ** 2 + (-1.0 - 0) ** 2 + (2.0 - 1) ** 2) / 3
    assert squared_error_loss(logits, torch.tensor([2])).item() == pytest.approx(expected)
    soft = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    assert squared_error_loss(logits, soft).item() == pytest.approx(expected)
    smooth = [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]
    told = sum((a - b) ** 2 for a, b in zip(logits[0].tolist(), smooth, strict=True)) / 3
    assert squared_error_loss(logits, torch.tensor([2]), 0.1).item() == pytest.approx(told)


def test_a_term_that_needs_a_teacher_says_so() -> None:
    batch = Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.arange(2))
    with pytest.raises(TypeError, match="needs a teacher"):
        KD()(Outputs(torch.zeros(2, 3)), None, batch)
