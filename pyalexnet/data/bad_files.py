"""Files of a folder of images that were skipped, and how many may be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyalexnet import files
from pyalexnet.errors import DataError
from pyalexnet.files import shown

SHARE = 0.01
"""The share of a set's images that may be bad."""


@dataclass(frozen=True)
class Skipped:
    """A file, and why it was skipped."""

    path: Path
    reason: str


def not_images(others: Iterable[Path]) -> list[Skipped]:
    """Files without an image's suffix: listed, but never counted as bad."""
    return [Skipped(path, "not called like an image") for path in others]


def write(path: Path, skipped: Iterable[Skipped]) -> None:
    """List them in `path`, one JSON object per line: {"path": ..., "reason": ...}.

    Raises:
        DataError: it cannot be written.
    """
    lines = (json.dumps({"path": str(one.path), "reason": one.reason}) + "\n" for one in skipped)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{shown(path)}: the list of skipped files cannot be written ({error.strerror})."
        ) from error
    files.write(path, "".join(lines).encode("ascii"), DataError)


def refuse_many(root: Path, bad: Sequence[Skipped], images: int, listed: Path | None) -> None:
    """Refuse a set of that many images if more than `SHARE` of them are bad.

    Raises:
        DataError: too many are bad; the sentence names the first, and where all are listed.
    """
    if len(bad) <= SHARE * images:
        return
    where = f"; {shown(listed)} lists them" if listed else ""
    raise DataError(
        f"{shown(root)}: {len(bad)} of {images} images cannot be read, first {shown(bad[0].path)} "
        f"({bad[0].reason}); at most {SHARE:.0%} was expected, so replace or delete "
        f"them{where}."
    )
