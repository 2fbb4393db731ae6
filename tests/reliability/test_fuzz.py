"""Whatever is typed after a command is a config that works or one `UsageError`: never another exception."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdrun import cli, composition, config, overrides
from kdrun.errors import KdrunError, UsageError
from tests.composing import quickly
from tests.conftest import mutated
from tests.reliability.test_typos import all_choices, all_keys, typo

SEED = 7
FRAGMENTS = (
    *("${", "}", "[", "]", "{", "}", "(", ")", "'", '"', ",", ":", "=", "==", "+", "++", "~", "@", "/", "\\", "$", "."),
    *("..", "-", "#", "*", "???", "%", "&", ";", "|", "<", ">", "!", "^", "?", "`", " ", "  ", "\t", "\n", "\x00"),
    *("é", "漢字", "🙂", "\u202e", "\udcff", "\ufeff", "null", "true", "nan", "inf", "-inf", "_target_", "_global_"),
    *("hydra.", "hydra/", "hydra.run.dir", "hydra.searchpath", "oc.env:HOME", "limits", "kind", "os.system", "x" * 400),
)
VALUES = (
    *("", "0", "-1", "1e400", "-1e400", "nan", "inf", "9" * 30, "9" * 5000, "0x10", "1_000", "1.5", "true", "null"),
    *("[]", "{}", "[1,[2,[3]]]", "{a:{b:1}}", "[nan]", "[null]", "{a:nan}", "'", "''", "'a b'", "[a,b", "{a", "a,b"),
    *(
        "${seed}",
        "${epochs}",
        "${nope}",
        "${oc.env:HOME}",
        "${oc.env:NOPE_}",
        "${now:%Y}",
        "${.}",
        "${..seed}",
        "${oc.",
        "$",
    ),
    *("${teacher}", "${oc.decode:'['}", "${oc.create:{a:1}}", "${${seed}}", "${hydra:job.name}", "\\${seed}"),
    *(
        "range(3)",
        "choice(1,2)",
        "glob(*)",
        "interval(0,1)",
        "sort(a,b)",
        "shuffle(1,2)",
        "str(1)",
        "int(a)",
        "float([])",
    ),
    *(
        "x" * 3000,
        "[" * 200,
        "a/b/../c",
        "/",
        "~",
        "-",
        "???",
        "漢字",
        "\udcff",
        "!!python/object:os.system",
        "*x",
        "&x",
    ),
)
SOUND = ("seed=3", "device.threads=1", "run_dir='a b'", "output_dir=${now:%Y}", "dataset.limit=null", "dataset=mnist")


def strange_words(count: int, seed: int = SEED) -> list[list[str]]:
    """So many command lines: a stage and one to three words."""
    chance = random.Random(seed)
    keys, choices = all_keys(), all_choices()

    def value(key: str) -> str:
        return chance.choice(choices.get(key, VALUES)) if chance.random() < 0.2 else chance.choice(VALUES)

    def word() -> str:
        if chance.random() < 0.3:
            return chance.choice(SOUND)
        key = chance.choice(list(choices) if chance.random() < 0.2 else keys)
        kind = chance.randrange(6)
        if kind == 0:
            return "".join(chance.choices(FRAGMENTS, k=chance.randrange(1, 7)))
        if kind == 1:
            return f"{typo(key, 'replace', chance)}={value(key)}"
        if kind == 2:
            return f"{chance.choice(('+', '++', '~', '@', '-', 'hydra.', ' '))}{key}={value(key)}"
        if kind == 3:
            return f"{key}{chance.choice(('', '@teacher', '@_global_', '.limits', '.x', '@x:y'))}={value(key)}"
        if kind == 4:
            return f"{key}={''.join(chance.choices(FRAGMENTS, k=chance.randrange(1, 5)))}"
        return f"{key}={value(key)}"

    stages = ("distill", "distill", "train", "train-teacher", "evaluate")
    return [[chance.choice(stages), *(word() for _ in range(chance.randrange(1, 4)))] for _ in range(count)]


def survives(lines: Sequence[list[str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Check every command line as the program would, and start nothing. How many there were of each outcome."""
    monkeypatch.setattr(cli, "run_stage", lambda *_: 0)
    monkeypatch.setattr(composition, "composed", quickly)
    works, told = 0, {}
    for line in lines:
        monkeypatch.setattr(sys, "argv", ["kdrun", *line])
        if any(word in cli.HYDRA_FLAGS for word in line):
            continue  # Hydra's own options print; they have tests of their own
        try:
            assert cli.dispatch(line, debug=False) == 0
            works += 1
        except UsageError as error:
            told[str(error)] = line
        except (Exception, SystemExit) as error:
            pytest.fail(f"kdrun {line!r}: {type(error).__name__}: {error}")
    unclear = [line for message, line in told.items() if len(message.splitlines()) > 3 or len(message) > 2500]
    assert not unclear, f"too long an answer to {unclear[0]!r}"
    return {"works": works, "refused": len(told)}


@pytest.fixture
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_nowhere")
@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_strange_words_are_a_config_or_a_usage_error(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = survives(strange_words(count), monkeypatch)
    assert min(outcomes.values()) > 0, outcomes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_nowhere")
@pytest.mark.parametrize("mistake", [KdrunError("failed"), KeyError("key"), RecursionError("deep")], ids=repr)
def test_another_exception_is_noticed(mistake: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> None:
        raise mistake

    monkeypatch.setattr(config, "violations", planted)
    with pytest.raises(pytest.fail.Exception, match=type(mistake).__name__):
        survives(strange_words(60), monkeypatch)


@pytest.mark.usefixtures("_nowhere")
def test_a_parser_that_lets_numbers_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that this found: a whole number of 5000 digits is a ValueError of Python's, not of Hydra's."""
    wrong = mutated(
        overrides, "UNREADABLE = (HydraException, ValueError, RecursionError)", "UNREADABLE = (HydraException,)"
    )
    monkeypatch.setattr(overrides, "parsed_words", wrong.parsed_words)
    with pytest.raises(pytest.fail.Exception, match="ValueError"):
        survives([["distill", "seed=" + "9" * 5000]], monkeypatch)
