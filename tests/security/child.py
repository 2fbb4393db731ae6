"""A process that runs the command line on malicious files, one after the other, and watches what happens.

    python -m tests.security.child <folder> [--unsafe] [--sample] [name …]

It prints one line of JSON per command. `--unsafe` puts the classic mistakes into the process: a control. `--sample`
gives each artefact to one of the commands that read it, each time another, and composes no config twice.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

import kdrun
from kdrun import cli, composition, stopping
from kdrun.datasets.cifar import ADMITTED
from kdrun.errors import KdrunError
from kdrun.records import checkpoints
from tests.composing import quickly
from tests.security.artefacts import ARTEFACTS, MARKER, SECRET, TRAIN, Artefact

TOO_LONG = 7  # seconds after which a command is given up
MOST_MEMORY = 4 * 2**30  # bytes above what the process has: protects the machine
PROCESSES = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")


class Watch:
    """An audit hook: what a command did that no command may do to a foreign file."""

    def __init__(self) -> None:
        self.active, self.seen = False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and self.forbidden(event, arguments):
            self.seen.append(f"{event}: {str(arguments)[:200]}")

    def forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen":
            words = arguments[1]
            return isinstance(words, str) or str(words[0]) != "git"
        if event == "pickle.find_class":
            return arguments not in ADMITTED
        if event == "open":
            return MARKER in str(arguments[0]) and arguments[1] not in (None, "r", "rb")
        if event == "compile":
            return MARKER in str(arguments[0])
        if event == "exec":
            return MARKER in str(getattr(arguments[0], "co_consts", ""))
        return event in PROCESSES or event in NETWORK

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.seen = []
        self.active = True
        try:
            yield self.seen
        finally:
            self.active = False


def memory(key: str) -> int:
    """Bytes, `VmRSS` now or `VmHWM` at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def call(words: list[str]) -> int:
    """The exit code of a command, or of `kdrun.load(path)`."""
    stopping.listen()
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(TOO_LONG)
    try:
        if words[0] == "kdrun.load":
            try:
                kdrun.load(words[1])
            except KdrunError as error:
                print(error, file=sys.stderr)
                return error.exit_code
            return 0
        sys.argv = ["kdrun", *words]
        return cli.main()
    finally:
        signal.alarm(0)


class GaveUp(BaseException):
    pass


def _give_up(number: int, frame: Any) -> None:
    raise GaveUp


def watched(words: list[str], watch: Watch) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    forget_peak()
    before, begin = memory("VmRSS"), time.monotonic()
    code: int | str
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watch.watching() as seen:
        try:
            code = call(words)
        except BaseException as error:
            code = type(error).__name__
    return {
        "words": words,
        "code": code,
        "seconds": time.monotonic() - begin,
        "megabytes": (memory("VmHWM") - before) / 2**20,
        "forbidden": seen,
        "out": out.getvalue(),
        "err": err.getvalue(),
    }


def base_runs(folder: Path) -> None:
    """A completed run with an image beside it, and one that stopped with something to go on from."""
    os.chdir(folder)
    words = [*TRAIN, "dataset.limit=60", "device.threads=1"]
    for name, more in (("completed", []), ("interrupted", ["checkpoint.keep=all"])):
        sys.argv = ["kdrun", *words, f"run_dir={name}", *more]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert cli.main() == 0, said.getvalue()
    info = json.loads(Path("interrupted/run.json").read_text())
    Path("interrupted/run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    assert checkpoints.load(Path("interrupted/checkpoints/last.pt"))["training"]
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save("completed/image.png")


def examine(one: Artefact, folder: Path, watch: Watch, sampled: int | None) -> None:
    place = folder / one.name / "here"
    place.mkdir(parents=True)
    for run in ("completed", "interrupted"):
        shutil.copytree(folder / run, place / run)
    os.chdir(place)
    commands = one.write(place)
    if sampled is not None:
        commands = [commands[sampled % len(commands)]]
    files = _files(place.parent)
    for words in commands:
        report = watched(words, watch)
        before, files = files, _files(place.parent)
        report["marker"] = any(MARKER in path for path in files.keys() - before.keys())
        report["touched"] = sorted({path for path, _ in before.items() ^ files.items() if "/victim/" in path})
        print(json.dumps({"artefact": one.name, **report}), file=sys.__stdout__, flush=True)
    os.chdir(folder)
    shutil.rmtree(folder / one.name)


def _files(folder: Path) -> dict[str, bytes]:
    """Every file and folder below one, with what is in a file of the victim's."""
    found = (Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
    return {str(path): path.read_bytes() if path.parent.name == "victim" else b"" for path in found}


def with_the_classic_mistakes() -> None:
    """`weights_only=False`, and YAML that makes objects."""

    def load(*given: Any, **named: Any) -> Any:
        return torch.load(*given, **{**named, "weights_only": False})

    checkpoints.torch = SimpleNamespace(load=load, save=torch.save)  # type: ignore[attr-defined]
    yaml.safe_load = yaml.unsafe_load
    from kdrun.records import foreign

    foreign.LOADER = yaml.UnsafeLoader
    foreign._only_plain_yaml = lambda text: None


def main() -> None:
    folder, names = Path(sys.argv[1]), [word for word in sys.argv[2:] if not word.startswith("--")]
    unsafe, sample = "--unsafe" in sys.argv, "--sample" in sys.argv
    os.environ["PLANTED_SECRET"] = SECRET
    base_runs(folder)
    if sample:
        composition.composed = quickly
    if unsafe:
        with_the_classic_mistakes()
    soft = memory("VmSize") + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    watch = Watch()
    for number, one in enumerate(ARTEFACTS):
        if not names or one.name in names:
            examine(one, folder, watch, number if sample else None)


if __name__ == "__main__":
    main()
