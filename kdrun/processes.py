"""The processes that one run may have: which of them this is, and what they tell each other.

torch's elastic launcher starts them (`torchrun`, or kdrun itself for `launch.processes`). All of them carry out the
same stage; the first alone makes directories, writes, and speaks. In one process every function here is an identity.
No torch until there are several.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kdrun import stopping
from kdrun.errors import KdrunError, UsageError

Item = TypeVar("Item")
WAIT = timedelta(days=1)  # as long as another run may take to train the teacher that this one waits for
PATIENCE = 5.0  # seconds in which the others can say why they ended
SEEN = 30.0  # seconds in which a shared folder shows what another host has made
CLOSING = 10  # seconds that one which cannot go on may take to end
LOST = "lost"  # says one that ends because another has
GO_ON = "`kdrun resume` goes on with the run from its last saved state"
ENDED = "kdrun/ended"  # in the launcher's store, by attempt and process: why it ended
OF_THE_NETWORK = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe", "recvValue", "sendBytes")
_members: list[tuple[str, int]] = []  # of each process its machine and its number there
_gone: list[int] = []  # those that are dead or out of reach


def launched() -> bool:
    """Has torch's elastic launcher started this process?"""
    return "TORCHELASTIC_RUN_ID" in os.environ


def count() -> int:
    """How many processes the run has."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def number() -> int:
    """Which of them this is, counted from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Is this the process that writes and speaks?"""
    return number() == 0


def speaks() -> bool:
    """Is this the process that says how the run ended: the first one, or the first left here where that one is gone?"""
    if is_first():
        return True
    left = [place for place, (host, _) in enumerate(_members) if host == platform.node() and place not in _gone]
    return 0 in _gone and number() == min(left)


@contextmanager
def together(device: str) -> Iterator[None]:
    """Inside, the processes can tell each other things: gloo, and nccl beside it for tensors on CUDA.

    Made once for the life of the process, before anything that needs it. Raises `UsageError` for too few devices.
    """
    if count() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    backend, local = "gloo", int(os.environ["LOCAL_RANK"])
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if local >= torch.cuda.device_count():
            told = f"{os.environ['LOCAL_WORLD_SIZE']} processes on {platform.node()}"
            raise UsageError(f"{told}, which has {torch.cuda.device_count()} CUDA devices: start one process for each")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    if not is_first():  # the same as the first one says
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        with watched():
            dist.init_process_group(backend, timeout=WAIT)
            _members[:] = everyone((platform.node(), os.getpid()))
            _store()  # a new connection cannot be made when the launcher's host has gone
            yield
    except BaseException:
        _end_soon()
        raise
    dist.destroy_process_group()


def _end_soon() -> None:
    """See that a process that cannot go on ends, whatever holds it up. The group is left as it is: to destroy it, and
    with nccl even to end the interpreter, waits for what was begun with a process that may be no more."""
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CLOSING)


# ---------------------------------------------------------------------------------------------- what they tell


def told(ask: Callable[[], Item], tell: Callable[[Item], Any] = lambda answer: answer) -> Item:
    """What `ask` gives in the first process, which alone asks; all are told, also of an error that it raises.

    For everything that is found on disk, which changes while one looks. The others are told what `tell` makes of it.
    """
    if count() == 1:
        return ask()
    import torch.distributed as dist

    if not is_first():
        heard: list[Any] = [None, None]
        dist.broadcast_object_list(heard, src=0)
        kind, value = heard
        if kind == "error":
            raise (UsageError if value[1] == UsageError.exit_code else KdrunError)(value[0])
        if kind == "stopped":
            raise stopping.Stopped(value)
        answer: Item = value
        return answer
    try:
        answer = ask()
    except (KdrunError, OSError) as error:
        dist.broadcast_object_list(["error", (str(error), getattr(error, "exit_code", 1))], src=0)
        raise
    except stopping.Stopped as error:
        dist.broadcast_object_list(["stopped", error.number], src=0)
        raise
    dist.broadcast_object_list(["answer", tell(answer)], src=0)
    return answer


def everyone(value: Item) -> list[Item]:
    """What each process has, in their order."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def joined(items: Sequence[Item]) -> list[Item]:
    """In the first process the items of all of them, one after another; in the others nothing."""
    if count() == 1:
        return list(items)
    import torch.distributed as dist

    found: list[Any] | None = [None] * count() if is_first() else None
    dist.gather_object(list(items), found)
    return [item for part in found or () for item in part]


def mine(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share of a list: neighbours, so that `joined` has what comes of them in the list's order."""
    begin, end = (len(items) * place // count() for place in (number(), number() + 1))
    return items[begin:end]


def agreed(what: str, value: str) -> None:
    """Raise `UsageError` unless all processes have the same value."""
    values = everyone(value)
    other = next((place for place, one in enumerate(values) if one != values[0]), None)
    if other is not None:
        raise UsageError(
            f"process {other} of {len(values)} has another {what} than process 0 ({values[other][:12]}, "
            f"{values[0][:12]}): data, versions or device.precision=auto differ between the hosts; make them the same"
        )


def seen(path: Path) -> Path:
    """The directory that the first process has made. Raises `KdrunError` where this host does not see it."""
    end = time.monotonic() + SEEN
    while not path.is_dir():
        if time.monotonic() > end:
            told = "which the first process has made; several hosts need output_dir= on a folder that all of them see"
            raise KdrunError(f"{platform.node()} has no {path.absolute()}, {told}")
        time.sleep(0.1)
    return path


def asked_to_stop() -> bool:
    """Has somebody asked one of the processes to stop? Then all of them know, and stop after the same step."""
    if count() == 1:
        return stopping.requested()
    import torch
    import torch.distributed as dist

    request = torch.tensor(stopping.received() or 0)
    dist.all_reduce(request, dist.ReduceOp.MAX)
    if request:
        stopping.note(int(request))
    return bool(request)  # one that comes only now is for the next time: the others do not know of it


# ------------------------------------------------------------------------------------------------- when one ends


@contextmanager
def watched() -> Iterator[None]:
    """Inside, one process that fails or dies ends all of them. Raises `KdrunError`, which names it."""
    if count() == 1:
        yield
        return
    try:
        yield
    except stopping.Stopped as error:
        _leave_word(f"stopped {error.number}")
        raise
    except Exception as error:
        if not isinstance(error, RuntimeError) or not any(word in str(error) for word in OF_THE_NETWORK):
            _leave_word(str(error) if isinstance(error, KdrunError) else f"{type(error).__name__}: {error}")
            raise
        with stopping.deferred():  # the launcher asks those that are left to end
            _leave_word(LOST)
            raise _why() from error


def _why() -> BaseException:
    """Why the others cannot be reached: what one said before it ended, else who is dead, else who says nothing."""
    silent, end = {place for place in range(count()) if place != number()}, time.monotonic() + PATIENCE
    try:
        store = _store()
        while silent and time.monotonic() < end:
            for place in sorted(silent):
                if store.check([_key(place)]):
                    silent.remove(place)
                    word = store.get(_key(place)).decode()
                    if word.startswith("stopped "):
                        return stopping.Stopped(int(word.split()[1]))
                    if word != LOST:
                        return KdrunError(f"process {place} of {count()} has failed: {word}")
                elif _is_dead(place):
                    _gone.append(place)
                    return KdrunError(f"process {place} of {count()} has died; {GO_ON}")
            time.sleep(0.05)
    except RuntimeError:  # the store has gone with the first process's launcher
        silent = {0} - {number()}
    _gone.extend(silent)
    names = " and ".join(f"process {place}" for place in sorted(silent)) or "the others, by a fault of the network"
    return KdrunError(f"cannot reach {names} of {count()}; {GO_ON}")


def _is_dead(place: int) -> bool:
    """Is it a process of this machine that is no more? Those of others cannot be seen."""
    host, process = _members[place]
    return host == platform.node() and not is_alive(process)


def is_alive(process: int) -> bool:
    """Is there a process of this number on this machine that is ours? A number may be somebody else's by now."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _leave_word(word: str) -> None:
    try:
        _store().set(_key(number()), word)
    except RuntimeError:  # the launcher has gone too
        return


def _key(place: int) -> str:
    return f"{ENDED}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{place}"


@cache
def _store() -> Any:
    """The launcher's, which outlives every process of the run."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=PATIENCE))
