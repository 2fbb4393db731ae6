"""Several processes for one run, started as `torchrun` starts them: by torch's elastic launcher, on this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kdrun import processes, stopping
from kdrun.errors import KdrunError, UsageError
from kdrun.processes import GO_ON
from kdrun.running import in_one_line

Result = TypeVar("Result")
ASKED = 128  # and the number of the signal: what a process exits with that was asked to stop


def launch(several: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work(*arguments)` returns in the first of so many processes, which all carry it out together.

    SIGINT, SIGTERM and SIGUSR1 are passed on to them; they have 30 seconds to save. Raises what they raise, and
    `KdrunError` when one of them dies.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // several)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=several,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in stopping.SIGNALS),
    )
    with tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.CRITICAL)  # the launcher says in thirty lines what is one line here
        try:
            returned: dict[int, Result] = elastic_launch(config, _process)(Path(folder), work, arguments)
        except SignalException as error:
            raise stopping.Stopped(error.sigval) from error
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            raise _error(Path(folder), f"process {number} of {several}", failure.exitcode) from error
        finally:
            logging.disable(logging.NOTSET)
            stopping.listen()
    return returned[0]


def _error(folder: Path, first: str, code: int) -> BaseException:
    """Why they ended: `first` is the process that did so before the others, `code` what it ended with."""
    if code < 0:
        return KdrunError(f"{first} was killed by {signal.Signals(-code).name}; {GO_ON}")
    if code > ASKED:
        return stopping.Stopped(code - ASKED)
    for file in sorted(folder.glob("*.txt")):
        return (UsageError if code == UsageError.exit_code else KdrunError)(file.read_text())
    return KdrunError(f"{first} ended with exit code {code} and said nothing; {GO_ON}")


def _process(folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In each process. It has a session of its own, or Ctrl-C would reach it twice: directly, and passed on.

    One that fails exits, since the launcher lets none of them return before all do.
    """
    os.setsid()
    stopping.listen()
    try:
        return work(*arguments)
    except stopping.Stopped as error:
        sys.exit(ASKED + error.number)
    except Exception as error:
        text = str(error) if isinstance(error, KdrunError) else in_one_line(error)
        (folder / f"{processes.number():05d}.txt").write_text(text)
        sys.exit(getattr(error, "exit_code", 1))
