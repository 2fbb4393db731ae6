"""Who carries out a sweep: the words that choose it, what is refused, and the loop that waits for an engine."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdrun import launchers, lookup, stopping
from kdrun.config import stage_config
from kdrun.errors import UsageError
from kdrun.launchers import chosen, names
from kdrun.launchers.submitit_slurm import Engine as Slurm
from kdrun.records.foreign import read_yaml
from kdrun.records.outcomes import Outcomes
from kdrun.schema import violations
from kdrun.sweeps import remote
from kdrun.sweeps.children import Task
from kdrun.sweeps.remote import carried_out
from kdrun.sweeps.shared import needs
from tests.conftest import Answer, mutated

Command = Callable[..., Answer]
TRAIN = ["train", "-m", "model=cnn_tiny", "epochs=1", "seed=0,1"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine is here, as far as looking for it goes."""
    monkeypatch.setattr(launchers, "_is_installed", lambda name: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


# ------------------------------------------------------------------------------------------------------- the words


@pytest.mark.usefixtures("installed")
def test_the_names_of_hydras_plugins_are_understood() -> None:
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=120"]
    words += ["hydra.launcher.mem_gb=16", "hydra.launcher.setup=[module load cuda]", "hydra.launcher.gpus_per_node=1"]
    made = chosen([*words, "+hydra.launcher.additional_parameters={requeue: true}"])
    assert made is not None
    assert (made.name, made.words) == (
        "submitit_slurm",
        [*words, "+hydra.launcher.additional_parameters={requeue: true}"],
    )
    asked = {"partition": "gpu", "timeout_min": 120, "mem_gb": 16.0, "setup": ["module load cuda"], "gpus_per_node": 1}
    assert {key: made.options[key] for key in asked} == asked
    assert made.options["additional_parameters"] == {"requeue": True}
    assert "limits" not in made.options
    ray = chosen(
        ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_gpus=0.5"]
    )
    assert ray is not None
    assert ray.options["ray"]["init"]["num_cpus"] == 2
    assert ray.options["ray"]["remote"] == {
        "num_cpus": 1,
        "num_gpus": 0.5,
        "memory": None,
        "max_retries": 0,
        "resources": None,
    }
    assert chosen([]) is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra/launcher=rai"], "hydra/launcher=rai: there is no such launcher; did you mean ray?"),
        (["hydra/launcher=ray,joblib"], "a sweep has one launcher"),
        (["hydra.launcher.n_jobs=2"], r"choose one: hydra/launcher=<joblib\|ray\|submitit_slurm>"),
        (["hydra/launcher=joblib", "hydra.launcher.njobs=2"], "hydra.launcher.njobs; did you mean n_jobs?"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=two"], "hydra.launcher.n_jobs=two: must be a whole number"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=1,2"], "each of its options one value"),
        (["hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=0"], "must be between 1 and 4096"),
        (["hydra/launcher=ray", "hydra.launcher.ray=2"], "hydra.launcher.ray=2: must be a mapping"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=0"], "must be between 1 and 1000000"),
        (["hydra/launcher=submitit_slurm", 'hydra.launcher.partition="a\n#b"'], "characters that no name can have"),
    ],
)
def test_a_word_that_cannot_be_is_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        chosen(words)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "extra"), [("submitit_slurm", "slurm"), ("ray", "ray"), ("joblib", "joblib")])
def test_an_engine_that_is_not_installed_is_told_with_the_command(
    kdrun: Command, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setattr(launchers, "_is_installed", lambda name: False)
    said = kdrun(*TRAIN, f"hydra/launcher={name}")
    assert said.code == 2
    assert f"pip install 'kdrun[{extra}]'" in said.err
    assert len(said.err.splitlines()) == 1
    assert not Path("outputs").exists()


def test_submitit_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "_is_installed", lambda name: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="there is no sbatch here"):
        chosen(["hydra/launcher=submitit_slurm"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "model=cnn_tiny", "hydra/launcher=ray"], "carries out the jobs of `kdrun distill -m`"),
        (["train", "model=cnn_tiny", "hydra.launcher.n_jobs=2"], "carries out the jobs of `kdrun distill -m`"),
        (["tune", "hydra/launcher=ray"], "carries out the jobs of `kdrun distill -m`"),
        ([*TRAIN, "hydra/sweeper=basic", "hydra/launcher=ray"], "carries out the jobs of `kdrun distill -m`"),
        ([*TRAIN, "hydra/launcher=joblib", "sweep.jobs=2"], "the launcher says how many jobs run at once"),
        ([*TRAIN, "hydra/launcher=joblib", "optimizer.lrr=1"], "did you mean optimizer.lr"),
    ],
)
def test_what_does_not_go_together_is_refused(kdrun: Command, words: list[str], told: str) -> None:
    said = kdrun(*words)
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert told in said.err
    assert not Path("outputs").exists()


def test_every_launcher_has_its_module_its_extra_and_sound_options() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert names() == sorted(name for name in lookup.names("launchers"))
    for name in names():
        module = lookup.module("launchers", name)
        assert f'{module.EXTRA} = ["{module.REQUIRES}>=' in project
        options = read_yaml(lookup.conf_dir() / "hydra" / "launcher" / f"{name}.yaml")
        assert list(violations(options, options)) == []
        for path in module.TYPED:
            node: Any = options
            for part in path.split("."):
                assert part in node
                node = node[part]


# ------------------------------------------------------------------------------- a sweep's folder of somebody else


@pytest.mark.parametrize(
    "word",
    ["hydra.launcher.setup=[rm x]", "hydra.launcher.srun_args=[a]", "+hydra.launcher.additional_parameters={a: b}"],
)
@pytest.mark.usefixtures("installed")
def test_an_option_that_runs_commands_is_not_taken_from_a_file(word: str) -> None:
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"]
    assert chosen(words, typed=False) is not None
    assert chosen([*words, word]) is not None
    with pytest.raises(UsageError, match="is not taken from a file"):
        chosen([*words, word], typed=False)
    with pytest.raises(UsageError, match="is not taken from a file"):
        chosen(["hydra/launcher=ray", "hydra.launcher.ray.init.address=ray://there"], typed=False)


def test_resume_takes_the_launcher_from_the_folder_and_checks_it(kdrun: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "x"
    sweep.mkdir(parents=True)
    content = {"format": 1, "stage": "train", "words": ["model=cnn_tiny", "seed=0,1"]}
    for launcher, told in (
        (["hydra/launcher=rai"], "did you mean ray?"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=x"], "must be a whole number"),
        ("joblib", "is not that of a sweep"),
        (["hydra.callbacks.x._target_=os.system"], "not about a launcher"),
    ):
        (sweep / "sweep.json").write_text(json.dumps({**content, "launcher": launcher}))
        said = kdrun("resume", str(sweep))
        assert said.code in (1, 2)
        assert told in said.err


# ------------------------------------------------------------------------------------------- what jobs have in common


def tasks(*jobs: Sequence[str]) -> list[Task]:
    made = []
    for number, words in enumerate(jobs):
        config = stage_config("distill", ["student=cnn_tiny", "teacher=cnn_tiny", *words])
        made.append(Task(str(number), config, list(words), f"/logs/{number}.txt"))
    return made


def test_what_two_jobs_need_is_made_before_them_once() -> None:
    jobs = tasks(*([f"loss.alpha={alpha}", f"seed={seed}"] for alpha in (0.1, 0.9) for seed in (0, 1)))
    trained, stored = needs(jobs)
    assert [(one.task.need, one.jobs) for one in trained] == [
        ("teacher", ["0", "1", "2", "3"]),
        ("baseline", ["0", "2"]),
        ("baseline", ["1", "3"]),
    ]
    assert [(one.task.need, one.jobs) for one in stored] == [("store", ["0", "1", "2", "3"])]
    assert len({one.task.key for one in [*trained, *stored]} | {job.key for job in jobs}) == 8


def test_what_one_job_needs_it_makes_itself() -> None:
    jobs = tasks(["seed=0", "teacher=mlp"], ["seed=1", "teacher=cnn_tiny", "teacher.outputs=live"])
    assert needs(jobs) == [[], []]
    jobs = tasks(["seed=0", "baseline=false"], ["seed=1", "baseline=false", "teacher.outputs=live"])
    assert [[one.task.need for one in wave] for wave in needs(jobs)] == [["teacher"], []]


def test_who_trains_longest_fills_the_store() -> None:
    _, stored = needs(tasks(["epochs=2"], ["epochs=5"], ["epochs=3"]))
    assert [one.task.config["epochs"] for one in stored] == [5]


# -------------------------------------------------------------------------------------------- waiting for an engine


class Pretended:
    """An engine whose course of events is a list: what is told and who is gone, look by look."""

    threads, look = None, 0.0

    def __init__(self, folder: Path, *events: Callable[[Outcomes, dict[str, str]], None]) -> None:
        self.outcomes, self.events = Outcomes(folder), list(events)
        self.submitted: list[str] = []
        self.begun = False
        self.over: dict[str, str] = {}
        self.stopped: list[str] = []

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted += [task.key for task in tasks]
        self.begun = True

    def gone(self, keys: Iterable[str]) -> dict[str, str]:
        if self.begun and self.events:
            self.events.pop(0)(self.outcomes, self.over)
        absent = {key: "never submitted" for key in keys if key not in self.submitted}
        return absent | {key: why for key, why in self.over.items() if key in keys}

    def stop(self, keys: Iterable[str]) -> None:
        self.stopped = list(keys)
        self.over |= dict.fromkeys(keys, "stopped")

    def close(self) -> None: ...


def tells(key: str, status: str, gone: str | None = None) -> Callable[[Outcomes, dict[str, str]], None]:
    def event(outcomes: Outcomes, over: dict[str, str]) -> None:
        if status:
            outcomes.tell(key, {"status": status, "process": {"id": 1, "host": "x"}})
        if gone is not None:
            over[key] = gone

    return event


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    monkeypatch.setattr(remote, "GRACE", 0.05)
    monkeypatch.setattr(remote, "LINGER", 2.0)
    return [Task(key, {}, [], f"{key}.txt") for key in "ab"]


def course(found: Iterable[tuple[Task, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(task.key, outcome["status"]) for task, outcome in found]


def test_a_job_that_is_requeued_is_followed_to_its_end(tmp_path: Path, jobs: list[Task]) -> None:
    words = ["running", "interrupted", "running", "completed"]
    engine = Pretended(tmp_path, *[tells("a", word) for word in words], tells("b", "completed"))
    assert course(carried_out(jobs, engine, tmp_path)) == [*(("a", word) for word in words), ("b", "completed")]
    assert engine.submitted == ["a", "b"]
    assert Outcomes(tmp_path).heard() == {}, "what is in the manifest is told once"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('(key in gone and said != "running")', '(said != "running")'),  # an interruption is taken for the end
        ("for key in absent if known", "for key in waiting if known"),  # what is in the engine is submitted again
        ("outcomes.forget(task.key)", "pass"),  # the word of an attempt before is taken for the new one's
    ],
)
def test_a_loop_with_a_mistake_is_noticed(before: str, after: str, tmp_path: Path, jobs: list[Task]) -> None:
    assert a_requeued_job(mutated(remote, before, after), tmp_path, jobs) != RIGHT


def test_the_same_without_a_mistake(tmp_path: Path, jobs: list[Task]) -> None:
    assert a_requeued_job(remote, tmp_path, jobs) == RIGHT


RIGHT = ([("a", "interrupted"), ("a", "running"), ("a", "completed"), ("b", "completed")], ["b", "a"])


def a_requeued_job(loop: ModuleType, folder: Path, jobs: list[Task]) -> tuple[list[tuple[str, str]], list[str]]:
    """The course of `a`, which left a word before, beside `b`, which is in the engine; and what is submitted."""
    Outcomes(folder).tell("a", {"status": "interrupted"})
    told = [tells("a", word) for word in ("interrupted", "running", "completed")]
    engine = Pretended(folder, lambda *_: None, *told, tells("b", "completed"))
    engine.submitted = ["b"]
    return course(loop.carried_out(jobs, engine, folder)), engine.submitted


def test_a_job_that_is_gone_without_a_last_word_has_failed(tmp_path: Path, jobs: list[Task]) -> None:
    events = [tells("a", "running", gone="NODE_FAIL"), tells("b", "", gone="CANCELLED")]
    found = list(carried_out(jobs, Pretended(tmp_path, *events), tmp_path))
    ends = {task.key: outcome for task, outcome in found if outcome["status"] != "running"}
    assert ends["a"] == {"status": "failed", "reason": "its worker ended without a word (NODE_FAIL); see a.txt"}
    assert ends["b"]["status"] == "failed"
    interrupted = Pretended(tmp_path, tells("a", "interrupted", gone="CANCELLED"), tells("b", "completed"))
    assert course(carried_out(jobs, interrupted, tmp_path)) == [("a", "interrupted"), ("b", "completed")]


def test_what_is_in_the_engine_or_has_ended_unseen_is_not_submitted_again(tmp_path: Path, jobs: list[Task]) -> None:
    Outcomes(tmp_path).tell("a", {"status": "completed", "run": "x"})
    engine = Pretended(tmp_path, tells("b", "completed"))
    engine.submitted = ["b"]  # by a process that was killed
    assert sorted(course(carried_out(jobs, engine, tmp_path))) == [("a", "completed"), ("b", "completed")]
    assert engine.submitted == ["b"]


def test_a_word_of_an_attempt_before_is_not_taken_for_the_new_one(tmp_path: Path, jobs: list[Task]) -> None:
    Outcomes(tmp_path).tell("a", {"status": "running"})
    engine = Pretended(tmp_path, tells("b", "completed"), tells("a", "", gone="CANCELLED"))
    assert course(carried_out(jobs, engine, tmp_path)) == [("b", "completed"), ("a", "failed")]


def test_when_somebody_asks_to_stop_the_jobs_are_asked_too(tmp_path: Path, jobs: list[Task]) -> None:
    def asked(outcomes: Outcomes, over: dict[str, str]) -> None:
        raise stopping.Stopped(signal.SIGTERM)

    engine = Pretended(tmp_path, tells("a", "running"), asked, tells("a", "interrupted"))
    found: list[tuple[str, str]] = []
    with pytest.raises(stopping.Stopped):
        found.extend((task.key, outcome["status"]) for task, outcome in carried_out(jobs, engine, tmp_path))
    assert found == [("a", "running"), ("a", "interrupted"), ("b", "not run")]
    assert engine.stopped == ["a", "b"]


# ------------------------------------------------------------------------------------------------------ Slurm's queue


def slurm(folder: Path, said: str, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Slurm:
    """With a squeue that says this of any question."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "squeue").write_text(
        f"#!/bin/sh\ncat <<'X'\n{said}\nX\n[ {code} = 0 ] || echo '{said}' >&2\nexit {code}\n"
    )
    (tools / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    options = {"cpus_per_task": 1, "look_seconds": 1.0}
    (folder / "slurm").mkdir(exist_ok=True)
    ids = {"a": "7_0", "b": "7_1", "c": "7_2", "d": "8; rm x"}
    (folder / "slurm" / "submitted.json").write_text(json.dumps(ids))
    return Slurm(options, folder)


def test_slurms_queue_says_who_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "slurm" / "submission_file_1.sh"
    lines = [f"7_0|PENDING|{here}", f"7_1|OUT_OF_MEMORY|{here}", "7_2|RUNNING|/elsewhere/x.sh"]
    engine = slurm(tmp_path, "\n".join(lines), monkeypatch)
    assert engine.gone("abcde") == {
        "b": "Slurm: OUT_OF_MEMORY",
        "c": "Slurm: not known",  # the number is another job's by now
        "d": "Slurm: never submitted",  # the list is not ours
        "e": "Slurm: never submitted",
    }


def test_a_queue_that_does_not_answer_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = slurm(tmp_path, "slurm_load_jobs error: Unable to contact slurm controller", monkeypatch, code=1)
    assert silent.gone("abc") == {}
    forgotten = slurm(tmp_path, "slurm_load_jobs error: Invalid job id specified", monkeypatch, code=1)
    assert forgotten.gone("abc") == dict.fromkeys("abc", "Slurm: not known")


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed: kdrun[slurm]")
def test_submitit_knows_the_options_by_these_names() -> None:
    from submitit.slurm.slurm import SlurmExecutor

    options = read_yaml(lookup.conf_dir() / "hydra" / "launcher" / "submitit_slurm.yaml")
    from kdrun.launchers.submitit_slurm import OURS

    known = SlurmExecutor._valid_parameters() | SlurmExecutor._equivalence_dict().keys()
    assert options.keys() - {"limits", *OURS} <= known
