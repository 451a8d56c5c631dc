"""Folders of images, one folder per class, decoded into memory.

`listing.py` describes the layouts, `decode.py` the decoding. Unreadable images are skipped and
listed (`bad_files.py`); if they are more than 1 %, the set is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from pyalexnet.data import bad_files, decode, listing
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Dataset, Images, Progress, Split, checked, room_for
from pyalexnet.data.listing import Listing
from pyalexnet.data.readers import Readers
from pyalexnet.files import contents, shown

CHUNK = 8
"""Images that a thread decodes before it reports."""


def load(
    root: Path,
    *,
    image_size: tuple[int, int],
    seed: int = 0,
    listed: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Decode a whole folder: images (N, *image_size, 3).

    The set depends neither on the number of threads nor on the order of the file system.

    Args:
        root: the folder, as above.
        image_size: (height, width), pixels.
        seed: draws the tenth that is held out if there is no `val`.
        listed: where to list skipped files; written only if there are any.
        progress: called with (images done, images in all).

    Raises:
        DataError: there are no images, a class is empty or missing, over 1 % of the images are bad,
            the set does not fit into memory, or `listed` cannot be written.
    """
    found = listing.of_folders(root)
    listing.check_counts(root, found, "images")
    images, bad = _decode_all(root, found.paths, image_size, progress)
    bad_files.refuse_many(root, found, bad, listed)
    if listed:
        bad_files.write(listed, found, bad)
    if bad:
        good = np.array([place not in bad for place in range(len(found.paths))])
        found, images = found.select(good), images[good]
        listing.check_counts(root, found, "readable images")
    return _assemble(root, found, images, seed, len(bad) + len(found.others))


def _decode_all(
    root: Path, paths: Sequence[Path], image_size: tuple[int, int], progress: Progress | None
) -> tuple[Images, dict[int, str]]:
    """All images (N, *image_size, 3), and why some of them, by place, could not be decoded."""
    images = room_for(shown(root), len(paths), (*image_size, 3))
    chunks = list(pairwise([*range(0, len(paths), CHUNK), len(paths)]))
    reasons: dict[int, str] = {}

    def decode_chunk(start: int, stop: int) -> None:
        for index in range(start, stop):
            reasons[index] = _decode_into(paths[index], images[index])

    def at(start: int, stop: int) -> str:
        unread = (paths[index] for index in range(start, stop) if index not in reasons)
        return shown(next(unread, paths[start]))

    Image.init()  # register the decoders once, not in whichever thread comes first
    with decode.pillow_warnings(), Readers(len(os.sched_getaffinity(0))) as readers:
        decoding = [readers.begin(decode_chunk, *chunk) for chunk in chunks]
        for chunk, future in zip(chunks, decoding, strict=True):
            readers.awaited(future, partial(at, *chunk))
            if progress:
                progress(chunk[1], len(paths))
    return images, {index: reason for index, reason in reasons.items() if reason}


def _decode_into(path: Path, image: Images) -> str:
    """Decode one file into `image` (H, W, 3); returns "" or the reason for a failure."""
    try:
        image[...] = decode.decode(contents(path), (image.shape[0], image.shape[1]))
    except Exception as error:  # decoders raise anything on damaged files
        return decode.fault(error)
    return ""


def _assemble(root: Path, found: Listing, images: Images, seed: int, skipped: int) -> Dataset:
    kept, held = found.split(seed)
    train = Split(images[kept], found.labels[kept])
    test = Split(images[held], found.labels[held])
    unused = listing.not_used(root, found.rest)
    note = (
        f"{shown(root)} ({len(train)} + {len(test)} images, skipped files: {skipped}; validation "
        f"is {found.validation(root, seed)}{f'; not used: {unused}' if unused else ''})"
    )
    classes = Classes.named([shown(name) for name in found.class_ids])
    return checked(shown(root), train, test, classes, name=root.name, note=note)
