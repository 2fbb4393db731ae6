"""All stages on real digits, as a person uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import kdrun as package
from kdrun.errors import UsageError
from tests.conftest import ROOT, Answer

FAST = ["teacher=cnn", "student=mlp", "student.widths=[8]", "epochs=2", "teacher.train.epochs=3", "batch_size=64"]
Command = Callable[..., Answer]


def read(run: Path, name: str) -> dict:  # type: ignore[type-arg]
    return json.loads((run / name).read_text())


def times_left_out(summary: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in summary.items() if not key.endswith(("_seconds", "_per_second"))}


def test_from_nothing_to_a_distilled_student_and_on(kdrun: Command) -> None:
    first = kdrun("distill", *FAST)
    assert (first.code, first.err) == (0, "")
    summary, info = read(first.run, "summary.json"), read(first.run, "run.json")
    assert info["status"] == "completed"
    assert {parent["role"] for parent in info["parents"]} == {"teacher", "alone"}
    assert summary["gain"] == pytest.approx(summary["test/accuracy"] - summary["alone/test/accuracy"])
    assert summary["teacher/test/accuracy"] > 0.85
    assert summary["student/parameters"] == summary["alone/parameters"] < summary["teacher/parameters"]
    assert f"{100 * summary['test/accuracy']:.2f} %" in first.out
    assert "gain over the student alone" in (first.run / "log.txt").read_text()
    lines = [json.loads(line) for line in (first.run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["split"]) for line in lines] == [(1, "val"), (1, "train"), (2, "val"), (2, "train")]
    assert sum(map(sum, read(first.run, "confusion.json")["student"])) == summary["test/samples"] == 359

    details = read(first.run, "details.json")
    assert details["classes"] == [str(number) for number in range(10)]
    seen = details["disagreements"]
    assert (seen["count"], seen["samples"]) == (round((1 - summary["test/agreement"]) * 359), 359)
    assert all(one["student"] != one["teacher"] for one in seen["shown"])
    for role, prefix in (("student", ""), ("teacher", "teacher/"), ("alone", "alone/")):
        bins = details["calibration"][role]
        assert sum(count for count, _, _ in bins) == 359
        error = sum(count * abs(sure - right) for count, sure, right in bins) / 359
        assert error == pytest.approx(summary[f"{prefix}test/ece"])

    again = kdrun("distill", *FAST)  # teacher and baseline are found; the student is trained anew, to the same bits
    assert "teacher: using" in again.out
    assert "baseline: using" in again.out
    assert times_left_out(read(again.run, "summary.json")) == times_left_out(summary)
    assert read(again.run, "run.json")["fingerprint"] == info["fingerprint"]
    weights = [
        torch.load(run / "checkpoints" / "model.pt", weights_only=True)["state_dict"] for run in (first.run, again.run)
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    reproduced = kdrun("reproduce", str(first.run))
    assert reproduced.code == 0
    assert "EXACT" in reproduced.out
    other = first.run / "summary.json"
    other.write_text(json.dumps({**summary, "test/accuracy": 0.5}))
    different = kdrun("reproduce", str(first.run))
    assert different.code == 1
    assert "DIFFERENT: 1 numbers" in different.out
    assert "test/accuracy             0.5" in different.out
    other.write_text(json.dumps(summary))

    measured = kdrun("evaluate", str(first.run))
    assert read(measured.run, "summary.json")["test/accuracy"] == summary["test/accuracy"]

    Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save("zero.png")
    guess = kdrun("predict", str(first.run), "zero.png", "top_k=3")
    assert guess.code == 0
    assert guess.out.startswith("zero.png: 0 ")
    model, preprocess = loaded = package.load(first.run)
    assert loaded.classes[model(preprocess("zero.png")).argmax()] == "0"
    for no_pixels in (torch.rand(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)):  # scaled already; a batch
        with pytest.raises(UsageError, match=r"pixels must be uint8 \(C, H, W\)"):
            preprocess(no_pixels)
    for page in ("README.md", "docs/python-api.md"):
        for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            text = block.replace("outputs/distill/<run>", str(first.run)).replace("digit.png", "zero.png")
            exec(compile(text, page, "exec"), {})

    listed = kdrun("list", "runs")
    assert listed.out.count("completed") == 7
    assert str(first.run) in listed.out


def test_train_teacher_makes_the_teacher_that_distill_looks_for(kdrun: Command) -> None:
    trained = kdrun("train-teacher", "teacher=cnn", "epochs=1")
    found = kdrun("distill", "teacher=cnn", "student=cnn_tiny", "epochs=1", "teacher.train.epochs=1", "baseline=false")
    assert f"teacher: using {trained.run}" in found.out
    named = kdrun(
        "distill", f"teacher.run={trained.run}", "student=cnn_tiny", "epochs=1", "baseline=false", "loss=hard"
    )
    parents = read(named.run, "run.json")["parents"]
    assert [(one["role"], one["run"]) for one in parents] == [("teacher", str(trained.run))]


def test_somebody_elses_checkpoint_teaches_and_is_evaluated(kdrun: Command, tmp_path: Path) -> None:
    trained = kdrun("train", "model=resnet8", "epochs=2")
    state = torch.load(trained.run / "checkpoints" / "model.pt", weights_only=True)["state_dict"]
    foreign = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in state.items()}
    torch.save({"state_dict": foreign, "epoch": 9}, tmp_path / "theirs.pth")
    words = ["teacher=resnet8", "teacher.checkpoint=theirs.pth", "teacher.rename={linear: fc}"]
    run = kdrun("distill", *words, "student=cnn_tiny", "epochs=1", "baseline=false")
    own = read(trained.run, "summary.json")["test/accuracy"]
    assert read(run.run, "summary.json")["teacher/test/accuracy"] == pytest.approx(own)
    assert "training it first" not in run.out
    words = ["model=resnet8", "model.checkpoint=theirs.pth", "model.rename={linear: fc}", "dataset=digits"]
    measured = kdrun("evaluate", *words).run
    assert read(measured, "summary.json")["test/accuracy"] == pytest.approx(own)
    again, otherwise = (kdrun("evaluate", *words, *more).run for more in ([], ["model.mean=[0.5]"]))
    fingerprints = [read(run, "run.json")["fingerprint"] for run in (measured, again, otherwise)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_weights_for_other_classes_are_only_where_the_training_begins(kdrun: Command, tmp_path: Path) -> None:
    trained = kdrun("train", "model=resnet8", "epochs=1").run
    state = torch.load(trained / "checkpoints" / "model.pt", weights_only=True)["state_dict"]
    torch.save({**state, "fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}, tmp_path / "theirs.pth")
    words = ["teacher=resnet8", "teacher.checkpoint=theirs.pth", "teacher.train.epochs=1", "student=resnet8"]
    done = kdrun("distill", *words, "student.checkpoint=theirs.pth", "epochs=1", "baseline=false")
    said = "theirs.pth is for another number of classes: its classifier is trained anew"
    assert done.out.count(said) == 2  # of the teacher, and of the student
    teacher = Path(read(done.run, "run.json")["parents"][0]["run"])
    assert [read(run, "run.json").get("classifier") for run in (trained, teacher, done.run)] == [None, said, said]


@pytest.mark.parametrize(
    "words",
    [
        ["augment=[crop,rotate,cutout]", "augment.crop.padding=1"],
        ["augment=[flip,mixup]", "loss.task.kind=squared_error"],
        ["augment=cutmix", "loss=prob_mse", "optimizer=adamw"],
        ["accumulate=2", "grad_clip=1.0", "ema.decay=0.9", "optimizer=adam", "schedule=multistep"],
        ["dataset.validation=0", "loss=soft_ce", "label_smoothing=0.1"],
        ["early_stopping.patience=1", "epochs=9", "optimizer.lr=0.0", "loss=logit_mse"],
        ["dataset.limit=300", "dataset.balance=true", "schedule=cosine", "select=last"],
        ["device.precision=bf16", "device=cpu"],
    ],
    ids=" ".join,
)
def test_every_key_does_something_that_completes(kdrun: Command, words: list[str]) -> None:
    base = ["teacher=cnn", "teacher.train.epochs=1", "student=cnn_tiny", "epochs=2", "baseline=false"]
    run = kdrun("distill", *base, *words)
    assert (run.code, run.err) == (0, "")
    info, config = read(run.run, "run.json"), yaml.safe_load((run.run / "config.yaml").read_text())
    assert info["status"] == "completed"
    epochs = {json.loads(line)["epoch"] for line in (run.run / "metrics.jsonl").read_text().splitlines()}
    assert epochs == {1, 2}  # of nine at rate 0 too: nothing gets better, and patience ends it
    assert config["select"] == ("last" if {"dataset.validation=0", "select=last"} & set(words) else "best")


def test_a_sweep_shares_its_teacher_and_tells_the_worst_code(kdrun: Command) -> None:
    swept = kdrun(
        *["distill", "-m", *FAST[:3], "epochs=1", "teacher.train.epochs=1"],
        *["loss.alpha=0.5,0.9", "teacher.run=auto,nowhere"],
    )
    assert swept.code == 2
    assert swept.out.count("completed: loss.alpha=") == 2
    assert "nowhere is not a run directory" in swept.out
    assert "best on validation (2 jobs are missing, which may change this): loss.alpha=" in swept.out
    assert len(list(Path("outputs/distill").iterdir())) == 2
    assert len(list(Path("outputs/train").iterdir())) == 2, "one teacher and one baseline"


def test_a_failed_run_says_so_and_is_never_taken_for_a_teacher(kdrun: Command) -> None:
    failed = kdrun("train-teacher", "teacher=mlp", "epochs=2", "optimizer.lr=100.0", "loss.task.kind=squared_error")
    assert failed.code == 1
    assert "try a lower optimizer.lr" in failed.err
    info = json.loads(next(Path("outputs/train").glob("*/run.json")).read_text())
    assert info["status"] == "failed"
    assert "became" in info["reason"]
    assert "training it first" in kdrun("distill", "teacher=mlp", *FAST[1:], "teacher.train.epochs=2").out


def test_nothing_is_overwritten_and_nothing_left_behind_by_a_mistake(kdrun: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    refused = kdrun("train", "model=cnn_tiny", "epochs=1", "run_dir=mine")
    assert refused.code == 2
    assert "nothing is overwritten" in refused.err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    asked = kdrun("distill", "run_dir=mine", "teacher=cnn")
    assert asked.code == 2
    assert "trained first" not in asked.out
    for words in (["batch_size=5000"], ["model=resnet20", "model.depth=21"], ["dataset=mnist", "data_dir=none"]):
        answer = kdrun("train", *words)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert not Path("outputs").exists()


def test_how_often_the_loss_is_looked_at_changes_where_a_bad_one_ends_a_run_and_no_number(kdrun: Command) -> None:
    words = ["train", "model=mlp", "model.widths=[8]", "epochs=2", "batch_size=32", "optimizer=sgd"]
    often, seldom = (kdrun(*words, f"log.every={every}").run for every in (1, 50))
    assert read(often, "run.json")["fingerprint"] == read(seldom, "run.json")["fingerprint"]
    assert (often / "metrics.jsonl").read_text() == (seldom / "metrics.jsonl").read_text()
    wild = [*words, "optimizer.lr=100.0", "loss.task.kind=squared_error"]
    for every in (20, 30):
        assert f"in epoch 1 by step {every} of 41" in kdrun(*wild, f"log.every={every}").err


def test_image_folders_are_read_streamed_or_in_memory_with_equal_results(kdrun: Command, tmp_path: Path) -> None:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:300], digits.target[:300], strict=True)):
        if label > 2:
            continue
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).resize((16, 16)).save(folder / f"{number}.png")
    words = ["model=cnn", "dataset=image_folder", f"dataset.path={tmp_path / 'pictures'}", "dataset.size=16"]
    words += ["dataset.resize=16", "epochs=3", "batch_size=16", "augment=crop", "augment.crop.padding=1"]
    memory = kdrun("train", *words)
    streamed = kdrun("train", *words, "dataset.cache_gb=0.0", "dataset.workers=0")
    assert (memory.code, streamed.code) == (0, 0)
    results = [times_left_out(read(run, "summary.json")) for run in (memory.run, streamed.run)]
    assert results[0] == results[1]
    assert read(memory.run, "run.json")["data"]["verified"] is None, "nobody published checksums of these"
    assert results[0]["test/accuracy"] > 0.5


@pytest.mark.data
def test_real_mnist_and_usps(kdrun: Command, data_dir: Path) -> None:
    words = ["dataset=mnist", f"data_dir={data_dir}", "model=cnn_tiny", "epochs=1", "batch_size=32"]
    words += ["dataset.limit=12000"]
    run = kdrun("train", *words)
    summary = read(run.run, "summary.json")
    assert summary["test/samples"] == 10_000
    assert summary["test/accuracy"] > 0.9
    assert read(run.run, "run.json")["data"]["samples"] == {"train": 12_000, "val": 6_000, "test": 10_000}
    elsewhere = kdrun("evaluate", str(run.run), "dataset=usps", f"data_dir={data_dir}")
    assert (
        "images are adapted on the model's side: 1x16x16 (channels x height x width) becomes 1x28x28" in elsewhere.out
    )
    transferred = read(elsewhere.run, "summary.json")
    assert transferred["test/samples"] == 2_007
    assert 0.3 < transferred["test/accuracy"] < summary["test/accuracy"]
