"""CIFAR-10 (Krizhevsky, 2009) in its two official layouts, as folders or as the archives.

    binary   cifar-10-batches-bin/  data_batch_1.bin ... data_batch_5.bin, test_batch.bin,
             batches.meta.txt: records of 1 label byte and 3,072 pixel bytes; names, one a line
    Python   cifar-10-batches-py/   data_batch_1 ... data_batch_5, test_batch, batches.meta:
             pickled dictionaries with `data` (N, 3072) uint8, `labels`; `label_names`

In both, an image's pixels are ordered (channel, row, column). Archives are read without extracting
anything. A pickle can run any program when it is loaded, so the Python layout goes through
`unpickle.py`, which runs none.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from pyalexnet.data import unpickle
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset, Images, Split
from pyalexnet.errors import DataError, reason
from pyalexnet.files import contents, refusing, sha256, shown

ARCHIVES = {  # the official ones: SHA-256 to file name and bytes
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce": (
        "cifar-10-python.tar.gz",
        170_498_071,
    ),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd": (
        "cifar-10-binary.tar.gz",
        170_052_171,
    ),
}
SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
BINARY = (*(f"{name}.bin" for name in TRAIN), "test_batch.bin", "batches.meta.txt")
PICKLED = (*TRAIN, "test_batch", "batches.meta")

# In bytes: of a file that is read (the official ones have 31 million), of all that an archive may
# unpack to (186 million), and of a member that describes another (there are none).
LARGEST_FILE, LARGEST_ARCHIVE, LARGEST_HEADER = 64 * 2**20, 1024 * 2**20, 2**20


def is_folder_of(path: Path) -> bool:
    """Whether a folder looks like one of the two layouts."""
    return any((path / name).is_file() for name in (*BINARY, *PICKLED))


def load_folder(path: Path) -> Dataset:
    """Read a folder in either layout; the Python one if both are complete."""
    source = shown(path)
    found: dict[str, bytes] = {}
    for name in _layout(source, [name for name in (*BINARY, *PICKLED) if (path / name).is_file()]):
        with refusing(DataError, path / name, "read", ValueError):
            found[name] = contents(path / name, LARGEST_FILE)
    return _load(source, found, f"CIFAR-10 from {source}")


def load_archive(path: Path) -> Dataset:
    """Read an archive of either layout, checking its SHA-256 first.

    An archive as long as an official one but with another SHA-256 is damaged, and refused. Any
    other is read with the same care, and the dataset's note says that it is not official.
    """
    source = shown(path)
    try:
        official = _is_official(path)
        files = _members(path)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # tarfile and the decompressors fail in many ways
        # tarfile adds a line for each format
        first = reason(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
        why = first.rstrip(":") or reason(error)
        wanted = "a tar archive of CIFAR-10 was expected"
        raise DataError(f"{source}: cannot be read ({why}); {wanted}.") from error
    which = "the official archive, SHA-256 verified" if official else "not the official archive"
    return _load(source, files, f"CIFAR-10 from {source} ({which})")


def _is_official(path: Path) -> bool:
    found = sha256(path)
    for expected, (name, size) in ARCHIVES.items():
        if found not in ARCHIVES and path.stat().st_size == size:
            odd = f"is as long as {name} but has SHA-256 {found}, not {expected}"
            raise DataError(f"{shown(path)}: {odd}, so it is damaged: fetch it again.")
    return found in ARCHIVES


def _members(path: Path) -> dict[str, bytes]:
    """The files of either layout in an archive, by the last part of their names."""
    found: dict[str, bytes] = {}
    total = 0
    with tarfile.open(path, tarinfo=Header) as archive:
        for member in archive:
            total += member.size
            name = member.name.rpartition("/")[2]
            wanted = name in BINARY or name in PICKLED
            if total > LARGEST_ARCHIVE or (wanted and member.size > LARGEST_FILE):
                large = f"{member.name!r} unpacks to {member.size} bytes"
                raise DataError(f"{shown(path)}: {large}; CIFAR-10, 186 MB in all, was expected.")
            stream = archive.extractfile(member) if wanted and member.isreg() else None
            if stream is not None:
                found[name] = stream.read()
    return found


class Header(tarfile.TarInfo):
    """A member's header; tarfile itself would read one of any claimed length, even gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type not in tarfile.REGULAR_TYPES and header.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def _layout(source: str, present: Collection[str]) -> tuple[str, ...]:
    """The file names of the complete layout; if there is none, a refusal says what is missing."""
    layout = max((PICKLED, BINARY), key=lambda names: len(set(names) & set(present)))
    missing = [name for name in layout if name not in present]
    if missing:
        lacking, wanted = ", ".join(missing), ", ".join(layout)
        raise DataError(f"{source}: lacks {lacking}; CIFAR-10's {wanted} were expected.")
    return layout


def _load(source: str, files: Mapping[str, bytes], note: str) -> Dataset:
    *batches, meta = _layout(source, files)
    read, read_names = _pickled_batch, _pickled_names
    if meta in BINARY:
        read, read_names = _binary_batch, _binary_names
    *train, test = [read(f"{source}: {name}", files[name]) for name in batches]
    names = read_names(f"{source}: {meta}", files[meta])
    images = np.concatenate([batch.images for batch in train])
    whole = Split(images, np.concatenate([batch.labels for batch in train]))
    return Dataset("cifar10", whole, test, Classes.named(names), note).checked(source)


def _binary_batch(source: str, raw: bytes) -> Split:
    if not raw or len(raw) % (1 + PIXELS):
        wanted = f"a multiple of {1 + PIXELS}, an image and its label"
        raise DataError(f"{source}: {len(raw)} bytes; {wanted}, was expected.")
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + PIXELS)
    return Split(_interleaved(records[:, 1:]), records[:, 0].astype(np.int64))


def _binary_names(source: str, raw: bytes) -> tuple[str, ...]:
    try:
        return tuple(raw.decode("ascii").split())
    except UnicodeDecodeError as error:
        why = f"is not text ({reason(error)})"
        raise DataError(f"{source}: {why}; a class name a line was expected.") from error


def _pickled_batch(source: str, raw: bytes) -> Split:
    batch = _unpickled(source, raw)
    images, labels = batch.get("data"), batch.get("labels")
    if not isinstance(images, unpickle.StandIn):
        raise DataError(f"{source}: data is {_kind(images)}; an array was expected.")
    pixels = images.value
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise DataError(f"{source}: data is {found}; uint8 of shape (N, {PIXELS}) was expected.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{source}: labels is {_kind(labels)}; a list of int was expected.")
    if len(labels) != len(pixels):
        counts = f"{len(labels)} labels for {len(pixels)} images"
        raise DataError(f"{source}: {counts}; one each was expected.")
    wild = [label for label in labels if not 0 <= label <= 255]
    if wild:
        raise DataError(f"{source}: has the label {wild[0]}; 0 to 9 were expected.")
    return Split(_interleaved(pixels), np.array(labels, dtype=np.int64))


def _pickled_names(source: str, raw: bytes) -> tuple[str, ...]:
    names = _unpickled(source, raw).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{source}: label_names is {_kind(names)}; a list of names was expected.")
    return tuple(map(_text, names))


def _unpickled(source: str, raw: bytes) -> dict[str, Any]:
    """A pickled dictionary, its keys as text."""
    try:
        value = unpickle.loads(raw)
    except MemoryError:
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        wanted = "a pickle of NumPy arrays, dict, list, bytes, str and int was expected"
        raise DataError(f"{source}: is refused ({reason(error)}); {wanted}.") from error
    if not isinstance(value, dict) or not all(isinstance(key, str | bytes) for key in value):
        raise DataError(f"{source}: is {_kind(value)}; a dict with names as keys was expected.")
    return {_text(key): item for key, item in value.items()}


def _text(name: str | bytes) -> str:
    """A name as text: strings of Python 2, which made CIFAR-10, come as bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__} of something else"


def _interleaved(rows: Images) -> Images:
    """(N, 3072), one plane per channel, to (N, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, *SHAPE).transpose(0, 2, 3, 1))
