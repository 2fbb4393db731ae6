"""The table of recipes in README.md and docs/recipes.md, from real runs.

Runs every recipe of `conf/experiment/` over several seeds (only those that are missing: it can be stopped and started
again), then writes mean ± sd, n, versions and hardware between the markers of the two pages.

    python scripts/recipes_table.py --seeds 0 1 2 [--output-dir outputs] [--only mnist_cnn …] [--write]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {
    "mnist_mlp_equal": "MLP 784-500-10 → the same, KL only",
    "mnist_mlp_small": "MLP 784-500-10 → 784-32-10, KL only",
    "mnist_cnn": "CNN 32-64 → CNN 4-8",
    "digits_resnet152_mobilenet": "resnet152 → mobilenet",
}
TEMPERATURES = (1, 2, 4, 8, 12, 16, 20)
Key = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--only", nargs="*", default=[*RECIPES, "mnist_temperature"])
    parser.add_argument("--write", action="store_true", help="put the tables into README.md and docs/recipes.md")
    options = parser.parse_args()
    recipes = [name for name in RECIPES if name in options.only]
    commands: list[Key] = [(f"experiment={name}",) for name in recipes]
    if "mnist_temperature" in options.only:
        commands += [("experiment=mnist_temperature", f"loss.temperature={value}.0") for value in TEMPERATURES]
    found = {command: [run(command, seed, options.output_dir) for seed in options.seeds] for command in commands}
    recipe_table = recipes_table({name: found[(f"experiment={name}",)] for name in recipes})
    swept = {command[1].partition("=")[2]: runs for command, runs in found.items() if len(command) == 2}
    pages = {"recipes": f"{recipe_table}\n\n{footer(options.seeds)}"}
    if swept:
        pages["temperature"] = f"{temperature_table(swept)}\n\n{footer(options.seeds)}"
    if options.write:
        pages["demo"] = f"```\n{demo(options.output_dir)}\n```"
    for text in pages.values():
        print(text, end="\n\n")
    if options.write:
        for page in (ROOT / "README.md", ROOT / "docs" / "recipes.md"):
            for name, text in pages.items():
                put(page, name, text)


def run(command: Key, seed: int, output_dir: Path) -> dict[str, float]:
    """The summary of the completed run of this command line; run now if there is none."""
    words = [*command, f"seed={seed}", f"output_dir={output_dir}"]
    for file in sorted(output_dir.glob("distill/*/overrides.yaml")):
        summary = file.with_name("summary.json")
        if yaml.safe_load(file.read_text()) == words and summary.is_file():
            return json.loads(summary.read_text())
    print(f"running: kdrun distill {' '.join(words)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "kdrun", "distill", *words], check=True, stdout=subprocess.DEVNULL)
    return run(command, seed, output_dir)


def demo(output_dir: Path) -> str:
    """What `kdrun distill` ends with."""
    from kdrun.reports.outcome import outcome

    run((), 0, output_dir)
    words = ["seed=0", f"output_dir={output_dir}"]
    files = sorted(output_dir.glob("distill/*/overrides.yaml"))
    return outcome(next(file.parent for file in files if yaml.safe_load(file.read_text()) == words))


def recipes_table(found: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| recipe (`experiment=`) | teacher | student alone | distilled | gain | n test |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        cells = [percent(runs, key) for key in ("teacher/test/accuracy", "alone/test/accuracy", "test/accuracy")]
        samples = f"{int(runs[0]['test/samples']):,}"
        lines.append(f"| {RECIPES[name]} (`{name}`) | {' | '.join(cells)} | {percent(runs, 'gain', '+')} | {samples} |")
    return "\n".join(lines)


def temperature_table(found: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| temperature | test accuracy | test NLL | test ECE | generalisation gap |", "|---|---|---|---|---|"]
    for temperature, runs in found.items():
        numbers = [spread([one[key] for one in runs], "{:.4f}") for key in ("test/nll", "test/ece")]
        row = [percent(runs, "test/accuracy"), *numbers, percent(runs, "generalisation_gap")]
        lines.append(f"| {float(temperature):g} | {' | '.join(row)} |")
    alone = next(iter(found.values()))
    numbers = [spread([one[f"alone/{key}"] for one in alone], "{:.4f}") for key in ("test/nll", "test/ece")]
    row = [percent(alone, "alone/test/accuracy"), *numbers, percent(alone, "alone/generalisation_gap")]
    return "\n".join([*lines, f"| student alone | {' | '.join(row)} |"])


def percent(runs: list[dict[str, float]], key: str, sign: str = "") -> str:
    return spread([100 * one[key] for one in runs], f"{{:{sign}.2f}}")


def spread(values: list[float], form: str) -> str:
    """Mean ± sd; a value that did not vary (one teacher for all seeds) stands alone."""
    mean = form.format(statistics.mean(values))
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(values))}"


def footer(seeds: list[int]) -> str:
    from importlib.metadata import version

    cpu = next(
        (line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in cpuinfo() if line.startswith("flags")), "")
    simd = next((name for name in ("amx_bf16", "avx512f", "avx2") if name in flags), "none")
    return (
        f"Accuracy and gap in %, mean ± sd over n = {len(seeds)} seeds ({', '.join(map(str, seeds))}) of the student; "
        "one teacher (`teacher.seed=0`), one split. 10 % of the training data held out, epoch chosen there, "
        f"test split read once. torch {version('torch')}, Python {platform.python_version()}, {cpu}, {simd}. "
        "Made by `scripts/recipes_table.py`."
    )


def cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of this name, where it has them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = page.read_text()
    if begin in content:
        before, _, rest = content.partition(begin)
        page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
