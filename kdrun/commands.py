"""The commands that are no stage: list, predict, reproduce, clean, store. Each gives an exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdrun import processes
from kdrun.errors import KdrunError, UsageError, brief, suggestion
from kdrun.words import CONFIG_DIR, key_values, number, option, without_option


def config_folders(words: list[str]) -> list[Path]:
    """The folders of `--config-dir`, checked. Raises `UsageError` for one that is missing or holds what it may not."""
    folders = [Path(folder) for folder in option(words, *CONFIG_DIR)]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--config-dir {folder}: there is no such folder")
    if folders:
        from kdrun.records.foreign import check_config_folder

        for folder in folders:
            check_config_folder(folder)
    return folders


def listed(arguments: list[str]) -> int:
    words, folders = without_option(arguments, *CONFIG_DIR), config_folders(arguments)
    if words[:1] == ["taps"]:
        return _list_taps(words[1:], folders)
    conditions = [word for word in words if words[0] == "runs" and any(sign in word for sign in "=<>")]
    conditions = [word for word in conditions if not word.startswith("output_dir=")]
    keys, rest = key_values([word for word in words if word not in conditions], ("output_dir",))
    from kdrun.lookup import conf_dir
    from kdrun.reports.listing import listing

    where = [conf_dir(), *folders]
    if len(rest) > 1:
        raise UsageError(f"kdrun list takes one word, not {len(rest)}")
    print(listing(rest[0] if rest else None, where, Path(keys.get("output_dir", "outputs")), conditions))
    return 0


def _list_taps(words: list[str], folders: list[Path]) -> int:
    if not any(word.startswith("model=") for word in words) or not all("=" in word for word in words):
        raise UsageError("usage: kdrun list taps model=<name> dataset=<name>")
    from kdrun.config import stage_config

    config = stage_config("train", words, folders)
    from kdrun.stages.taps import list_taps

    print(list_taps(config))
    return 0


def predicted(arguments: list[str]) -> int:
    keys, words = key_values(arguments, ("top_k", "run"))
    words = [keys["run"], *words] if "run" in keys else words
    top_k = keys.get("top_k", "5")
    if len(words) < 2 or not top_k.isdecimal() or int(top_k) < 1:
        raise UsageError("usage: kdrun predict <run directory or model file> image.png … [top_k=5]")
    absent = [word for word in words if not Path(word).exists()]
    if absent:
        raise UsageError(f"{absent[0]}: there is no such file or directory")
    from kdrun.stages.predict import predict

    for path, classes in predict(Path(words[0]), [Path(word) for word in words[1:]], int(top_k)):
        print(f"{path}: " + "  ".join(f"{brief(name)} {probability:.1%}" for name, probability in classes))
    return 0


def reproduced(arguments: list[str], debug: bool) -> int:
    tolerances, folders = option(arguments, "--tolerance"), config_folders(arguments)
    words = without_option(arguments, "--tolerance", *CONFIG_DIR)
    keys, words = key_values(
        [word for word in words if word != "--rebuild"],
        ("run", "data_dir", "device", "device.threads", "launch.processes"),
    )
    words = [keys.pop("run"), *words] if "run" in keys else words
    counts = {key: keys.pop(key) for key in ("device.threads", "launch.processes") if key in keys}
    if len(words) != 1 or not all(count.isdecimal() and int(count) for count in counts.values()):
        raise UsageError(
            "usage: kdrun reproduce <run directory> [data_dir=…] [device=…] [device.threads=…] [launch.processes=…] "
            "[--tolerance NUMBER] [--rebuild] [--config-dir DIR]"
        )
    tolerance = number("--tolerance", tolerances[-1]) if tolerances else None
    changes: dict[str, Any] = {**keys, **{key: int(count) for key, count in counts.items()}}
    from kdrun.records.runs import read_info
    from kdrun.reports.verdict import DIFFERENT, compare
    from kdrun.saved import checked_changes

    checked_changes(changes)
    run = Path(words[0])
    recorded = _processes_of(read_info(run))  # refused before torch is imported
    several, rebuild = changes.pop("launch.processes", None) or recorded, "--rebuild" in arguments
    if several > max(1, os.cpu_count() or 1) and not (counts.get("launch.processes") or processes.launched()):
        raise UsageError(
            f"{run} was made by {several} processes, more than this machine has cores: type launch.processes={several} "
            "to start them all the same, or launch.processes=1 --tolerance 0.0001 to compare within float error"
        )
    if several > 1 and not processes.launched():
        from kdrun.launch import launch

        made = launch(several, _again, run, changes, rebuild, debug, folders)
    else:
        made = _again(run, changes, rebuild, debug, folders)
    if not processes.is_first():
        return 0
    from kdrun.stages.reproduce import weights_differ

    verdict = compare(run, made, weights_differ(run, made), tolerance)
    print(f"{verdict.text}\nrecorded: {run}\nagain:    {made}")
    return 1 if verdict.word == DIFFERENT else 0


def _processes_of(info: dict[str, Any]) -> int:
    """How many made a run, by its `run.json`, which may be anybody's."""
    device = info.get("device")
    found = device.get("processes") if isinstance(device, dict) else None
    return found if isinstance(found, int) and found > 1 else 1


def _again(run: Path, changes: dict[str, Any], rebuild: bool, debug: bool, folders: list[Path]) -> Path:
    """In each process of the new run."""
    from kdrun.stages.reproduce import reproduce

    return reproduce(run, changes, rebuild, debug, folders)


def cleaned(arguments: list[str]) -> int:
    keys, words = key_values(arguments, ("output_dir", "unfinished", "dry_run"))
    wrong = [key for key in ("unfinished", "dry_run") if keys.get(key, "false") not in ("true", "false")]
    if len(words) > 1 or wrong:
        raise UsageError("usage: kdrun clean [folder or run directory] [unfinished=true|false] [dry_run=true|false]")
    from kdrun.records.cleaning import freeable

    folder = Path(words[0] if words else keys.get("output_dir", "outputs"))
    files = list(freeable(folder, unfinished=keys.get("unfinished") == "true", left_alone=print))
    size, dry = sum(file.stat().st_size for file in files), keys.get("dry_run") == "true"
    for file in files:
        print(file)
        if not dry:
            file.unlink()
    print(f"{len(files)} files, {size / 1e6:,.1f} MB {'could be freed' if dry else 'freed'} in {folder}")
    return 0


def stored(arguments: list[str], debug: bool) -> int:
    actions = ("fill", "list", "verify", "prune")
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action not in actions:
        raise UsageError(f"usage: kdrun store {'|'.join(actions)}; {suggestion(action, actions)}")
    if action == "fill":
        return _fill(rest, debug)
    keys, words = key_values(rest, ("output_dir", "keep_gb"))
    if words or ("keep_gb" in keys) != (action == "prune"):
        raise UsageError("usage: kdrun store list|verify [output_dir=…], or kdrun store prune keep_gb=NUMBER")
    from kdrun.records.store import damaged, kept, prune
    from kdrun.reports.stores import line

    folder = Path(keys.get("output_dir", "outputs")) / "store"
    if action == "prune":
        for one in prune(folder, number("keep_gb", keys["keep_gb"]), print):
            print(f"removed {one.path}")
        return 0
    strange: list[str] = []
    bad = []
    for one in kept(folder, strange.append):
        wrong = damaged(one) if action == "verify" else []
        bad += wrong
        print(
            line(one)
            + "".join(f"\n  damaged: {file.name}; the next run that needs it makes it again" for file in wrong)
        )
    for told in strange:
        print(told)
    if action == "verify" and (bad or strange):
        raise KdrunError(f"{folder}: {len(bad)} damaged views, {len(strange)} folders that are no store of this kdrun")
    return 0


def _fill(words: list[str], debug: bool) -> int:
    from kdrun.config import stage_config

    config = stage_config("distill", without_option(words, *CONFIG_DIR), config_folders(words))
    from kdrun.progress import shown
    from kdrun.stages.source import fill_store

    with shown(debug):
        print(f"store: {fill_store(config).path}")
    return 0
