"""What SimKD ships: the student without its classifier, the projector, the teacher's classifier."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdrun as package
from kdrun import assembly
from kdrun.errors import UsageError
from kdrun.losses import simkd
from kdrun.losses.simkd import classifier_of
from kdrun.models.building import build
from kdrun.models.reused import FEATURE, Projector, Reused
from kdrun.records import checkpoints
from kdrun.records.models import load_model
from tests.conftest import Answer, mutated
from tests.unit.test_feature_losses import config_of, data, model


def test_a_student_whose_feature_is_the_teachers_answers_as_the_teacher() -> None:
    """Section 3.1 of the paper. The feature here: the mean of the last map, which two convolutions end in."""
    teacher = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    images = torch.randn(3, 1, 8, 8)
    feature = teacher[:2](images)
    classifier = classifier_of(teacher, feature.mean(dim=(2, 3)), teacher(images))
    assert classifier is teacher[4]
    student = Reused(copy.deepcopy(teacher), "1", Projector(6, 6, 2, 6, rectified=True), copy.deepcopy(classifier))
    student.projector.layers = nn.Identity()
    torch.testing.assert_close(student(images), teacher(images))
    assert isinstance(student.student.model[4], nn.Identity), "the student's own classifier is gone"
    with pytest.raises(UsageError, match=r"no linear layer of the teacher makes its logits \(4,\)"):
        classifier_of(teacher, feature.mean(dim=(2, 3)), teacher(images) + 1)


PAIRS = {  # which feature of the teacher, of which size
    ("resnet8x4", "cnn"): ("stage3", (2, 2)),
    ("wrn_16_2", "vgg8"): ("embedding", (1, 1)),  # a norm follows the last map
    ("vit", "cnn"): ("embedding", (1, 1)),  # the class token
    ("mlp", "mlp"): ("stage1", (1, 1)),
    ("cnn", "vit"): ("embedding", (1, 1)),  # whose classifier is given the map flattened
}


@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=str)
def test_the_feature_is_the_map_behind_the_classifier_where_there_is_one(teacher: str, student: str) -> None:
    known = data()
    taught, learns = model(teacher, known), model(student, known)
    before = {name: one.clone() for name, one in learns.net.state_dict().items()}
    made = assembly.learner(config_of("simkd"), learns, taught.tapped(), assembly.probe_images(known), known.train)
    term = made.terms["simkd"]
    assert (term.pair.teacher, term.size) == PAIRS[teacher, student]
    assert all(torch.equal(value, before[name]) for name, value in learns.net.state_dict().items())
    outputs = made.student.eval()(known.test.pixels[:5])
    assert outputs.logits.shape == (5, 3)
    assert outputs.features[FEATURE].shape[2:] == term.size
    shipped = made.shipped
    assert shipped is not None
    assert sum(one.numel() for one in shipped.net.net.classifier.parameters()) > 0
    assert not any(one.requires_grad for one in shipped.net.net.classifier.parameters())


def test_two_terms_cannot_both_ship_a_model() -> None:
    known, config = data(), config_of("simkd")
    config["loss"]["terms"]["again"] = config["loss"]["terms"]["simkd"]
    with pytest.raises(UsageError, match="simkd and again each ship another model"):
        assembly.learner(config, model("cnn", known), model("resnet8", known).tapped(), known.test.pixels[:2])


def ran(kdrun: Callable[..., Answer], *words: str) -> Path:
    common = ["teacher=resnet8", "student=cnn_tiny", "loss=simkd", "dataset.limit=60", "baseline=false"]
    budgets = ["epochs=2", "batch_size=20", "teacher.train.epochs=1", "teacher.train.batch_size=20"]
    answer = kdrun("distill", *common, *budgets, *words)
    assert (answer.code, answer.err) == (0, "")
    return answer.run


def check_what_is_shipped(run: Path, images: Tensor) -> None:
    file = checkpoints.load(run / "checkpoints" / "model.pt")
    info, summary = json.loads((run / "run.json").read_text()), json.loads((run / "summary.json").read_text())
    network = build(file["spec"]).net.net
    assert set(file["state_dict"]) == set(network.state_dict())
    teacher = load_model(Path(info["parents"][0]["run"])).net.net
    assert torch.equal(file["state_dict"]["classifier.weight"], teacher.fc.weight)
    assert torch.equal(file["state_dict"]["classifier.bias"], teacher.fc.bias)
    parts = [network.student, network.projector, network.classifier]
    assert summary["student/parameters"] == sum(one.numel() for part in parts for one in part.parameters())
    assert summary["student/size_bytes"] > 4 * summary["student/parameters"]
    loaded, preprocess = package.load(run)
    with torch.no_grad():
        answer = loaded(torch.cat([preprocess(image) for image in images]))
        expected = load_model(run).net(images)
    torch.testing.assert_close(answer, expected)


def test_what_is_shipped_is_what_is_counted_saved_loaded_and_evaluated(
    kdrun: Callable[..., Answer], tmp_path: Path
) -> None:
    run = ran(kdrun)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    check_what_is_shipped(run, images)
    summary = json.loads((run / "summary.json").read_text())
    measured = json.loads((kdrun("evaluate", str(run)).run / "summary.json").read_text())
    assert measured["test/accuracy"] == summary["test/accuracy"]
    assert measured["model/parameters"] == summary["student/parameters"]
    assert "EXACT" in kdrun("reproduce", str(run)).out
    damaged(run / "checkpoints" / "model.pt", tmp_path / "other.pt")


def damaged(file: Path, other: Path) -> None:
    """A spec that says other than what such a model has is refused, in one line, before anything is built."""
    content = checkpoints.load(file)
    options: dict[str, Any] = content["spec"]["options"]
    wrong = {
        "must have projector, student, tap": {key: value for key, value in options.items() if key != "tap"},
        "options.projector: must have": {**options, "projector": {}},
        "options.student: must have kind, options": {**options, "student": {"kind": "cnn"}},
        "there is no such kind": {**options, "student": {"kind": "reused", "options": {}}},
        "options.projector.wanted=0: must be between": {**options, "projector": {**options["projector"], "wanted": 0}},
        "options.tap=3: must be": {**options, "tap": 3},
        "unknown key options.depth": {**options, "student": {**options["student"], "options": {"depth": 8}}},
        "its weights are not those": {**options, "projector": {**options["projector"], "wanted": 7}},
        "which .* does not have": {**options, "tap": "nowhere"},
    }
    for told, change in wrong.items():
        checkpoints.save(other, {**content, "spec": {**content["spec"], "options": change}})
        with pytest.raises(UsageError, match=told):
            load_model(other)


def test_a_classifier_that_is_not_the_teachers_is_noticed(
    kdrun: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "copy.deepcopy(self.found[0])"
    wrong = mutated(simkd, said, f"nn.Linear({said}.in_features, {said}.out_features)")
    real = assembly.lookup_term
    monkeypatch.setattr(assembly, "lookup_term", lambda kind: wrong.SimKD if kind == "simkd" else real(kind))
    run = ran(kdrun)
    with pytest.raises(AssertionError):
        check_what_is_shipped(run, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
