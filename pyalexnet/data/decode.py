"""From one image file, of any content, to RGB pixels.

Each image is turned upright by its EXIF orientation, cropped to the centre rectangle of the
requested aspect, and scaled with Pillow's bicubic filter, which averages when it shrinks. For a
square this is "shorter side resized, centre crop". Every image becomes 8-bit RGB: greyscale is
repeated, 16-bit loses its low byte, CMYK is converted without a colour profile, transparency is
composited over white, and of an animation the first picture is used.

Pillow reads every file. The pixels of a JPEG in RGB or grey come from simplejpeg where it is
installed: the same libjpeg-turbo, the same bits, in half the time for a photograph of usual size.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pyalexnet.data.dataset import Images
from pyalexnet.errors import DataError, reason
from pyalexnet.files import contents, shown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The only formats decoded, whatever a file's name; Pillow's rarer decoders are not used."""

LARGEST_IMAGE = 64 * 2**20
"""Largest image that is decoded, in pixels: a small file can unpack to gigabytes."""

PNG_START = b"\x89PNG"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"

JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")
"""A marker that ends the preceding data, after any number of fill bytes (ITU-T T.81, B.1.1.2):
neither the stuffed FF 00 of a scan, nor a restart, nor a marker that stands alone."""

OTHERS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"<": "HTML or XML",
}
"""First bytes of files that are not supported images but often have an image's name."""

TRANSPOSITIONS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by EXIF orientation."""

EXIF_ORIENTATION = 0x0112


def read_image(path: str | Path, size: int) -> Images:
    """An image file as (size, size, 3) RGB: shorter side to `size`, centre square.

    Thread-safe; `pillow_warnings` around many calls keeps Pillow's warnings about odd metadata off
    stderr.

    Raises:
        DataError: the file cannot be read; the sentence says why.
    """
    try:
        return decode(contents(Path(path)), (size, size))
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(f"{shown(path)}: {fault(error)}; an image was expected.") from error


def decode(raw: bytes, image_size: tuple[int, int]) -> Images:
    """The contents of an image file as (*image_size, 3) RGB.

    Raises:
        Exception: of any kind, as Pillow's decoders do on damaged files; `fault` words it.
    """
    height, width = image_size
    if raw.startswith(PNG_START):
        with _opened(raw, ("PNG",)) as image:
            image.verify()  # the checksums, which decoding skips
    with _opened(raw, FORMATS) as image:
        if image.width * image.height > LARGEST_IMAGE:
            raise ValueError(
                f"{image.width} x {image.height} pixels, more than the {LARGEST_IMAGE} allowed"
            )
        if raw.startswith(JPEG_START):
            _refuse_cut(raw)
            # libjpeg can shrink by 2, 4 or 8 while it decodes: this is cheap, and leaves at least
            # twice the size needed on either side, whatever the orientation.
            image.draft(None, (2 * max(image_size), 2 * max(image_size)))
            upright = _jpeg(raw, image)
        else:
            _refuse_zero_webp(raw)
            image.load()
            upright = _rgb(image)
        turn = TRANSPOSITIONS.get(_orientation(image))
        if turn is not None:
            upright = upright.transpose(turn)
    box = _centre(upright.width, upright.height, width / height)
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC, box))


def decode_stored(raw: bytes, image: Images) -> None:
    """A JPEG of an image's own size into `image` (H, W, 3), C-contiguous.

    Raises:
        Exception: of any kind, on a damaged JPEG or one of another size.
    """
    library = simplejpeg()
    if library is not None:
        with contextlib.suppress(ValueError):  # Pillow decides
            if library.decode_jpeg(raw, buffer=image).shape == image.shape:
                return
    with _opened(raw, ("JPEG",)) as stored:
        if (stored.height, stored.width, 3) != image.shape:
            raise ValueError(f"{stored.width} x {stored.height} pixels")
        image[...] = np.asarray(stored.convert("RGB"))


def fault(error: Exception) -> str:
    """Why an image could not be read, in a few words without a full stop.

    Raises:
        MemoryError: it was one, and so is not the image's fault.
    """
    if isinstance(error, MemoryError):
        raise error
    return reason(error)


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
    """Turn Pillow's warnings of suspiciously large images into errors; ignore odd metadata.

    This affects the whole process: one thread enters it, around the work of all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@functools.cache
def simplejpeg() -> Any:
    """The library of that name, or None if it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def _jpeg(raw: bytes, image: Image.Image) -> Image.Image:
    """The pixels of an opened JPEG, shrunk as its `draft` says, in RGB."""
    library = simplejpeg()
    if library is not None and image.mode in ("RGB", "L"):  # else CMYK
        with contextlib.suppress(ValueError):  # damaged, or only odd: Pillow decides
            pixels = library.decode_jpeg(raw, min_height=image.height, min_width=image.width)
            if pixels.shape == (image.height, image.width, 3):
                return Image.fromarray(pixels)
    image.load()
    return _rgb(image)


def _opened(raw: bytes, formats: tuple[str, ...]) -> Image.Image:
    """An image with its header read; the error says why Pillow does not recognise a file."""
    try:
        return Image.open(BytesIO(raw), formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError(_why_unknown(raw, formats)) from error


def _why_unknown(raw: bytes, formats: tuple[str, ...]) -> str:
    """What Pillow does not report: the decoder's reason, or that the file is of another kind."""
    for name in formats:
        begin, accepts = Image.OPEN[name]
        if accepts is not None and accepts(raw[:16]) is True:
            try:
                begin(BytesIO(raw), "")
            except Exception as error:  # decoders raise anything on damaged files
                return f"a {name} that Pillow refuses ({fault(error)})"
    said = f"not an image ({', '.join(formats)})"
    if raw[4:8] == b"ftyp":
        return f"{said}, but {raw[8:12].decode('ascii', 'replace').strip().upper()}"
    begins = raw[:64].lstrip()
    other = next((kind for start, kind in OTHERS.items() if begins.startswith(start)), None)
    return f"{said}, but {other}" if other else said


def _refuse_cut(raw: bytes) -> None:
    """Refuse a JPEG that ends before its end marker: libjpeg would fill in the rest with grey.

    An interrupted copy may continue in zeros. Anything after the end marker is ignored.
    """
    if raw.endswith(JPEG_END):
        return
    position = len(JPEG_START)
    while found := JPEG_MARKER.search(raw, position):
        if found[0].endswith(JPEG_END):
            return
        # A segment, with its length; a scan's header is followed by its data, up to a marker.
        position = found.end() + max(2, int.from_bytes(raw[found.end() : found.end() + 2], "big"))
    zeros = ", and the rest of the file is zeros" if raw.endswith(b"\0") else ""
    raise ValueError(f"truncated: it has no end marker{zeros}")


def _refuse_zero_webp(raw: bytes) -> None:
    """The same for a lossy WebP, whose arithmetic coder ends in a few zero bytes at most.

    A lossless one may end in thousands, as may a BMP: truncation cannot be told there.
    """
    if raw[8:16] == b"WEBPVP8 " and raw.endswith(bytes(32)):
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
    """EXIF orientation, 1 to 8; damaged metadata do not cause a refusal."""
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # the parser fails in many ways
        return 1


def _centre(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    """The largest centred box of that aspect, width / height: left, top, right, bottom."""
    box_width, box_height = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height
