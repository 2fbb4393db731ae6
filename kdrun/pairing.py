"""Which feature of the student learns from which of the teacher, and the refusals when none can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from kdrun.adapters import as_map, is_map
from kdrun.errors import UsageError
from kdrun.types import Outputs

EMBEDDING = "embedding"


class Pair(NamedTuple):
    """A tap of the student and the tap of the teacher it learns from."""

    student: str
    teacher: str


def by_depth(student: Sequence[str], teacher: Sequence[str]) -> list[Pair]:
    """Stages at the same relative depth, as many pairs as the model with fewer has; the last goes with the last."""
    fewer, more = sorted((len(student), len(teacher)))
    steps = [(step, max(step, (2 * step * more + fewer) // (2 * fewer))) for step in range(1, fewer + 1)]
    if len(student) > len(teacher):
        steps = [(much, few) for few, much in steps]
    return [Pair(student[s - 1], teacher[t - 1]) for s, t in steps]


def pair_stages(
    student: Outputs, teacher: Outputs | None, given: Mapping[str, str] | None, pixels: int = 0
) -> list[Pair]:
    """The stages of both by relative depth, or `given` (student tap: teacher tap) where that is not None.

    With `pixels`, only pairs whose maps both have at least so many. Raises `UsageError` when nothing is left.
    """
    teacher = needed(teacher)
    pairs = by_depth(_stages(student), _stages(teacher)) if given is None else _told(student, teacher, given)
    fit = [one for one in pairs if min(_pixels(student, one.student), _pixels(teacher, one.teacher)) >= pixels]
    if not fit or (given is not None and len(fit) < len(pairs)):
        wanted = f"maps of at least {pixels} pixels" if pixels else "stages"
        raise UsageError(
            f"this loss needs {wanted} in both; the student has {shapes(student)}, the teacher {shapes(teacher)}; "
            f"losses that work without are {'fitnet, vid, ' if _stages(student) else ''}sp, rkd, pkt, cc, srd and kd"
        )
    return fit


def pair_middle(student: Outputs, teacher: Outputs | None, given: Mapping[str, str] | None) -> list[Pair]:
    """The pair half-way down (of an even number the lower one), or all of `given`."""
    pairs = pair_stages(student, teacher, given)
    return pairs if given is not None else [pairs[(len(pairs) - 1) // 2]]


def pair_last(student: Outputs, teacher: Outputs | None, given: Mapping[str, str] | None) -> Pair:
    """The last stages, or the one pair of `given`."""
    pairs = pair_stages(student, teacher, given)
    return pairs[-1] if given is None else _only(pairs)


def pair_embeddings(student: Outputs, teacher: Outputs | None, given: Mapping[str, str] | None) -> Pair:
    """What both classifiers are given, or the one pair of `given`."""
    teacher = needed(teacher)
    return _only(_told(student, teacher, {EMBEDDING: EMBEDDING} if given is None else given))


def shapes(outputs: Outputs) -> str:
    """The taps of a model and the shapes of what they give for one sample, for a message."""
    return ", ".join(f"{tap} {tuple(one.shape[1:])}" for tap, one in outputs.features.items()) or "no taps"


def both(student: Outputs, teacher: Outputs | None, pair: Pair) -> tuple[Tensor, Tensor]:
    """The two features of a pair."""
    return student.features[pair.student], needed(teacher).features[pair.teacher]


def _only(pairs: Sequence[Pair]) -> Pair:
    if len(pairs) != 1:
        given = ", ".join(f"{pair.student}: {pair.teacher}" for pair in pairs)
        raise UsageError(f"pairs={{{given}}}: this loss reads one feature of each model; give one pair")
    return pairs[0]


def _told(student: Outputs, teacher: Outputs, given: Mapping[str, str]) -> list[Pair]:
    if not isinstance(given, Mapping) or not given:
        raise UsageError(f"pairs={given}: must map taps of the student to taps of the teacher, as {{stage2: stage3}}")
    for role, outputs, taps in (("student", student, given.keys()), ("teacher", teacher, given.values())):
        for tap in taps:
            if tap not in outputs.features:
                raise UsageError(f"tap {tap!r} is not in the {role}; it has {shapes(outputs)}")
    return [Pair(*one) for one in given.items()]


def needed(teacher: Outputs | None) -> Outputs:
    """The teacher's answer, for a term that cannot do without."""
    if teacher is None:
        raise TypeError("this loss term needs a teacher, and none was given")
    return teacher


def _stages(outputs: Outputs) -> list[str]:
    return [tap for tap in outputs.features if tap != EMBEDDING]


def _pixels(outputs: Outputs, tap: str) -> int:
    """Of the map that a tap gives, or that its tokens fold to; 0 when it gives no map."""
    feature = outputs.features[tap]
    return as_map(feature)[0, 0].numel() if is_map(feature) else 0
