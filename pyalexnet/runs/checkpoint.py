"""Checkpoints: complete or absent, and every bit checked on reading.

A checkpoint is a folder `step-00001234` of four files:

    params.safetensors     the parameters by name, float32, KRSC
    momentum.safetensors   the momenta by the same names, of the same shapes
    mean.safetensors       "mean", the training images' mean
    state.json             `Meta`, the format, the version that wrote it, the size and SHA-256 of
                           each file above, and the SHA-256 of state.json's own contents

It is written into `.tmp-step-00001234-<pid>` beside it; every file and the folder are synced, then
it is renamed and the parent folder is synced, so that readers see a complete checkpoint or none.
The safetensors library only serialises to bytes here: its own writer does not sync, leaves the file
unreadable to others (mode 0600), and its format has no checksum. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import pyalexnet
from pyalexnet import files
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable, sealed, sync_folder

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]

FORMAT = 2
"""The number in state.json, raised by one for a change that earlier versions cannot read."""

WITHOUT_IDS = 1
"""The format from before classes had ids beside their names."""

PARAMS, MOMENTUM, MEAN = "params.safetensors", "momentum.safetensors", "mean.safetensors"
TENSOR_FILES = (PARAMS, MOMENTUM, MEAN)
STATE = "state.json"

LARGEST_STATE = 16 * 2**20
"""Largest state.json that is read, in bytes."""

NAME = re.compile(r"step-(\d{8,})")
TEMPORARY = re.compile(r"\.tmp-step-\d{8,}-(\d+)")
REPLACED = re.compile(r"\.old-step-(\d{8,})")


@dataclass(frozen=True)
class Meta:
    """The JSON part of a checkpoint."""

    net: str
    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    step: int
    epoch: int
    net_args: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    class_ids: tuple[str, ...] = ()
    """() if only names are known, as in a checkpoint from before ids existed."""

    @property
    def known_classes(self) -> Classes:
        """Ids and names of the classes, by number."""
        if not self.class_ids:
            return Classes.named(self.class_names)
        return Classes(self.class_ids, self.class_names)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that a run needs to continue: arrays on the host, float32, and `Meta`."""

    params: Arrays
    momentum: Arrays
    mean: Array
    meta: Meta


def save(folder: Path, state: Checkpoint) -> Path:
    """Write `folder/step-<meta.step>`, which replaces one of that step; returns its path.

    When it returns, the checkpoint will survive a power cut. When it raises, the existing
    checkpoints are unchanged.

    Raises:
        ArgumentError: an array is not float32, momenta and parameters do not match, or `meta`
            cannot be written as JSON.
        CheckpointError: it cannot be written; the sentence names the path and the bytes needed.
    """
    target = folder / f"step-{state.meta.step:08d}"
    contents = _contents(state)
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary.mkdir()
        try:
            for name, content in contents.items():
                files.create(temporary / name, content)
            sync_folder(temporary)
            _move(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        needed = sum(len(content) for content in contents.values())
        raise CheckpointError(
            f"{target}: cannot be written ({error.strerror}); {needed} bytes are needed there, and "
            f"the checkpoints before it are untouched."
        ) from error
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, and check all of it.

    Raises:
        CheckpointError: a file is missing or is not as written; the sentence names the file
            and the check that failed. Or a later version of pyalexnet wrote it.
    """
    document = _read_state(path / STATE)
    params, momentum, mean = (
        _read_tensors(path / name, document["files"][name]) for name in TENSOR_FILES
    )
    if {name: array.shape for name, array in params.items()} != {
        name: array.shape for name, array in momentum.items()
    }:
        raise CheckpointError(f"{path / MOMENTUM}: names or shapes differ from those in {PARAMS}.")
    if list(mean) != ["mean"]:
        raise CheckpointError(f"{path / MEAN}: holds {sorted(mean)}; mean was expected.")
    meta = _meta(path / STATE, document)
    match = NAME.fullmatch(path.name)
    if match and int(match[1]) != meta.step:
        raise CheckpointError(
            f"{path}: holds step {meta.step}; {int(match[1])} was expected, as its name says."
        )
    return Checkpoint(params, momentum, mean["mean"], meta)


def newest(run: Path, say: Callable[[str], None] | None = None) -> Path:
    """The newest checkpoint of a run that passes every check.

    Args:
        run: the run's folder, or its folder `checkpoints`.
        say: called with a sentence for each newer one that was skipped; None warns.

    Raises:
        CheckpointError: there is no checkpoint, or none that passes; each one's fault is named.
    """
    folder = _checkpoints(run)
    faults: list[str] = []
    for path in _newest_first(folder):
        try:
            load(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            (say or _warn)(f"skipped a checkpoint: {fault}")
        return path
    if not faults:
        raise CheckpointError(f"{folder}: holds no checkpoint; a folder step-* was expected.")
    raise CheckpointError(f"{folder}: no checkpoint passes its checks: {' '.join(faults)}")


def prune(run: Path, keep: int, best: int | None = None, step: int | None = None) -> None:
    """Delete all checkpoints of a run except the `keep` newest and the one of step `best`.

    `step`: where the run now stands. Later checkpoints failed their checks when it was resumed from
    an earlier one; they are neither counted nor deleted until the run gets there.

    Raises:
        ArgumentError: `keep` is below 1.
        CheckpointError: one cannot be deleted.
    """
    if keep < 1:
        raise ArgumentError(f"prune: keep is {keep}; at least 1 was expected.")
    folder = _checkpoints(run)
    found = sorted(_steps(folder, NAME), reverse=True)
    reached = [(number, path) for number, path in found if step is None or number <= step]
    for number, path in reached[keep:]:
        if number == best:
            continue
        doomed = folder / f".tmp-{path.name}-{os.getpid()}"
        try:
            path.rename(doomed)  # so that a kill leaves no partial checkpoint of that name
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be deleted ({error.strerror}).") from error
        shutil.rmtree(doomed, ignore_errors=True)  # the next save removes any rest


def _contents(state: Checkpoint) -> dict[str, bytes]:
    """The four files' bytes."""
    if {name: array.shape for name, array in state.params.items()} != {
        name: array.shape for name, array in state.momentum.items()
    }:
        raise ArgumentError("checkpoint: momentum has other names or shapes than params.")
    contents = {
        PARAMS: _serialised(state.params),
        MOMENTUM: _serialised(state.momentum),
        MEAN: _serialised({"mean": state.mean}),
    }
    document = {
        "format": FORMAT,
        "pyalexnet": pyalexnet.__version__,
        "meta": asdict(state.meta),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    try:
        contents[STATE] = sealed(document)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"checkpoint: meta cannot be written as JSON ({error}).") from error
    return contents


def _serialised(arrays: Mapping[str, Array]) -> bytes:
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ArgumentError(f"checkpoint: {name} is {array.dtype}; float32 was expected.")
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    )


def _move(temporary: Path, target: Path) -> None:
    """Give a written checkpoint its name.

    No call replaces one folder by another, so an existing one of that step is first renamed; a kill
    between the two renames leaves it under `.old-`, where `newest` finds it.
    """
    aside = target.with_name(f".old-{target.name}")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete checkpoints that killed processes left incomplete, and replaced ones."""
    for entry in list(folder.iterdir()):
        temporary, replaced = TEMPORARY.fullmatch(entry.name), REPLACED.fullmatch(entry.name)
        if temporary and not _runs_elsewhere(int(temporary[1])):
            shutil.rmtree(entry, ignore_errors=True)
        if replaced and (folder / entry.name.removeprefix(".old-")).exists():
            shutil.rmtree(entry, ignore_errors=True)


def _runs_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _checkpoints(run: Path) -> Path:
    folder = run / "checkpoints"
    return folder if folder.is_dir() else run


def _steps(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, Path]]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror}).") from error
    for entry in entries:
        if match := pattern.fullmatch(entry.name):
            yield int(match[1]), entry


def _newest_first(folder: Path) -> Iterable[Path]:
    """Checkpoints by falling step; one moved to `.old-` comes after its successor."""
    found = [(step, True, path) for step, path in _steps(folder, NAME)]
    found += [(step, False, path) for step, path in _steps(folder, REPLACED)]
    return [path for _, _, path in sorted(found, reverse=True)]


def _read(path: Path, limit: int) -> bytes:
    """A regular file's bytes, up to one more than `limit`; links and pipes are refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: is no regular file; one was expected.")
            # read() allocates its argument at once, and `limit` may be a forged number.
            return stream.read(max(min(limit, status.st_size), 0) + 1)
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not enough memory"
        raise CheckpointError(f"{path}: cannot be read ({reason}).") from error


def _read_state(path: Path) -> dict[str, Any]:
    raw = _read(path, LARGEST_STATE)
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"{path}: is a JSON {type(document).__name__}; an object was expected."
        )
    written = document.get("format")
    if written not in (WITHOUT_IDS, FORMAT):
        raise CheckpointError(
            f"{path}: written by pyalexnet {printable(document.get('pyalexnet'), 40)} in format "
            f"{printable(written, 40)}; this is pyalexnet {pyalexnet.__version__}, which reads "
            f"formats {WITHOUT_IDS} and {FORMAT}."
        )
    with _refusing_odd_json(path):
        if raw != sealed(document):
            raise CheckpointError(f"{path}: its own SHA-256 does not match; it was altered.")
        if sorted(document["files"]) != sorted(TENSOR_FILES):
            raise CheckpointError(
                f"{path}: lists {sorted(document['files'])}; {sorted(TENSOR_FILES)} were expected."
            )
    return document


@contextlib.contextmanager
def _refusing_odd_json(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not the state of a checkpoint ({error!r}).") from error


def _read_tensors(path: Path, entry: Mapping[str, Any]) -> Arrays:
    """A file's arrays, after checking its size and SHA-256 against `entry`."""
    with _refusing_odd_json(path.with_name(STATE)):
        size, sha256 = int(entry["bytes"]), str(entry["sha256"])
    raw = _read(path, size)
    if len(raw) != size:
        more = "more" if len(raw) > size else str(len(raw))
        raise CheckpointError(f"{path}: has {more} bytes; {size} were expected.")
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise CheckpointError(f"{path}: its SHA-256 is not the one in {STATE}.")
    try:
        arrays: Arrays = safetensors.numpy.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is no safetensors file ({error}).") from error
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise CheckpointError(
                f"{path}: {printable(name, 40)} is {array.dtype}; float32 was expected."
            )
    return arrays


def _meta(path: Path, document: Mapping[str, Any]) -> Meta:
    with _refusing_odd_json(path):
        values = document["meta"]
        if document["format"] == WITHOUT_IDS:
            values = {"class_ids": []} | values
        expected = {one.name for one in fields(Meta)}
        if values.keys() != expected:
            raise CheckpointError(
                f"{path}: meta has {sorted(values)}; {sorted(expected)} were expected."
            )
        height, width, channels = values["input_shape"]
        meta = Meta(
            **{
                **values,
                "class_ids": tuple(values["class_ids"]),
                "class_names": tuple(values["class_names"]),
                "input_shape": (height, width, channels),
            }
        )
        counts = (meta.classes, meta.step, meta.epoch, height, width, channels)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{counts} are not counts")
        for name in ("class_ids", "class_names"):
            texts = values[name]
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{name} is no list of texts")
        if len(meta.known_classes) != meta.classes:
            raise ValueError(
                f"{len(meta.class_names)} classes have names, {meta.classes} there are"
            )
        if not isinstance(meta.net, str):
            raise TypeError("net is no text")
        if not all(isinstance(table, dict) for table in (meta.net_args, meta.config, meta.metrics)):
            raise TypeError("what should be a table is none")
    return meta


def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=3)
