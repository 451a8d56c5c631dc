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
from PIL import Image, ImageOps, UnidentifiedImageError

from pyalexnet.data.dataset import Images
from pyalexnet.errors import DataError, reason
from pyalexnet.files import contents, shown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # no other is decoded, whatever a file's name
LARGEST_IMAGE = 64 * 2**20  # pixels that are decoded at most: a small file can unpack to gigabytes

PNG_START, JPEG_START, JPEG_END = b"\x89PNG", b"\xff\xd8", b"\xff\xd9"

# A marker that ends the preceding data, after any number of fill bytes (ITU-T T.81, B.1.1.2):
# neither the stuffed FF 00 of a scan, nor a restart, nor a marker without a segment.
JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")

# First bytes of files that are not supported images but often have an image's name.
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


def read_image(path: str | Path, size: int) -> Images:
    """An image file as (size, size, 3) RGB: shorter side to `size`, centre square. Thread-safe.

    `pillow_warnings` around many calls keeps Pillow's warnings about odd metadata off stderr.
    """
    try:
        return decode(contents(Path(path)), (size, size))
    except Exception as error:  # decoders raise anything on damaged files
        raise DataError(f"{shown(path)}: {fault(error)}; an image was expected.") from error


def decode(raw: bytes, image_size: tuple[int, int]) -> Images:
    """An image file's contents as (*image_size, 3) RGB; `fault` words whatever damage raises."""
    if raw.startswith(PNG_START):
        with _opened(raw, ("PNG",)) as image:
            image.verify()  # the checksums, which decoding skips
    with _opened(raw, FORMATS) as image:
        width, height = image.size
        if width * height > LARGEST_IMAGE:
            raise ValueError(f"{width} x {height} pixels, more than the {LARGEST_IMAGE} allowed")
        if raw.startswith(JPEG_START):
            _refuse_cut(raw)
            # libjpeg can shrink by 2, 4 or 8 while it decodes: this is cheap, and leaves at least
            # twice the size needed on either side, whatever the orientation.
            image.draft(None, (2 * max(image_size), 2 * max(image_size)))
            upright = _jpeg(raw, image)
        else:
            # The arithmetic coder of a lossy WebP ends in a few zero bytes at most. (A lossless one
            # may end in thousands, as may a BMP: truncation cannot be told there.)
            if raw[8:16] == b"WEBPVP8 " and raw.endswith(bytes(32)):
                raise ValueError("the rest of the file is zeros")
            upright = _rgb(image)
        upright.info = image.info
    try:
        ImageOps.exif_transpose(upright, in_place=True)
    except Exception as error:
        fault(error)  # damaged metadata are no reason to refuse an image; a lack of memory is
    return np.asarray(ImageOps.fit(upright, image_size[::-1], Image.Resampling.BICUBIC))


def decode_stored(raw: bytes, image: Images) -> None:
    """A JPEG of an image's own size into `image` (H, W, 3), C-contiguous; may raise anything."""
    if (library := simplejpeg()) is not None:
        with contextlib.suppress(ValueError):  # Pillow decides
            if library.decode_jpeg(raw, buffer=image).shape == image.shape:
                return
    with _opened(raw, ("JPEG",)) as stored:
        if (stored.height, stored.width, 3) != image.shape:
            raise ValueError(f"{stored.width} x {stored.height} pixels")
        image[...] = np.asarray(stored.convert("RGB"))


def fault(error: Exception) -> str:
    """Why an image could not be read, in a few words; a MemoryError is not its fault: raised."""
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


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I"):  # 16-bit greyscale, which convert() would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")
