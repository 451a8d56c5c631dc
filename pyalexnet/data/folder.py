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
    root: Path, size: tuple[int, int], seed: int, listed: Path | None, progress: Progress | None
) -> Dataset:
    """Decode a whole folder: images (N, *size, 3).

    The set depends neither on the number of threads nor on the order of the file system. `listed`
    is the file that lists skipped files; the other arguments are those of `data.load`.
    """
    found = listing.of_folders(root)
    found.check_counts("images")
    images, bad = _decode_all(root, found.paths, size, progress)
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
    root: Path, paths: Sequence[Path], size: tuple[int, int], progress: Progress | None
) -> tuple[Images, dict[int, str]]:
    """All images (N, *size, 3), and why some of them, by place, could not be decoded."""
    images = room_for(shown(root), len(paths), (*size, 3))
    reasons: dict[int, str] = {}

    def decode_some(places: range) -> None:
        for place in places:
            reasons[place] = _decode_into(paths[place], images[place])

    def hanging(places: range) -> str:
        return shown(paths[next((one for one in places if one not in reasons), places[0])])

    Image.init()  # register the decoders once, not in whichever thread comes first
    chunks = [range(len(paths))[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with decode.pillow_warnings(), Readers(len(os.sched_getaffinity(0))) as readers:
        decoding = [readers.begin(decode_some, places) for places in chunks]
        for places, future in zip(chunks, decoding, strict=True):
            readers.awaited(future, partial(hanging, places))
            if progress:
                progress(places[-1] + 1, len(paths))
    return images, {place: why for place, why in reasons.items() if why}


def _decode_into(path: Path, image: Images) -> str:
    """Decode one file into `image` (H, W, 3); returns "" or the reason for a failure."""
    try:
        image[...] = decode.decode(contents(path), (image.shape[0], image.shape[1]))
    except Exception as error:  # decoders raise anything on damaged files
        return decode.fault(error)
    return ""
