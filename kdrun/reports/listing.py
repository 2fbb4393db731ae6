"""What there is to choose from, and what has been run: plain text, from the files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdrun.errors import UsageError, brief, suggestion

KINDS = {"models": "model", "datasets": "dataset", "losses": "loss", "augments": "augment", "experiments": "experiment"}


def listing(kind: str | None, folders: Sequence[Path], output_dir: Path) -> str:
    """The names of one kind with their first lines of comment, or a count of each kind. Raises `UsageError`."""
    if kind is None:
        counts = [f"  {name:<12} {len(_options(group, folders)):>4}" for name, group in KINDS.items()]
        return "\n".join(["kdrun list <what>:", *counts, f"  {'runs':<12} {len(_runs(output_dir)):>4}"])
    if kind == "runs":
        return "\n".join(_runs(output_dir)) or f"no runs in {output_dir}; `kdrun distill` makes one"
    if kind not in KINDS:
        raise UsageError(f"kdrun list {brief(kind)}: there is no such list; {suggestion(kind, [*KINDS, 'runs'])}")
    options = _options(KINDS[kind], folders)
    width = max((len(name) for name in options), default=0)
    return "\n".join(f"{name:<{width}}  {about}" for name, about in sorted(options.items()))


def _options(group: str, folders: Sequence[Path]) -> dict[str, str]:
    files = [file for folder in folders for file in (folder / group).rglob("*.yaml")]
    return {_key(file, group): _comment(file) for file in files}


def _key(file: Path, group: str) -> str:
    parts = file.with_suffix("").parts
    return "/".join(parts[len(parts) - parts[::-1].index(group) :])


def _comment(file: Path) -> str:
    """The first line of comment that says something to people."""
    with file.open() as text:
        lines = [line.lstrip("# ").strip() for line in text if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def _runs(output_dir: Path) -> list[str]:
    import json

    from kdrun.records.run import status

    lines = []
    for file in sorted(output_dir.glob("*/*/run.json"), key=lambda path: path.parent.name):
        try:
            info = json.loads(file.read_text())
            summary_file = file.with_name("summary.json")
            summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
            accuracy = summary.get("test/accuracy")
            shown = (
                "" if accuracy is None else f"test accuracy {100 * accuracy:.2f} % (n = {summary['test/samples']:,})"
            )
            lines.append(f"{status(file.parent, info):<11} {file.parent}  {shown}".rstrip())
        except (OSError, ValueError, KeyError) as error:
            lines.append(f"unreadable  {file.parent}  {type(error).__name__}")
    return lines
