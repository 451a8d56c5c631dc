"""How many of the processor's cores this process may keep busy, and why."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyalexnet.errors import ArgumentError

THREADS = "PYALEXNET_THREADS"
"""The environment variable that overrides the number."""

_MOST = 1024
_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cores:
    """A number of cores, and in a few words the reason for it."""

    count: int
    why: str


def usable_cores(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> Cores:
    """The number in PYALEXNET_THREADS, else the cores that this process may use.

    Those are the ones it may run on, or fewer where a control group (a container's, say) limits
    its CPU time.

    Args:
        groups: the file that names the process's control groups.
        mounted: the folder where they are mounted.

    Raises:
        ArgumentError: the variable is not a number of threads.
    """
    if named := os.environ.get(THREADS):
        if not re.fullmatch("[0-9]{1,4}", named) or not 1 <= int(named) <= _MOST:
            raise ArgumentError(
                f"{THREADS} is {named!r}; a whole number from 1 to {_MOST} was expected."
            )
        return Cores(int(named), THREADS)
    whole = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = whole or 1
    quota = min(_quotas(groups, mounted), default=math.inf)
    # Rounded up: a quota of 2.5 cores keeps three busy; two would leave a fifth of it unused.
    if quota < allowed:
        return Cores(max(1, math.ceil(quota)), f"the quota of its control group, {quota:g} cores")
    return Cores(allowed, "the cores that this process may run on")


def _quotas(groups: Path, mounted: Path) -> Iterator[float]:
    """CPU time, in cores, that each of the process's control groups allows.

    A line is `0::/path` for version 2, `4:cpu,cpuacct:/path` for a hierarchy of version 1. In a
    container the path may be that of the machine, and the container's own group the root.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / controllers
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root):
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one control group, if it has one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            text = " ".join((folder / name).read_text(encoding="ascii") for name in names)
            quota, period = map(int, text.split())
        except (OSError, ValueError):  # no quota: no such file, or "max"
            continue
        if quota > 0 and period > 0:  # -1: none
            yield quota / period
