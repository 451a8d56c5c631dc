"""A run's folder: its contents, the lock on it, and how a run is repeated from it.

runs/<date>-<net>-<data>/
    config.toml  all settings of the run; edit it (or give flags) and resume
    env.json        versions, machine and command line of every start
    log.jsonl       one JSON object a line: see `Log`
    checkpoints/    see checkpoint.py
    curves.png, filters.png
    lock            held while a process trains here
runs/latest         link to the newest run
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from pyalexnet import files
from pyalexnet.errors import RunError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.runs.config import Config


@dataclass(frozen=True)
class Scores:
    """Means over the images counted: loss in nats, errors as fractions in [0, 1]."""

    loss: float
    top1_error: float
    top5_error: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Scores:
        """Rebuild one from the result of `asdict`, JSON in between."""
        return cls(*(float(values[each.name]) for each in fields(cls)))


@dataclass(frozen=True)
class Motion:
    """How far a layer's weights move: mean |w|, mean |dw| of the last step, and their ratio."""

    weight: float
    update: float
    ratio: float

    @classmethod
    def of(cls, weight: float, update: float) -> Motion:
        """From the two means; the ratio is 0 if all weights are 0."""
        return cls(weight, update, update / weight if weight > 0 else 0.0)


@dataclass(frozen=True)
class StepReport:
    """Training's progress; `train` and `seconds` cover the steps since the last such report."""

    epoch: int  # the current one, counted from 1
    epochs: int
    progress: float  # epochs done, including the fraction of the current one
    step: int  # steps done since the run began
    steps: int
    train: Scores
    lr: float
    images_per_second: float
    seconds_left: float
    batch: int  # steps done in the current epoch
    seconds: float
    exchanged: int  # bytes in the last step: between two towers, both ways; or sent by this rank


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch; `train` was measured while the weights changed, dropout on."""

    epoch: int
    epochs: int
    step: int
    train: Scores
    test: Scores
    lr: float
    seconds: float
    best: bool
    layers: Mapping[str, Motion]


@dataclass(frozen=True)
class StopReport:
    """The end of training, or a stop on the way.

    reason: "finished", "steps" as many as were asked for, the name of a signal, or an error. test:
    the last parameters on the test images; None after a signal or an error.
    """

    step: int
    reason: str
    test: Scores | None = None
    seconds: float = 0.0
    failed: bool = False

    @property
    def finished(self) -> bool:
        return self.reason == "finished"

    @property
    def interrupt(self) -> int | None:
        """The signal that stopped training, if one did."""
        return signal.Signals.__members__.get(self.reason)


class RunFolder(contextlib.ExitStack):
    """A run folder that this process has locked for writing until `close`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.checkpoints = path, path / "checkpoints"
        self._lock = _lock(path)
        self.callback(os.close, self._lock)
        try:
            check_writable(path)
            check_writable(self.checkpoints)
            self.log = Log(path / "log.jsonl")
        except RunError:
            self.close()
            raise
        self.callback(self.log.close)

    @classmethod
    def create(cls, out: Path, *, net: str, data: str) -> RunFolder:
        """Make `out/<date>-<net>-<data>`, with -2, -3 ... where it exists, linked as `latest`."""
        words = (re.sub(r"[^A-Za-z0-9._]+", "-", one).strip("-.") or "data" for one in (net, data))
        name = "-".join((datetime.date.today().isoformat(), *words))
        with files.refusing(RunError, out, "written"):
            path = _claim(out, name)
        folder = cls(path)
        _link_latest(path)
        return folder

    def check_held(self) -> None:
        """Refuse to continue if this is no longer the folder that was locked."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._lock), (self.path / "lock").stat()):
                return
        found = "was deleted or moved, or its lock was, while the run trained there"
        raise RunError(f"{self.path}: {found}; nothing more is saved.")

    def write_config(self, config: Config) -> None:
        """Write config.toml, completely or not at all."""
        files.write(self.path / "config.toml", config.to_toml().encode(), RunError)

    def save(self, state: Checkpoint, keep: int, best: int | None) -> None:
        """Write a checkpoint, and delete all but the `keep` newest and that of step `best`."""
        checkpoint.save(self.checkpoints, state)
        checkpoint.prune(self.path, keep, best=best, step=state.meta.step)

    def files(self) -> list[Path]:
        """The run's files, checkpoints last."""
        own = [path for path in self.path.iterdir() if path.is_file() and path.name != "lock"]
        return [*sorted(own), *sorted(self.checkpoints.iterdir())]

    def add_environment(self, environment: Mapping[str, Any]) -> None:
        """Append this start to env.json."""
        path, starts = self.path / "env.json", list[Any]()
        with contextlib.suppress(OSError, *files.ODD_JSON), _opened(path) as file:
            # A damaged record of earlier starts does not prevent a start.
            starts = list(json.load(file)["starts"])
        text = json.dumps({"starts": [*starts, environment]}, indent=2) + "\n"
        files.write(path, text.encode(), RunError)


class Elsewhere(RunFolder):
    """A run folder that another process writes; this one writes nothing and need not see it."""

    def __init__(self, path: Path) -> None:
        contextlib.ExitStack.__init__(self)
        self.path, self.checkpoints = path, path / "checkpoints"

    def check_held(self) -> None:
        """This process holds no lock."""

    def write_config(self, config: Config) -> None:
        """The other process does this."""

    def add_environment(self, environment: Mapping[str, Any]) -> None:
        """The other process does this."""

    def save(self, state: Checkpoint, keep: int, best: int | None) -> None:
        """The other process does this."""

    def files(self) -> list[Path]:
        return []


class Log:
    """log.jsonl: one whole JSON object a line, each with `kind` and `time` (UTC).

    step    every print interval: epoch, progress, step, train scores, lr, images_per_second
    epoch   every epoch: train and test scores, lr, seconds, per-layer mean |w|, |dw|, ratio
    start, resume, test, stop    what the driver did; lines for later steps that precede a resume
                                 in the file were overtaken by the resumed run
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.refusing(RunError, path, "written"):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o666)
            self._drop_torn_line()

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append a line; if that raises an OSError, no part of it stays in the file."""
        record = {"kind": kind, "time": _now(), **values}
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        now = os.fstat(self._file)
        if not now.st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was deleted")
        try:
            while line:  # a disk filling up may take only a part; the next write raises
                line = line[os.write(self._file, line) :]
        except OSError:
            os.ftruncate(self._file, now.st_size)
            raise

    def close(self) -> None:
        os.close(self._file)

    def _drop_torn_line(self) -> None:
        """Cut off an incomplete line, as a machine going down leaves it."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, min(size, 1 << 20), max(size - (1 << 20), 0))
        os.ftruncate(self._file, size - len(tail) + tail.rfind(b"\n") + 1)


@dataclass
class History:
    """The scores of a run, in the order of its steps.

    steps: (epochs done, training scores since the entry before). epochs: (epochs done, training
    scores, test scores). rates: (epochs done, learning rate).
    """

    steps: list[tuple[float, Scores]] = field(default_factory=list)
    epochs: list[tuple[int, Scores, Scores]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)

    def rate_drops(self) -> list[tuple[float, float]]:
        """(epochs done, new rate) wherever the learning rate fell by a quarter or more at once."""
        pairs = pairwise(self.rates)
        return [(at, new) for (at, old), (_, new) in pairs if new <= 0.75 * old]

    @classmethod
    def read(cls, log: Path) -> History:
        """Read a log.jsonl, without lines that a resumed run has overtaken and damaged ones."""
        steps: dict[int, tuple[float, float, Scores]] = {}  # if a step was logged twice, the
        epochs: dict[int, tuple[int, Scores, Scores]] = {}  # second line counts
        with _opened(log) as file:
            for line in file:
                with contextlib.suppress(*files.ODD_JSON):
                    record = json.loads(line)
                    kind, step = record["kind"], int(record["step"])
                    if kind == "step":
                        train = Scores.of(record["train"])
                        steps[step] = float(record["progress"]), float(record["lr"]), train
                    elif kind == "epoch":
                        train, test = Scores.of(record["train"]), Scores.of(record["test"])
                        epochs[step] = int(record["epoch"]), train, test
                    elif kind == "resume":
                        steps = {done: line for done, line in steps.items() if done <= step}
                        epochs = {done: line for done, line in epochs.items() if done <= step}
        scores = [(at, train) for at, _, train in steps.values()]
        rates = [(at, rate) for at, rate, _ in steps.values()]
        return cls(scores, [*epochs.values()], rates)


def check_writable(folder: Path) -> None:
    """Refuse, before anything that takes time, a folder in which no files can be made."""
    with files.refusing(RunError, folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".tmp-probe-", dir=folder)).rmdir()


def find(run: str, runs: Path) -> Path:
    """The folder that `run` means: a path, or "latest" for the one begun last in `runs`."""
    path = runs / "latest" if run == "latest" else Path(run)
    if not (path / "config.toml").is_file():
        target = f", which leads to {path.readlink()}," if path.is_symlink() else ""
        expected = "one with a config.toml, or latest,"
        if run == "latest":
            expected = "the folder in which train begins runs (--runs)"
        raise RunError(f"{path}{target} is no run folder; {expected} was expected.")
    return path.resolve()


def environment(backend: str) -> dict[str, Any]:
    """The record of one start in env.json: versions, machine, command line, commit."""
    return {
        "time": _now(),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "commit": _commit(),
        "backend": backend,
        "versions": {"python": platform.python_version()} | _versions(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": {name: value for name, value in os.environ.items() if name.endswith("_THREADS")},
    }


def _opened(path: Path) -> IO[str]:
    """A text to read, damaged or not; a pipe in its place reads as empty, without waiting."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    return open(path, encoding="utf-8", errors="replace", opener=opener)  # Path.open takes none


def _lock(path: Path) -> int:
    """Take the folder's lock; the kernel releases it however the process ends."""
    with files.refusing(RunError, path, "written"):
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise RunError(f"the run folder {path} is in use by {holder}.") from error
    with contextlib.suppress(OSError):  # a full disk: the lock matters, not its text
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return lock


def _claim(out: Path, name: str) -> Path:
    """Make the first free of name, name-2, name-3 ...; two processes never get the same."""
    out.mkdir(parents=True, exist_ok=True)
    path, number = out / name, 1
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path.resolve()
        number += 1
        path = out / f"{name}-{number}"


def _link_latest(path: Path) -> None:
    """Point the link `latest` beside the run at it; anything else of that name is left alone."""
    link = path.with_name("latest")
    if link.is_symlink() or not link.exists():
        with files.replacing(link) as temporary:
            temporary.symlink_to(path.name)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    found = {}
    for name in ("pyalexnet", "numpy", "safetensors", "pillow", "matplotlib", "rich", "typer"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """The commit of the package's own source tree, with "-dirty" if it has changes."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
        return done.stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git, or not a checkout
        git("ls-files", "--error-unmatch", __file__)  # not if installed below another's tree
        return git("describe", "--always", "--dirty", "--abbrev=40")
    return None
