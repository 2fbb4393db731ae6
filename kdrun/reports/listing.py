"""What there is to choose from, and what has been run: plain text, from the files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdrun.errors import KdrunError, UsageError, brief, suggestion
from kdrun.records.foreign import read_text

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
    text = read_text(file, 1_000_000)
    lines = [brief(line.lstrip("# ").strip(), 300) for line in text.splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def _runs(output_dir: Path) -> list[str]:
    from kdrun.records.foreign import read_json
    from kdrun.records.run import status

    lines = []
    for file in sorted(output_dir.glob("*/*/run.json"), key=lambda path: path.parent.name):
        try:
            info = read_json(file)
            summary_file = file.with_name("summary.json")
            summary = read_json(summary_file) if summary_file.exists() else {}
            accuracy = summary.get("test/accuracy")
            shown = (
                "" if accuracy is None else f"test accuracy {100 * accuracy:.2f} % (n = {summary['test/samples']:,})"
            )
            lines.append(brief(f"{status(file.parent, info):<11} {file.parent}  {shown}".rstrip(), 1000))
        except (KdrunError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            lines.append(brief(f"unreadable  {file.parent}  {type(error).__name__}", 1000))
    return lines
