"""The errors a person sees: one line each, with the exit code they end the program with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdrunError(Exception):
    """Something failed while the program ran (exit 1). The message is one line that says what to do."""

    exit_code = 1


class UsageError(KdrunError):
    """What was typed or configured cannot work (exit 2). Raised before anything is written."""

    exit_code = 2


def suggestion(given: str, allowed: Iterable[str], most: int = 8) -> str:
    """'; did you mean …?' where something is close, otherwise what is allowed."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    shown = ", ".join(allowed[:most])
    return f"allowed: {shown}" + (f", … ({len(allowed)} in all)" if len(allowed) > most else "")
