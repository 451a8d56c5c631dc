"""Files of a folder of images that were skipped, and how many may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pyalexnet import files
from pyalexnet.data.listing import Listing
from pyalexnet.errors import DataError
from pyalexnet.files import shown

SHARE = 0.01
"""The share of a set's images that may be bad."""


def write(path: Path, found: Listing, bad: Mapping[int, str]) -> int:
    """List skipped files in `path`, one JSON object per line: {"path": ..., "reason": ...}.

    Those that are bad, by their places in the listing, then those without an image's suffix, which
    are never counted as bad. Without any there is no such file.

    Returns:
        Their number.

    Raises:
        DataError: it cannot be written.
    """
    skipped = [(found.paths[place], bad[place]) for place in sorted(bad)]
    skipped += [(other, "not called like an image") for other in found.others]
    lines = (json.dumps({"path": str(file), "reason": why}) + "\n" for file, why in skipped)
    with files.refusing(DataError, path, "written as the list of skipped files"):
        if skipped:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, "".join(lines).encode("ascii"), DataError)
        else:
            path.unlink(missing_ok=True)
    return len(skipped)


def refuse_many(root: Path, found: Listing, bad: Mapping[int, str], listed: Path | None) -> None:
    """Refuse a set if more than `SHARE` of its images are bad; `listed` then lists them.

    Raises:
        DataError: too many are bad; the sentence names the first, and where all are listed.
    """
    images = len(found.paths)
    if len(bad) <= SHARE * images:
        return
    if listed:
        write(listed, found, bad)
    where = f"; {shown(listed)} lists them" if listed else ""
    first = min(bad)
    raise DataError(
        f"{shown(root)}: {len(bad)} of {images} images cannot be read, first "
        f"{shown(found.paths[first])} ({bad[first]}); at most {SHARE:.0%} was expected, so replace "
        f"or delete them{where}."
    )
