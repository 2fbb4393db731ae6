"""Runs a chosen part of the CIFAR-100 table over seeds, and prints ours beside the published number.

The recipes are `conf/experiment/cifar100/`, in the protocol of the field: all 50,000 images train, 240 epochs, the last
epoch is measured. The published numbers stand in the recipes. Runs that exist are not run again.

    python scripts/paper_table.py --only resnet32x4_resnet8x4_kd resnet32x4_resnet8x4_dkd --seeds 0 1 2
    python scripts/paper_table.py --only resnet56_resnet20_kd --words dataset=mnist teacher=cnn epochs=6   # a stand-in
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from tables import ROOT, Runs, Summary, percent, put

FOLDER = ROOT / "conf" / "experiment" / "cifar100"
PUBLISHED = re.compile(r"published: ([\d.]+) % \(teacher ([\d.]+) %, alone ([\d.]+) %\)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=recipes(), help="names of recipes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--words", nargs="*", default=[], help="what is changed: then the table says that it is no CIFAR"
    )
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--write", action="store_true", help="put the table into docs/methods.md")
    options = parser.parse_args()
    runs = Runs(options.output_dir)
    lines = [
        "| recipe | teacher | published | alone | published | distilled | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in options.only:
        command = [f"experiment=cifar100/{name}", *options.words]
        lines.append(row(name, [runs.summary([*command, f"seed={seed}"]) for seed in options.seeds]))
    told = (
        f"Test accuracy in %, mean ± sd over seeds {', '.join(map(str, options.seeds))}, one teacher. Published "
        "numbers state neither seeds nor intervals; DKD and DIST there are of the best test epoch. "
    )
    if options.words:
        told += f"**Not CIFAR-100**: `{' '.join(options.words)}`; the columns are not to be compared. "
    text = "\n".join([*lines, "", f"{told}Made by `scripts/paper_table.py`."])
    print(text)
    if options.write:
        put(ROOT / "docs" / "methods.md", "paper", text)


def recipes() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "protocol")


def published(name: str) -> tuple[str, str, str]:
    """Distilled, teacher and alone, as the recipe's second line says."""
    found = PUBLISHED.search((FOLDER / f"{name}.yaml").read_text())
    assert found is not None, f"{name}.yaml says no published number"
    return found[1], found[2], found[3]


def row(name: str, runs: list[Summary]) -> str:
    distilled, teacher, alone = published(name)
    ours = [percent(runs, key) for key in KEYS]
    return f"| `{name}` | {ours[0]} | {teacher} | {ours[1]} | {alone} | {ours[2]} | {distilled} |"


KEYS = ("teacher/test/accuracy", "alone/test/accuracy", "test/accuracy")


if __name__ == "__main__":
    main()
