"""The command line as a process: exit codes, signals, speed-relevant imports, what Hydra offers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdrun import lookup
from kdrun.errors import UsageError
from kdrun.stages.resume import resumed_config
from tests.conftest import ROOT, Answer

Command = Callable[..., Answer]


def process(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdrun", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **more}, check=False)


def imported(words: list[str], cwd: Path) -> set[str]:
    """The packages a command imports."""
    text = f"import sys; sys.argv = ['kdrun', *{words!r}]\nfrom kdrun.cli import main\ncode = main()\n"
    text += "print('IMPORTED', *{name.split('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", text], cwd=cwd, capture_output=True, text=True, check=True).stdout
    return set(out.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["list"], ["list", "models"], ["list", "runs"]], ids=" ".join
)
def test_plain_answers_need_neither_hydra_nor_rich_nor_torch(words: list[str], tmp_path: Path) -> None:
    assert not imported(words, tmp_path) & {"torch", "hydra", "omegaconf", "rich", "numpy"}


@pytest.mark.parametrize("words", [["report", "."], ["compare", "."], ["list", "runs", "seed=1"]], ids=" ".join)
def test_readers_of_records_need_no_torch(words: list[str], tmp_path: Path) -> None:
    from tests.synthetic import synthetic_run

    synthetic_run(tmp_path / "outputs" / "distill", "a", 0.9, alpha=0.1)
    synthetic_run(tmp_path / "outputs" / "distill", "b", 0.8)
    found = imported(words, tmp_path)
    assert not found & {"torch", "hydra", "optuna"}
    assert ("matplotlib" in found) == (words[0] == "report")


@pytest.mark.parametrize("words", [["distill", "--cfg", "job"], ["distill", "epoch=1"]], ids=" ".join)
def test_configs_and_their_errors_need_no_torch(words: list[str], tmp_path: Path) -> None:
    assert "torch" not in imported(words, tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["distil"], 2, "did you mean distill?"),
        (["distill", "--frob"], 2, "unknown option --frob"),
        (["distill", "teacher=resnt152", "--cfg", "job"], 2, "did you mean resnet152?"),
        (["distill", "-m", "teacher=mpl,cnn"], 2, "did you mean mlp?"),
        (["distill", "-m", "loss.alpa=0.1,0.2"], 2, "did you mean loss.alpha?"),
        (["distill", "--experimental-rerun", "x.pickle"], 2, "can run any code"),
        (["distill", "--config-dir", "nowhere"], 2, "there is no such folder"),
        (["distill", "--plugin", "no_such_package"], 2, "there is no such package"),
        (["distill", "model=resnet8"], 2, "model: kdrun distill has no such choice; it has augment, augment@teacher"),
        (["train", "-m", "student=cnn,mlp"], 2, "student: kdrun train has no such choice; it has augment, dataset"),
        (["train-teacher", "model=cnn", "--cfg", "job"], 2, "schedule, teacher"),
        (["evaluate", "one", "two"], 2, "takes one run directory, not 2"),
        (["evaluate", "one", "model=cnn"], 2, "model and the run one both name what to evaluate"),
        (["evaluate", "one", "model.checkpoint=x.pth"], 2, "model.checkpoint and the run one both name"),
        (["evaluate"], 2, "nothing to evaluate"),
        (["evaluate", "nowhere"], 2, "there is no such run directory"),
        (["evaluate", "it's a [run], {really}"], 2, "there is no such run directory"),
        (["predict", "nowhere", "x.png"], 2, "there is no such file or directory"),
        (["predict"], 2, "usage"),
        (["reproduce", "."], 2, "is not a run directory"),
        (["list", "modells"], 2, "did you mean models?"),
        (["distill", "device=cuda"], 2, "there is none on this machine"),
        (["train", "model=torchvision", "model.name=resnet1523"], 2, "did you mean resnet152?"),
        (["train", "model=timm", "model.name=no_such_net"], 2, "timm has no model"),
        (["evaluate", "model=resnet20", "model.checkpoint=LICENSE", "dataset=digits"], 2, "cannot be read as tensors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_two(kdrun: Command, words: list[str], code: int, said: str) -> None:
    Path("LICENSE").write_text("no tensors\n")
    answer = kdrun(*words)
    assert answer.code == code
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert not Path("outputs").exists()


def test_what_hydra_offers_works_under_a_command(kdrun: Command, tmp_path: Path) -> None:
    shown = kdrun("distill", "--cfg", "job", "loss.alpha=0.25")
    assert shown.code == 0
    assert "alpha: 0.25" in shown.out
    assert "limits" not in shown.out
    assert "limits" in kdrun("distill", "--info", "config").out
    assert "student" in kdrun("distill", "--info", "defaults").out
    assert "Configuration groups" in kdrun("distill", "--help").out
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("# Own.\nkind: mlp\nwidths: [3]\ndropout: 0.0\n")
    assert "- 3" in kdrun("distill", "--config-dir", "mine", "teacher=own", "--cfg", "job").out
    assert "own " in kdrun("list", "models", "--config-dir", "mine").out
    assert "embedding" in kdrun("list", "taps", "model=own", "--config-dir", "mine").out


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    assert "complete" in process("-sc", "install=bash", cwd=tmp_path).stdout
    asked = process("-sc", "query=bash", cwd=tmp_path, COMP_LINE="kdrun distill teacher=resnet15")
    assert asked.stdout.split() == ["teacher=resnet152"]
    assert process("-sc", "query=bash", cwd=tmp_path, COMP_LINE="kdrun dis").stdout.split() == ["distill"]


def test_a_plugin_brings_its_own_loss(tmp_path: Path, kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PLUGINS", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "my_package" / "losses"
    package.mkdir(parents=True)
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "ours.py").write_text(
        "from kdrun.losses import Term\n\n\nclass Ours(Term):\n    def __init__(self, scale: float) -> None:\n"
        "        super().__init__()\n        self.scale = scale\n\n    def forward(self, student, teacher, batch):\n"
        "        return self.scale * (student.logits - teacher.logits).abs().mean()\n"
    )
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    text = "# Ours.\nkind: ours\nalpha: 0.5\nscale: 2.0\ntask:\n  kind: cross_entropy\n"
    (tmp_path / "mine" / "loss" / "ours.yaml").write_text(text)
    words = ["distill", "--plugin", "my_package", "--config-dir", "mine", "loss=ours", "loss.scale=3.0", "teacher=cnn"]
    done = kdrun(*words, "student=cnn_tiny", "epochs=1", "teacher.train.epochs=1", "baseline=false")
    assert done.code == 0, done.err
    assert "loss/ours" in done.out
    again = kdrun("reproduce", str(done.run), *words[1:5])
    assert "EXACT" in again.out, again.err
    with pytest.raises(UsageError, match=r"loss\.terms\.ours\.kind=ours: there is no such kind"):
        resumed_config(done.run)  # a run's own folders are not looked at
    assert resumed_config(done.run, [tmp_path / "mine"])["loss"]["terms"]["ours"]["scale"] == 3.0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_as_interrupted(number: int, code: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "kdrun", "train", "model=cnn", "epochs=10000"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob("outputs/train/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in err
    info = next(tmp_path.glob("outputs/train/*/run.json")).read_text()
    assert '"status": "interrupted"' in info


def test_version_is_that_of_the_package() -> None:
    text = (ROOT / "kdrun" / "__init__.py").read_text()
    version = re.search(r'__version__ = "(.+)"', text)
    assert version is not None
    assert f"kdrun {version[1]}" in process("--version", cwd=ROOT).stdout
