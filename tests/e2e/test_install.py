"""The wheel, installed into a new environment and used from a folder that has another conf/ in it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has the wheel, and of everything else only what the wheel asks for."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, capture_output=True
    )
    # the gigabytes of torch are not installed twice: a path line lends this environment's, without its editable kdrun
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_finds_its_own_configs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "distill.yaml").write_text("wrong: true\n")
    (tmp_path / "conf" / "model" / "intruder.yaml").write_text("# Not kdrun's.\nkind: mlp\n")

    def kdrun(*words: str) -> subprocess.CompletedProcess[str]:
        command = [installed.parent / "kdrun", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    where = subprocess.run(
        [installed, "-c", "import kdrun; print(kdrun.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert str(installed.parents[1]) in where.stdout
    models = kdrun("list", "models").stdout
    assert "resnet152" in models
    assert "intruder" not in models
    assert "student" in kdrun("distill", "--cfg", "job").stdout
    done = kdrun("distill", "teacher=cnn", "student=cnn_tiny", "epochs=1", "teacher.train.epochs=1", "baseline=false")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout


def test_torch_and_torchvision_are_a_pair_that_can_be_imported() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    import torch
    import torchvision

    assert torch.__version__.split("+")[0] == pinned["torch"]
    assert torchvision.__version__.split("+")[0] == pinned["torchvision"]


def test_no_index_and_no_host_is_pinned() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Makefile", "scripts/install.sh"):
        text = (ROOT / name).read_text()
        assert "--index" not in text
        assert "--extra-index" not in text
        assert "://" not in text
