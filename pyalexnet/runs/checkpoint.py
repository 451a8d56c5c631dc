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

import hashlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import pyalexnet
from pyalexnet import files
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError, reason
from pyalexnet.files import ODD_JSON, printable, refused, refusing, sealed, sync_folder

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]

FORMAT = 2  # in state.json; increased for a change that earlier versions cannot read
WITHOUT_IDS = 1  # from before classes had ids beside their names

TENSOR_FILES = ("params.safetensors", "momentum.safetensors", "mean.safetensors")
PARAMS, MOMENTUM, MEAN = TENSOR_FILES
STATE = "state.json"

LARGEST_STATE = 16 * 2**20  # bytes that are read of a state.json

_ODD = "is not the state of a checkpoint"

NAME = re.compile(r"(\.old-)?step-(\d{8,})")
TEMPORARY = re.compile(r"\.tmp-step-\d{8,}-(\d+)")


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
    class_ids: tuple[str, ...] = ()  # empty if only names are known, as before ids existed

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
        ArgumentError: an array is not float32, momenta and parameters do not match, or `meta` is
            not JSON.
        CheckpointError: it cannot be written; the sentence names the path and the bytes needed.
    """
    target = folder / f"step-{state.meta.step:08d}"
    contents = _contents(state)
    temporary = folder / f".tmp-{target.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary.mkdir()
        for name, content in contents.items():
            files.create(temporary / name, content)
        sync_folder(temporary)
        _move(temporary, target)
    except OSError as error:
        needed = f"{sum(map(len, contents.values()))} bytes are needed there"
        why = f"({reason(error)}); {needed}, and the checkpoints before it are untouched"
        raise CheckpointError(f"{target}: cannot be written {why}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone if it was renamed
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, and check all of it.

    Raises:
        CheckpointError: a file is missing, altered, or of a later version of pyalexnet.
    """
    document = _read_state(path / STATE)
    about = document["files"]
    params, momentum, mean = (_read_tensors(path / name, about[name]) for name in TENSOR_FILES)
    if _shapes(params) != _shapes(momentum):
        raise CheckpointError(f"{path / MOMENTUM}: names or shapes differ from those in {PARAMS}.")
    if list(mean) != ["mean"]:
        raise CheckpointError(f"{path / MEAN}: holds {sorted(mean)}; mean was expected.")
    meta = _meta(path / STATE, document)
    match = NAME.fullmatch(path.name)
    if match and int(match[2]) != meta.step:
        wanted = f"{int(match[2])} was expected, as its name says"
        raise CheckpointError(f"{path}: holds step {meta.step}; {wanted}.")
    return Checkpoint(params, momentum, mean["mean"], meta)


def newest(run: Path, say: Callable[[str], None] | None = None) -> Path:
    """The newest checkpoint of a run that passes every check.

    run: its folder, or its folder `checkpoints`. say: called with a sentence for each newer one
    that was skipped; None warns.

    Raises:
        CheckpointError: there is no checkpoint, or none that passes; each one's fault is named.
    """
    folder = _checkpoints(run)
    faults: list[str] = []
    for _, path in _newest_first(folder):
        try:
            load(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        tell = say or partial(warnings.warn, category=RuntimeWarning, stacklevel=2)
        for fault in faults:
            tell(f"skipped a checkpoint: {fault}")
        return path
    if not faults:
        raise CheckpointError(f"{folder}: holds no checkpoint; a folder step-* was expected.")
    raise CheckpointError(f"{folder}: no checkpoint passes its checks: {' '.join(faults)}")


def prune(run: Path, keep: int, best: int | None = None, step: int | None = None) -> None:
    """Delete all checkpoints of a run except the `keep` newest and the one of step `best`.

    `step`: the run's current step. Later checkpoints failed their checks when it was resumed from
    an earlier one; they are neither counted nor deleted until the run reaches them.
    """
    if keep < 1:
        raise ArgumentError(f"prune: keep is {keep}; at least 1 was expected.")
    folder = _checkpoints(run)
    found = [one for one in _newest_first(folder) if not one[1].name.startswith(".")]
    reached = [(number, path) for number, path in found if step is None or number <= step]
    for number, path in reached[keep:]:
        if number == best:
            continue
        doomed = folder / f".tmp-{path.name}-{os.getpid()}"
        with refusing(CheckpointError, path, "deleted"):
            path.rename(doomed)  # so that a kill leaves no partial checkpoint of that name
        shutil.rmtree(doomed, ignore_errors=True)  # the next save removes any rest


def _contents(state: Checkpoint) -> dict[str, bytes]:
    """The four files' bytes."""
    if _shapes(state.params) != _shapes(state.momentum):
        raise ArgumentError("checkpoint: momentum has other names or shapes than params.")
    arrays = (state.params, state.momentum, {"mean": state.mean})
    contents = dict(zip(TENSOR_FILES, map(_serialised, arrays), strict=True))
    about = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    own = {"format": FORMAT, "pyalexnet": pyalexnet.__version__}
    with refused(ArgumentError, "checkpoint: meta cannot be written as JSON", *ODD_JSON):
        contents[STATE] = sealed({**own, "meta": asdict(state.meta), "files": about})
    return contents


def _serialised(arrays: Mapping[str, Array]) -> bytes:
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ArgumentError(f"checkpoint: {name} is {array.dtype}; float32 was expected.")
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(whole)


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


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
        temporary, named = TEMPORARY.fullmatch(entry.name), NAME.fullmatch(entry.name)
        abandoned = temporary and not _runs_elsewhere(int(temporary[1]))
        replaced = named and named[1] and (folder / entry.name.removeprefix(".old-")).exists()
        if abandoned or replaced:
            shutil.rmtree(entry, ignore_errors=True)


def _runs_elsewhere(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _checkpoints(run: Path) -> Path:
    folder = run / "checkpoints"
    return folder if folder.is_dir() else run


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by falling step; one moved to `.old-` comes after its successor."""
    with refusing(CheckpointError, folder):
        entries = list(folder.iterdir())
    found = [(match, path) for path in entries if (match := NAME.fullmatch(path.name))]
    found.sort(key=lambda one: (int(one[0][2]), not one[0][1]), reverse=True)
    return [(int(match[2]), path) for match, path in found]


def _read(path: Path, limit: int) -> bytes:
    """A regular file's bytes, up to one more than `limit`; links and pipes are refused."""
    with refusing(CheckpointError, path, "read", MemoryError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: is no regular file; one was expected.")
            # read() allocates its argument at once, and `limit` may be a forged number.
            return stream.read(max(min(limit, status.st_size), 0) + 1)


def _read_state(path: Path) -> dict[str, Any]:
    raw = _read(path, LARGEST_STATE)
    with refused(CheckpointError, f"{path}: is not JSON", ValueError, RecursionError):
        document = json.loads(raw)
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise CheckpointError(f"{path}: is a JSON {kind}; an object was expected.")
    written = document.get("format")
    if written not in (WITHOUT_IDS, FORMAT):
        by = f"{printable(document.get('pyalexnet'), 40)} in format {printable(written, 40)}"
        reads = f"{pyalexnet.__version__}, which reads formats {WITHOUT_IDS} and {FORMAT}"
        raise CheckpointError(f"{path}: written by pyalexnet {by}; this is pyalexnet {reads}.")
    with refused(CheckpointError, f"{path}: {_ODD}", *ODD_JSON):
        if raw != sealed(document):
            raise CheckpointError(f"{path}: its own SHA-256 does not match; it was altered.")
        listed, wanted = sorted(document["files"]), sorted(TENSOR_FILES)
        if listed != wanted:
            raise CheckpointError(f"{path}: lists {listed}; {wanted} were expected.")
    return document


def _read_tensors(path: Path, entry: Mapping[str, Any]) -> Arrays:
    """A file's arrays, after checking its size and SHA-256 against `entry`."""
    with refused(CheckpointError, f"{path.with_name(STATE)}: {_ODD}", *ODD_JSON):
        size, sha256 = int(entry["bytes"]), str(entry["sha256"])
    raw = _read(path, size)
    if len(raw) != size:
        more = "more" if len(raw) > size else str(len(raw))
        raise CheckpointError(f"{path}: has {more} bytes; {size} were expected.")
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise CheckpointError(f"{path}: its SHA-256 is not the one in {STATE}.")
    kinds = (safetensors.SafetensorError, ValueError, KeyError)
    with refused(CheckpointError, f"{path}: is no safetensors file", *kinds):
        arrays: Arrays = safetensors.numpy.load(raw)
    for name, array in arrays.items():
        if array.dtype != np.float32:
            found = f"{printable(name, 40)} is {array.dtype}"
            raise CheckpointError(f"{path}: {found}; float32 was expected.")
    return arrays


_LISTS = ("class_ids", "class_names", "input_shape")


def _meta(path: Path, document: Mapping[str, Any]) -> Meta:
    with refused(CheckpointError, f"{path}: {_ODD}", *ODD_JSON):
        values = document["meta"]
        if document["format"] == WITHOUT_IDS:
            values = {"class_ids": []} | values
        wanted = sorted(one.name for one in fields(Meta))
        if sorted(values) != wanted:
            raise CheckpointError(f"{path}: meta has {sorted(values)}; {wanted} were expected.")
        tables = dict.fromkeys(("net_args", "config", "metrics"), dict)
        for name, kind in {"net": str, **tables, **dict.fromkeys(_LISTS, list)}.items():
            if not isinstance(values[name], kind):
                raise TypeError(f"{name} is a {type(values[name]).__name__}")
        meta = Meta(**{**values, **{name: tuple(values[name]) for name in _LISTS}})
        height, width, channels = meta.input_shape
        counts = (meta.classes, meta.step, meta.epoch, height, width, channels)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{counts} are not counts")
        if not all(isinstance(text, str) for text in (*meta.class_ids, *meta.class_names)):
            raise TypeError("the id or the name of a class is no text")
        if len(meta.known_classes) != meta.classes:
            raise ValueError(f"{len(meta.class_names)} of {meta.classes} classes have names")
    return meta
