"""Files that are complete or absent, even after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from pyalexnet.data.dataset import shown
from pyalexnet.errors import DataError
from pyalexnet.runs.syncing import sync_folder

TEMPORARY = ".tmp-"
"""Prefix of a file's name while it is written."""


def write(path: Path, content: bytes) -> None:
    """Make `path` hold `content`; readers see all of it or the previous file.

    Raises:
        DataError: it cannot be written; the sentence names the path and the bytes needed.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"{shown(path)}: cannot be written ({error.strerror}); {len(content)} bytes are needed "
            f"there."
        ) from error


def sweep(folder: Path) -> None:
    """Delete files left incomplete by killed processes in a folder that nobody else writes to."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)
