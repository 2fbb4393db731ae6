"""What was measured of something that does not change any more, so that nobody measures it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdrun import lookup, processes
from kdrun.errors import KdrunError
from kdrun.records import foreign
from kdrun.records.environment import environment
from kdrun.records.files import write
from kdrun.records.fingerprint import fingerprint
from kdrun.schema import Plain

LARGEST = 100_000_000  # bytes: a confusion matrix of a thousand classes is three million
log = logging.getLogger("kdrun")


def remembered(outputs: Path, key: Mapping[str, Any], what: str, measure: Callable[[], Plain], anew: bool) -> Plain:
    """What `measure` gives, or gave with this key, code, versions and machine before: JSON's types, finite numbers.

    `what` names it in the log. `anew`: measured, whatever is known. A file in which a bit has changed is as if it were
    not there, and so is one that cannot be written: nothing depends on it. With a plugin, whose code is not in the key,
    nothing is remembered.
    """
    if lookup.PLUGINS:
        return measure()
    here = {name: value for name, value in environment().items() if name in ("code", "versions", "platform")}
    file = outputs / "measured" / f"{fingerprint({**key, **here})[:32]}.json"
    found = None if anew else processes.told(lambda: _read(file))
    if found is not None:
        log.info("%s: measured before, in %s", what, file)
        return found
    content = processes.everyone(measure())[0]
    sealed = {"key": {**key, **here}, "content": content}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, json.dumps({**sealed, "sha256": fingerprint(sealed)}, allow_nan=False).encode())
    except (KdrunError, OSError) as error:
        log.info("%s: what was measured is not kept for other runs (%s)", what, error)
    return content


def _read(file: Path) -> Plain | None:
    """The content of such a file, None where there is none, or none that is whole."""
    try:
        found = foreign.read_json(file, LARGEST) if file.exists() else {}
        content: Plain = found["content"]
        return content if found["sha256"] == fingerprint({"key": found["key"], "content": content}) else None
    except (KdrunError, LookupError, OSError, TypeError):
        return None
