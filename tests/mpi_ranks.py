"""Ranks started by MPI: by the library of this environment, or of those that a variable names.

PYALEXNET_TEST_MPI holds Python interpreters, separated by colons, in whose environments lie mpi4py,
a library of MPI with its launcher, and what pyalexnet depends on; `.ci/ranks` makes two.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SELECTION = "PYALEXNET_TEST_MPI"
_TAG = "PYALEXNET_TEST_LAUNCH"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Library:
    """A library of MPI. name: openmpi or mpich. python: of its environment. mpiexec: its path."""

    name: str
    python: str
    mpiexec: str

    def command(self, ranks: int, *arguments: str | Path) -> list[str]:
        """What starts so many ranks of `python -m ...`."""
        more = ["--oversubscribe"] if self.name == "openmpi" else []
        launch = [self.mpiexec, *more, "-n", str(ranks), self.python, "-m"]
        return [*launch, *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        paths = os.pathsep.join([str(_HERE.parent), str(_HERE)])
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return {**os.environ, **allowed, "PYTHONPATH": paths, "PYALEXNET_THREADS": "1", **more}


@dataclass
class Launch:
    """Ranks that have been started, and what they have said by the end."""

    process: subprocess.Popen[str]
    tag: str
    said: str = ""
    seconds: float = 0.0

    def ended(self, timeout: float = 120) -> int:
        """The launcher's exit code; an error if a process is left."""
        begun = time.monotonic()
        self.said, _ = self.process.communicate(timeout=timeout)
        self.seconds = time.monotonic() - begun
        assert not (left := self.left(5.0)), f"left over: {left}\n{self.said}"
        return self.process.returncode

    def ranks(self) -> dict[int, int]:
        """The processes' ids, by rank."""
        variables = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
        found = {}
        for pid, values in _tagged(self.tag):
            for name in variables:
                if name in values and "python" in _text(Path(f"/proc/{pid}/cmdline")):
                    found[int(values[name])] = pid
        return found

    def left(self, patience: float) -> list[int]:
        """Processes of the launch that have not ended after some seconds."""
        until = time.monotonic() + patience
        while (found := [pid for pid, _ in _tagged(self.tag)]) and time.monotonic() < until:
            time.sleep(0.1)
        return found


@contextmanager
def launched(
    library: Library, ranks: int, *arguments: str | Path, cwd: Path, **variables: str
) -> Iterator[Launch]:
    """Start ranks that run `python -m arguments`; none is left afterwards."""
    with started(library, library.command(ranks, *arguments), cwd, **variables) as launch:
        yield launch


@contextmanager
def started(library: Library, command: list[str], cwd: Path, **variables: str) -> Iterator[Launch]:
    """Start a launcher; nothing that it starts is left afterwards."""
    tag = uuid.uuid4().hex
    how: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    how |= {"cwd": cwd, "env": library.environment(**variables, **{_TAG: tag})}
    process = subprocess.Popen(command, **how)
    try:
        yield Launch(process, tag)
    finally:
        for pid, _ in _tagged(tag):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def run(library: Library, ranks: int, *arguments: str | Path, cwd: Path, **variables: str) -> str:
    """What ranks say that run `python -m arguments` to a good end."""
    with launched(library, ranks, *arguments, cwd=cwd, **variables) as launch:
        code = launch.ended()
        assert code == 0, f"{code}\n{launch.said}"
        return launch.said


def _tagged(tag: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Processes that have inherited the tag, with their environments; zombies have none."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            pairs = (one.partition("=") for one in _text(folder / "environ").split("\0"))
            values = {name: value for name, _, value in pairs}
            if values.get(_TAG) == tag:
                yield int(folder.name), values


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""


@cache
def libraries() -> tuple[Library, ...]:
    """The libraries of MPI that tests start ranks with."""
    named = os.environ.get(SELECTION)
    if named is None:
        named = sys.executable if find_spec("mpi4py") else ""
    return tuple(filter(None, map(_library, filter(None, named.split(os.pathsep)))))


def _library(python: str) -> Library | None:
    beside = Path(python).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        return None
    done = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    openmpi = "open" in done.stdout.lower() or "prte" in done.stdout.lower()
    return Library("openmpi" if openmpi else "mpich", python, mpiexec)
