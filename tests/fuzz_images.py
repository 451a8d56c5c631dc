"""Damaged images of every kind: an ordinary exception, or the pixels that both decoders see."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import ExifTags, Image

from fuzzing import Edit, edited, edits, watch
from image_files import encoded, png16
from pyalexnet.data import decode
from pyalexnet.data.decode import fault, pillow_warnings
from samples import generator

OUTCOMES = {"refused", "decoded"}
SAMPLE = 120
SIZE = (32, 24)
"""Height and width of the photographs; stored JPEGs must have exactly this size."""

SECONDS = 20
"""Allowed for the largest image, 64 million pixels, on a busy machine."""


@dataclass(frozen=True)
class Case:
    """A damaged file, to be brought to `size`."""

    kind: str
    size: tuple[int, int]
    changes: list[Edit]


def cases() -> SearchStrategy[Case]:
    side = st.integers(1, 40)
    places = st.sampled_from((64, 256, 1024, 4096))
    return st.builds(
        Case,
        st.sampled_from(sorted(files())),
        st.tuples(side, side),
        places.flatmap(lambda far: edits(3, far)),
    )


def check(case: Case) -> str:
    raw = edited(files()[case.kind], case.changes)
    started = time.monotonic()
    fast, slow = (attempt(lambda: decode.decode(raw, case.size), alone) for alone in (False, True))
    stored = tuple(attempt(lambda: in_place(raw), alone) for alone in (False, True))
    assert time.monotonic() - started < SECONDS, time.monotonic() - started
    for one, other in [(fast, slow), *([stored] if as_stored(raw) else [])]:
        # Pillow decides on files that simplejpeg refuses; on all others they agree.
        if one is not None and other is not None:
            assert np.array_equal(one, other)
    if fast is None:
        return "refused"
    assert fast.shape == (*case.size, 3) and fast.dtype == np.uint8
    return "decoded"


def as_stored(raw: bytes) -> bool:
    """Whether a file could be an image of a pack: it has to have the right number of channels."""
    try:
        with Image.open(BytesIO(raw), formats=("JPEG",)) as image:
            return image.mode in ("RGB", "L")
    except Exception:  # as damaged files fail
        return False


def in_place(raw: bytes) -> Any:
    """Decode by `decode_stored`, between two other images that must not change."""
    batch = np.full((3, *SIZE, 3), 77, np.uint8)
    try:
        decode.decode_stored(raw, batch[1])
    finally:
        assert (batch[[0, 2]] == 77).all()
    return batch[1]


def attempt(decoded: Callable[[], Any], alone: bool) -> Any:
    """The pixels, by simplejpeg if possible or by Pillow alone; None if they are refused."""
    with contextlib.ExitStack() as stack:
        if alone:
            stack.enter_context(patch.object(decode, "simplejpeg", lambda: None))
        stack.enter_context(pillow_warnings())  # as all decoders do
        stack.enter_context(watch())
        try:
            return decoded()
        except (MemoryError, AssertionError, RecursionError):
            raise
        except Exception as error:
            if not fault(error):
                raise
            return None


@functools.cache
def files() -> dict[str, bytes]:
    """Small files in each format, and each variant of it."""
    rows, columns = np.indices(SIZE) / 5.0
    waves = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=-1)
    noise = generator(*SIZE).standard_normal((*SIZE, 3))
    photo = Image.fromarray(np.clip(127 + 90 * waves + 9 * noise, 0, 255).astype(np.uint8))
    see_through = photo.copy()
    see_through.putalpha(photo.convert("L"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[0x010E] = "a description"
    few = photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=9)
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [photo.rotate(90), photo.rotate(180)],
    }
    return {
        "JPEG": encoded(photo, "JPEG"),
        "JPEG 4:4:4": encoded(photo, "JPEG", quality=95, subsampling=0),
        "JPEG 4:2:2": encoded(photo, "JPEG", subsampling=1, restart_marker_rows=1),
        "JPEG progressive": encoded(photo, "JPEG", progressive=True),
        "JPEG RGB": encoded(photo, "JPEG", keep_rgb=True, optimize=True),
        "JPEG grey": encoded(photo.convert("L"), "JPEG"),
        "JPEG CMYK": encoded(photo.convert("CMYK"), "JPEG"),
        "JPEG turned": encoded(photo, "JPEG", exif=exif, comment=b"a comment", dpi=(72, 72)),
        "PNG": encoded(photo, exif=exif),
        "PNG grey": encoded(photo.convert("L")),
        "PNG few colours": encoded(few, transparency=3),
        "PNG see-through": encoded(see_through, compress_level=0),
        "PNG one bit": encoded(photo.convert("1")),
        "PNG 16": png16(0, [40_000]),
        "PNG 16 colour": png16(2, [1, 2, 40_000]),
        "PNG moving": encoded(photo, **frames),
        "GIF": encoded(few, "GIF", transparency=2),
        "GIF moving": encoded(photo, "GIF", **frames),
        "WEBP": encoded(photo, "WEBP", exif=exif),
        "WEBP lossless": encoded(see_through, "WEBP", lossless=True),
        "WEBP moving": encoded(see_through, "WEBP", **frames),
        "BMP": encoded(photo, "BMP"),
        "BMP grey": encoded(photo.convert("L"), "BMP"),
        "BMP one bit": encoded(photo.convert("1"), "BMP"),
        "BMP runs": runs(),
    }


def runs() -> bytes:
    """A BMP with run-length rows (RLE8), which Pillow reads but does not write."""
    stream = BytesIO()
    few = Image.new("P", SIZE[::-1], 3)
    few.putpalette(range(48))
    few.save(stream, "BMP")
    raw = bytearray(stream.getvalue())
    start = int.from_bytes(raw[10:14], "little")
    rows = bytes([SIZE[1], 3, 0, 0]) * SIZE[0] + b"\0\1"
    raw[30:34] = (1).to_bytes(4, "little")  # the compression
    raw[34:38] = len(rows).to_bytes(4, "little")
    return bytes(raw[:start]) + rows
