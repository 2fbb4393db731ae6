"""What losses refuse, in one line each that says what would work; and the state that some of them keep."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly
from kdrun.assembly import lookup_term
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Split, split
from kdrun.errors import UsageError
from kdrun.losses.crd import others
from kdrun.losses.ofd import margin_of_norm, mean_negative
from kdrun.teachers.live import LiveTeacher
from tests.conftest import mutated
from tests.unit.test_feature_losses import KINDS, config_of, data, model, trained

LEAST = {"rkd": 3, "pkt": 3, **dict.fromkeys(["sp", "cc", "srd", "crd", "reviewkd", "simkd", "ofd", "ft", "ab"], 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_too_small_is_refused(kind: str) -> None:
    known, least = data(), LEAST.get(kind, 1)
    assert lookup_term(kind).smallest_batch == least
    config = {**config_of(kind), "batch_size": max(1, least - 1)}
    made = (config, model("cnn", known), model("resnet8", known).tapped(), known.test.pixels[:2])
    if least == 1:
        assert assembly.learner(*made, known.train)
        return
    told = rf"^loss\.terms\.{kind} needs batches of at least {least}, and batch_size={least - 1}; .*choose loss=kd$"
    with pytest.raises(UsageError, match=told):
        assembly.learner(*made, known.train)


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_says_in_one_line_which_tap_is_missing_and_which_there_are(kind: str) -> None:
    known, config = data(), config_of(kind)
    config["loss"]["terms"][kind]["pairs"] = {"stage1": "stage9"}
    told = (
        rf"^loss\.terms\.{kind}, teacher cifar_resnet, student cnn: tap 'stage9' is not in the teacher; it has "
        r"stage1 \(16, 8, 8\), stage2 \(32, 4, 4\), stage3 \(64, 2, 2\), embedding \(64,\)$"
    )
    with pytest.raises(UsageError, match=told):
        assembly.learner(
            config, model("cnn", known), model("resnet8", known).tapped(), known.test.pixels[:2], known.train
        )


ONE = ["sp", "rkd", "pkt", "cc", "srd", "crd", "ft", "simkd"]  # read one feature of each model


@pytest.mark.parametrize("kind", ONE)
def test_a_loss_that_reads_one_feature_says_so(kind: str) -> None:
    known, config = data(), config_of(kind)
    config["loss"]["terms"][kind]["pairs"] = {"stage1": "stage1", "stage2": "stage2"}
    told = f"loss.terms.{kind}, teacher cifar_resnet, student cnn: .*reads one feature of each model; give one pair$"
    with pytest.raises(UsageError, match=told):
        assembly.learner(
            config, model("cnn", known), model("resnet8", known).tapped(), known.test.pixels[:2], known.train
        )


def test_what_a_loss_cannot_do_without_is_named_and_what_would_work() -> None:
    """No linear classifier to reuse (SqueezeNet's is a convolution), one class to contrast, another number of those."""
    known = data()
    squeezed = model("squeezenet1_1", known)
    learns = model("cnn", known)
    told = r"loss.terms.simkd, teacher squeezenet1_1, student cnn: no linear layer .* logits \(3,\) .* losses that work"
    with pytest.raises(UsageError, match=told):
        assembly.learner(config_of("simkd"), learns, squeezed.tapped(), known.test.pixels[:2], known.train)
    one = Split(known.train.pixels, torch.zeros(40, dtype=torch.long), known.train.index)
    with pytest.raises(UsageError, match=r"loss.terms.crd, .*the training data has one; kd and fitnet need no others"):
        assembly.learner(config_of("crd"), learns, model("resnet8", known).tapped(), known.test.pixels[:2], one)
    more = split(Raw(("a", "b", "c", "d"), Labelled(known.train.pixels, torch.arange(40) % 4)), 0.2, 0, None)
    with pytest.raises(
        UsageError, match=r"teacher cifar_resnet answers with \(4,\) logits and student cnn with \(3,\)"
    ):
        assembly.learner(config_of("kd"), learns, model("resnet8", more).tapped(), known.test.pixels[:2], known.train)


# --------------------------------------------------------------------------------------------- margins and a memory


def test_a_margin_is_the_mean_of_the_negative_values_of_a_normal_distribution() -> None:
    """By the closed form, by many draws, and with the authors' floor where almost nothing is negative."""
    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.5, -2.0, 0.1]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 1.5, 3.0]))
    margin = margin_of_norm(norm)
    draws = norm.bias + norm.weight.abs() * torch.randn(400_000, 4, dtype=torch.float64)
    mean = mean_negative(draws.T.reshape(1, 4, 400_000, 1))
    torch.testing.assert_close(margin[:3], mean[:3].detach(), rtol=0.02, atol=0)
    assert margin[3].item() == pytest.approx(-0.3)
    assert mean_negative(torch.ones(2, 3, 2, 2)).tolist() == [0, 0, 0]
    wrong = mutated(importlib.import_module("kdrun.losses.ofd"), "place.square() / 2", "place.square()")
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong.margin_of_norm(norm)[:3], mean[:3].detach(), rtol=0.02, atol=0)


def check_negatives(draw: Callable[..., Tensor]) -> None:
    known = torch.tensor([2, 0, 1, 0, 2, 2, 0, 1])
    for most, count in ((100, 5), (4, 4)):
        drawn = draw(known, torch.tensor([0, 1, 2, 1]), most)
        assert drawn.shape == (4, count)
        assert not (known[drawn] == torch.tensor([0, 1, 2, 1])[:, None]).any()
    many = draw(known.repeat(50), torch.zeros(400, dtype=torch.long), 200)
    assert set(many.flatten().tolist()) == {place for place in range(400) if known[place % 8] != 0}


def test_negatives_are_of_other_classes_and_each_of_them_may_be_drawn() -> None:
    check_negatives(others)
    wrong = mutated(importlib.import_module("kdrun.losses.crd"), "(start + count + chosen", "(start + chosen")
    with pytest.raises(AssertionError):
        check_negatives(wrong.others)


def test_the_memory_is_a_running_mean_of_the_samples_seen_and_goes_on_where_it_was() -> None:
    training, live, _ = trained("crd", "resnet8", "cnn")
    term = training.learner.terms["crd"]
    assert {"memory", "log_scale"} <= set(term.state_dict())
    assert not {"rows", "classes"} & set(term.state_dict()), "what follows from the data is not saved"
    before = term.memory.clone()
    batch = next(iter(assembly.train_loader(config_of("crd"), data()).epoch(0)))
    training.learner.train()(batch, live(batch))
    places = term.rows[batch.index]
    changed = (term.memory != before).any(dim=2).any(dim=0)
    assert changed.nonzero().flatten().tolist() == sorted(places.tolist())
    torch.testing.assert_close(term.memory.norm(dim=2), torch.ones(2, term.samples))
    kept = term.memory.clone()
    training.learner.eval()(batch, live(batch))
    assert torch.equal(term.memory, kept), "evaluation remembers nothing"


def test_the_paraphraser_is_trained_first_and_alone() -> None:
    learns, taught, known = model("cnn", data()), model("resnet8", data()), data()
    made = assembly.learner(config_of("ft"), learns, taught.tapped(), known.test.pixels[:2], known.train)
    batch = next(iter(assembly.train_loader(config_of("ft"), known).epoch(0)))
    live = LiveTeacher(taught.tapped(), "f", "cpu", "fp32")
    live.model.tap(
        made.student.taps | {"stage3": "layer3", "stage2": "layer2", "stage1": "layer1", "embedding": "fc:input"}
    )
    for done, reached in ((0.0, {"encoder", "decoder"}), (0.5, {"translator"})):
        made.zero_grad()
        made.progress(done)
        made.total({"ft": made(batch, live(batch))[1]["ft"]}).backward()
        moved = {
            name.split(".")[2] for name, one in made.named_parameters() if "terms" in name and one.grad is not None
        }
        assert moved == reached
        assert (next(made.student.parameters()).grad is not None) == (done > 0)
