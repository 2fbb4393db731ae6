"""Several processes for one run, started as `torchrun` starts them: by torch's elastic launcher, on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kdrun import stopping
from kdrun.errors import KdrunError, UsageError
from kdrun.running import in_one_line

Result = TypeVar("Result")


class _Ended(NamedTuple):
    """What became of a process: `value`, or the error's text and exit code, or the signal that stopped it."""

    value: Any = None
    error: str | None = None
    code: int = 0
    signal: int | None = None


def launch(processes: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work(*arguments)` returns in the first of so many processes, which all carry it out together.

    SIGINT, SIGTERM and SIGUSR1 are passed on to them; they have 30 seconds to save. Raises what the first one raises,
    and `KdrunError` when one of them dies.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of the launcher, which says in thirty lines what is one line here
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in stopping.SIGNALS),
    )
    try:
        ended: _Ended = elastic_launch(config, _process)(work, arguments)[0]
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        how = f"killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
        told = f"process {number} of {processes} was {how}"
        raise KdrunError(f"{told}; `kdrun resume` goes on with the run from its last saved state") from error
    except SignalException as error:
        raise stopping.Stopped(error.sigval) from error
    finally:
        stopping.listen()
    if ended.signal is not None:
        raise stopping.Stopped(ended.signal)
    if ended.error is not None:
        raise (UsageError if ended.code == UsageError.exit_code else KdrunError)(ended.error)
    value: Result = ended.value
    return value


def _process(work: Callable[..., Any], arguments: tuple[Any, ...]) -> _Ended:
    """In each process. It has a session of its own, or Ctrl-C would reach it twice: directly, and passed on."""
    os.setsid()
    stopping.listen()
    try:
        return _Ended(work(*arguments))
    except stopping.Stopped as error:
        return _Ended(signal=error.number)
    except KdrunError as error:
        return _Ended(error=str(error), code=error.exit_code)
    except Exception as error:
        return _Ended(error=in_one_line(error), code=1)
