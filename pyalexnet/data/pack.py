"""A pack: a set of photographs prepared once, by `data prepare`, and then read from disk.

    pack.json                        the table: how the images are stored, ids and names of the
                                     classes, counts, shards with their lengths and SHA-256, colour
                                     statistics, and the SHA-256 of its own contents
    mean.npy                         mean of each pixel of the training images, (S, S, 3) float32
    bad_files.jsonl                  skipped files, and why; absent if there are none
    shards/train-00000.safetensors   the images: `shard.py`
    shards/val-00000.safetensors

pack.json is written last, so a folder without it is not a pack. Opening one reads the table and
each shard's index, and decodes nothing; a damaged image is found when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np

import pyalexnet
from pyalexnet import files
from pyalexnet.data.classes import Classes
from pyalexnet.data.colour import Colour
from pyalexnet.data.dataset import Dataset, Images, Labels, Pixels, Split, Statistics, room_for
from pyalexnet.data.shard import Facts, Shard, open_shard
from pyalexnet.errors import ArgumentError, DataError, reason
from pyalexnet.files import sealed, shown

FORMAT = 1  # in pack.json, raised by one for a change that this version cannot read

# Everything that a pack's folder may hold, and the names in its folder of shards.
TABLE, MEAN, BAD_FILES, SHARDS, LOCK = "pack.json", "mean.npy", "bad_files.jsonl", "shards", "lock"
SHARD = re.compile(r"(train|val)-\d{5,}\.safetensors")

Part: TypeAlias = Literal["train", "val"]
Axis: TypeAlias = tuple[float, float, float]

PARTS: tuple[Part, ...] = ("train", "val")
FORMS = ("jpeg", "uint8")


class LaterVersion(DataError):
    """A pack has a format that this version does not know; it is not damaged."""


@dataclass(frozen=True)
class Storage:
    """How images are stored: `size` x `size` RGB, as JPEG (4:4:4) or as plain bytes, "uint8"."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: int = 256
    form: str = "jpeg"
    quality: int = 95

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return self.size, self.size, 3


@dataclass(frozen=True)
class PixelStatistics:
    of: str  # "train" or, if there were too few images, "imagenet"
    channel_means: tuple[float, ...]  # R, G, B, grey levels
    vectors: tuple[Axis, Axis, Axis]  # principal axes of the pixels, as in `Colour`
    sigmas: Axis
    mean_sha256: str  # of mean.npy


@dataclass(frozen=True)
class Table:
    """The contents of pack.json, as they are written."""

    source: str  # the folder that the images came from
    plan: str  # SHA-256 of the request: images, labels and options
    storage: Storage
    class_names: tuple[str, ...]  # by label
    validation: str  # where the images of `val` came from
    skipped: int  # bad files, and files without an image's suffix
    statistics: PixelStatistics
    shards: dict[Part, tuple[Facts, ...]]
    class_ids: tuple[str, ...] | None = None  # a pack from before ids existed has only names

    @property
    def classes(self) -> Classes:
        if self.class_ids is None:
            return Classes.named(self.class_names)
        return Classes(self.class_ids, self.class_names)

    def images(self, part: Part) -> int:
        return sum(facts.images for facts in self.shards[part])

    @property
    def bytes(self) -> int:
        return sum(facts.bytes for part in PARTS for facts in self.shards[part])


class PackSplit(Split):
    """Images in shards on disk; `images` and `mean` decode all, `read` only those requested."""

    _shards: tuple[Shard, ...]
    _starts: Labels
    _shape: tuple[int, int, int]

    def __init__(self, shards: Sequence[Shard], shape: tuple[int, int, int]) -> None:
        labels = np.concatenate([np.empty(0, np.int64), *(shard.labels for shard in shards)])
        starts = np.cumsum([0, *map(len, shards)])
        vars(self).update(labels=labels, _shards=tuple(shards), _starts=starts, _shape=shape)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._shape

    def read(self, indices: Labels, out: Images) -> None:
        """Read the images `indices` (n,) into `out` (n, H, W, C), C-contiguous. Thread-safe."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            span = f"{indices.min()} to {indices.max()}"
            raise ArgumentError(f"read: indices are {span}; 0 to {len(self) - 1} were expected.")
        for image, (shard, number) in zip(out, self._places(indices), strict=True):
            shard.read(number, image)

    def where(self, indices: Labels) -> str:
        """The shards that hold the images `indices`, and their numbers there."""
        folder = shown(self._shards[0].path.parent)
        names = (f"{shard.path.name} image {number}" for shard, number in self._places(indices))
        return f"{folder}: {', '.join(names)}"

    def _places(self, indices: Labels) -> list[tuple[Shard, int]]:
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        numbers = (indices - self._starts[shards]).tolist()
        return [(self._shards[k], n) for k, n in zip(shards.tolist(), numbers, strict=True)]

    @property
    def images(self) -> Images:
        """All images, (N, H, W, C), decoded anew at every call."""
        images = room_for(shown(self._shards[0].path.parent), len(self), self._shape)
        self.read(np.arange(len(self)), images)
        return images


def is_pack(folder: Path) -> bool:
    return (folder / TABLE).is_file()


def load(folder: Path) -> Dataset:
    """Open a pack, and check everything except the images' bytes. Nothing is decoded."""
    table = read_table(folder)
    form, shape, classes = table.storage.form, table.storage.shape, table.classes

    def split(part: Part) -> PackSplit:
        expected = form, math.prod(shape), len(classes)
        opened = [open_shard(path, *expected, facts) for path, facts in shards(folder, table, part)]
        return PackSplit(opened, shape)

    train, test = map(split, PARTS)
    axes = Colour(np.array(table.statistics.vectors), np.array(table.statistics.sigmas))
    statistics = Statistics(_read_mean(folder, table), axes)
    note = (
        f"{shown(folder)} ({len(train)} + {len(test)} images of {shape[0]}x{shape[1]} out of "
        f"{table.source}, skipped files: {table.skipped}; validation is {table.validation})"
    )
    found = Dataset(folder.resolve().name, train, test, classes, note, statistics)
    return found.checked(shown(folder))


def strangers(folder: Path) -> list[Path]:
    """Entries of a folder that are not part of a pack, complete or incomplete; sorted."""
    known = (TABLE, MEAN, BAD_FILES, SHARDS, LOCK)
    found = [path for path in _entries(folder) if path.name not in known]
    found += [path for path in _entries(folder / SHARDS) if not SHARD.fullmatch(path.name)]
    return sorted(path for path in found if not path.name.startswith(files.TEMPORARY))


def shard_path(folder: Path, part: Part, number: int) -> Path:
    """Path of a shard of "train" or "val"."""
    return folder / SHARDS / f"{part}-{number:05d}.safetensors"


def shards(folder: Path, table: Table, part: Part) -> Iterator[tuple[Path, Facts]]:
    """The paths of a part's shards, and what the table says of them."""
    for number, facts in enumerate(table.shards[part]):
        yield shard_path(folder, part, number), facts


def write_mean(folder: Path, mean: Pixels) -> str:
    """Write mean.npy; returns its SHA-256."""
    stream = BytesIO()
    np.save(stream, mean, allow_pickle=False)
    files.write(folder / MEAN, stream.getvalue(), DataError)
    return hashlib.sha256(stream.getvalue()).hexdigest()


def write_table(folder: Path, table: Table) -> None:
    """Write pack.json, which makes the folder a pack."""
    about = {"format": FORMAT, "pyalexnet": pyalexnet.__version__}
    counts = {part: table.images(part) for part in PARTS}
    files.write(folder / TABLE, sealed({**about, "counts": counts, **asdict(table)}), DataError)


def read_table(folder: Path) -> Table:
    import pydantic  # a tenth of a second that other sets do not need

    path = folder / TABLE
    with files.refusing(DataError, path, "read", ValueError, RecursionError):
        raw = files.contents(path)
        document = json.loads(raw)
    try:
        if document["format"] != FORMAT:
            by = f"written by pyalexnet {document['pyalexnet']} in format {document['format']}"
            own = f"this is pyalexnet {pyalexnet.__version__}, which reads format {FORMAT}"
            raise LaterVersion(f"{shown(path)}: {by}; {own}.")
        if raw != sealed(document):
            raise DataError(f"{shown(path)}: its own SHA-256 does not match; it was altered.")
        table = pydantic.TypeAdapter(Table).validate_json(raw, strict=True)
        if table.storage.form not in FORMS or not 1 <= table.storage.size < 2**16:
            raise ValueError(f"images are stored as {table.storage}")
        if table.shards.keys() != set(PARTS):
            raise ValueError(f"there are shards of {sorted(table.shards)}")
        if len(table.classes) != len(table.class_names):
            raise ValueError("not every class has an id")
        if not np.isfinite([*table.statistics.vectors, table.statistics.sigmas]).all():
            raise ValueError("an axis is not finite")
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = reason(error).partition(" [type=")[0]
        raise DataError(f"{shown(path)}: is not the table of a pack ({why}).") from error
    return table


def is_whole(folder: Path, table: Table) -> bool:
    """Whether the bytes of all shards match the table. Reads all of them."""
    with contextlib.suppress(OSError):
        every = (one for part in PARTS for one in shards(folder, table, part))
        return all(files.sha256(path) == facts.sha256 for path, facts in every)
    return False


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _read_mean(folder: Path, table: Table) -> Pixels:
    path = folder / MEAN
    with files.refusing(DataError, path, "read", ValueError):
        raw = files.contents(path)
    if hashlib.sha256(raw).hexdigest() != table.statistics.mean_sha256:
        raise DataError(f"{shown(path)}: its SHA-256 is not the one in {TABLE}.")
    try:
        mean: Pixels = np.load(BytesIO(raw), allow_pickle=False)
    except Exception as error:  # NumPy's header reader fails in many ways
        raise DataError(f"{shown(path)}: is no array ({reason(error)}).") from error
    shape = table.storage.shape
    if mean.shape != shape or mean.dtype != np.float32:
        found = f"{mean.dtype} {mean.shape}"
        raise DataError(f"{shown(path)}: is {found}; float32 {shape} was expected.")
    return mean
