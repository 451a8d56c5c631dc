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
from dataclasses import asdict, dataclass
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

INDEX: dict[str, np.dtype[Any]] = {
    "offsets": np.dtype(np.int64),
    "labels": np.dtype(np.int64),
    "checks": np.dtype(np.uint32),
}
"""The tensors beside `data`."""

NOTE = "pyalexnet"
"""The metadata's only key: the library writes several in random order."""


@dataclass(frozen=True)
class Origin:
    """The origin of a shard: a digest of its sources, and which of them are bad, and why."""

    sources: str
    bad: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Facts:
    """A pack's table entry for a shard.

    Attributes:
        images: how many it holds.
        bytes: length of the file.
        sha256: of the file.
        index: SHA-256 of offsets, labels and checks, which can be checked without reading the rest.
    """

    images: int
    bytes: int
    sha256: str
    index: str


@dataclass(frozen=True, eq=False)
class Shard:
    """An open shard.

    Attributes:
        path: the file.
        form: "jpeg" or "uint8", how an image is stored.
        labels: (n,).
        offsets: (n + 1,), bytes.
        checks: (n,) CRC-32.
        start: place of the first image in the file.
    """

    path: Path
    form: str
    labels: Labels
    offsets: Labels
    checks: Array
    start: int

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int, image: Images) -> None:
        """Read image `number` into `image` (H, W, 3), C-contiguous. Thread-safe.

        Raises:
            DataError: its bytes are not as written, or are not an image of that size.
        """
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
            raise DataError(
                f"{shown(self.path)}: image {number} is damaged ({decode.fault(error)}); prepare "
                f"the pack again."
            ) from error


def write(path: Path, images: Sequence[bytes], labels: Labels, origin: Origin) -> None:
    """Write a shard of stored images; the same arguments make the same bytes.

    Raises:
        DataError: it cannot be written; the sentence names the path and the bytes needed.
    """
    lengths = [len(image) for image in images]
    tensors: dict[str, Array] = {
        "data": np.frombuffer(b"".join(images), np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        "labels": labels,
        "checks": np.array([zlib.crc32(image) for image in images], dtype=np.uint32),
    }
    note: dict[str, Any] = asdict(origin)
    note["sha256"] = _sha256(note, tensors)
    files.write(path, safetensors.numpy.save(tensors, {NOTE: _json(note)}), DataError)


def examine(path: Path) -> tuple[Origin, Facts] | None:
    """A shard's origin and facts; None if it is missing or damaged.

    Reads all of it.
    """
    try:
        raw = path.read_bytes()
        tensors: dict[str, Array] = safetensors.numpy.load(raw)
        length = int.from_bytes(raw[:8], "little")
        note = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"][NOTE])
        if note["sha256"] != _sha256(note, tensors):
            return None
        origin = Origin(note["sources"], tuple((place, why) for place, why in note["bad"]))
        sha256, index = hashlib.sha256(raw).hexdigest(), _digest(tensors, INDEX)
        facts = Facts(len(tensors["labels"]), len(raw), sha256, index)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return origin, facts


def open_shard(path: Path, form: str, image_bytes: int, classes: int, facts: Facts) -> Shard:
    """Open a shard described in its pack's table, and check everything but the images' bytes.

    Args:
        path: the file.
        form: "jpeg" or "uint8".
        image_bytes: of a decoded image.
        classes: how many there are.
        facts: from the pack's table.

    Raises:
        DataError: the sentence names the file and the check that failed.
    """
    with files.refusing(DataError, path):
        size = path.stat().st_size
        if size != facts.bytes:
            raise DataError(f"{shown(path)}: has {size} bytes; {facts.bytes} were expected.")
        try:
            index, start = _read_index(path, size)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{shown(path)}: is no shard of a pack ({error}).") from error
    if _digest(index, INDEX) != facts.index:
        raise DataError(f"{shown(path)}: its index has not the SHA-256 that the pack's table says.")
    offsets, labels, checks = (index[name] for name in INDEX)
    if (
        not len(offsets) - 1 == len(labels) == len(checks) == facts.images
        or offsets[0] != 0
        or (np.diff(offsets) <= 0).any()
        or offsets[-1] != size - start
    ):
        raise DataError(
            f"{shown(path)}: its index does not fit its data; {facts.images} images one after the "
            f"other were expected."
        )
    if form == "uint8" and (np.diff(offsets) != image_bytes).any():
        raise DataError(f"{shown(path)}: has an image of not {image_bytes} bytes.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{shown(path)}: has the labels {labels.min()} to {labels.max()}; 0 to {classes - 1} "
            f"were expected."
        )
    return Shard(path, form, labels, offsets, checks, start)


def _read_index(path: Path, size: int) -> tuple[dict[str, Array], int]:
    """The tensors beside `data`, and where in a file of `size` bytes that begins, at its end."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size:
            raise ValueError(f"its header has {length} of {size} bytes")
        header = json.loads(stream.read(length))
        first, stop = header["data"]["data_offsets"]
        if not 0 <= first <= stop == size - 8 - length:
            raise ValueError(f"its images are bytes {first} to {stop} of {size - 8 - length}")
        raw = stream.read(first)
    index: dict[str, Array] = {}
    for name, dtype in INDEX.items():
        begin, end = header[name]["data_offsets"]
        index[name] = np.frombuffer(raw[begin:end], dtype)
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
