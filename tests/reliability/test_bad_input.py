"""Bad input: every class of mistake is answered in three lines at most, with its exit code, and leaves nothing behind.

Exit code 2 is what was typed or configured and cannot work, 1 what failed while running.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdrun import composition, config
from kdrun.models.building import build
from kdrun.records.models import save_model
from tests.composing import COMPOSE, quickly
from tests.conftest import Answer

Command = Callable[..., Answer]
LONG = "x" * 5000
LONGEST_ECHO = "x" * 201
SMALL = ("model=mlp", "model.widths=[4]")  # a model that costs nothing to build
PAIR = ("teacher=mlp", "student=mlp", "teacher.widths=[4]", "student.widths=[4]")
SEVERAL = "epochs=0 seed=-1 loss.alpha=2 epoch=3 teacher=mpl device=cpu device.precision=fp16"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


# ----------------------------------------------------------------------------------------------------------- files


def checkpoint(path: Path, content: Any = None) -> None:
    """A foreign file: the state dict of another network, with what it says of itself beside it."""
    state = {f"block.{number}.weight": torch.ones(2) for number in range(5)}
    torch.save({"arch": "resnet20", "epoch": 164, "state_dict": state} if content is None else content, path)


def model_file(path: Path, classes: int = 10) -> None:
    """A model file of kdrun's own."""
    names = [str(number) for number in range(classes)]
    spec = {"kind": "mlp", "options": {"widths": [4], "dropout": 0.0}, "classes": names, "channels": 1, "size": 8}
    model = build({**spec, "network_channels": 1, "mean": [0.3], "std": [0.4], "resize": None})
    save_model(path, model, model.net.net.state_dict())


def run_directory(path: Path, status: str = "completed", classes: int = 3) -> None:
    """A run, as far as a teacher is taken from it."""
    (path / "checkpoints").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"format": 1, "status": status, "fingerprint": "0" * 64}))
    model_file(path / "checkpoints" / "model.pt", classes)


def images(path: Path, count: int = 12) -> None:
    """Two classes of small pictures."""
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 9), (20 * number, 0, 90)).save(path / name / f"{number:02}.png")


def idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    header = struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def mnist(folder: Path, shape: tuple[int, ...] = (28, 28), labels: int = 40, last: int = 9, count: int = 40) -> None:
    """Files of MNIST's format, and not of its bytes."""
    targets = np.arange(labels) % 10
    targets[-1:] = last
    for part in ("train", "t10k"):
        idx(folder / f"MNIST/raw/{part}-images-idx3-ubyte.gz", np.zeros((count, *shape)))
        idx(folder / f"MNIST/raw/{part}-labels-idx1-ubyte.gz", targets)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("the code ran",)


def prepare(folder: Path) -> None:
    """The files that cases name."""
    (folder / "text").write_text("no tensors\n")
    (folder / "broken").symlink_to("nowhere")
    (folder / "used").mkdir()
    (folder / "used" / "mine").write_text("keep this")
    checkpoint(folder / "foreign.pt")
    checkpoint(folder / "list.pt", [1, 2])
    checkpoint(folder / "numbers.pt", {"epoch": 3})
    (folder / "empty.pt").write_bytes(b"")
    (folder / "code.pt").write_bytes(pickle.dumps({"model": Code()}))
    model_file(folder / "own.pt")
    model_file(folder / "three.pt", 3)
    content = (folder / "own.pt").read_bytes()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])
    (folder / "flipped.pt").write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    mlp = {
        "1.weight": torch.ones(4, 64),
        "1.bias": torch.ones(4),
        "3.weight": torch.ones(10, 4),
        "3.bias": torch.ones(10),
    }
    checkpoint(folder / "nan.pt", {**mlp, "3.bias": torch.full((10,), float("nan"))})
    checkpoint(folder / "head.pt", {**mlp, "3.weight": torch.ones(7, 4), "3.bias": torch.ones(7)})
    for name, status, classes in (("run3", "completed", 3), ("run10", "completed", 10), ("failed", "failed", 10)):
        run_directory(folder / name, status, classes)
    (folder / "no_json").mkdir()
    (folder / "no_json" / "run.json").write_text("{")
    (folder / "format").mkdir()
    (folder / "format" / "run.json").write_text('{"format": 99}')
    images(folder / "truncated")
    picture = folder / "truncated" / "dog" / "03.png"
    picture.write_bytes(picture.read_bytes()[:-30])
    images(folder / "astray")
    (folder / "astray" / "dog" / "03.png").unlink()
    (folder / "astray" / "dog" / "03.png").symlink_to("nowhere.png")
    images(folder / "lacking")
    for file in (folder / "lacking" / "dog").iterdir():
        file.unlink()
    images(folder / "floats")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(folder / "floats" / "cat" / "05.tif")
    (folder / "hollow").mkdir()
    images(folder / "strange" / "train")
    images(folder / "strange" / "test")
    (folder / "strange" / "test" / "emu").mkdir()
    mnist(folder / "oblong", (28, 20))
    mnist(folder / "fewer", labels=30)
    mnist(folder / "labels", last=12)
    mnist(folder / "none", labels=0, count=0)
    mnist(folder / "flat", shape=(28,))
    (folder / "mine" / "model").mkdir(parents=True)
    (folder / "mine" / "model" / "broken.yaml").write_text("kind: [mlp\n")
    (folder / "theirs" / "model").mkdir(parents=True)
    text = "# Ours.\nkind: cnn\nwidths: [4, 4]\ntaps: {stage1: nowhere}\n"
    (folder / "theirs" / "model" / "tapped.yaml").write_text(text)
    (folder / "ours" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nepochs: many\noptimizr:\n  lr: 0.1\n"
    (folder / "ours" / "experiment" / "wrong.yaml").write_text(text)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture
def kdrun_there(kdrun: Command, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in the folder of prepared files."""
    monkeypatch.chdir(prepared)
    return kdrun


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder, by path."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# ----------------------------------------------------------------------------------------------------------- cases


def words(*texts: str) -> list[str]:
    return [word for text in texts for word in text.split()]


MNIST = ("train", *SMALL, "dataset=mnist", "dataset.verify=false", "batch_size=8")
FOLDER = ("train", *SMALL, "dataset=image_folder", "dataset.size=8", "dataset.resize=8", "batch_size=4", "data_dir=.")
CONVOLUTIONAL = ("distill", "teacher=cnn_tiny", "student=cnn_tiny")
FITNET = (*CONVOLUTIONAL, "loss=fitnet")
D = ("distill", *PAIR)
CASES: dict[str, tuple[list[str], int, str]] = {
    # commands and options
    "no such command": (words("distil"), 2, "did you mean distill?"),
    "an option for a command": (words("--frob"), 2, "there is no command '--frob'"),
    "no such option": (words("distill --frob"), 2, "unknown option --frob"),
    "an option without its value": (words("distill --plugin"), 2, "--plugin needs a value"),
    "no such plugin": (words("distill --plugin no_such_package"), 2, "there is no such package"),
    "a plugin that is no name": (words("distill --plugin .."), 2, "there is no such package"),
    "no such config folder": (words("distill --config-dir nowhere"), 2, "there is no such folder"),
    "no such config folder for a list": (words("list losses --config-dir nowhere"), 2, "there is no such folder"),
    "no such config folder for a store": (words("store fill --config-dir nowhere"), 2, "there is no such folder"),
    "no such plugin for a list": (words("list losses --plugin no_such_package"), 2, "there is no such package"),
    "a pickled run": (words("distill --experimental-rerun x.pickle"), 2, "can run any code"),
    "no such list": (words("list modells"), 2, "did you mean models?"),
    "too many lists": (words("list models losses"), 2, "takes one word"),
    "a key that list has not": (words("list models outputdir=x"), 2, "unknown word outputdir=x"),
    "a report of nothing": (words("report"), 2, "usage: kdrun report"),
    "a report of nowhere": (words("report nowhere"), 2, "nowhere: there is no such folder"),
    "a report of no runs": (words("report hollow"), 2, "there are no runs in hollow"),
    "a report in no such format": (words("report run10 --format pdf"), 2, "there is no such format; allowed: csv"),
    "a report over a file": (words("report run10 --out text"), 2, "text exists and is no report of kdrun's"),
    "a report into no folder": (words("report run10 --out nowhere/x.html"), 2, "there is no such folder"),
    "an option that report has not": (words("report run10 --frob"), 2, "unknown option --frob"),
    "compare nothing": (words("compare"), 2, "usage: kdrun compare"),
    "compare one": (words("compare run10"), 1, "there is nothing to compare"),
    "predict without images": (words("predict run10"), 2, "usage: kdrun predict"),
    "predict with no such image": (words("predict run10 nowhere.png"), 2, "nowhere.png: there is no such file"),
    "predict what is no image": (words("predict run10 text"), 2, "text is not an image that can be read"),
    "predict a cut image": (words("predict run10 truncated/dog/03.png"), 2, "truncated/dog/03.png is not an image"),
    "predict by no model": (words("predict text text"), 2, "is damaged or not written by kdrun"),
    "predict by nothing": (words("predict nowhere text"), 2, "nowhere: there is no such file"),
    "predict no classes": (words("predict run10 text top_k=0"), 2, "usage: kdrun predict"),
    "reproduce nothing": (words("reproduce"), 2, "usage: kdrun reproduce"),
    "reproduce no run": (words("reproduce used"), 2, "is not a run directory"),
    "reproduce a failed run": (words("reproduce failed"), 1, "is failed, not completed"),
    "evaluate nothing": (words("evaluate"), 2, "nothing to evaluate"),
    "evaluate no run": (words("evaluate nowhere"), 2, "there is no such run directory or model file"),
    "evaluate a failed run": (words("evaluate failed"), 2, "is failed, not completed"),
    "evaluate a run of another format": (words("evaluate format"), 2, "has another format"),
    "evaluate text": (words("evaluate text dataset=digits"), 2, "is damaged or not written by kdrun"),
    "evaluate on other classes": (words("evaluate three.pt dataset=digits"), 2, "knows the classes 0, 1, 2"),
    "evaluate on no data": (words("evaluate own.pt"), 2, "add dataset=<name>"),
    "evaluate a run of a number": (["evaluate", "run=5"], 2, "quote a number: \"run='5'\""),
    # keys and choices
    "no such key": (words("distill epoch=1"), 2, "unknown key epoch; did you mean epochs?"),
    "no such inner key": (words("distill loss.alpa=1"), 2, "did you mean loss.alpha?"),
    "a key by its last name": (words("distill lr=1"), 2, "optimizer.lr or teacher.train.optimizer.lr?"),
    "a key that a loss has not": (words("distill loss=hard loss.temperature=3"), 2, "loss has alpha, kind, task"),
    "a key without a name": (words("distill =1"), 2, "'=1' is not an override"),
    "a word without a value": (words("distill digits"), 2, "'digits' is not an override"),
    "a value with grammar": (["distill", "run_dir=a{b"], 2, "is not an override"),
    "a key added": (words("distill +extra=1"), 2, "unknown key extra"),
    "a key added twice": (words("distill +epochs=1"), 2, "+epochs: there is such a key already"),
    "a group added": (words("distill +model@other=mlp"), 2, "+model: one is chosen already"),
    "a key removed": (words("distill ~epochs"), 2, "~epochs: nothing can be removed"),
    "no such model": (words("distill teacher=resnt152"), 2, "did you mean resnet152?"),
    "no such data": (words("distill dataset=cifer10"), 2, "did you mean cifar10"),
    "no such augmentation": (words("train augment=[crop,fip]"), 2, "did you mean flip?"),
    "no such experiment": (words("distill experiment=mnist_cn"), 2, "did you mean mnist_cnn?"),
    "no choice": (words("distill student=null"), 2, "kdrun distill needs one"),
    "an empty choice": (words("distill loss="), 2, "there is no such loss; allowed: ab, adversarial, at"),
    "a list of choices": (words("distill optimizer=[sgd,adam]"), 2, "takes one name; only augment takes a list"),
    "an empty list of choices": (words("train augment=[]"), 2, "write augment=none"),
    "a sweep without -m": (words("distill seed=0,1"), 2, "several values are a sweep, which needs -m"),
    "a sweep of no such key": (words("distill -m teacher=mlp,cnn epoch=1,2"), 2, "did you mean epochs?"),
    "a sweep of no such choice": (words("distill -m student=mpl,cnn"), 2, "did you mean mlp?"),
    "a sweep named by a mapping": (words("train -m seed=0,1 sweep.name={a:b}"), 2, "this names a folder"),
    "a sweep named by a path": (words("train -m seed=0,1 sweep.name=../a"), 2, "this names a folder"),
    "a search named by a list": (words("tune sweep.name=[a]"), 2, "this names a folder"),
    "a path for a name": (words("train model=/etc/passwd"), 2, "model=/etc/passwd: there is no such model; allowed"),
    "a kind by its key": (words("train model.kind=mlp"), 2, "choose it with model=<name>"),
    "a config of one's own": (words("train --config-dir mine model=broken"), 2, "mine/model/broken.yaml"),
    "an experiment of one's own": (words("train --config-dir ours experiment=wrong"), 2, "did you mean optimizer?"),
    "an interpolation of nothing": (["distill", "epochs=${nope}"], 2, "Interpolation key 'nope' not found"),
    "an interpolation of itself": (["distill", "epochs=${epochs}"], 2, "Recursive interpolation"),
    "a very long word": (["distill", LONG], 2, "is not an override"),
    "a very long command": ([LONG], 2, "there is no command"),
    "a very long option": (["distill", f"--{LONG}"], 2, "unknown option"),
    "a very long picture": (["predict", LONG, "x"], 2, "longer than a file's can be"),
    "a very long run": (["reproduce", LONG], 2, "longer than a file's can be"),
    "a very long folder of runs": (["list", "runs", f"output_dir={LONG}"], 2, "longer than a file's can be"),
    "a very long value": (["distill", f"student.checkpoint={LONG}"], 2, "this has 5000 characters"),
    "a very long key": (["distill", f"{LONG}=1"], 2, "unknown key xxx"),
    "a very long name": (["distill", f"run_dir={LONG[:300]}"], 2, "longer than 255 bytes"),
    "a control character": (["distill", "run_dir='a\x1bb'"], 2, "characters that no name can have"),
    # types and limits
    "a word for a number": (words("distill epochs=many"), 2, "must be a whole number, not a word"),
    "a fraction for a whole number": (words("distill epochs=1.5"), 2, "must be a whole number, not a number"),
    "a number for a truth": (words("distill baseline=1"), 2, "must be true or false, not a whole number"),
    "a list for a number": (words("distill epochs=[1]"), 2, "must be a whole number, not a list"),
    "a mapping for a number": (words("distill epochs={a:1}"), 2, "must be a whole number, not a mapping"),
    "words for numbers": (words("train model=mlp model.widths=[a]"), 2, "must be a list of whole numbers"),
    "nothing for a number": (words("distill epochs=null"), 2, "must be a whole number, not null"),
    "not a number": (words("distill optimizer.lr=nan"), 2, "optimizer.lr=nan: numbers must be finite"),
    "infinity": (words("distill optimizer.lr=inf"), 2, "optimizer.lr=inf: numbers must be finite"),
    "not a number in a list": (words("distill dataset.mean=[nan]"), 2, "numbers must be finite"),
    "a number with no end": (words("distill seed=" + "9" * 50), 2, "numbers must lie within ±2^63"),
    "a number of 5000 digits": (["distill", "seed=" + "9" * 5000], 2, "is not an override"),
    "alpha too high": (words("distill loss.alpha=1.5"), 2, "loss.alpha=1.5: must be between 0.0 and 1.0"),
    "temperature of zero": (words("distill loss.temperature=0"), 2, "must be between 0.05 and 1000.0"),
    "epochs of zero": (words("distill epochs=0"), 2, "epochs=0: must be between 1 and 100000"),
    "a seed below zero": (words("distill seed=-1"), 2, "seed=-1: must be between 0 and"),
    "betas out of range": (words("train optimizer=adam optimizer.betas=[0.9,1.0]"), 2, "between 0.0 and 0.999999"),
    "one beta": (words("train optimizer=adam optimizer.betas=[0.9]"), 2, "must be two numbers"),
    "warm-up longer than training": (words("train schedule.warmup=1.5"), 2, "schedule.warmup=1.5: must be between"),
    "no such word": (words("train select=worst"), 2, "select=worst: allowed: best, last"),
    "a missing value": (words("train run_dir=???"), 2, "says that a value is missing"),
    "std of zero": (words("train dataset.std=[0]"), 2, "they must be above 0"),
    "no widths": (words("train model=cnn model.widths=[]"), 2, "must be whole numbers above 0"),
    "a depth there is not": (words("train model=resnet8 model.depth=9"), 2, "6n + 2 layers"),
    "a number for a path": (words("train run_dir=5"), 2, "run_dir=5: must be a path or null"),
    "an empty path": (words("train run_dir="), 2, "run_dir=: must be a path or null"),
    # contradictions
    "labels to distill": (words("distill loss=labels"), 2, "nothing is distilled"),
    "alpha of labels": (words("distill loss=labels loss.alpha=0.5"), 2, "this loss is no convex mix"),
    "kd without a teacher": (words("train loss=kd"), 2, "loss=kd needs a teacher"),
    "half precision on a processor": (words("train device=cpu device.precision=fp16"), 2, "works on CUDA only"),
    "a teacher in half precision": (
        words("distill device=cpu teacher.train.precision=fp16"),
        2,
        "teacher.train.precision=fp16 works on CUDA only",
    ),
    "patience without validation": (
        words("train dataset.validation=0 early_stopping.patience=3"),
        2,
        "needs a validation split",
    ),
    "two mixes": (words("train augment=[mixup,cutmix]"), 2, "use one of them"),
    "milestones that fall": (words("train schedule=multistep schedule.milestones=[0.7,0.5]"), 2, "must rise"),
    "milestones in the warm-up": (words("train schedule=multistep schedule.warmup=0.7"), 2, "ends after the first"),
    "two teachers": (words("distill teacher.run=a teacher.checkpoint=b"), 2, "both name a teacher"),
    "two origins": (words("train model.checkpoint=a model.weights=b"), 2, "both name weights"),
    "names mapped of no file": (words("train model.rename={a:b}"), 2, "set model.checkpoint"),
    "all at once": (words("distill", SEVERAL), 2, "and 4 more mistakes: "),
    # losses, and what they read of the models
    "a tap that the student has not": ([*FITNET, "loss.terms.fitnet.pairs={stage9:stage1}"], 2, "not in the student"),
    "a tap that the teacher has not": ([*FITNET, "loss.terms.fitnet.pairs={stage1:stage9}"], 2, "not in the teacher"),
    "a tap in a mix": (
        [*CONVOLUTIONAL, "loss=mix", "loss.terms={at:9,fitnet:{weight:1,pairs:{stage4:stage1}}}"],
        2,
        "loss.terms.fitnet, teacher cnn, student cnn: tap 'stage4' is not in the student; it has stage1 (8,",
    ),
    "pairs of a number": ([*FITNET, "loss.terms.fitnet.pairs=5"], 2, "must map taps of the student to taps"),
    "pairs of nothing": ([*FITNET, "loss.terms.fitnet.pairs={}"], 2, "must map taps of the student to taps"),
    "two pairs for one": (
        [*CONVOLUTIONAL, "loss=srd", "loss.terms.srd.pairs={stage1:stage1,stage2:stage2}"],
        2,
        "give one pair",
    ),
    "a place that is not there": ([*FITNET, "student.taps={stage1:nowhere}"], 2, "names module 'nowhere', which cnn"),
    "a place that is nearly there": (
        ["distill", "teacher=resnet8", "student=cnn_tiny", "loss=fitnet", "teacher.taps={stage1:layr1}"],
        2,
        "did you mean layer1?",
    ),
    "a place in a model's own file": (
        ["distill", "--config-dir", "theirs", "teacher=tapped", "student=cnn_tiny", "loss=fitnet"],
        2,
        "tap 'stage1' names module 'nowhere'",
    ),
    "places of a number": ([*FITNET, "teacher.taps=5"], 2, "must map taps to modules"),
    "no places at all": ([*FITNET, "student.taps={}"], 2, "this loss needs stages in both; the student has no taps"),
    "maps of perceptrons for attention": ([*D, "loss=at"], 2, "needs maps of at least 2 pixels in both; the student"),
    "maps of perceptrons for a review": ([*D, "loss=reviewkd"], 2, "losses that work without are fitnet, vid, sp"),
    "maps of a perceptron that teaches": (
        ["distill", "teacher=mlp", "student=cnn_tiny", "loss=nst"],
        2,
        "the teacher stage1 (500,)",
    ),
    "a batch too small for triples": ([*CONVOLUTIONAL, "loss=rkd", "batch_size=2"], 2, "needs batches of at least 3"),
    "no such loss in a mix": ([*D, "loss=mix", "loss.terms={kd:1,fitnetz:1}"], 2, "did you mean fitnet?"),
    "a name in a mix that torch has": (
        [*D, "loss=mix", "loss.terms={type:{kind:kd,weight:1}}"],
        2,
        "loss.terms.type: this name is taken by torch",
    ),
    "a mix of nothing": ([*D, "loss=mix"], 2, "loss=mix has no terms: name them with their weights"),
    "a mix without a teacher": (["train", *SMALL, "loss=mix", "loss.terms={kd:1}"], 2, "loss=kd needs a teacher"),
    "an option of a term that a mix does not have yet": (
        [*D, "loss=mix", "loss.terms.at.form=norm"],
        2,
        "loss.terms.at has no such key yet; write loss.terms.at='{form: …}' with all it is to hold, or +loss",
    ),
    "an option of a term in the place of its weight": (
        [*D, "loss=mix", "loss.terms={kd: 0.9, at: 9}", "+loss.terms.at.form=norm"],
        2,
        "loss.terms.at.form: this would replace loss.terms.at=9, which was typed too; write both as one",
    ),
    "a course without its end": ([*D, "loss=dkd", "loss.terms.dkd.weight={from:1}"], 2, "needs from and to"),
    "a course of another shape": (
        [*D, "loss=dkd", "loss.terms.dkd.weight={from:1,to:2,shape:square}"],
        2,
        "dkd.weight.shape=square: allowed: linear, cosine",
    ),
    "alpha of a loss with weights": ([*D, "loss=dkd", "loss.alpha=0.5"], 2, "set its weights: loss.task.weight"),
    # other commands
    "no such store": (words("store fil"), 2, "did you mean fill?"),
    "a store pruned to nothing said": (words("store prune"), 2, "kdrun store prune keep_gb=NUMBER"),
    "a store pruned to nan": (words("store prune keep_gb=nan"), 2, "must be a number that is not negative"),
    "a folder to clean": (words("clean nowhere"), 2, "there is no such folder"),
    "a word for a truth to clean": (words("clean unfinished=perhaps"), 2, "usage: kdrun clean"),
    "a key to reproduce": (words("reproduce run10 epochs=3"), 2, "unknown word epochs=3"),
    "a tolerance of nan": (words("reproduce run10 --tolerance nan"), 2, "must be a number that is not negative"),
    "no threads to reproduce": (words("reproduce run10 device.threads=0"), 2, "usage: kdrun reproduce"),
    "a number with an exponent to reproduce": (words("reproduce run10 device.threads=²"), 2, "usage: kdrun reproduce"),
    "no such device to reproduce": (words("reproduce run10 device=cdua"), 2, "no such device; did you mean cuda?"),
    "threads for ever to reproduce": (words("reproduce run10 device.threads=99999999999"), 2, "between 1 and 1024"),
    "processes for ever to reproduce": (words("reproduce run10 launch.processes=5000"), 2, "between 1 and 1024"),
    "processes for ever to resume": (words("resume run10 launch.processes=5000"), 2, "between 1 and 1024"),
    "no folder of data to reproduce": (words("reproduce run10 data_dir="), 2, "data_dir=: must be a path"),
    "clean nowhere said": (["clean", ""], 2, "an empty word"),
    "clean an empty folder": (["clean", "output_dir="], 2, "output_dir=: must be a path"),
    "resume nowhere said": (["resume", ""], 2, "an empty word"),
    "resume an empty run": (["resume", "run="], 2, "run=: must be a path"),
    "reproduce nowhere said": (["reproduce", ""], 2, "an empty word"),
    "evaluate nowhere said": (["evaluate", ""], 2, "run=: must be a path"),
    "predict by a model nowhere said": (["predict", "", "text"], 2, "an empty word"),
    "predict a picture nowhere said": (["predict", "run10", ""], 2, "an empty word"),
    "report nowhere said": (["report", ""], 2, "an empty word"),
    "compare nowhere said": (["compare", "run10", ""], 2, "an empty word"),
    "an empty config folder": (["list", "losses", "--config-dir", ""], 2, "--config-dir needs a value"),
    "list runs of an empty folder": (["list", "runs", "output_dir="], 2, "output_dir=: must be a path"),
    "resume nothing": (words("resume"), 2, "usage: kdrun resume"),
    "resume two": (words("resume a b"), 2, "usage: kdrun resume"),
    "a credential in a sweep": (
        words("distill -m seed=0,1 some.token=abc"),
        2,
        "set it in the environment: some.token",
    ),
    # models, weights, devices
    "no such device": (words("train device=mps"), 2, "there is none on this machine"),
    "images too small": (words("train model=torchvision model.name=alexnet"), 2, "no answer for images of 8x8 pixels"),
    "images too small for a student": (
        words("distill teacher=cnn_tiny student=torchvision student.name=alexnet"),
        2,
        "a larger min_size of the model",
    ),
    "no such network": (words("train model=torchvision model.name=resnet1523"), 2, "did you mean resnet152?"),
    "no such weights": (words("train model=resnet18 model.weights=IMAGENET1K_V9"), 2, "did you mean IMAGENET1K_V1"),
    "weights of another library": ([*words("train"), *SMALL, "model.weights=V1"], 2, "weights=V1 are torchvision's"),
    "channels of another kind": ([*words("train"), *SMALL, "model.mean=[0.1,0.2]"], 2, "one number per channel"),
    "no checkpoint": ([*words("train"), *SMALL, "model.checkpoint=nowhere.pt"], 2, "there is no such file"),
    "a checkpoint of text": ([*words("train"), *SMALL, "model.checkpoint=text"], 2, "cannot be read as tensors"),
    "a checkpoint of nothing": ([*words("train"), *SMALL, "model.checkpoint=empty.pt"], 2, "cannot be read as tensors"),
    "a checkpoint cut short": ([*words("train"), *SMALL, "model.checkpoint=cut.pt"], 2, "is cut short"),
    "a checkpoint of flipped bits": ([*words("train"), *SMALL, "model.checkpoint=flipped.pt"], 2, "does not match"),
    "a checkpoint with code": (
        [*words("train"), *SMALL, "model.checkpoint=code.pt"],
        2,
        "holds code, which is not run",
    ),
    "a checkpoint of a list": ([*words("train"), *SMALL, "model.checkpoint=list.pt"], 2, "holds a list"),
    "a checkpoint without tensors": ([*words("train"), *SMALL, "model.checkpoint=numbers.pt"], 2, "has no tensors"),
    "a checkpoint of another net": (
        ["train", *SMALL, "model.checkpoint=foreign.pt"],
        2,
        "first keys are block.0.weight, block.1.weight, block.2.weight",
    ),
    "what a checkpoint says it is": (["train", *SMALL, "model.checkpoint=foreign.pt"], 2, "arch=resnet20, epoch=164"),
    "what our checkpoint says it is": (["train", "model=cnn", "model.checkpoint=own.pt"], 2, "a mlp for 10 classes"),
    "a checkpoint of nan": (["train", *SMALL, "model.checkpoint=nan.pt"], 2, "not finite numbers: 3.bias"),
    "a prefix that is not there": (
        ["train", *SMALL, "model.checkpoint=foreign.pt", "model.rename={a:b}"],
        2,
        "has no such prefix",
    ),
    "a checkpoint of other classes to evaluate": (
        ["evaluate", *SMALL, "model.checkpoint=head.pt", "dataset=digits"],
        2,
        "has another number of classes than the 10",
    ),
    "no teacher": (["distill", *PAIR, "teacher.run=nowhere"], 2, "is not a run directory"),
    "a failed teacher": (["distill", *PAIR, "teacher.run=failed"], 2, "is failed, not completed"),
    "a teacher of other classes": (["distill", *PAIR, "teacher.run=run3"], 2, "knows the classes 0, 1, 2"),
    # data and places
    "no data files": (words("train dataset=mnist data_dir=nowhere"), 2, "data file missing"),
    "data of other bytes": (words("train dataset=mnist data_dir=labels"), 2, "is not the published file"),
    "no folder of images named": (words("train dataset=image_folder"), 2, "dataset.path=my_images"),
    "no such folder of images": ([*FOLDER, "dataset.path=nowhere"], 2, "there is no folder nowhere"),
    "an empty folder of images": ([*FOLDER, "dataset.path=hollow"], 2, "has 0 class folders"),
    "a class without images": ([*FOLDER, "dataset.path=lacking"], 2, "lacking/dog has no images"),
    "a class only in the test split": ([*FOLDER, "dataset.path=strange"], 2, "has a class 'emu'"),
    "a truncated image": ([*FOLDER, "dataset.path=truncated"], 1, "truncated/dog/03.png (row 15) cannot be read"),
    "an image of nan": ([*FOLDER, "dataset.path=floats"], 1, "cat/05.tif (row 6) cannot be read: it has pixels"),
    "an image that leads nowhere": ([*FOLDER, "dataset.path=astray"], 1, "astray/dog/03.png (row 15) cannot be read"),
    "a streamed image that leads nowhere": (
        [*FOLDER, "dataset.path=astray", "dataset.cache_gb=0"],
        1,
        "astray/dog/03.png (row 15) cannot be read: No such file",
    ),
    "images that are not square": ([*MNIST, "data_dir=oblong"], 2, "28x20 pixels: only square ones"),
    "fewer labels than images": ([*MNIST, "data_dir=fewer"], 2, "has 40 images and fewer/MNIST/raw/train-labels"),
    "a label out of range": ([*MNIST, "data_dir=labels"], 2, "label 12 of row 39 is out of range; allowed: 0 to 9"),
    "no images": ([*MNIST, "data_dir=none"], 2, "has 0 images"),
    "images of one dimension": ([*MNIST, "data_dir=flat"], 2, "images need 3 dimensions"),
    "a batch larger than the split": (["train", *SMALL, "batch_size=5000"], 2, "more than the 1294 training samples"),
    "a limit above the data": (["train", *SMALL, "dataset.limit=5000"], 2, "more than the 1294 training samples"),
    "a run directory in use": (["train", *SMALL, "run_dir=used"], 2, "nothing is overwritten"),
    "outputs behind a broken link": (["train", *SMALL, "output_dir=broken"], 1, "cannot write broken/train (0 bytes"),
    "outputs at a URL": (["train", *SMALL, "output_dir=s3://bucket/x"], 2, "output_dir=s3://bucket/x: this is a URL"),
    "outputs in a file": (["train", *SMALL, "output_dir=text"], 2, "this is a file; name a folder"),
}


def answered(answer: Answer, code: int, fragment: str) -> None:
    assert fragment in answer.err
    assert answer.code == code
    assert answer.err.startswith("kdrun: ")
    assert 1 <= len(answer.err.splitlines()) <= 3
    assert "Traceback" not in answer.err
    assert LONGEST_ECHO not in answer.err


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(kdrun_there: Command, prepared: Path, case: tuple[list[str], int, str]) -> None:
    typed, code, fragment = case
    before = snapshot(prepared)
    answered(kdrun_there(*typed), code, fragment)
    assert snapshot(prepared) == before, "something was left behind"


def test_all_mistakes_of_a_config_are_named(kdrun: Command) -> None:
    told = kdrun(*words("distill", SEVERAL)).err
    for mistake in ("teacher=mpl", "unknown key epoch", "epochs", "seed", "loss.alpha", "device.precision"):
        assert mistake in told
    assert "=0" not in kdrun(*words("distill loss.alpha=0.5 epochs=2 seeed=1")).err  # and nothing that is right


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """root may write where permissions forbid it, but not on a file system mounted for reading only."""
    (tmp_path / "outputs").mkdir()
    mount = "mount --bind outputs outputs && mount -o remount,bind,ro outputs"
    tried = (
        subprocess.run(["unshare", "-m", "sh", "-c", mount], cwd=tmp_path, capture_output=True, check=False)
        if (shutil.which("unshare"))
        else None
    )
    if tried is None or tried.returncode:
        pytest.skip("needs unshare and mount, as root")
    command = f"{sys.executable} -m kdrun train model=mlp model.widths=[4] epochs=1 device.threads=1"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    answered(Answer(done.returncode, done.stdout, done.stderr), 1, "Read-only file system; set output_dir=")
    assert list((tmp_path / "outputs").iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "epochs=3 loss.alpha=0.2",
        "student=mlp student.widths=[3] seed=1",
        "epochs={a:1}",
        "epochs=${seed}",
        "experiment=mnist_cnn epochs=2 loss.alpha=0.3",
        "augment=[crop,flip] augment.flip.probability=0.1 optimizer=adam optimizer.betas=[0.8,0.9]",
        "loss=mix loss.terms={kd:0.9,at:1000} student.taps={stage1:layer1}",
        "teacher=torchvision teacher.name=resnet34 teacher.train.epochs=3 dataset=mnist device=cpu schedule=multistep",
    ],
)
def test_the_quick_way_composes_what_hydra_composes(typed: str) -> None:
    with composition.composing([]):
        made = [compose("distill", typed.split(), []) for compose in (COMPOSE, quickly)]
    assert composition.plain(made[0]) == composition.plain(made[1])


# ---------------------------------------------------------------------------------------------------------- control


@pytest.fixture
def _careless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kdrun that makes its run directory before it looks at what was typed, and tells only the first mistake."""
    real = config.stage_config

    def eager(stage: str, typed: list[str], folders: Any = ()) -> Any:
        Path("outputs").mkdir(exist_ok=True)
        return real(stage, typed, folders)

    monkeypatch.setattr(config, "stage_config", eager)
    yield
    shutil.rmtree("outputs", ignore_errors=True)


@pytest.mark.usefixtures("_careless")
def test_a_directory_left_behind_is_noticed(kdrun_there: Command, prepared: Path) -> None:
    with pytest.raises(AssertionError, match="left behind"):
        test_bad_input(kdrun_there, prepared, CASES["no such key"])


@pytest.mark.parametrize(
    ("code", "err"),
    [(1, "kdrun: unknown key\n"), (2, "unknown key\n"), (2, "kdrun: unknown key\n" * 4), (2, "kdrun: Traceback\n")],
)
def test_a_wrong_answer_is_noticed(code: int, err: str) -> None:
    with pytest.raises(AssertionError):
        answered(Answer(code, "", err), 2, "unknown key" if "key" in err else "")
