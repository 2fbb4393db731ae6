"""What every loss keeps to, for every kind that `conf/loss` and `kdrun/losses` have; a new file is found by itself.

Each check is a function of how a learner is made, so that the same check runs on the real module and on one with a
mistake put into its source.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import yaml
from torch import Tensor, nn

from kdrun import assembly, lookup
from kdrun.canonical import expanded_loss
from kdrun.datasets.split import Split
from kdrun.learner import Learner
from kdrun.lookup import conf_dir
from kdrun.losses import Term, ctkd, kd
from kdrun.models.building import Model, build
from kdrun.teachers import live
from kdrun.terms import kinds
from kdrun.types import Batch
from tests.conftest import mutated

KINDS = sorted(kinds())
TASKS = ["cross_entropy", "squared_error"]
IMAGES = torch.arange(8 * 64, dtype=torch.uint8).view(8, 1, 8, 8).flip(0)


def network(name: str) -> Model:
    node = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    options = {key: value for key, value in node.items() if key not in ("kind", "limits")}
    sizes = {"channels": 1, "size": 8, "network_channels": 1, "mean": [0.5], "std": [0.25]}
    model = build({"kind": node["kind"], "options": options, "classes": [str(n) for n in range(4)], **sizes})
    head = [module for module in model.net.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight *= 100 / model.net.eval()(IMAGES).abs().max()  # logits of up to ±100
    model.net.train()
    return model


def batch() -> Batch:
    return Batch(IMAGES, torch.arange(8) % 4, torch.arange(8))


def made(kind: str) -> tuple[Learner, live.LiveTeacher]:
    """A learner as a config asks for it, with the options of the YAML, and its teacher."""
    terms = {} if kind in TASKS else {kind: {"kind": kind}}
    task = {"kind": kind if kind in TASKS else "cross_entropy", "weight": 1.0}
    loss = expanded_loss({"task": task, "terms": terms})
    teacher = live.LiveTeacher(network("cnn").tapped(), "", "cpu", "fp32")
    config = {"loss": loss, "label_smoothing": 0.0, "seed": 0, "batch_size": len(IMAGES), "model": {}, "teacher": {}}
    train = Split(IMAGES, batch().targets, torch.arange(len(IMAGES)))
    learner = assembly.learner(config, network("cnn_tiny"), teacher.model, IMAGES[:2], train)
    silent = kind in learner.terms and not learner.terms[kind].stays
    learner.progress(0.0 if silent else 0.5)  # past every warm-up, in the phase in which it counts
    return learner, teacher


def losses_of(learner: Learner, teacher: live.LiveTeacher) -> dict[str, Tensor]:
    torch.manual_seed(3)  # a loss may draw samples
    losses: dict[str, Tensor] = learner(batch(), teacher(batch()))[1]
    return losses


def finite_in_half_precision(kind: str) -> None:
    learner, teacher = made(kind)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(learner, teacher)
    assert all(loss.dtype == torch.float32 and loss.shape == () for loss in losses.values())
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    learner.total(losses).backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def gradient_reaches_the_student_alone(kind: str, module: ModuleType = live) -> None:
    learner, teacher = made(kind)
    teacher = module.LiveTeacher(teacher.model, "", "cpu", "fp32")
    teacher.model.requires_grad_()  # its parameters are frozen too: with either guard alone there is no gradient
    losses = losses_of(learner, teacher)
    losses["task" if kind in TASKS else kind].backward()
    assert all(parameter.requires_grad for parameter in learner.terms.parameters())
    grads = [parameter.grad for parameter in learner.student.parameters() if parameter.grad is not None]
    assert sum(grad.abs().sum() for grad in grads) > 0
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert not {id(one) for one in teacher.model.parameters()} & {id(one) for one in learner.parameters()}


def saved_and_loaded_it_is_the_same(kind: str) -> None:
    learner, teacher = made(kind)
    torch.manual_seed(1)
    with torch.no_grad():
        for one in learner.terms.parameters():
            one += 0.3 * torch.randn_like(one)  # as training would
        term = learner.terms["task" if kind in TASKS else kind]
        for value in (value for value in vars(term).values() if isinstance(value, Tensor)):
            value += 0.3  # a tensor that is neither parameter nor buffer would be forgotten
    learner.eval()
    state = copy.deepcopy(learner.state_dict())
    expected = losses_of(learner, teacher)
    again, _ = made(kind)
    again.load_state_dict(state)
    again.eval()
    for name, value in losses_of(again, teacher).items():
        assert value.item() == expected[name].item(), name


CHECKS: list[Callable[[str], None]] = [
    finite_in_half_precision,
    gradient_reaches_the_student_alone,
    saved_and_loaded_it_is_the_same,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS + TASKS)
def test_every_loss_keeps_the_contract(kind: str, check: Callable[[str], None]) -> None:
    check(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_that_may_change_while_training_is_read_when_it_is_used(kind: str) -> None:
    """A course sets the attribute of the option's name, so a number of the YAML must be one."""
    term = made(kind)[0].terms[kind]
    numbers = [key for key, value in kinds()[kind].items() if isinstance(value, float)]
    assert all(isinstance(getattr(term, key), float) for key in numbers if key not in ("weight", "warmup"))


def test_every_loss_file_has_its_option_and_says_where_it_comes_from() -> None:
    terms = {name for name in lookup.names("losses") if name != "term"} - set(TASKS)
    own = {name for name in terms if any(_is_term(value, name) for value in vars(_module(name)).values())}
    assert own == set(KINDS)
    for name in own:
        first = (_module(name).__doc__ or "").splitlines()[0]
        assert any(f" {year}" in first for year in range(2006, 2030)), f"{name} does not name its paper: {first}"


def _module(name: str) -> ModuleType:
    return lookup.module("losses", name)


def _is_term(value: object, name: str) -> bool:
    return isinstance(value, type) and issubclass(value, Term) and value.__module__ == f"kdrun.losses.{name}"


CONTROLS: dict[str, tuple[Callable[[str], None], str, ModuleType, str, str]] = {
    "probabilities that underflow": (
        *(finite_in_half_precision, "kd", kd),
        *("F.log_softmax(student / temperature, dim=1)", "F.softmax(50 * student / temperature, dim=1).log()"),
    ),
    "a parameter that is not saved": (
        *(saved_and_loaded_it_is_the_same, "ctkd", ctkd),
        *("nn.Parameter(torch.ones(()))", "torch.ones(())"),
    ),
    "a student that is cut off": (
        *(gradient_reaches_the_student_alone, "kd", kd),
        *("kd_loss(student.logits,", "kd_loss(student.logits.detach().requires_grad_(),"),
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_mistake_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, kind, module, before, after = CONTROLS[name]
    wrong = mutated(module, before, after)
    real = assembly.lookup_term
    terms = [value for value in vars(wrong).values() if isinstance(value, type) and value.__module__ == wrong.__name__]
    (term,) = [value for value in terms if issubclass(value, Term)]
    monkeypatch.setattr(assembly, "lookup_term", lambda one: term if one == kind else real(one))
    with pytest.raises(AssertionError):
        check(kind)


def test_a_teacher_with_gradients_is_noticed() -> None:
    wrong = mutated(live, "torch.no_grad()", "torch.enable_grad()")
    with pytest.raises(AssertionError):
        gradient_reaches_the_student_alone("kd", wrong)
