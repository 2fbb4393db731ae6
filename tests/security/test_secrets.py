"""A planted secret is in no file and on no screen, whatever way it came in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer

SECRET = "hunter2-planted-secret"
TRAIN = ["train", "model=cnn_tiny", "epochs=1", "dataset.limit=60"]
IN_A_MAPPING = f"+hydra.job.env_set={{A:1,HF_TOKEN:{SECRET}}}"
URL = f"https://somebody:{SECRET}@example.org/data"
ENVIRONMENT = f"+hydra.job.env_set.HF_TOKEN={SECRET}"
Command = Callable[..., Answer]


def places(folder: Path) -> list[str]:
    """The files below a folder, and the names, in which the secret is."""
    found = [path for path in folder.rglob("*") if SECRET in path.name]
    found += [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    return [str(path.relative_to(folder)) for path in found]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD", "PLANTED"):
        monkeypatch.setenv(name, SECRET)


@pytest.mark.parametrize(
    "words",
    [[], [ENVIRONMENT], [IN_A_MAPPING], [f"data_dir={URL}"], ["-m"], ["data_dir=" + URL.replace(":", "\\:")]],
    ids=["environment", "override", "mapping", "URL of the data", "sweep", "URL with Hydra's grammar"],
)
@pytest.mark.usefixtures("planted")
def test_a_run_does_not_keep_it(kdrun: Command, tmp_path: Path, words: list[str]) -> None:
    answer = kdrun(*TRAIN, *words)
    assert answer.code == 0, answer.err
    assert SECRET not in answer.out + answer.err
    assert "config.yaml" in {path.name for path in tmp_path.rglob("*")}
    assert not places(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        [f"wandb.api_key={SECRET}"],
        [f"+logger.token={SECRET}"],
        [f"'password={SECRET}"],
        [f"optimizer.password={SECRET}", "-m"],
        ["dataset=mnist", f"data_dir={URL}"],
        ["dataset=image_folder", f"dataset.path={URL}"],
        [f"model.checkpoint={URL}"],
        [f"epochs={URL}"],
        [f"output_dir={URL}"],
        [f"run_dir={URL}"],
        [f"data_dir={URL},other", "-m"],
        ["dataset=image_folder", "dataset.path=${oc.env:PLANTED}", "seed=0,1", "-m"],
        [f"data_dir={URL}", "seed=0,1", "-m"],
        [ENVIRONMENT.removeprefix("+")],
        [ENVIRONMENT.removeprefix("+"), "-m"],
        [ENVIRONMENT, "-m"],
        [IN_A_MAPPING, "-m"],
        [f"sweep.name={{token:{SECRET}}}", "seed=0,1", "-m"],
        [f"x={{token:{SECRET}"],
        [
            ENVIRONMENT,
            "model=mlp",
            "dataset.limit=null",
            "optimizer.lr=100.0",
            "loss.task.kind=squared_error",
            "epochs=2",
        ],
    ],
    ids=lambda words: " ".join(word.partition("=")[0] for word in words),
)
@pytest.mark.usefixtures("planted")
def test_a_mistake_does_not_tell_it(
    kdrun: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    from kdrun.datasets import files

    monkeypatch.setattr(files.urllib.request, "urlopen", _no_network)
    answer = kdrun(*TRAIN, *words)
    assert answer.code in (1, 2)
    assert SECRET not in answer.out + answer.err
    assert not places(tmp_path)


def test_a_list_of_no_runs_does_not_tell_it(kdrun: Command) -> None:
    answer = kdrun("list", "runs", f"output_dir={URL}")
    assert (answer.code, answer.err) == (0, "")
    assert SECRET not in answer.out


@pytest.mark.usefixtures("planted")
def test_it_would_be_found(kdrun: Command, tmp_path: Path) -> None:
    """The control: what looks like no credential is kept, and this test sees it."""
    assert kdrun(*TRAIN, f"output_dir={SECRET}").code == 0
    assert places(tmp_path)


def _no_network(*given: object, **named: object) -> None:
    raise TimeoutError("no network in tests")
