"""The figures of docs/reliability.md, from the gates themselves.

Runs tests/reliability and tests/security, the exhaustive parts too (about twenty minutes on two cores), and writes what
each promise's gate measured. A gate that fails is written as it is.

    python scripts/reliability.py [--fast] [--write]
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
PLACES = ["tests/reliability", "tests/security"]
# what is promised, and the tests that hold it: their names begin so
PROMISES = {
    "A run that stopped goes on to the same bits: optimizers × schedules × precisions × live and stored teacher": (
        "test_every_recipe_goes_on",
        "test_streamed_images_go_on",
    ),
    "Killed at any file operation: every file whole, nothing saved is lost, the same bits after": (
        "test_every_point_of_a_kill",
    ),
    "Disk full at any file operation: exit 1, one line, nothing saved is lost": ("test_every_point_of_a_full_disk",),
    "A damaged checkpoint is noticed (300 flipped bits, 6 truncations), the one before taken": ("test_any_damage",),
    "A signal ends the run with its state saved and the right exit code": (
        "test_a_training_that_is_signalled",
        "test_an_evaluation",
    ),
    "`kdrun reproduce` tells EXACT, WITHIN TOLERANCE, DIFFERENT or why it cannot compare": ("test_reproduce.",),
    "Bad input: exit code, one to three lines, no traceback, nothing left behind": (
        "test_bad_input[",
        "test_failures.",
    ),
    "A mistyped key is answered with the right one": ("test_the_right_name_is_among",),
    "Random words are a config or a usage error": ("test_strange_words",),
    "Malicious files run no code, in 5 s and 500 MB": ("test_nothing_runs",),
    "No secret reaches a file or the screen": ("test_secrets.",),
    "A sweep: jobs that raise, exit, are killed or crash do not stop the others; it goes on where it stopped": (
        "test_sweeps.",
    ),
    "A search goes on where it was killed, cuts hopeless trials off, and chooses on validation": ("test_tune.",),
    "Runs at once: a directory each, a shared teacher trained once, one writer per run": ("test_concurrency.",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="leave out the exhaustive parts")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        marks = ["-m", "not slow"] if options.fast else []
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "worksteal",
            *marks,
            f"--junitxml={results}",
            *PLACES,
        ]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(results).iter("testcase"))
    text = f"{table(cases)}\n\n{footer()}"
    print(text)
    if options.write:
        page = PAGE.read_text()
        marked = re.compile("(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)
        PAGE.write_text(marked.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page))


def table(cases: Iterable[ElementTree.Element]) -> str:
    """One row per promise: tests that passed of those that ran, and what they counted."""
    lines = ["| promise | tests passed | measured |", "|---|---|---|"]
    for promise, names in PROMISES.items():
        own = [case for case in cases if any(name in f"{case.get('classname')}.{case.get('name')}" for name in names)]
        ran = [case for case in own if case.find("skipped") is None]
        passed = [case for case in ran if case.find("failure") is None and case.find("error") is None]
        figures = [str(value.get("value")) for case in ran for value in case.iter("property")]
        lines.append(f"| {promise} | {len(passed)}/{len(ran)} | {'; '.join(dict.fromkeys(figures))} |")
    return "\n".join(lines)


def footer() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("kdrun", "torch", "hydra-core"))
    return f"{date.today()}, {packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}."


if __name__ == "__main__":
    main()
