"""The table of recipes in README.md and docs/recipes.md, from real runs.

Runs every recipe of `conf/experiment/` over several seeds (only those that are missing: it can be stopped and started
again), then writes mean ± sd, n, versions and hardware between the markers of the two pages.

    python scripts/recipes_table.py --seeds 0 1 2 [--output-dir outputs] [--only mnist_cnn …] [--write]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import ROOT, Runs, Summary, footer, percent, put, spread

from kdrun.reports.outcome import outcome

DEFAULT = "kdrun distill"
RECIPES = {
    DEFAULT: "the default: wrn_16_2 → cnn_tiny on digits",
    "mnist_mlp_equal": "MLP 784-500-10 → the same, KL only",
    "mnist_mlp_small": "MLP 784-500-10 → 784-32-10, KL only",
    "mnist_cnn": "CNN 32-64 → CNN 4-8",
    "digits_resnet152_mobilenet": "resnet152 → mobilenet",
}
SWEPT, TEMPERATURES = "mnist_mlp_small", (1, 2, 4, 8, 12, 16, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/recipes.md")
    options = parser.parse_args()
    runs = Runs(options.output_dir)
    found = {name: of_seeds(runs, recipe(name), options.seeds) for name in options.only if name in RECIPES}
    pages = {"recipes": f"{recipes_table(found)}\n\n{footer(options.seeds, 'recipes_table')}"}
    if SWEPT in options.only:
        words = {value: [*recipe(SWEPT), f"loss.temperature={value}.0"] for value in TEMPERATURES}
        swept = {value: of_seeds(runs, one, options.seeds) for value, one in words.items()}
        pages["temperature"] = f"{temperature_table(swept)}\n\n{footer(options.seeds, 'recipes_table')}"
    if DEFAULT in options.only:
        told = outcome(runs.get([*recipe(DEFAULT), "seed=0"]))
        pages["demo"] = f"```\n{told.replace(str(options.output_dir), 'outputs')}\n```"
    for text in pages.values():
        print(text, end="\n\n")
    if options.write:
        for page in (ROOT / "README.md", ROOT / "docs" / "recipes.md"):
            for name, text in pages.items():
                put(page, name, text)


def recipe(name: str) -> list[str]:
    return [] if name == DEFAULT else [f"experiment={name}"]


def of_seeds(runs: Runs, words: list[str], seeds: list[int]) -> list[Summary]:
    return [runs.summary([*words, f"seed={seed}"]) for seed in seeds]


def recipes_table(found: dict[str, list[Summary]]) -> str:
    lines = [
        "| recipe (`experiment=`) | teacher | student alone | distilled | gain | n test |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        cells = [percent(runs, key) for key in ("teacher/test/accuracy", "alone/test/accuracy", "test/accuracy")]
        samples = f"{int(runs[0]['test/samples']):,}"
        lines.append(f"| {RECIPES[name]} (`{name}`) | {' | '.join(cells)} | {percent(runs, 'gain', '+')} | {samples} |")
    return "\n".join(lines)


def temperature_table(found: dict[int, list[Summary]]) -> str:
    lines = ["| temperature | test accuracy | test NLL | test ECE | generalisation gap |", "|---|---|---|---|---|"]
    for temperature, runs in found.items():
        numbers = [spread([one[key] for one in runs], "{:.4f}") for key in ("test/nll", "test/ece")]
        row = [percent(runs, "test/accuracy"), *numbers, percent(runs, "generalisation_gap")]
        lines.append(f"| {temperature} | {' | '.join(row)} |")
    alone = next(iter(found.values()))
    numbers = [spread([one[f"alone/{key}"] for one in alone], "{:.4f}") for key in ("test/nll", "test/ece")]
    row = [percent(alone, "alone/test/accuracy"), *numbers, percent(alone, "alone/generalisation_gap")]
    return "\n".join([*lines, f"| student alone | {' | '.join(row)} |"])


if __name__ == "__main__":
    main()
