"""The command line: which command, what Hydra does for it, exit codes, one-line errors.

Exit 0: done. 1: something failed. 2: what was typed cannot work. 130, 143: stopped by SIGINT, SIGTERM.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import sys
from pathlib import Path
from typing import Any

from kdrun import __version__, commands, processes, stopping
from kdrun.errors import KdrunError, UsageError, brief, suggestion
from kdrun.redact import is_credential, redacted, redacted_words
from kdrun.running import in_one_line, printing, run_stage, show
from kdrun.words import (
    CONFIG_DIR,
    is_about_launcher,
    key_values,
    option,
    overrides_of,
    positional_run,
    without_option,
)

HELP = """\
kdrun: knowledge distillation from the command line, with numbers that can be trusted

  kdrun distill [key=value …]          a student imitates a teacher; the student alone stands beside it
  kdrun train-teacher [key=value …]    train a teacher; kdrun train model=… likewise, with a student's budget
  kdrun evaluate <run> [key=value …]   a run's model on a test split; or model=<name> model.checkpoint=<file>
  kdrun predict <run> image.png …      the likeliest classes of images
  kdrun resume <run or sweep>          go on with what was cut off
  kdrun reproduce <run>                a saved config again, and the numbers compared
  kdrun clean [folder]                 free the space of what finished runs no longer need
  kdrun store fill [key=value …]       a teacher's outputs, asked once for many runs; store list, verify, prune
  kdrun list [what]                    models, datasets, losses, augments, experiments; runs [key=value …]; taps model=…
  kdrun tune [search=kd] [trials=30]   a search over ranges instead of a grid; goes on where it stopped
  kdrun report <runs, sweeps, folders> one page with tables and figures; --out FILE --format html|md|csv|json
  kdrun compare <run> <run> …          what differs in config and in numbers, paired by seed

Keys:  teacher= student= dataset= loss= augment= optimizer= schedule= device= experiment=
       loss.alpha= loss.temperature= optimizer.lr= epochs= batch_size= seed= … (kdrun distill --cfg job shows all)
Sweep: kdrun distill -m loss.alpha=0.5,0.9 loss.temperature=2,4,8 seed=0,1,2
       hydra/launcher=submitit_slurm|ray|joblib has its jobs carried out elsewhere (docs/cluster.md)

Options: --cfg job, --info, -m, --config-dir DIR, --plugin PACKAGE, --debug, --help, --version
A first run: kdrun distill      (bundled digits, about a minute on two cores)
"""
STAGES = {"distill": "distill", "train": "train", "train-teacher": "train_teacher", "evaluate": "evaluate"}
COMMANDS = (*STAGES, "predict", "resume", "reproduce", "clean", "store", "list", "report", "compare", "tune")
COMPLETION = {"-sc", "--shell-completion"}
SWEEP = {"-m", "--multirun"}
HYDRA_FLAGS = COMPLETION | SWEEP | {"-c", "--cfg", "-i", "--info", "-h", "--help", "--hydra-help"}


def main() -> int:
    """Run the command in `sys.argv` and return its exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    stopping.listen()
    try:
        with printing():
            return dispatch(arguments, debug)
    except KdrunError as error:
        if debug:
            raise
        _say(redacted(str(error)))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has gone: say nothing more
        return 0
    except (Exception, stopping.Stopped) as error:
        stopped = stopping.request(error)
        if stopped is not None:
            _say(f"interrupted by {stopped}")
            return stopped.exit_code
        if debug:
            raise
        _say(in_one_line(error))
        return 2 if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG else 1
    finally:
        gc.enable()


def _say(what: str) -> None:
    """A line for people, from one of the processes of a run."""
    if processes.speaks():
        print(f"kdrun: {what}", file=sys.stderr)


def dispatch(arguments: list[str], debug: bool) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(f"kdrun {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        return _completion(arguments)
    command, rest = arguments[0], arguments[1:]
    if processes.count() > 1:
        _refuse_in_several(command, rest)
    if command not in COMMANDS:
        raise UsageError(f"there is no command {brief(command)!r}; {suggestion(command, COMMANDS)}")
    if command not in STAGES and {"--help", "-h"} & set(rest):
        print(HELP, end="")
        return 0
    plugins = option(rest, "--plugin")
    rest = without_option(rest, "--plugin")
    for plugin in plugins:
        _plug_in(plugin)
    if command == "list":
        return commands.listed(rest)
    if command == "tune":
        return _tune(rest, debug)
    if command in ("report", "compare"):
        from kdrun.reports import command as reports

        print(reports.report(rest) if command == "report" else reports.compare(rest))
        return 0
    if command == "predict":
        return commands.predicted(rest)
    if command == "resume":
        return _resume(rest, debug)
    if command == "reproduce":
        return commands.reproduced(rest, debug)
    if command == "clean":
        return commands.cleaned(rest)
    if command == "store":
        return commands.stored(rest, debug)
    return _stage(command, rest, debug)


def _refuse_in_several(command: str, rest: list[str]) -> None:
    """Raise `UsageError` for what torchrun must not start."""
    if SWEEP & set(rest):
        alone = " ".join(["kdrun", command, *rest, f"launch.processes={processes.count()}"])
        raise UsageError(f"torchrun starts the processes of one run, and -m is several runs; use: {brief(alone, 500)}")
    if command in COMMANDS and command not in (*STAGES, "resume", "reproduce"):
        raise UsageError(f"kdrun {command} is for one process; use it without torchrun")


# ---------------------------------------------------------------------------------------------------------- stages


def _stage(command: str, arguments: list[str], debug: bool) -> int:
    gc.disable()  # composing makes many objects and no garbage: a tenth of its time; on again when a job starts
    stage = STAGES[command]
    words, folders = arguments, commands.config_folders(arguments)
    flags = [word.partition("=")[0] for word in words]
    if any(len(flag) > 3 and "--experimental-rerun".startswith(flag) for flag in flags):  # argparse takes beginnings
        raise UsageError("--experimental-rerun loads a pickle, which can run any code; use `kdrun reproduce <run>`")
    if stage == "evaluate":
        words = positional_run(words)
        runs = [word for word in words if word.startswith("run=")]
        if len(runs) > 1:
            raise UsageError(f"kdrun evaluate takes one run directory, not {len(runs)}; several: kdrun compare, report")
    if SWEEP & set(words) and not (HYDRA_FLAGS - SWEEP) & set(words):
        return _sweep(stage, words, folders, debug)
    if any(word in HYDRA_FLAGS or word.startswith(("--cfg=", "--info=")) for word in words):
        return _through_hydra(stage, words, folders, debug)
    from kdrun.config import stage_config

    overrides = without_option(words, *CONFIG_DIR)
    strange = [word for word in overrides if word.startswith("-")]
    if strange:
        raise UsageError(f"unknown option {brief(strange[0])}; `kdrun --help` lists those there are")
    run_stage(stage_config(stage, overrides, folders), overrides, debug)
    return 0


def _through_hydra(stage: str, words: list[str], folders: list[Path], debug: bool) -> int:
    """What Hydra itself answers: configs that are printed, help, completion, sweeps with a sweeper of Hydra's.

    Returns the worst exit code of the jobs.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from kdrun.config import job_config, stage_config
    from kdrun.lookup import conf_dir
    from kdrun.printed import without_ranges
    from kdrun.roles import register_roles

    codes = [0]

    def job(config: Any) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        print(f"\njob {len(codes)}: {' '.join(overrides)}", flush=True)
        try:
            run_stage(job_config(stage, config, HydraConfig.get().runtime.choices, folders), overrides, debug)
        except Exception as error:
            if debug:
                raise
            print(
                f"kdrun: {redacted(str(error)) if isinstance(error, KdrunError) else in_one_line(error)}",
                file=sys.stderr,
            )
            codes.append(error.exit_code if isinstance(error, KdrunError) else 1)

    register_roles([conf_dir(), *folders])
    typed = overrides_of(words)
    sys.argv = ["kdrun", *sorted(words, key=lambda word: word not in SWEEP)]  # no option between the overrides
    said = io.StringIO()
    try:
        with contextlib.ExitStack() as around:
            if not SWEEP & set(words):
                around.enter_context(contextlib.redirect_stderr(said))
            if any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in words):
                around.enter_context(without_ranges())  # an eighth of what printing takes
                atexit.register(_end_as_it_is)
            hydra.main(config_path=str(conf_dir()), config_name=stage, version_base="1.3")(job)()
    except SystemExit as error:
        if error.code:
            if not SWEEP & set(words) and not COMPLETION & set(words):
                stage_config(stage, typed, folders)  # says the mistake in one line
            print(said.getvalue(), file=sys.stderr, end="")
            return 2
    return max(codes)


def _end_as_it_is() -> None:
    """Have a process that ends look for no garbage: a tenth of what printing takes. Torch's bindings need that look."""
    if "torch" not in sys.modules:
        gc.freeze()


def _sweep(
    stage: str, words: list[str], folders: list[Path], debug: bool, launcher_words: list[str] | None = None
) -> int:
    """`-m`: checked as far as it can be before the first job, then each job in a process of its own.

    `launcher_words`: those that a sweep's folder has, where it is gone on with.
    """
    from kdrun.sweeps.jobs import check_sweep, jobs_that_share_a_teacher, swept_keys, without_globs

    typed = without_globs(overrides_of(words), folders)
    _refuse_secrets(typed)
    if any(word.lstrip("+").startswith(("hydra/sweeper", "hydra.sweeper")) for word in typed):
        check_sweep(stage, typed, folders)  # which knows no launcher
        return _through_hydra(stage, words, folders, debug)
    from kdrun import lookup
    from kdrun.launchers import chosen

    about = [word for word in typed if is_about_launcher(word)]
    typed = [word for word in typed if word not in about]
    check_sweep(stage, typed, folders)
    launcher = chosen(about) if launcher_words is None else chosen(launcher_words, typed=False)
    if launcher is not None and any(word.startswith("sweep.jobs=") for word in typed):
        raise UsageError("sweep.jobs: the launcher says how many jobs run at once")
    from kdrun.reports.sweep import results
    from kdrun.sweeps.sweep import Sweep, carry_out, sweep_name

    folder = _sweep_folder(typed, sweep_name(stage, typed, swept_keys(typed)))
    shared = jobs_that_share_a_teacher(typed) > 1
    code = carry_out(Sweep(stage, typed, folder, folders, lookup.PLUGINS, shared, debug, launcher))
    print(f"\n{results(folder)}")
    return code


def _tune(arguments: list[str], debug: bool) -> int:
    """`search=` and `trials=` are ours; everything else is what all trials have in common."""
    folders = commands.config_folders(arguments)
    words = without_option(arguments, *CONFIG_DIR)
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in ("search", "trials")}
    typed = [word for word in words if word.partition("=")[0] not in own]
    trials = own.get("trials", "1")
    if not trials.isdecimal() or not 1 <= int(trials) <= 100_000:
        raise UsageError(f"trials={brief(trials)}: must be a whole number from 1 to 100000")
    if any(word.startswith("-") or "=" not in word for word in typed):
        raise UsageError("usage: kdrun tune [search=<name>] [trials=NUMBER] [key=value …]")
    _refuse_secrets(typed)
    from kdrun import lookup
    from kdrun.sweeps.space import check, read_search
    from kdrun.sweeps.sweep import sweep_name
    from kdrun.sweeps.tune import Tuning, found, tune

    search = read_search(own.get("search", "kd"), folders, int(trials) if "trials" in own else None)
    common = typed if any(word.startswith("baseline=") for word in typed) else [*typed, "baseline=false"]
    check(search, common, folders)
    folder = _sweep_folder(typed, sweep_name("tune", typed, [f"search.{search.name}"]))
    code = tune(Tuning(search, common, folder, folders, lookup.PLUGINS, debug))
    print(f"\n{found(folder)}")
    return code


def _refuse_secrets(typed: list[str]) -> None:
    """The words of a sweep are kept, to go on with it."""
    for word in typed:
        key = word.partition("=")[0]
        if is_credential(key) or redacted_words([word]) != [word]:
            raise UsageError(f"a sweep keeps what it is given in a file; set it in the environment: {key}")


def _sweep_folder(typed: list[str], name: str) -> Path:
    """Where the words put the manifest: `output_dir/sweeps/<sweep.name>`, by this name if they give none."""
    keys = dict(word.split("=", 1) for word in typed)
    chosen = keys.get("sweep.name", "").strip("'") or name
    return Path(keys.get("output_dir", "outputs").strip("'")) / "sweeps" / chosen


def _completion(arguments: list[str]) -> int:
    """Hydra's shell completion. Its queries come without the command, which is in the line being completed."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    query = any(word.startswith("query=") for word in arguments)
    if query and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        typed = words[1] if len(words) > 1 else ""
        print(" ".join(command for command in COMMANDS if command.startswith(typed)))
        return 0
    if query and words[1] not in STAGES:
        return 0
    stage = STAGES[words[1]] if query else "distill"
    if query:
        os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
    return _through_hydra(stage, arguments, [], debug=False)


def _plug_in(name: str) -> None:
    from kdrun.lookup import add_plugin

    sys.path.insert(0, str(Path.cwd()))  # a package under development is found where one works on it
    add_plugin(name)


# -------------------------------------------------------------------------------------------------- other commands


def _resume(arguments: list[str], debug: bool) -> int:
    folders = commands.config_folders(arguments)  # typed again: a sweep of somebody else could name any
    keys, words = key_values(without_option(arguments, *CONFIG_DIR), ("run", "launch.processes"))
    words = [keys["run"], *words] if "run" in keys else words
    several = keys.get("launch.processes", "1")
    if len(words) != 1 or not several.isdecimal() or int(several) < 1:
        raise UsageError(
            "usage: kdrun resume <run directory or sweep directory> [launch.processes=NUMBER] [--config-dir DIR]"
        )
    path = Path(words[0])
    if not (path / "run.json").exists() and any((path / name).exists() for name in ("sweep.json", "tune.json")):
        if processes.launched():
            raise UsageError(f"torchrun starts the processes of one run, and {path} is many; use: kdrun resume {path}")
        if "launch.processes" in keys:
            raise UsageError(f"launch.processes: {path} is many runs, whose own words say how many; leave it out")
        return _resume_jobs(path, folders, debug)
    from kdrun.records.runs import is_completed, read_info
    from kdrun.saved import checked_changes

    checked_changes({"launch.processes": int(several)})
    read_info(path)  # refused before torch is imported
    if is_completed(path):
        if processes.is_first():
            show(path, made=False)
        return 0
    from kdrun.stages.resume import resumed_config

    config = resumed_config(path, folders)
    if "launch.processes" in keys:
        config["launch"] = {"processes": int(several)}
    run_stage(config, [], debug)
    return 0


def _resume_jobs(path: Path, folders: list[Path], debug: bool) -> int:
    """Go on with a search or a sweep, by the words that its folder keeps."""
    from kdrun.records import manifest

    places = [f"sweep.name='{path.name}'", f"output_dir='{path.absolute().parents[1]}'"]
    if (path / "tune.json").exists():
        search, trials, typed = manifest.read_search(path)
        own = [f"--config-dir={folder}" for folder in folders]
        return _tune([f"search={search}", f"trials={trials}", *typed, *places, *own], debug)
    stage, typed, launcher = manifest.read_sweep(path)
    typed = [word for word in typed if not word.startswith(("sweep.name=", "output_dir="))]
    return _sweep(stage, [*typed, *places], folders, debug, launcher)
