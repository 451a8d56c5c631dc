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
from pyalexnet.data.dataset import (
    Dataset,
    Images,
    Labels,
    Pixels,
    Split,
    Statistics,
    checked,
    room_for,
)
from pyalexnet.data.shard import Facts, Shard, open_shard
from pyalexnet.errors import ArgumentError, DataError, reason
from pyalexnet.files import sealed, shown

FORMAT = 1
"""The number in pack.json, raised by one for a change that this version cannot read."""

TABLE, MEAN, BAD_FILES, SHARDS, LOCK = "pack.json", "mean.npy", "bad_files.jsonl", "shards", "lock"
NAMES = frozenset((TABLE, MEAN, BAD_FILES, SHARDS, LOCK))
"""Everything that a pack's folder may hold."""

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
    """Statistics of the training images.

    Attributes:
        of: "train" or, if there were too few images, "imagenet".
        channel_means: R, G, B, grey levels.
        vectors, sigmas: principal axes of the pixels, as in `Colour`.
        mean_sha256: SHA-256 of mean.npy.
    """

    of: str
    channel_means: tuple[float, ...]
    vectors: tuple[Axis, Axis, Axis]
    sigmas: Axis
    mean_sha256: str


@dataclass(frozen=True)
class Table:
    """The contents of pack.json, as they are written.

    Attributes:
        source: the folder that the images came from.
        plan: SHA-256 of the request: images, labels and options.
        storage: how images are stored.
        class_names, class_ids: by label; a pack from before ids existed has only names.
        validation: where the images of `val` came from.
        skipped: bad files, and files without an image's suffix.
        statistics: of the training images.
        shards: by part, in order.
    """

    source: str
    plan: str
    storage: Storage
    class_names: tuple[str, ...]
    validation: str
    skipped: int
    statistics: PixelStatistics
    shards: dict[Part, tuple[Facts, ...]]
    class_ids: tuple[str, ...] | None = None

    @property
    def classes(self) -> Classes:
        """Ids and names of the classes, by label."""
        if self.class_ids is None:
            return Classes.named(self.class_names)
        return Classes(self.class_ids, self.class_names)

    def images(self, part: Part) -> int:
        """Images of a part."""
        return sum(facts.images for facts in self.shards[part])

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(facts.bytes for part in PARTS for facts in self.shards[part])


class PackSplit(Split):
    """Images in shards on disk; `images` and `mean` decode all, `read` only those requested."""

    def __init__(self, shards: Sequence[Shard], shape: tuple[int, int, int]) -> None:
        set_once = object.__setattr__  # as dataclasses do in frozen classes
        labels = [np.empty(0, np.int64), *(shard.labels for shard in shards)]
        set_once(self, "labels", np.concatenate(labels))
        set_once(self, "_shards", tuple(shards))
        set_once(self, "_starts", np.cumsum([0, *map(len, shards)]))
        set_once(self, "_shape", shape)

    _shards: tuple[Shard, ...]
    _starts: Labels
    _shape: tuple[int, int, int]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._shape

    def read(self, indices: Labels, out: Images) -> None:
        """Read the images `indices` (n,) into `out` (n, H, W, C), C-contiguous. Thread-safe.

        Raises:
            ArgumentError: an index is not that of an image.
            DataError: an image is damaged; the sentence names shard and image.
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise ArgumentError(
                f"read: indices are {indices.min()} to {indices.max()}; 0 to {len(self) - 1} were "
                f"expected."
            )
        for image, (shard, number) in zip(out, self._places(indices), strict=True):
            shard.read(number, image)

    def where(self, indices: Labels) -> str:
        """The shards that hold the images `indices`, and their numbers there."""
        folder = shown(self._shards[0].path.parent)
        names = (f"{shard.path.name} image {number}" for shard, number in self._places(indices))
        return f"{folder}: {', '.join(names)}"

    def _places(self, indices: Labels) -> list[tuple[Shard, int]]:
        places = np.searchsorted(self._starts, indices, side="right") - 1
        numbers = indices - self._starts[places]
        return [
            (self._shards[place], number)
            for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
        ]

    @property
    def images(self) -> Images:
        """All images, (N, H, W, C), decoded anew at every call.

        Raises:
            DataError: they do not fit into memory, or one is damaged.
        """
        images = room_for(shown(self._shards[0].path.parent), len(self), self._shape)
        self.read(np.arange(len(self)), images)
        return images


def is_pack(folder: Path) -> bool:
    """Whether a folder has a pack's table."""
    return (folder / TABLE).is_file()


def load(folder: Path) -> Dataset:
    """Open a pack. Nothing is decoded: every check is made except those of the images' bytes.

    Raises:
        DataError: a file is missing, or is not as written; the sentence names the file and the
            check that failed. Or a later version of pyalexnet wrote it.
    """
    table = read_table(folder)
    splits = {part: _open(folder, table, part) for part in PARTS}
    train, test = (PackSplit(splits[part], table.storage.shape) for part in PARTS)
    size, axes = table.storage.size, table.statistics
    note = (
        f"{shown(folder)} ({len(train)} + {len(test)} images of {size}x{size} out of "
        f"{table.source}, skipped files: {table.skipped}; validation is {table.validation})"
    )
    return checked(
        shown(folder),
        train,
        test,
        table.classes,
        name=folder.resolve().name,
        note=note,
        statistics=Statistics(
            _read_mean(folder, table), Colour(np.array(axes.vectors), np.array(axes.sigmas))
        ),
    )


def strangers(folder: Path) -> list[Path]:
    """Entries of a folder that are not part of a pack, complete or incomplete; sorted.

    Raises:
        OSError: the folder exists and cannot be read.
    """
    found = [path for path in _entries(folder) if path.name not in NAMES]
    found += [path for path in _entries(folder / SHARDS) if not SHARD.fullmatch(path.name)]
    return sorted(path for path in found if not path.name.startswith(files.TEMPORARY))


def shard_path(folder: Path, part: Part, number: int) -> Path:
    """Path of a shard of "train" or "val"."""
    return folder / SHARDS / f"{part}-{number:05d}.safetensors"


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
    """Read and check pack.json.

    Raises:
        DataError: it cannot be read or was altered, or a later version of pyalexnet wrote it.
    """
    path = folder / TABLE
    import pydantic  # only needed here

    with files.refusing(DataError, path, "read", ValueError, RecursionError):
        raw = files.contents(path)
        document = json.loads(raw)
    try:
        if document["format"] != FORMAT:
            raise LaterVersion(
                f"{shown(path)}: written by pyalexnet {document['pyalexnet']} in format "
                f"{document['format']}; this is pyalexnet {pyalexnet.__version__}, which reads "
                f"format {FORMAT}."
            )
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
    # RecursionError: deeply nested lists
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = reason(error).partition(" [type=")[0]
        raise DataError(f"{shown(path)}: is not the table of a pack ({why}).") from error
    return table


def damaged_shards(folder: Path, table: Table) -> Iterator[Path]:
    """The shards whose bytes do not match the table. Reads all of them."""
    for part in PARTS:
        for number, facts in enumerate(table.shards[part]):
            path = shard_path(folder, part, number)
            with contextlib.suppress(OSError), path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() == facts.sha256:
                    continue
            yield path


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _open(folder: Path, table: Table, part: Part) -> list[Shard]:
    return [
        open_shard(
            shard_path(folder, part, number),
            table.storage.form,
            math.prod(table.storage.shape),
            len(table.classes),
            facts,
        )
        for number, facts in enumerate(table.shards[part])
    ]


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
    if mean.shape != table.storage.shape or mean.dtype != np.float32:
        raise DataError(
            f"{shown(path)}: is {mean.dtype} {mean.shape}; float32 {table.storage.shape} was "
            f"expected."
        )
    return mean
