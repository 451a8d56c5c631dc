"""A shard of a pack: some hundred stored images in one file, complete or absent.

A safetensors file of

    data       (bytes,) uint8     the images, one after the other: JPEG, or (H, W, 3) uint8
    offsets    (n + 1,) int64     image i is data[offsets[i] : offsets[i + 1]]
    labels     (n,) int64
    checks     (n,) uint32        CRC-32 of each image's bytes

whose metadata hold one JSON object: its files and how it was made (`sources`, a SHA-256), the bad
ones among them, and the SHA-256 of all that and of the tensors. Images are read one at a time, and
the file is open only meanwhile, so a pack may have thousands. Nothing is mapped: if a mapped file
is cut short, or its disk fails, the system sends a signal that ends the process, and a thread that
waits for a mapped page lets no other run.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from pyalexnet import files
from pyalexnet.data import decode
from pyalexnet.data.dataset import Images, Labels
from pyalexnet.errors import DataError
from pyalexnet.files import shown

Array = np.ndarray[Any, np.dtype[Any]]

INDEX = {"offsets": np.int64, "labels": np.int64, "checks": np.uint32}  # the tensors beside `data`
NOTE = "pyalexnet"  # the metadata's only key: the library writes several in random order


Bad = tuple[tuple[int, str], ...]  # which files of a shard cannot be read, and why


@dataclass(frozen=True)
class Facts:
    """A pack's table entry for a shard."""

    images: int
    bytes: int  # length of the file
    sha256: str  # of the file
    index: str  # SHA-256 of `INDEX`, which can be checked without reading the rest


@dataclass(frozen=True, eq=False)
class Shard:
    """An open shard of n images."""

    path: Path
    form: str  # "jpeg" or "uint8", how an image is stored
    labels: Labels  # (n,)
    offsets: Labels  # (n + 1,), bytes
    checks: Array  # (n,) CRC-32
    start: int  # place of the first image in the file

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int, image: Images) -> None:
        """Read image `number` into `image` (H, W, 3), C-contiguous. Thread-safe."""
        first, stop = self.offsets[number : number + 2].tolist()
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.start + first)
                raw = stream.read(stop - first)
            if zlib.crc32(raw) != self.checks[number]:
                raise ValueError("its CRC-32 is not the one in the index")
            if self.form == "jpeg":
                decode.decode_stored(raw, image)
            else:
                image[...] = np.frombuffer(raw, np.uint8).reshape(image.shape)
        except Exception as error:  # decoders raise anything on damaged bytes
            why = f"image {number} is damaged ({decode.fault(error)})"
            raise DataError(f"{shown(self.path)}: {why}; prepare the pack again.") from error


def write(path: Path, images: Sequence[bytes], labels: Labels, sources: str, bad: Bad) -> None:
    """Write a shard of stored images from files with the digest `sources`, always alike."""
    tensors: dict[str, Array] = {
        "data": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.cumsum([0, *map(len, images)], dtype=np.int64),
        "labels": labels,
        "checks": np.array([zlib.crc32(image) for image in images], dtype=np.uint32),
    }
    note: dict[str, Any] = {"sources": sources, "bad": bad}
    note["sha256"] = _sha256(note, tensors)
    files.write(path, safetensors.numpy.save(tensors, {NOTE: _json(note)}), DataError)


def examine(path: Path) -> tuple[str, Bad, Facts] | None:
    """A shard's `sources`, bad files and facts, all of it read; None if missing or damaged."""
    try:
        raw = path.read_bytes()
        tensors: dict[str, Array] = safetensors.numpy.load(raw)
        length = int.from_bytes(raw[:8], "little")
        note = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"][NOTE])
        if note["sha256"] != _sha256(note, tensors):
            return None
        bad = tuple((place, why) for place, why in note["bad"])
        sha256, index = hashlib.sha256(raw).hexdigest(), _digest(tensors, INDEX)
        return note["sources"], bad, Facts(len(tensors["labels"]), len(raw), sha256, index)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def open_shard(path: Path, form: str, image_bytes: int, classes: int, facts: Facts) -> Shard:
    """Open a shard of images of `image_bytes` bytes each; all but their bytes is checked."""
    with files.refusing(DataError, path):
        size = path.stat().st_size
        if size != facts.bytes:
            raise DataError(f"{shown(path)}: has {size} bytes; {facts.bytes} were expected.")
        try:
            index, start = _read_index(path, size)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{shown(path)}: is no shard of a pack ({error}).") from error
    if _digest(index, INDEX) != facts.index:
        raise DataError(f"{shown(path)}: its index does not have the SHA-256 in the pack's table.")
    offsets, labels, checks = (index[name] for name in INDEX)
    lengths = np.diff(offsets)
    if (
        not len(offsets) - 1 == len(labels) == len(checks) == facts.images
        or (offsets[0], offsets[-1]) != (0, size - start)
        or (lengths <= 0).any()
    ):
        raise DataError(f"{shown(path)}: its index does not fit its data of {facts.images} images.")
    if form == "uint8" and (lengths != image_bytes).any():
        raise DataError(f"{shown(path)}: an image does not have {image_bytes} bytes.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        span = f"{labels.min()} to {labels.max()}"
        raise DataError(f"{shown(path)}: has labels {span}; 0 to {classes - 1} were expected.")
    return Shard(path, form, labels, offsets, checks, start)


def _read_index(path: Path, size: int) -> tuple[dict[str, Array], int]:
    """The tensors before `data`, and where `data` begins in a file of `size` bytes; it is last."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size:
            raise ValueError(f"its header has {length} of {size} bytes")
        header = json.loads(stream.read(length))
        first, stop = header["data"]["data_offsets"]
        if not 0 <= first <= stop == size - 8 - length:
            raise ValueError(f"its images are bytes {first} to {stop} of {size - 8 - length}")
        raw = stream.read(first)
    places = {name: slice(*header[name]["data_offsets"]) for name in INDEX}
    index = {name: np.frombuffer(raw[places[name]], dtype) for name, dtype in INDEX.items()}
    return index, 8 + length + first


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(note: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    begin = _json({**note, "sha256": None}).encode("ascii")
    return _digest(tensors, ("data", *INDEX), begin)


def _digest(tensors: Mapping[str, Array], names: Iterable[str], begin: bytes = b"") -> str:
    """SHA-256 of `begin` and those tensors' bytes."""
    digest = hashlib.sha256(begin)
    for name in names:
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
