"""Is accuracy sold for speed? Students of an fp32 teacher asked live, and of one in bf16 whose outputs are stored.

Same teacher, same seeds, same budget; differences are paired by seed. Runs only what is missing.

    python scripts/precision_table.py --seeds 0 1 2 3 4 [--output-dir outputs] [--write]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from tables import ROOT, Runs, Summary, footer, percent, put, spread

PAIRS = {
    "digits: wrn_16_2 → cnn_tiny": ("dataset=digits", "teacher=wrn_16_2", "student=cnn_tiny"),
    "digits: resnet20 → resnet8": ("dataset=digits", "teacher=resnet20", "student=resnet8", "epochs=15"),
    "MNIST, 6,000 images: CNN 32-64 → CNN 4-8": (
        "dataset=mnist",
        "dataset.limit=6000",
        "teacher=cnn",
        "student=cnn",
        "student.widths=[4,8]",
        "epochs=6",
        "teacher.train.epochs=4",
    ),
}
WAYS = {
    "fp32, live": ("device.precision=fp32", "teacher.outputs=live"),
    "bf16, stored": ("device.precision=bf16", "teacher.outputs=stored"),
}
COMMON = ("teacher.train.precision=fp32", "baseline=false", "augment=none")
KEY = "test/accuracy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    runs = Runs(options.output_dir)
    lines = ["| pair | fp32, live | bf16, stored | difference, paired by seed | n test |", "|---|---|---|---|---|"]
    for name, pair in PAIRS.items():
        found = {
            way: [runs.summary([*pair, *COMMON, *words, f"seed={seed}"]) for seed in options.seeds]
            for way, words in WAYS.items()
        }
        lines.append(row(name, *found.values()))
    text = "\n".join(lines) + f"\n\n{footer(options.seeds, 'precision_table')}"
    print(text)
    if options.write:
        put(ROOT / "docs" / "performance.md", "precision", text)


def row(name: str, plain: list[Summary], quick: list[Summary]) -> str:
    """Mean ± sd of both, and of the difference, with the half-width of its 95 % interval (Student's t)."""
    from scipy.stats import t

    differences = [100 * (b[KEY] - a[KEY]) for a, b in zip(plain, quick, strict=True)]
    n = len(differences)
    half = t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5
    verdict = "within the noise" if abs(statistics.mean(differences)) <= half else "beyond the noise"
    told = f"{spread(differences, '{:+.2f}')}, 95 % interval ± {half:.2f}: {verdict}"
    return f"| {name} | {percent(plain, KEY)} | {percent(quick, KEY)} | {told} | {int(plain[0]['test/samples']):,} |"


if __name__ == "__main__":
    main()
