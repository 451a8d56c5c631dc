"""A run's folder: its contents, the lock on it, and how a run is repeated from it.

runs/<date>-<net>-<data>/
    config.toml     every choice of the run; edit it (or give flags) and resume
    env.json        versions, machine and command line of every start
    log.jsonl       one JSON object a line: see `Log`
    checkpoints/    see checkpoint.py
    curves.png, filters.png
    lock            held while a process trains here
runs/latest         link to the newest run
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pydantic

from pyalexnet import files
from pyalexnet.backends.checks import integer
from pyalexnet.errors import ArgumentError, RunError, reason
from pyalexnet.nets.recipe import Recipe
from pyalexnet.step.plan import Precision

_ABOUT_CONFIG = """\
# Every choice of this run. To repeat it:      pyalexnet train --config THIS_FILE
# To change a value and go on:                 edit it here, then pyalexnet train --resume RUN
# Rates are learning rates (lr_w, lr_b) and weight decays (decay_w, decay_b) of a layer's weights
# and biases; a schedule multiplies them: from epoch e of a pair [e, factor] on by factor.

"""


@dataclass(frozen=True)
class Scores:
    """Means over the images counted: loss in nats, errors as fractions in [0, 1]."""

    loss: float
    top1_error: float
    top5_error: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Scores:
        """Rebuild one from the result of `asdict`, JSON in between."""
        return cls(*(float(values[each.name]) for each in dataclasses.fields(cls)))


@dataclass(frozen=True)
class Motion:
    """How far a layer's weights move: mean |w|, mean |dw| of the last step, and their ratio."""

    weight: float
    update: float
    ratio: float

    @classmethod
    def of(cls, weight: float, update: float) -> Motion:
        """With the ratio of the two; 0 if all weights are 0."""
        return cls(weight, update, update / weight if weight > 0 else 0.0)


@dataclass(frozen=True)
class StepReport:
    """Where training stands; `train` covers the steps since the last such report."""

    epoch: int
    """The current epoch, counted from 1."""
    epochs: int
    progress: float
    """Epochs done, including the fraction of the current one."""
    step: int
    """Steps done since the run began."""
    steps: int
    train: Scores
    lr: float
    images_per_second: float
    seconds_left: float
    batch: int
    """Steps done in the current epoch."""
    seconds: float
    """Since the last such report."""
    exchanged: int
    """Bytes that crossed between two towers in the last step, both ways; 0 with one."""


@dataclass(frozen=True)
class EpochReport:
    """An epoch that is over; `train` was measured while the weights moved, dropout on."""

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
class Config:
    """Every choice of a run; the contents of config.toml."""

    net: str
    data: str
    """Absolute path of the data, or "" for the built-in set."""
    backend: str
    """The backend that was chosen, never "auto": a resumed run uses the same one."""
    device: int
    seed: int
    print_freq: int
    """Steps between two lines of the log."""
    keep: int
    """Number of newest checkpoints kept; the best one is always kept."""
    recipe: Recipe
    net_args: dict[str, Any] = field(default_factory=dict)
    """The chosen arguments of the network's function, by name."""
    devices: tuple[int, ...] = ()
    """The devices of two towers, each half of the network; (): the whole runs on `device`."""
    workers: int = 1
    """Threads that read images ahead."""
    chance_steps: int = 500
    """Steps at chance after which a run stops; 0: never."""
    tensorboard: bool = False
    """Whether events for TensorBoard are written."""
    precision: Precision = "fp32"
    """Of maps and the operands of products; parameters are always float32."""
    fused: bool = False
    """Whether operations take layers together (`plan.py`), rather than one by one."""
    exact: bool = False
    """Whether cpu computes every convolution by its formula, even where another way is faster."""

    def __post_init__(self) -> None:
        integer("run", "seed", self.seed, high=2**64 - 1)
        integer("run", "print_freq", self.print_freq, low=1)
        integer("run", "keep", self.keep, low=1)
        integer("run", "workers", self.workers)
        integer("run", "chance_steps", self.chance_steps)
        if len(self.devices) not in (0, 2):
            raise ArgumentError(
                f"run: devices has {len(self.devices)} numbers; 2 were expected, one a tower."
            )
        if self.devices and (self.fused or self.precision != "fp32"):
            what = "fused is true" if self.fused else f"precision is {self.precision}"
            raise ArgumentError(
                f"run: {what} and two towers run; fp32 and layers one by one were expected there."
            )

    @property
    def all_net_args(self) -> dict[str, Any]:
        """`net_args`, with norms kept within a tower if the run has two."""
        return self.net_args | ({"towers_norm": True} if self.devices else {})

    def to_toml(self) -> str:
        """The text of config.toml."""
        return _ABOUT_CONFIG + _toml(dataclasses.asdict(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Config:
        """Build from parsed TOML or JSON.

        Raises:
            ArgumentError: a value is missing, wrong or one too many; it names `source`.
        """
        try:
            config = pydantic.TypeAdapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name, own = ".".join(map(str, first["loc"])), first.get("ctx", {}).get("error")
            said = str(own) if isinstance(own, ArgumentError) else f"{name}: {first['msg']}."
            raise ArgumentError(f"{source}: {said}") from error
        unknown = flat(values).keys() - flat(dataclasses.asdict(config)).keys()
        if unknown:
            raise ArgumentError(f"{source}: {sorted(unknown)[0]} is not a known setting.")
        return config

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config.toml.

        Raises:
            ArgumentError: it cannot be read, is not TOML, lacks a value or has one too many.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{path} cannot be read: {reason(error)}.") from error
        return cls.from_mapping(values, str(path))

    def changes(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """The values that differ, under their dotted names, as (this one's, the other's)."""
        mine, theirs = (flat(dataclasses.asdict(c)) for c in (self, other))
        return {
            name: (mine.get(name), theirs.get(name))
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        }


class RunFolder:
    """A run folder locked for writing by this process alone; a context manager.

    Raises:
        RunError: the folder cannot be written, or another process trains in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        try:
            check_writable(path)
            check_writable(self.checkpoints)
            self.log = Log(path / "log.jsonl")
        except RunError:
            os.close(self._lock)
            raise

    @classmethod
    def create(cls, out: Path, *, net: str, data: str) -> RunFolder:
        """Make `out/<date>-<net>-<data>`, with -2, -3 ... where it exists, linked as `latest`.

        Raises:
            RunError: `out` cannot be written.
        """
        name = f"{datetime.date.today().isoformat()}-{_slug(net)}-{_slug(data)}"
        try:
            path = _claim(out, name)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}.") from error
        folder = cls(path)
        _link_latest(path)
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        self.log.close()
        os.close(self._lock)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check_held(self) -> None:
        """Make sure that the folder is still the one that was locked.

        Raises:
            RunError: it was deleted, moved or replaced, so that writes would be lost.
        """
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._lock), (self.path / "lock").stat()):
                return
        raise RunError(
            f"{self.path}: was deleted or moved, or its lock was, while the run trained there; "
            "nothing more is saved."
        )

    def write_config(self, config: Config) -> None:
        """Write config.toml, whole or not at all."""
        self._write("config.toml", config.to_toml())

    def add_environment(self, environment: Mapping[str, Any]) -> None:
        """Append this start to env.json."""
        starts = []
        odd = (OSError, ValueError, LookupError, TypeError, RecursionError)
        with contextlib.suppress(*odd), _opened(self.path / "env.json") as file:
            # A damaged record of earlier starts does not prevent a start.
            starts = list(json.load(file)["starts"])
        self._write("env.json", json.dumps({"starts": [*starts, environment]}, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        files.write(self.path / name, text.encode("utf-8"), RunError)


class Log:
    """log.jsonl: one whole JSON object a line, each with `kind` and `time` (UTC).

    step    every print interval: epoch, progress, step, train scores, lr, images_per_second
    epoch   every epoch: train and test scores, lr, seconds, per-layer mean |w|, |dw|, ratio
    start, resume, test, stop    what the driver did; lines for later steps that precede a resume
                                 in the file were overtaken by the resumed run
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o666)
            self._drop_torn_line()
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}.") from error

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: it could not be written; no part of it stays in the file.
        """
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
    """The scores of a run, in the order of its steps."""

    steps: list[tuple[float, Scores]] = field(default_factory=list)
    """(epochs done, training scores since the entry before)"""
    epochs: list[tuple[int, Scores, Scores]] = field(default_factory=list)
    """(epochs done, training scores, test scores)"""
    rates: list[tuple[float, float]] = field(default_factory=list)
    """(epochs done, learning rate)"""

    def rate_drops(self) -> list[tuple[float, float]]:
        """(epochs done, new rate) wherever the learning rate fell by a quarter or more at once."""
        pairs = pairwise(self.rates)
        return [(at, new) for (at, old), (_, new) in pairs if new <= 0.75 * old]

    @classmethod
    def read(cls, log: Path) -> History:
        """Read a log.jsonl, without lines that a resumed run has overtaken and damaged ones."""
        steps: dict[int, tuple[float, float, Scores]] = {}  # if a step was logged twice, the
        epochs: dict[int, tuple[int, Scores, Scores]] = {}  # second line counts
        for record in _records(log):
            with contextlib.suppress(LookupError, TypeError, ValueError, OverflowError):
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
        return cls(
            steps=[(at, train) for at, _, train in steps.values()],
            epochs=list(epochs.values()),
            rates=[(at, rate) for at, rate, _ in steps.values()],
        )


def check_writable(folder: Path) -> None:
    """Make sure, before anything that takes time, that files can be made in `folder`.

    Raises:
        RunError: they cannot, or the folder is missing and cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".tmp-probe-", dir=folder)).rmdir()
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}.") from error


def find(run: str, runs: Path) -> Path:
    """The folder that `run` means: a path, or "latest" for the most recently begun run in `runs`.

    Raises:
        RunError: there is none.
    """
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


def _records(log: Path) -> Iterator[Any]:
    """The lines of a log.jsonl; those that are not JSON are skipped."""
    with _opened(log) as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                yield json.loads(line)


def _opened(path: Path) -> IO[str]:
    """A text to read, damaged or not; a pipe in its place reads as empty, without waiting."""
    return open(  # Path.open takes no opener
        path,
        encoding="utf-8",
        errors="replace",
        opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK),
    )


def _lock(path: Path) -> int:
    """Take the folder's lock; the kernel releases it however the process ends."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error
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
    number = 1
    while True:
        path = out / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path.resolve()


def _link_latest(path: Path) -> None:
    """Point the link `latest` beside the run at it; anything else of that name is left alone."""
    link = path.with_name("latest")
    if link.exists() and not link.is_symlink():
        return
    with files.replacing(link) as temporary:
        temporary.symlink_to(path.name)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "data"


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
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(here), *arguments)
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel"), "pyalexnet", "runs", "run.py").is_file():
            return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        pass  # no git, or not a checkout
    return None


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables flattened into one, with dotted names."""
    one: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            one |= flat(value, f"{prefix}{name}.")
        else:
            one[prefix + name] = value
    return one


def _toml(table: Mapping[str, Any], path: str = "") -> str:
    """A table as TOML: its values first, then the tables in it; None is left out."""
    lines = [
        f"{_toml_key(name)} = {_toml_value(value)}"
        for name, value in table.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "".join(line + "\n" for line in lines)
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            dotted = f"{path}.{_toml_key(name)}" if path else _toml_key(name)
            text += f"\n[{dotted}]\n{_toml(inner, dotted)}"
    return text


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):  # of a list
        pairs = (f"{_toml_key(name)} = {_toml_value(each)}" for name, each in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    if isinstance(value, str):  # TOML has JSON's escapes, except for the delete character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)  # int, float, bool
