"""Files that are complete or absent, even after a power cut, and names that can be printed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pyalexnet.errors import CheckpointError, PyalexnetError, reason

TEMPORARY = ".tmp-"  # begins the name of a file while it is written
LARGEST_FILE = 256 * 2**20  # bytes; an uncompressed image of the largest size fits

# What reading JSON of an unexpected form may raise.
ODD_JSON = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message; names that are not UTF-8 can be printed, too."""
    # Not os.fsencode: in the locale C it refuses names that are already text, such as classes'.
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(said: object, most: int = 100) -> str:
    """A file's own text for a terminal: shortened, and without control codes."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def refusing(
    refusal: type[PyalexnetError], path: Path, done: str = "read", *also: type[BaseException]
) -> contextlib.AbstractContextManager[None]:
    """Turn an OSError, or one of `also`, into a sentence: the path "cannot be read", and why."""
    return refused(refusal, f"{shown(path)}: cannot be {done}", OSError, *also)


@contextlib.contextmanager
def refused(
    refusal: type[PyalexnetError], said: str, *kinds: type[BaseException]
) -> Iterator[None]:
    """Turn exceptions of these kinds into a refusal: what is `said`, and why."""
    try:
        yield
    except kinds as error:
        raise refusal(f"{said} ({reason(error)}).") from error


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Put the path before the sentence of a CheckpointError, so that what raises it needs none."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from error


def contents(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """A file's bytes; anything but a regular file, which might never end, is not opened.

    Raises:
        OSError, ValueError: it cannot be read; it is empty, or has over `largest` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size == 0:
        raise ValueError("an empty file")
    if status.st_size > largest:
        raise ValueError(f"{status.st_size} bytes, more than the {largest} allowed")
    return path.read_bytes()


def sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(path: Path, content: bytes, refusal: type[PyalexnetError]) -> None:
    """Make `path` hold `content`, synced, or refuse; readers see all of it or the previous file."""
    try:
        with writing(path) as stream:
            stream.write(content)
    except OSError as error:
        why = f"({reason(error)}); {len(content)} bytes are needed there."
        raise refusal(f"{shown(path)}: cannot be written {why}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes, once all are written and synced, replace the file `path`."""
    with replacing(path) as temporary, synced(temporary) as stream:
        yield stream
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to make beside `path`, which it then replaces; deleted on failure."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)  # of a killed process that had the same number
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create(path: Path, content: bytes) -> None:
    """Make a new file, synced."""
    with synced(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def synced(path: Path) -> Iterator[IO[bytes]]:
    """A new file that survives a power cut; its mode is 0666 less the umask."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries survive a power cut, if its file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system whose folders cannot be synced
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete files left incomplete by killed processes in a folder that nobody else writes to."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def sealed(document: Mapping[str, Any]) -> bytes:
    """A JSON document with its own SHA-256 as entry `sha256`, which replaces any of that name.

    One key per line, for people; strict JSON, for programs, or a TypeError or ValueError. Unaltered
    bytes are those that this function makes from their own content.
    """
    rest = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    whole = {**rest, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
