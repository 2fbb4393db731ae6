"""A Slurm of one node, started by hand: no systemd, no accounting, everything in one folder and ended afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
KILL_WAIT = 30  # seconds that a job has to save when Slurm wants it to end
CONFIG = """
ClusterName=kdrun
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait={wait}
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    lacking = [name for name in NEEDED if _program(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a Slurm started by hand needs root (SlurmUser=root)"


@contextmanager
def node(folder: Path) -> Iterator[dict[str, str]]:
    """Gives the environment in which Slurm's commands find it."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o755)  # munged insists
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), ports=_ports(2), folder=folder, wait=KILL_WAIT))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    places = [f"--{what}={folder}/munge/{what}" for what in ("socket", "pid-file", "log-file", "seed-file")]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(
            _started(["munged", "--foreground", "--force", f"--key-file={key}", *places], environment, folder)
        )
        _wait((folder / "munge" / "socket").exists, daemons)
        daemons.append(_started(["slurmctld", "-D", "-c"], environment, folder))
        daemons.append(_started(["slurmd", "-D", "-N", socket.gethostname()], environment, folder))
        _wait(lambda: "idle" in _said(["sinfo", "--noheader", "--format=%T"], environment), daemons)
        yield environment
    finally:
        if len(daemons) == 3:
            for more in (["--state=PENDING"], ["--signal=KILL"]):  # in this order: none takes the place of another
                _said(["scancel", "--user=root", *more], environment)
            _quiet(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _started(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    program = _program(command[0])
    assert program is not None
    with (folder / f"{command[0]}.out").open("wb") as out:
        return subprocess.Popen([program, *command[1:]], env=environment, stdout=out, stderr=out)


def _wait(happened: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        dead = [daemon.args for daemon in daemons if daemon.poll() is not None]
        assert not dead, f"ended at once: {dead}"
        assert time.monotonic() < end, "Slurm did not begin"
        time.sleep(0.1)


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _quiet(environment: dict[str, str], seconds: float = 20) -> None:
    """Wait until no job is left."""
    end = time.monotonic() + seconds
    while _said(["squeue", "--noheader"], environment).strip() and time.monotonic() < end:
        time.sleep(0.2)


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found
