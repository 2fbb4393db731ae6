"""kdrun tune: a search instead of a grid. Optuna proposes, trials are ordinary runs, validation decides.

Needs the extra `kdrun[tune]`. The study is in SQLite beside the manifest, so that a search that was cut off goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun import stopping
from kdrun.config import stage_config
from kdrun.errors import KdrunError, UsageError
from kdrun.records.files import write_json
from kdrun.records.lock import is_taken
from kdrun.records.manifest import DONE, Manifest, read_jobs
from kdrun.sweeps.children import Child, Task, ended, start
from kdrun.sweeps.space import Range, Search, overrides

CRITERION = "val/accuracy"
LOOK = 0.02  # seconds between looks at what a trial has measured
PATIENCE = 30  # seconds
DEFAULT = "default"  # the key of the run that was not searched for


@dataclass(frozen=True)
class Tuning:
    """A search as it was typed: `words` are what all trials have in common."""

    search: Search
    words: list[str]
    folder: Path
    config_dirs: Sequence[Path] = ()
    plugins: Sequence[str] = ()
    debug: bool = False


def tune(tuning: Tuning) -> int:
    """Run the trials that are missing. Returns 1 when no trial has completed."""
    with Manifest(tuning.folder) as manifest:
        content = {"format": 1, "stage": "distill", "search": tuning.search.name, "trials": tuning.search.trials}
        write_json(tuning.folder / "tune.json", {**content, "words": tuning.words})
        if manifest.jobs.get(DEFAULT, {}).get("status") not in DONE:
            _carry_out(_Trial(tuning, manifest, DEFAULT, {}, None))
        study = _study(tuning)
        for trial, values in _open_trials(study, tuning.search):
            said = f"trial {trial.number + 1} of {tuning.search.trials}"
            print(f"{said}: {' '.join(overrides({key: _rounded(one) for key, one in values.items()}))}", flush=True)
            value, why = _carry_out(_Trial(tuning, manifest, f"{trial.number:04d}", values, trial))
            _tell(study, trial, value, why)
            print(
                f"{said}: {why}" + ("" if value is None else f", validation accuracy {100 * value:.2f} %"), flush=True
            )
        return 0 if any(job["status"] == "completed" for key, job in manifest.jobs.items() if key != DEFAULT) else 1


def _study(tuning: Tuning) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"kdrun tune needs {error.name}; install it: pip install 'kdrun[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = tuning.search
    pruner = optuna.pruners.MedianPruner(search.after_trials, search.after_epochs)
    storage = f"sqlite:///{tuning.folder.absolute() / 'study.db'}"
    study = optuna.create_study(
        storage=storage, study_name="kdrun", direction="maximize", load_if_exists=True, pruner=pruner
    )
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.trials))  # not the same proposals again
    return study


def _open_trials(study: Any, search: Search) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The trials that were cut off, then new ones until there are as many as wanted.

    One that sets what the search does not vary has failed: it is of an earlier search file, or of somebody else.
    """
    from optuna.trial import Trial, TrialState

    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if all(_is_of(search.space.get(key), value) for key, value in frozen.params.items()):
            yield Trial(study, frozen._trial_id), dict(frozen.params)
        else:
            study.tell(frozen.number, state=TrialState.FAIL)
    distributions = {key: _distribution(one) for key, one in search.space.items()}
    while sum(one.state != TrialState.WAITING for one in study.get_trials(deepcopy=False)) < search.trials:
        trial = study.ask(distributions)
        yield trial, {key: trial.params[key] for key in distributions}


def _is_of(one: Range | None, value: Any) -> bool:
    """Is this a value that a range of a search gives?"""
    if one is None or "choices" in one:
        return one is not None and value in one["choices"]
    return isinstance(value, int | float)


def _distribution(one: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in one:
        return CategoricalDistribution(one["choices"])
    whole = all(isinstance(one[end], int) for end in ("low", "high"))
    rest = {key: value for key, value in one.items() if key in ("log", "step")}
    return (IntDistribution if whole else FloatDistribution)(one["low"], one["high"], **rest)


def _tell(study: Any, trial: Any, value: float | None, why: str) -> None:
    from optuna.trial import TrialState

    if why == "pruned":
        study.tell(trial.number, state=TrialState.PRUNED)
    elif value is None:
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, value)


@dataclass(frozen=True)
class _Trial:
    tuning: Tuning
    manifest: Manifest
    key: str
    values: dict[str, Any]
    optuna: Any  # None: the config as it is, which is not pruned

    @property
    def run(self) -> Path:
        return self.tuning.folder.parents[1] / "distill" / f"{self.tuning.folder.name}_{self.key}"


def _carry_out(trial: _Trial) -> tuple[float | None, str]:
    """One run in a process of its own, gone on with where it stopped; its validation accuracy, and how it ended."""
    tuning, words = trial.tuning, [*trial.tuning.words, *overrides(trial.values)]
    setting = " ".join(overrides({key: _rounded(value) for key, value in trial.values.items()})) or DEFAULT
    _wait_until_nobody_is_in(trial.run)
    facts = {"overrides": words, "setting": setting, "run": str(trial.run), "reason": None}
    trial.manifest.note(trial.key, **facts, status="running")
    config = stage_config("distill", words, tuning.config_dirs)
    config = {**config, "run_dir": str(trial.run), "resume": "auto"}
    log = trial.manifest.log(trial.key)
    child = start(Task(trial.key, config, words, str(log), list(tuning.plugins), shared=True, debug=tuning.debug))
    outcome, pruned_at = _watched(child, trial)
    if outcome["status"] == "interrupted" and pruned_at is not None:
        reason = f"in epoch {pruned_at} below the median of earlier trials"
        trial.manifest.note(trial.key, **{**outcome, "status": "pruned", "reason": reason})
        return None, "pruned"
    trial.manifest.note(trial.key, **outcome)
    if outcome["status"] not in DONE:
        if trial.optuna is None:
            raise KdrunError(f"the config as it is {outcome['status']}: {outcome['reason']}; nothing is searched")
        return None, f"{outcome['status']} ({outcome['reason']})"
    summary = json.loads((trial.run / "summary.json").read_text())
    return summary[CRITERION], "completed"


def _rounded(value: Any) -> Any:
    """For people; the run gets every digit."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _wait_until_nobody_is_in(run: Path) -> None:
    """The process of a search that was killed saves and ends by itself, a moment later."""
    end = time.monotonic() + PATIENCE
    while is_taken(run / "log.txt") and time.monotonic() < end:
        time.sleep(LOOK)


def _watched(child: Child, trial: _Trial) -> tuple[dict[str, Any], int | None]:
    """Report each epoch's validation until the child ends, or is asked to because the trial is hopeless."""
    known = _reported(trial.optuna)  # before the search was cut off
    reported, pruned_at = 0, None
    try:
        while child.process.is_alive():
            child.process.join(LOOK)
            if trial.optuna is None or pruned_at is not None:
                continue
            for epoch, accuracy in _measured(trial.run)[reported:]:
                reported += 1
                if epoch not in known:
                    trial.optuna.report(accuracy, epoch)
                if trial.optuna.should_prune():
                    pruned_at = epoch
                    child.process.terminate()
                    break
    except stopping.Stopped:
        child.process.terminate()
        trial.manifest.note(trial.key, **ended(child))
        raise
    return ended(child), pruned_at


def _reported(trial: Any) -> set[int]:
    """The epochs whose validation the study has of a trial."""
    return set() if trial is None else set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)


def _measured(run: Path) -> list[tuple[int, float]]:
    """`(epoch, validation accuracy)` of what a run has on record so far."""
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [(line["epoch"], line["accuracy"]) for line in lines if line["split"] == "val"]


def found(folder: Path) -> str:
    """What a search found: the best on validation, held against the config as it is, each with its test number."""
    jobs = {job["job"]: job for job in read_jobs(folder)}
    default = _numbers(jobs.pop(DEFAULT, {}))
    counts: dict[str, int] = {}
    for job in jobs.values():
        counts[job["status"]] = counts.get(job["status"], 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    lines = [f"{len(jobs)} trials: {told}"]
    completed = {key: numbers for key, job in jobs.items() if (numbers := _numbers(job))}
    if completed:
        best = max(completed, key=lambda key: completed[key][CRITERION])
        lines.append(f"best on validation, of {len(completed)}: {jobs[best]['setting']}: {_said(completed[best])}")
        lines.append(f"the config as it is: {_said(default)}" if default else "the config as it is has no numbers")
        lines += _verdict(completed[best], default, len(completed)) if default else []
    return "\n".join([*lines, f"search: {folder}"])


def _numbers(job: dict[str, Any]) -> dict[str, float]:
    file = Path(str(job.get("run"))) / "summary.json"
    known = job.get("status") in DONE and file.exists()
    return dict(json.loads(file.read_text())) if known else {}


def _said(numbers: dict[str, float]) -> str:
    shown = (
        f"{name} accuracy {100 * numbers[key]:.2f} %"
        for name, key in (("validation", CRITERION), ("test", "test/accuracy"))
    )
    return f"{', '.join(shown)} (n = 1 seed, {numbers['test/samples']:,} test samples)"


def _verdict(best: dict[str, float], default: dict[str, float], count: int) -> list[str]:
    gain = 100 * (best[CRITERION] - default[CRITERION])
    word = "beats" if gain > 0 else "does not beat"
    on_test = 100 * (best["test/accuracy"] - default["test/accuracy"])
    return [
        f"the search {word} the config as it is: {gain:+.2f} points on validation, {on_test:+.2f} on the test split; "
        f"the best of {count} looks better on validation than it is"
    ]
