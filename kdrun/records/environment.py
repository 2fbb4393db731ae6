"""What a run's numbers may depend on besides its config: versions, hardware, code. An allow-list, never everything.

All of it is that of the process, which has loaded its code once: so it is looked up once, at the first run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "kdrun",
    "torch",
    "torchvision",
    "timm",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scikit-learn",
    "scipy",
    "pillow",
)
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
)
ROOT = Path(__file__).resolve().parents[2]
MOST_DIFF = 1_000_000  # bytes


def environment() -> dict[str, Any]:
    """For `run.json`."""
    return {
        "git": _git(),
        "code": code_fingerprint(),
        "versions": _versions(),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        },
    }


@cache
def code_fingerprint() -> str:
    """sha256 of kdrun's own sources: equal for a checkout and a wheel of the same code, whatever else is in git."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for file in sorted(package.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@cache
def code_changes() -> str | None:
    """What differs from the commit in kdrun's sources and configs, cut at a megabyte; None when nothing does."""
    if not (ROOT / ".git").exists():
        return None
    diff = _run_git("diff", "HEAD", "--", "kdrun", "conf")
    return f"{diff[:MOST_DIFF]}\n(cut)\n" if len(diff) > MOST_DIFF else diff or None


@cache
def _git() -> dict[str, Any] | None:
    """The commit of kdrun's own checkout and whether it has changes; None when installed without one."""
    if not (ROOT / ".git").exists():
        return None
    commit = _run_git("rev-parse", "HEAD").strip()
    return {"commit": commit or None, "dirty": bool(_run_git("status", "--porcelain").strip())}


def _run_git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _cpu() -> str:
    """The processor's name: kernels, and with them the last bits of a number, are chosen by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
