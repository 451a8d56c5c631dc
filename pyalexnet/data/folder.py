"""Folders of images, one folder per class, decoded into memory.

`listing.py` describes the layouts, `decode.py` the decoding. Unreadable images are skipped and
listed; if they are more than 1 %, the set is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from pyalexnet.data import decode, listing
from pyalexnet.data.dataset import Dataset, Images, Progress, Split, room_for
from pyalexnet.data.readers import Readers
from pyalexnet.files import contents, shown

CHUNK = 8  # images that a thread decodes before it reports


def load(
    root: Path,
    *,
    image_size: tuple[int, int],
    seed: int = 0,
    listed: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Decode a whole folder: images (N, *image_size, 3).

    The set depends neither on the number of threads nor on the order of the file system. `listed`
    is where skipped files are listed; the other arguments are those of `data.load`.
    """
    found = listing.of_folders(root)
    found.check_counts("images")
    images, bad = _decode_all(root, found.paths, image_size, progress)
    found, good = found.readable(bad, listed)
    images = images[good] if bad else images
    train, test = (Split(images[part], found.labels[part]) for part in found.split(seed))
    unused = found.not_used()
    note = (
        f"{shown(root)} ({len(train)} + {len(test)} images, skipped files: "
        f"{len(bad) + len(found.others)}; validation is {found.validation(seed)}"
        f"{f'; not used: {unused}' if unused else ''})"
    )
    return Dataset(root.name, train, test, found.classes, note).checked(shown(root))


def _decode_all(
    root: Path, paths: Sequence[Path], image_size: tuple[int, int], progress: Progress | None
) -> tuple[Images, dict[int, str]]:
    """All images (N, *image_size, 3), and why some of them, by place, could not be decoded."""
    images = room_for(shown(root), len(paths), (*image_size, 3))
    reasons: dict[int, str] = {}

    def decode_some(start: int) -> None:
        for place in range(start, min(start + CHUNK, len(paths))):
            reasons[place] = _decode_into(paths[place], images[place])

    def hanging(start: int) -> str:
        unread = (place for place in range(start, start + CHUNK) if place not in reasons)
        return shown(paths[next(unread, start)])

    Image.init()  # register the decoders once, not in whichever thread comes first
    with decode.pillow_warnings(), Readers(len(os.sched_getaffinity(0))) as readers:
        starts = range(0, len(paths), CHUNK)
        decoding = [readers.begin(decode_some, start) for start in starts]
        for start, future in zip(starts, decoding, strict=True):
            readers.awaited(future, partial(hanging, start))
            if progress:
                progress(min(start + CHUNK, len(paths)), len(paths))
    return images, {place: why for place, why in reasons.items() if why}


def _decode_into(path: Path, image: Images) -> str:
    """Decode one file into `image` (H, W, 3); returns "" or the reason for a failure."""
    try:
        image[...] = decode.decode(contents(path), (image.shape[0], image.shape[1]))
    except Exception as error:  # decoders raise anything on damaged files
        return decode.fault(error)
    return ""
