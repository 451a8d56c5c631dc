"""Other programs, each in its own process group with a time limit: nothing outlives its turn."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# A program is asked to end before its limit, so that it prints where it is: by at most this many
# seconds, and this share of its time.
_GRACE, _SHARE = 5.0, 0.25
_POLL = 0.02
# A killed program that still exists (a driver may hold it) is given up after this many seconds.
_PATIENCE = 10.0


def now() -> float:
    """Seconds since some time in the past."""
    return time.monotonic()


@dataclass(frozen=True)
class Job:
    """A program: its name here, its command line, its seconds, and the file for its output."""

    name: str
    command: tuple[str, ...]
    limit: float
    output: Path


@dataclass(frozen=True)
class Ended:
    """How a job went. code: None if it was stopped at its limit, or never begun."""

    job: Job
    code: int | None
    seconds: float

    @property
    def begun(self) -> bool:
        """Whether there was time to begin it."""
        return self.seconds > 0

    @property
    def overran(self) -> bool:
        """Whether it was stopped by its own limit, not by the end of the whole run."""
        limit = self.job.limit
        return self.code is None and self.seconds >= limit - _grace(limit)

    def said(self) -> str:
        """Its output so far, standard error included."""
        try:
            return self.job.output.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def run(
    jobs: Iterable[Job],
    folder: Path,
    seconds: float,
    at_once: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Generator[Ended, None, None]:
    """Run jobs in `folder`, `at_once` at a time, all within `seconds`; yields each as it ends.

    environment: variables for the jobs, in addition to this program's own.

    A job that has ended or been stopped leaves no process of its group behind, nor does the
    iteration once it is exhausted or closed.
    """
    end = now() + seconds
    waiting, running = iter(jobs), list[_Running]()
    try:
        while True:
            while len(running) < at_once and (job := next(waiting, None)) is not None:
                left = end - now()
                if left <= _grace(seconds):  # running jobs are being asked to end
                    yield Ended(job, None, 0.0)
                else:
                    given = os.environ | dict(environment or {})
                    running.append(_Running(job, folder, min(job.limit, left), given))
            if not running:
                return
            for one in list(running):
                if (ended := one.ended()) is not None:
                    running.remove(one)
                    yield ended
            time.sleep(_POLL)
    finally:
        for one in running:
            one.kill()


def _grace(seconds: float) -> float:
    return min(_GRACE, _SHARE * seconds)


class _Running:
    """A job that has begun."""

    def __init__(
        self, job: Job, folder: Path, seconds: float, environment: Mapping[str, str]
    ) -> None:
        self._job, self._begun = job, now()
        self._stop = self._begun + seconds
        self._ask = self._stop - _grace(seconds)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("wb") as output:
            self._process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    def ended(self) -> Ended | None:
        """Its result once it has ended; asks it to end, or kills it, when its time is up."""
        pid, at = self._process.pid, now()
        # Not reaped yet, so no other process or group can have its number.
        over = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if not over and at < self._stop:
            if at >= self._ask:
                self._ask = self._stop
                os.kill(pid, signal.SIGINT)
            return None
        stopped = not over or self._ask == self._stop
        self.kill()
        code = None if stopped else self._process.returncode
        return Ended(self._job, code, at - self._begun)

    def kill(self) -> None:
        """End its whole group, and wait until the group is gone."""
        group, until = self._process.pid, now() + _PATIENCE
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        while now() < until and _lives(group):
            time.sleep(_POLL)


def _lives(group: int) -> bool:
    """Whether a process of the group is left, zombies not counted."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group: a name may contain anything.
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                return True
    return False
