"""Requests to stop: SIGTERM, SIGINT, SIGUSR1.

Where a half-done step would be lost, the request is noted and asked for after the step; everywhere else it ends the
work at once. A second SIGINT always does.
"""

from __future__ import annotations

import atexit
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
LINGER = 10  # seconds
SOON = 0.02  # seconds, after which a request that came at a bad moment is looked at again


class Stopped(KeyboardInterrupt):
    """Somebody asked the program to end. `exit_code`: 130 after SIGINT, 143 after the others."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 130 if number == signal.SIGINT else 143


class _Requests:
    deferring = False
    received: int | None = None
    latest = 0.0  # when a request that is put off is carried out all the same


def listen() -> None:
    """Take the signals from now on, in this process. A loader's workers do not: see `linger`."""
    forget()
    for number in SIGNALS:
        signal.signal(number, _handle)
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def _ignore() -> None:
    """The work is done, and a signal that comes while Python tidies up would make a failure of it."""
    _put_off(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def forget() -> None:
    """As if nobody had asked: for a process that outlives a command."""
    _Requests.deferring, _Requests.received = False, None


def linger(worker: int = 0) -> None:
    """For a loader's workers: when a whole group is signalled they serve on, while the run ends its step and saves.

    They still end by SIGTERM, ten seconds later: it is also what they get from a parent that wants to be rid of them.
    """
    _ignore()
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LINGER))


def requested() -> bool:
    """Has somebody asked, while `deferred`, that the work should end?"""
    return _Requests.received is not None


def received() -> int | None:
    """The signal by which somebody has asked, while `deferred`."""
    return _Requests.received


def request(error: BaseException) -> Stopped | None:
    """The request behind an error, if there was one: some libraries make an error of their own of it."""
    if isinstance(error, Stopped):
        return error
    return None if _Requests.received is None else Stopped(_Requests.received)


def note(number: int) -> None:
    """As if this process had got the signal that another process of its run has got."""
    _Requests.received = _Requests.received or number


def check() -> None:
    """Raise `Stopped` if somebody has asked."""
    if _Requests.received is not None:
        _stop(_Requests.received)


@contextmanager
def deferred() -> Iterator[None]:
    """The first request is noted: the block asks for it by `requested`. It is raised when the outermost one ends."""
    before, _Requests.deferring = _Requests.deferring, True
    try:
        yield
    finally:
        _Requests.deferring = before
    if not before:
        check()


@contextmanager
def at_once() -> Iterator[None]:
    """Inside `deferred`: work that may be cut anywhere."""
    before, _Requests.deferring = _Requests.deferring, False
    try:
        check()
        yield
    finally:
        _Requests.deferring = before


def _handle(number: int, frame: FrameType | None) -> None:
    first, _Requests.received = _Requests.received is None, _Requests.received or number
    if number == signal.SIGINT and not first:
        _stop(_Requests.received)
    if first:
        _Requests.latest = time.monotonic() + LINGER
    _carry_out(frame)


def _carry_out(frame: FrameType | None) -> None:
    """End the work, unless that is deferred.

    A module that is being imported is waited for: Python, numpy and torch, cut off in the middle of one, make errors
    of their own of that, or abort.
    """
    if _Requests.deferring or _Requests.received is None:
        return
    if hasattr(signal, "setitimer") and _importing(frame) and time.monotonic() < _Requests.latest:
        signal.signal(signal.SIGALRM, lambda _, now: _carry_out(now))
        _put_off(SOON)
        return
    _stop(_Requests.received)


def _stop(number: int) -> NoReturn:
    _put_off(0)  # what was put off would be carried out twice
    raise Stopped(number)


def _put_off(seconds: float) -> None:
    """Have a request carried out after these seconds; 0: not any more."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
