"""Recorded with every number: commit, machine, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import pyalexnet

_TIMEOUT = 20
_GPU_FIELDS = "name,driver_version,power.limit"
_CLOCK_FIELDS = "clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,temperature.gpu,power.draw"


def describe(versions: dict[str, str]) -> dict[str, str]:
    """The machine and the software; `versions` are those of the peers."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "pyalexnet": pyalexnet.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **versions,
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": str(cores()),
    }
    if gpu := _queried(_GPU_FIELDS):
        found["gpu"] = gpu
    return found


def clocks(when: str) -> dict[str, str]:
    """The GPUs' clocks, temperature and power, as "gpu, `when` the run"; empty without a GPU."""
    found = _queried(_CLOCK_FIELDS)
    return {f"gpu, {when} the run": found} if found else {}


def commit() -> str:
    """The commit of the checkout that this file is in, with "+changes" if there are any."""
    here = str(Path(__file__).parent)
    name = _output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    if not name:
        return "unknown"
    changed = _output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")
    return f"{name}+changes" if changed else name


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _queried(fields: str) -> str:
    """The answer of nvidia-smi, each field after its name."""
    text = _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
    each = [line.split(", ") for line in text.splitlines()]
    names = fields.split(",")
    return "; ".join(
        ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False))
        for values in each
    )


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.SubprocessError):  # a driver that hangs counts as no answer
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
