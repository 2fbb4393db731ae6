"""The errors a person sees: one line each, with the exit code they end the program with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

LONGEST = 100  # characters of a value that a message repeats


class KdrunError(Exception):
    """Something failed while the program ran (exit 1). The message is one line that says what to do."""

    exit_code = 1


class UsageError(KdrunError):
    """What was typed or configured cannot work (exit 2). Raised before anything is written."""

    exit_code = 2


def suggestion(given: str, allowed: Iterable[str], most: int = 8) -> str:
    """'did you mean a, b or c?' where something is close, otherwise what is allowed."""
    allowed = sorted(allowed)
    close = closest(given, allowed)
    if close:
        return did_you_mean(close)
    shown = ", ".join(allowed[:most])
    return f"allowed: {shown}" + (f", … ({len(allowed)} in all)" if len(allowed) > most else "")


def did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?"


def closest(given: str, allowed: Iterable[str], most: int = 3) -> list[str]:
    """The names that may have been meant: those fewest edits away, the most alike of them first."""
    allowed, given = list(allowed), given[:LONGEST].casefold()
    bearable = max(1, len(given) // 4)
    near = [name for name in allowed if abs(len(name) - len(given)) <= bearable]
    distances = {name: edits(given, name.casefold()) for name in near}
    fewest = min(distances.values(), default=bearable + 1)
    if fewest > bearable:
        return difflib.get_close_matches(given, allowed, n=most, cutoff=0.6)  # a part of a name, for example
    alike = difflib.SequenceMatcher(b=given)
    best = [name for name, distance in distances.items() if distance == fewest]
    return sorted(best, key=lambda name: (-_ratio(alike, name), name))[:most]


def edits(one: str, other: str) -> int:
    """Letters to insert, leave out, replace or swap with the next one, to make one word of the other.

    Damerau 1964, Levenshtein 1966, in the form that edits no letter twice.
    """
    for _ in range(2):  # equal beginnings and, turned round, equal ends cost time and change nothing
        same = next(
            (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        one, other = one[same:][::-1], other[same:][::-1]
    earlier: list[int] = []
    before, row = earlier, list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def brief(value: object, most: int = LONGEST) -> str:
    """Something a person typed or a file holds, for a message: one line, printable, not longer than `most`."""
    text = "null" if value is None else str(value)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def refuse(mistakes: Iterable[str]) -> None:
    """Raise `UsageError` if there are mistakes: all of them are named, in three lines at most."""
    lines = list(dict.fromkeys(mistakes))
    if len(lines) > 3:
        others = ", ".join(_subject(line) for line in lines[2:])
        lines[2:] = [f"and {len(lines) - 2} more mistakes: {brief(others, 500)}"]
    if lines:
        raise UsageError("\n".join(lines))


def _subject(mistake: str) -> str:
    """The key or word that a mistake is about: what stands before `=value`, a colon or an explanation."""
    return re.split(r"[=:; ]", mistake.removeprefix("unknown key ").removeprefix("'"), maxsplit=1)[0]


def _ratio(matcher: difflib.SequenceMatcher[str], name: str) -> float:
    matcher.set_seq1(name.casefold())
    return matcher.ratio()
