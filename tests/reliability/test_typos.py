"""'Did you mean …?' answers a slip of the finger: measured on generated typos of every key and of every choice."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence

import pytest

from kdrun import composition, errors, overrides
from tests.conftest import mutated

ENOUGH = 0.95
SEED = 0
LETTERS = string.ascii_lowercase + string.digits + "_"
Right = tuple[int, int]  # right answers, typos in all


def all_keys() -> list[str]:
    """Every key of `kdrun distill`, with its path."""
    with composition.composing([]):
        return composition.keys_of(composition.composed("distill", [], []))


def all_choices() -> dict[str, list[str]]:
    """The options of every group."""
    with composition.composing([]):
        return composition.options_by_group()


def typo(word: str, kind: str, chance: random.Random) -> str:
    """`word` with one letter left out, put in, replaced, or swapped with the next one."""
    at = chance.randrange(len(word) - (kind == "swap"))
    if kind == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    inserted = "" if kind == "leave out" else chance.choice(LETTERS)
    return word[:at] + inserted + word[at + (kind != "put in") :]


def typos(words: Sequence[str], each: int) -> list[tuple[str, str]]:
    """`(word, typo)`, `each` times every kind for every word; what is itself one of the words is no typo."""
    chance = random.Random(SEED)
    kinds = ("leave out", "put in", "replace", "swap")
    made = [(word, typo(word, kind, chance)) for word in words for kind in kinds for _ in range(each) if word[1:]]
    return [(word, wrong) for word, wrong in made if wrong and wrong not in words]


def named(message: str) -> list[str]:
    """The names that a message offers."""
    offered = re.search(r"did you mean (.+)\?", message)
    return re.split(r", | or ", offered[1]) if offered else []


def key_suggestions(each: int = 1, one_in: int = 1) -> Right:
    """For how many typos of keys (of one in so many keys) the right one is among those offered."""
    keys = all_keys()
    answers = [word in named(overrides.no_such_key(wrong, keys)) for word, wrong in typos(keys, each)[::one_in]]
    return sum(answers), len(answers)


def choice_suggestions(each: int = 1, one_in: int = 1) -> Right:
    """The same for the choices of every group."""
    answers = []
    for group, options in all_choices().items():
        for word, wrong in typos(options, each)[::one_in]:
            answers.append(word in named(overrides.no_such_choice(group, wrong, options)))
    return sum(answers), len(answers)


def expect_enough(measure: Callable[..., Right], one_in: int = 1) -> Right:
    right, total = measure(one_in=one_in)
    assert total > 80
    assert right >= ENOUGH * total, f"{right} of {total}"
    return right, total


MEASURES = [key_suggestions, choice_suggestions]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_right_name_is_among_those_suggested(
    measure: Callable[..., Right], record_property: Callable[[str, object], None]
) -> None:
    right, total = expect_enough(measure)
    record_property("suggested", f"{measure.__name__.partition('_')[0]}s {right}/{total} ({right / total:.1%})")


MISTAKES = [
    ("fewest = min(distances.values(), default=bearable + 1)", "fewest = bearable + 1"),  # what difflib finds alone
    ("if fewest > bearable:", "if True:\n        return []\n    if fewest > bearable:"),
    ("return sorted(best, key=lambda name: (-_ratio(alike, name), name))[:most]", "return sorted(allowed)[:most]"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=["a cutoff of 0.9", "no suggestion", "any three"])
@pytest.mark.parametrize("measure", MEASURES)
def test_the_measure_notices_worse_suggestions(
    measure: Callable[..., Right], mistake: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(errors, *mistake)
    monkeypatch.setattr(wrong.difflib, "get_close_matches", sharp(wrong.difflib.get_close_matches))
    for name in ("closest", "suggestion"):
        monkeypatch.setattr(overrides, name, getattr(wrong, name))
    with pytest.raises(AssertionError, match=" of "):
        expect_enough(measure, one_in=3)  # of four kinds of slips in turn: 4 would look at one kind


def sharp(close: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return lambda word, words, n, cutoff: close(word, words, n=1, cutoff=0.9)


def test_no_more_than_three_are_offered_and_the_nearest_come_first() -> None:
    names = ["resnet8", "resnet14", "resnet18", "resnet20", "resnet32", "vgg8"]
    assert errors.closest("resnet1", names) == ["resnet14", "resnet18", "resnet8"]
    assert errors.suggestion("resnet1", names) == "did you mean resnet14, resnet18 or resnet8?"
    assert errors.suggestion("ResNet20", names) == "did you mean resnet20?"
    assert errors.closest("resnet", names[:2]) == ["resnet8"]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("abcd", "badc", 2), ("ca", "abc", 3)],
)
def test_edits_are_counted(one: str, other: str, distance: int) -> None:
    assert errors.edits(one, other) == errors.edits(other, one) == distance
