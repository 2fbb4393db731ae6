"""What a search may vary: ranges from `conf/search/<name>.yaml`, checked before the first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.config import stage_config
from kdrun.errors import UsageError, brief, refuse, suggestion
from kdrun.lookup import conf_dir
from kdrun.records.foreign import read_yaml
from kdrun.schema import violations
from kdrun.sweeps.jobs import called

Range = Mapping[str, Any]  # {low, high} with step or log, or {choices}
SHAPE: dict[str, Any] = {"trials": 30, "seed": 0, "prune": {"after_trials": 5, "after_epochs": 3}}
LIMITS = {"trials": [1, 100_000], "seed": [0, 2**32 - 1]}
KEYS = ({"low", "high"}, {"low", "high", "log"}, {"low", "high", "step"}, {"choices"})


@dataclass(frozen=True)
class Search:
    """A search as its file says, with what was typed in place of it."""

    name: str
    trials: int
    seed: int
    after_trials: int
    after_epochs: int
    space: Mapping[str, Range]


def read_search(name: str, folders: Sequence[Path], trials: int | None) -> Search:
    """Raises `UsageError` for a search that does not exist or whose ranges are none."""
    files = {file.stem: file for folder in (conf_dir(), *folders) for file in (folder / "search").glob("*.yaml")}
    if name not in files:
        raise UsageError(f"search={brief(name)}: there is no such search; {suggestion(name, files)}")
    content = {key: value for key, value in read_yaml(files[name]).items() if key != "limits"}
    space = content.pop("space", None)
    mistakes = list(violations(content, {**SHAPE, "limits": LIMITS}))
    mistakes += _wrong_space(space)
    if mistakes:
        raise UsageError(f"{brief(files[name])}: {'; '.join(mistakes[:3])}")
    made = {**SHAPE, **content}
    prune = {**SHAPE["prune"], **made["prune"]}
    return Search(name, trials or made["trials"], made["seed"], **prune, space=space)


def _wrong_space(space: Any) -> Iterator[str]:
    if not isinstance(space, dict) or not space:
        yield "space: must map keys to ranges, as {loss.alpha: {low: 0.1, high: 0.9}}"
        return
    for key, one in space.items():
        if not isinstance(one, dict) or set(one) not in KEYS:
            yield f"space.{brief(key)}: must be {{low, high}} with log or step, or {{choices}}"
        elif "choices" in one:
            if not isinstance(one["choices"], list) or not one["choices"]:
                yield f"space.{brief(key)}.choices: must be a list of values"
        elif not all(isinstance(one[end], int | float) for end in ("low", "high")) or one["low"] >= one["high"]:
            yield f"space.{brief(key)}: low must be a number below high"
        elif one.get("log") and one["low"] <= 0:
            yield f"space.{brief(key)}: on a logarithmic range low must be above 0"


def check(search: Search, words: Sequence[str], folders: Sequence[Path]) -> None:
    """Both ends of every range, and every choice, in a config: raises `UsageError` before anything is trained."""
    refuse(called(words))
    ends = {key: one.get("choices") or [one["low"], one["high"]] for key, one in search.space.items()}
    typed = {word.partition("=")[0] for word in words}
    fixed = sorted(typed & ends.keys())
    if fixed:
        raise UsageError(f"{fixed[0]}: search={search.name} looks for it; leave it out, or choose another search")
    for number in range(max(map(len, ends.values()))):
        values = {key: several[min(number, len(several) - 1)] for key, several in ends.items()}
        config = stage_config("distill", [*words, *overrides(values)], folders)
    if config["dataset"]["validation"] == 0:
        raise UsageError(
            "dataset.validation=0: a search chooses by the validation split; leave a share of the data to it"
        )
    if config["sweep"]["jobs"] > 1:
        raise UsageError("sweep.jobs: the trials of a search are carried out one after the other; leave it out")


def overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]
