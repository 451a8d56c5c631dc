"""Folders of images, one folder a class.

    root/train/<class>/*  and  root/val/<class>/*      or
    root/train/<class>/*  or  root/<class>/*           a seeded tenth of each class is validation

Each image is turned upright as its EXIF data say, cut to the centre rectangle that has the shape of
the network's input, and scaled to that size with Pillow's bicubic filter, which averages when it
shrinks. For a square input this is "shorter side resized, centre crop". Every image becomes 8-bit
RGB: greyscale is repeated, 16-bit loses its low byte, CMYK is converted without a colour profile,
anything transparent is laid over white, of an animation the first picture counts.

What cannot be read is skipped and listed, one JSON object a line: {"path": ..., "reason": ...}. If
that is over 1 % of the images, the set is refused. Files whose names are not those of images are
listed, too, but not counted; files whose names begin with a dot are left alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pyalexnet.data.dataset import (
    Dataset,
    Images,
    Labels,
    Progress,
    Split,
    checked,
    hold_out,
    shown,
)
from pyalexnet.errors import DataError

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"))

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""All that is ever decoded, whatever a file is called; Pillow's rarer decoders stay shut."""

LARGEST_IMAGE = 64 * 2**20
"""Pixels of an image that is still decoded: a small file can unpack to gigabytes."""

LARGEST_FILE = 256 * 2**20
"""Bytes of a file that is still read: an uncompressed image of the largest size fits."""

PNG_START = b"\x89PNG"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xda", b"\xff\xd9"

BAD_SHARE = 0.01
"""The share of a set's images that may be bad."""

CHUNK = 32
"""Images that a thread decodes before it reports."""

TRANSPOSITIONS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Listing:
    """The images of a set: part by part, in it class by class, in it by name.

    `parts` and `labels` (N,) say where each of `paths` belongs; part 0 is training, 1 is val.
    `others` are the entries that are not called like images.
    """

    part_names: tuple[str, ...]
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    parts: Labels
    labels: Labels
    others: tuple[Path, ...]

    def select(self, chosen: npt.NDArray[np.bool_]) -> Listing:
        """The listing of those images alone."""
        paths = tuple(path for path, stays in zip(self.paths, chosen, strict=True) if stays)
        return replace(self, paths=paths, parts=self.parts[chosen], labels=self.labels[chosen])


def load(
    root: Path,
    *,
    image_size: tuple[int, int],
    seed: int = 0,
    bad_files: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Decode a whole folder: images (N, *image_size, 3).

    The set depends neither on the number of threads nor on the order of the file system.

    Args:
        root: the folder, as above.
        image_size: (height, width), pixels.
        seed: draws the tenth that is held out where there is no `val`.
        bad_files: where to list what was skipped; written only if there is something to list.
        progress: called with (images done, images in all).

    Raises:
        DataError: there are no images, a class is empty or missing, over 1 % of the images are bad,
            the set does not fit into memory, or `bad_files` cannot be written.
    """
    listing = _list(root)
    _check_counts(root, listing, "images")
    images, reasons = _decode_all(root, listing.paths, image_size, progress)
    bad = [(path, reason) for path, reason in zip(listing.paths, reasons, strict=True) if reason]
    skipped = bad + [(path, "not called like an image") for path in listing.others]
    if bad_files is not None and skipped:
        _write_list(bad_files, skipped)
    if len(bad) > BAD_SHARE * len(listing.paths):
        (path, reason), where = bad[0], f"; {shown(bad_files)} lists them" if bad_files else ""
        raise DataError(
            f"{shown(root)}: {len(bad)} of {len(listing.paths)} images cannot be read, first "
            f"{shown(path)} ({reason}); at most {BAD_SHARE:.0%} was expected{where}."
        )
    if bad:
        good = np.array([not reason for reason in reasons])
        listing, images = listing.select(good), images[good]
        _check_counts(root, listing, "readable images")
    return _assemble(root, listing, images, seed, len(skipped))


def decode(raw: bytes, image_size: tuple[int, int]) -> Images:
    """The contents of an image file as (*image_size, 3) RGB.

    Raises:
        Exception: of any kind, as Pillow's decoders do on damaged files.
    """
    height, width = image_size
    if raw.startswith(PNG_START):
        with Image.open(BytesIO(raw), formats=("PNG",)) as image:
            image.verify()  # the checksums, which decoding passes over
    with Image.open(BytesIO(raw), formats=FORMATS) as image:
        if image.width * image.height > LARGEST_IMAGE:
            raise ValueError(
                f"{image.width} x {image.height} pixels, more than the {LARGEST_IMAGE} allowed"
            )
        if raw.startswith(JPEG_START):
            _refuse_zero_tail(raw)
            # libjpeg can shrink by 2, 4 or 8 while it decodes: cheap, and what is left is still at
            # least twice the size needed on either side, whichever way up the image is.
            image.draft(None, (2 * max(image_size), 2 * max(image_size)))
        image.load()
        upright = _rgb(image)
        turn = TRANSPOSITIONS.get(_orientation(image))
        if turn is not None:
            upright = upright.transpose(turn)
    box = _centre(upright.width, upright.height, width / height)
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC, box))


def _list(root: Path) -> Listing:
    folders = _part_folders(root)
    class_names = [folder.name for folder in _class_folders(folders[0])]
    if len(class_names) < 2:
        found = f"1 folder ({shown(class_names[0])})" if class_names else "no folders"
        raise DataError(
            f"{shown(folders[0])}: holds {found}; at least 2 were expected, one for each class of "
            f"images."
        )
    paths: list[Path] = []
    parts: list[int] = []
    labels: list[int] = []
    others: list[Path] = []
    for part, part_folder in enumerate(folders):
        for class_folder in _class_folders(part_folder):
            if class_folder.name not in class_names:
                raise DataError(
                    f"{shown(class_folder)}: is a class that {shown(folders[0])} does not have; "
                    f"the same classes were expected in both."
                )
            label = class_names.index(class_folder.name)
            for path in _entries(class_folder):
                if path.suffix.lower() not in SUFFIXES:
                    others.append(path)
                    continue
                paths.append(path)
                parts.append(part)
                labels.append(label)
    return Listing(
        tuple(folder.name for folder in folders),
        tuple(class_names),
        tuple(paths),
        np.array(parts, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        tuple(others),
    )


def _part_folders(root: Path) -> list[Path]:
    """[train, val], [train] or [root]; a `train` without folders in it is a class."""
    train, val = root / "train", root / "val"
    if not train.is_dir() or not _class_folders(train):
        return [root]
    return [train, val] if val.is_dir() else [train]


def _class_folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be read ({error.strerror}).") from error
    return [entry for entry in entries if not entry.name.startswith(".")]


def _check_counts(root: Path, listing: Listing, what: str) -> None:
    """Every class needs an image in every part, and two where one will be held out."""
    parts = len(listing.part_names)
    needed, why = (2, ", as a tenth is held out") if parts == 1 else (1, "")
    for part in range(parts):
        counts = np.bincount(
            listing.labels[listing.parts == part], minlength=len(listing.class_names)
        )
        few = np.flatnonzero(counts < needed)
        if few.size:
            where = "" if parts == 1 else f" in {listing.part_names[part]}"
            raise DataError(
                f"{shown(root)}: class {shown(listing.class_names[few[0]])} has {counts[few[0]]} "
                f"{what}{where}; {needed} or more were expected{why}."
            )


def _decode_all(
    root: Path, paths: Sequence[Path], image_size: tuple[int, int], progress: Progress | None
) -> tuple[Images, list[str]]:
    """All images (N, *image_size, 3), and for each "" or why it stayed undefined."""
    shape = (len(paths), *image_size, 3)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if math.prod(shape) > memory:
        raise DataError(
            f"{shown(root)}: {len(paths)} images of {image_size[0]}x{image_size[1]} need "
            f"{math.prod(shape) / 1e9:.1f} GB; at most this machine's {memory / 1e9:.1f} GB was "
            f"expected."
        )
    images = np.empty(shape, np.uint8)
    reasons: list[str] = []

    def decode_chunk(start: int) -> list[str]:
        stop = min(start + CHUNK, len(paths))
        return [_decode_into(paths[index], images[index]) for index in range(start, stop)]

    Image.init()  # the decoders are registered once, not by whichever thread comes first
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    with _pillow_warnings():
        try:
            for chunk in pool.map(decode_chunk, range(0, len(paths), CHUNK)):
                reasons += chunk
                if progress:
                    progress(len(reasons), len(paths))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the whole set
    return images, reasons


@contextlib.contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Pillow warns of suspiciously large images and of odd metadata: refuse those, ignore these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode_into(path: Path, image: Images) -> str:
    """Decode one file into `image` (H, W, 3); "" or why it cannot be done."""
    try:
        image[...] = decode(_contents(path), (image.shape[0], image.shape[1]))
    except UnidentifiedImageError:
        return f"not an image ({', '.join(FORMATS)})"
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # whatever a decoder makes of a damaged file
        return str(error).rstrip(".") or type(error).__name__
    return ""


def _contents(path: Path) -> bytes:
    """A file's bytes; anything that is no file, and might never end, is not opened."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size == 0:
        raise ValueError("an empty file")
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"{status.st_size} bytes, more than the {LARGEST_FILE} allowed")
    return path.read_bytes()


def _refuse_zero_tail(raw: bytes) -> None:
    """Refuse a JPEG whose rest is zeros, as interrupted copies are: libjpeg decodes it, to grey.

    A whole file has an end marker after its first scan; in a scan itself it cannot occur. (One in
    a thumbnail inside the metadata, before the scan, says nothing.)
    """
    if not raw.endswith(b"\0"):
        return
    position = len(JPEG_START)
    while raw[position : position + 1] == b"\xff" and raw[position + 1 : position + 2] != JPEG_SCAN:
        position += 2 + int.from_bytes(raw[position + 2 : position + 4], "big")
    if raw.find(JPEG_END, position) < 0:
        raise ValueError("the rest of the file is zeros")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greyscale, which convert() would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert(
            "RGB"
        )
    return image.convert("RGB")


def _orientation(image: Image.Image) -> object:
    """EXIF orientation, 1 to 8; damaged metadata are no reason to lose the image."""
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # the parser fails in many ways
        return 1


def _centre(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    """The largest centred box of that aspect, width / height: left, top, right, bottom."""
    box_width, box_height = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def _write_list(path: Path, skipped: Iterable[tuple[Path, str]]) -> None:
    lines = [json.dumps({"path": str(file), "reason": reason}) + "\n" for file, reason in skipped]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="ascii")
    except OSError as error:
        raise DataError(
            f"{shown(path)}: the list of skipped files cannot be written ({error.strerror})."
        ) from error


def _assemble(root: Path, listing: Listing, images: Images, seed: int, skipped: int) -> Dataset:
    if len(listing.part_names) == 1:
        kept, held = hold_out(listing.labels, seed)
        how = f"; validation is a tenth drawn with seed {seed}"
    else:
        kept, held = np.flatnonzero(listing.parts == 0), np.flatnonzero(listing.parts == 1)
        how = ""
    train = Split(images[kept], listing.labels[kept])
    test = Split(images[held], listing.labels[held])
    note = f"{shown(root)} ({len(train)} + {len(test)} images, skipped files: {skipped}{how})"
    return checked(shown(root), train, test, listing.class_names, name=root.name, note=note)
