"""The numbers of docs/scale.md: what travels per step, what several processes give here, what more would, store sizes.

Bytes are counted by the network itself: two network namespaces joined by a pair of virtual cables, a process in each
(needs root and `ip`; without them the column stays empty). Efficiency on this machine is measured; on more devices it
is computed from the measured compute of a step and from a link: no overlap of the two is assumed, so it is a floor.

    python scripts/scale_table.py [--steps 10] [--rounds 3] [--only traffic …] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kdrun import assembly, processes
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.device import place
from kdrun.engine import Recipe, Training, fit
from kdrun.identity import teacher_training
from kdrun.launch import launch
from kdrun.models.building import build
from kdrun.records.store import Store
from kdrun.teachers.live import LiveTeacher

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scale.md"
PAIRS = [  # teacher, student, pixels, classes, batch: those of docs/performance.md
    ("resnet56", "resnet20", 32, 100, 64),
    ("wrn_40_2", "wrn_16_2", 32, 100, 64),
    ("resnet152", "mobilenet_v2", 224, 1000, 16),
    ("resnet152", "mobilenet_v3_small", 224, 1000, 16),
]
Clock = Callable[[], float]
DEVICES = [2, 4, 8, 16, 32, 64]
CASES = [(1, 1), (1, 10), (100, 10), (100, 100)]  # how many times as quick as this thread a device is; Gbit/s of a link
MOST_STEPS = 40  # for which there are images
LATENCY = 50e-6  # seconds from one host to another through a switch and two kernels
SAMPLES = 1_281_167  # of ImageNet-1k's training split
HOSTS = ("kdrun-a", "kdrun-b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=["stores", "traffic", "here", "plan"])
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--traffic", nargs=2, metavar=("LOSS", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.traffic:
        with processes.together("cpu"):
            timed(PAIRS[0], arguments.traffic[0], int(arguments.traffic[1]))
        return
    tables = {"stores": stores, "traffic": traffic}
    tables["here"] = lambda: efficiency(arguments.steps, arguments.rounds)
    tables["plan"] = lambda: plan(arguments.steps)
    wanted = arguments.only or list(tables)
    made = {name: text for make in dict.fromkeys(tables[name] for name in wanted) for name, text in make().items()}
    for name, text in made.items():
        print(f"{text}\n")
        if arguments.write:
            from tables import put

            put(PAGE, name, text)


def note(what: str) -> str:
    cores = len(os.sched_getaffinity(0))
    hardware = f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}"
    versions = f"kdrun {version('kdrun')}, torch {version('torch')}"
    return f"{what} {date.today()}, {versions}, {hardware}. Made by `scripts/scale_table.py`."


# ------------------------------------------------------------------------------------------------------- training


def training(pair: tuple[str, str, int, int, int], loss: str) -> tuple[Training, LiveTeacher, dict[str, Any], Data]:
    teacher, student, pixels, classes, batch = pair
    words = [f"teacher={teacher}", f"student={student}", f"loss={loss}", f"batch_size={batch}", "device.precision=fp32"]
    config = stage_config("distill", [*words, "dataset=cifar100"])
    data = images(pixels, classes, MOST_STEPS * batch)
    built = build(assembly.model_spec(teacher_training(config)["model"], data, config["dataset"]), 1)
    live = LiveTeacher(built.tapped(), "", "cpu", "fp32")
    model = build(assembly.model_spec(config["model"], data, config["dataset"]), 0)
    learner = assembly.learner(config, model, live.model, assembly.probe_images(data), data.train)
    return assembly.training(config, place(learner, "cpu", "fp32"), "cpu", "fp32"), live, config, data


def images(pixels: int, classes: int, count: int) -> Data:
    """Noise: what is in an image changes no time and no byte."""
    noise = Labelled(
        torch.randint(0, 256, (count, 3, pixels, pixels), dtype=torch.uint8), torch.arange(count) % classes
    )
    return split(Raw(tuple(str(number) for number in range(classes)), noise, noise), 0.0, 0, None)


def timed(pair: tuple[str, str, int, int, int], loss: str, steps: int, clock: Clock = time.perf_counter) -> float:
    """Median seconds of a step, of so many behind two to warm up."""
    trained, teacher, config, data = training(pair, loss)
    recipe = Recipe(1, lambda step, steps: 1.0, "cpu", "fp32", 0, report_every=1, norms_every=None)
    times, before = [], clock()
    for report in fit(trained, teacher, assembly.train_loader(config, data), recipe, processes.asked_to_stop):
        now = clock()
        times.append(now - before)
        before = now
        if report.step == steps + 2:
            break
    return statistics.median(times[2:])


# -------------------------------------------------------------------------------------------------------- traffic


def sizes(pair: tuple[str, str, int, int, int], loss: str) -> tuple[int, int]:
    """Bytes of the gradients, and of what a relational term gathers of one sample."""
    trained, teacher, _, data = training(pair, loss)
    gradients = 4 * sum(one.numel() for one in trained.learner.parameters() if one.requires_grad)
    term = next((term for term in trained.learner.terms.values() if term.relational), None)
    if term is None:
        return gradients, 0
    probe = assembly.probe_images(data)
    given = [(trained.learner.student(probe), "student"), (teacher.model(probe), "teacher")]
    pairs = [pair for pair in getattr(term, "pairs", [getattr(term, "pair", None)]) if pair is not None]
    numbers = sum(one.logits[0].numel() for one, _ in given)
    numbers += sum(one.features[getattr(two, side)][0].numel() for one, side in given for two in pairs)
    return gradients, 4 * numbers + 16  # and the class and the number of the sample


def sent(gradients: int, gathered: int, batch: int, several: int) -> float:
    """Bytes that a process sends in a step: a ring for the gradients, its part of the batch to each of the others."""
    return 2 * (several - 1) / several * gradients + (several - 1) / several * batch * gathered


def traffic() -> dict[str, str]:
    lines = ["| pair, loss | gradients | gathered of a sample | sent by each of 2 | of 8 | of 64 | counted, of 2 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for pair in PAIRS:
        for loss in ("kd", "rkd") if pair is PAIRS[0] else ("kd",):
            gradients, gathered = sizes(pair, loss)
            each = " | ".join(f"{sent(gradients, gathered, pair[4], n) / 1e6:.3f} MB" for n in (2, 8, 64))
            found = counted(loss) if pair is PAIRS[0] else None
            shown = "" if found is None else f"{found / 1e6:.3f} MB"
            row = f"{pair[0]} → {pair[1]}, {loss}, batch {pair[4]} | {gradients / 1e6:.3f} MB | {gathered:,} bytes"
            lines.append(f"| {row} | {each} | {shown} |")
    told = note("Per optimizer step. Counted at a network interface, headers and all.")
    return {"traffic": "\n".join([*lines, "", told])}


def counted(loss: str) -> float | None:
    """Bytes that a process sends in a step, by the counter of its network interface."""
    few, many = 4, 12
    try:
        with hosts() as run:
            totals = [traffic_of(run, loss, steps) for steps in (few, many)]
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"not counted: {error}", file=sys.stderr)
        return None
    return (totals[1] - totals[0]) / (many - few)


def traffic_of(run: Any, loss: str, steps: int) -> int:
    before = sent_by_the_first()
    run([str(Path(__file__).resolve()), "--traffic", loss, str(steps)])
    return sent_by_the_first() - before


def sent_by_the_first() -> int:
    words = ["ip", "-n", HOSTS[0], "-s", "-j", "link", "show", "kd0"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return int(found[0]["stats64"]["tx"]["bytes"])


@contextmanager
def hosts() -> Iterator[Any]:
    """Two network namespaces joined by a pair of virtual cables; gives what runs a Python program on both together."""
    ip = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: E731
    remove()
    try:
        for host in HOSTS:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("link", "add", "kd0", "netns", HOSTS[0], "type", "veth", "peer", "name", "kd0", "netns", HOSTS[1])
        for place_, host in enumerate(HOSTS, 1):
            ip("-n", host, "address", "add", f"10.99.7.{place_}/24", "dev", "kd0")
            ip("-n", host, "link", "set", "kd0", "up")
        yield together
    finally:
        remove()


def together(words: list[str]) -> None:
    """A program on both hosts, started by torchrun as on any two."""
    started = []
    for number, host in enumerate(HOSTS):
        launcher = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
        launcher += ["--master-addr", "10.99.7.1", "--master-port", "29477"]
        command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", *launcher, *words]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "kd0", "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for one in started:
        said, _ = one.communicate(timeout=300)
        if one.returncode:
            raise OSError(said.decode()[-2000:])


def remove() -> None:
    for host in HOSTS:
        subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


# ----------------------------------------------------------------------------------------------------- efficiency


def measured(steps: int, size: int) -> tuple[float, float, float]:
    """In each process: seconds of a step, of an all-reduce of `size` bytes, and of one of 8 bytes."""
    torch.set_num_threads(1)
    with processes.together("cpu"):
        step = timed(PAIRS[0], "kd", steps)
        if processes.count() == 1:
            return step, 0.0, 0.0
        both = []
        for count in (size // 4, 2):
            values = torch.zeros(count)
            dist.barrier()
            begin = time.perf_counter()
            for _ in range(20):
                dist.all_reduce(values)
            both.append((time.perf_counter() - begin) / 20)
        return step, both[0], both[1]


def efficiency(steps: int, rounds: int) -> dict[str, str]:
    gradients, _ = sizes(PAIRS[0], "kd")
    found = []
    for _ in range(rounds):  # in turns, so that both meet the same neighbours
        alone = launch(1, measured, steps, 0)[0]
        two, whole, small = launch(2, measured, steps, gradients)
        found.append((alone, two, whole, small))
    alone, two, whole, small = (statistics.median(column) for column in zip(*found, strict=True))
    heads = [
        "",
        "one process, 1 thread",
        "two, 1 thread each",
        "efficiency",
        "all-reduce of the gradients",
        "of 8 bytes",
    ]
    here = [f"| {' | '.join(heads)} |"]
    here.append("|---|---|---|---|---|---|")
    name = f"{PAIRS[0][0]} → {PAIRS[0][1]}, kd, global batch {PAIRS[0][4]}"
    times = f"{alone:.4f} s/step | {two:.4f} s/step | {alone / (2 * two):.2f}"
    here.append(f"| {name} | {times} | {1e3 * whole:.2f} ms | {1e3 * small:.2f} ms |")
    measurement = note(f"Medians of {rounds} rounds of {steps} steps, the teacher asked live.")
    return {"here": "\n".join([*here, "", measurement])}


def plan(steps: int) -> dict[str, str]:
    compute = {pair: timed(pair, "kd", steps if pair is PAIRS[0] else 1, time.process_time) for pair in PAIRS}
    gradients = {pair: sizes(pair, "kd")[0] for pair in PAIRS}
    heads = ["pair", "device", "link", "batch", *map(str, DEVICES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for pair in PAIRS:
        for quicker, link in CASES:
            for shared in (False, True):
                one = compute[pair] / quicker
                row = [f"{floor(one, pair[4], gradients[pair], n, link, shared):.0%}" for n in DEVICES]
                device = "this thread" if quicker == 1 else f"{quicker} × this thread"
                batch = f"{pair[4]} {'in all' if shared else 'for each device'}"
                lines.append(f"| {pair[0]} → {pair[1]} | {device} | {link} Gbit/s | {batch} | {' | '.join(row)} |")
    seconds = ", ".join(f"{compute[pair]:.3f} s a step of {pair[0]} → {pair[1]}" for pair in PAIRS)
    computed = note(f"Computed from {seconds} (CPU time, one thread) and {1e6 * LATENCY:.0f} µs from host to host.")
    return {"plan": "\n".join([*lines, "", computed])}


def floor(compute: float, batch: int, gradients: int, several: int, link: int, shared: bool) -> float:
    """How much of their number several devices give: a ring's time for the gradients, not overlapped.

    With one batch for all, a part has two samples at least (see `deal`): beyond half the batch, devices have none.
    """
    part = max(2, -(-batch // several)) / batch if shared else 1.0
    wait = 2 * (several - 1) * (gradients / several / (link * 1e9 / 8) + LATENCY)
    steps = 1 if shared else several  # in which one device does the same
    return steps * compute / (several * (compute * part + wait))


# --------------------------------------------------------------------------------------------------------- stores


def stores() -> dict[str, str]:
    lines = ["| kept of a sample | bytes | 1 view | 10 views | 100 views |", "|---|---|---|---|---|"]
    cases = [("all logits, fp32", None, "float32", {}), ("all logits, fp16", None, "float16", {})]
    cases += [(f"top_k={k}, fp16", k, "float16", {}) for k in (50, 10)]
    cases += [("all logits and an embedding of 2048, fp16", None, "float16", {"embedding": {"width": 2048}})]
    for name, top_k, kind, taps in cases:
        store = Store(Path(), {"top_k": top_k, "type": kind, "taps": taps}, (SAMPLES, 1000))
        views = " | ".join(f"{count * store.view_bytes / 1e9:,.2f} GB" for count in (1, 10, 100))
        lines.append(f"| {name} | {store.view_bytes // SAMPLES:,} | {views} |")
    return {"stores": "\n".join([*lines, "", note(f"ImageNet-1k: {SAMPLES:,} × 1000.")])}


if __name__ == "__main__":
    main()
