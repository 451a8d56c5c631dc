"""JPEGs through simplejpeg and through Pillow: the same pixels, and the same files refused."""

from __future__ import annotations

import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import RED, encoded, plain, png16
from pyalexnet.data import decode
from pyalexnet.errors import DataError
from samples import generator


@pytest.fixture(params=[True, False], ids=["simplejpeg", "pillow"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With simplejpeg, if it is installed, and without."""
    if not request.param:
        monkeypatch.setattr(decode, "simplejpeg", lambda: None)


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes and some noise: every coefficient of a block is in use."""
    rows, columns = np.indices((height, width)) / 9.0
    waves = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=-1)
    noise = generator(width, height).standard_normal((height, width, 3))
    pixels = np.clip(127 + 90 * waves + 12 * noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


JPEGS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "4:2:0": ("RGB", {"subsampling": 2}),
    "progressive": ("RGB", {"progressive": True, "quality": 40}),
    "optimised": ("RGB", {"optimize": True, "quality": 98}),
    "RGB inside": ("RGB", {"keep_rgb": True}),
    "restart markers": ("RGB", {"restart_marker_rows": 1}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
}


def by_each(
    raw: bytes, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> list[np.ndarray | None]:
    """The image by simplejpeg and by Pillow alone; None if it is refused."""
    found: list[np.ndarray | None] = []
    for alone in (False, True):
        with monkeypatch.context() as patch:
            if alone:
                patch.setattr(decode, "simplejpeg", lambda: None)
            try:
                found.append(decode.decode(raw, size))
            except (OSError, ValueError, SyntaxError):
                found.append(None)
    return found


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize(("width", "height"), [(61, 47), (64, 64), (333, 500)])
@pytest.mark.parametrize("side", [16, 64, 100])
def test_the_same_bits_as_pillow(
    kind: str, width: int, height: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size and, if the result is still large enough, shrunk by the decoder."""
    library = pytest.importorskip("simplejpeg")
    mode, options = JPEGS[kind]
    raw = encoded(photograph(width, height, mode), "JPEG", **options)
    used: list[int] = []

    class Counting:
        @staticmethod
        def decode_jpeg(raw: bytes, **more: Any) -> Any:
            used.append(len(raw))
            return library.decode_jpeg(raw, **more)

    monkeypatch.setattr(decode, "simplejpeg", lambda: Counting)
    fast, slow = by_each(raw, (side, side), monkeypatch)
    assert fast is not None and slow is not None
    assert np.array_equal(fast, slow)
    assert len(used) == (mode != "CMYK")


def test_the_same_damage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    raw = encoded(photograph(96, 80), "JPEG")
    lengths = [len(raw) * part // 64 for part in range(1, 64)]
    refused = 0
    for length in [*lengths, *range(len(raw) - 4, len(raw))]:
        fast, slow = by_each(raw[:length], (32, 32), monkeypatch)
        assert (fast is None) == (slow is None), length
        refused += slow is None
        if fast is not None and slow is not None:
            assert np.array_equal(fast, slow)
    assert refused >= 60
    flips = generator(7).integers(0, 8 * len(raw), 200)
    for bit in flips.tolist():
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        fast, slow = by_each(bytes(flipped), (32, 32), monkeypatch)
        assert (fast is None) == (slow is None), bit
        if fast is not None and slow is not None:
            assert np.array_equal(fast, slow), bit


FILL = b"\xff\xff\xff"


def filled(raw: bytes, *markers: bytes) -> bytes:
    """A JPEG with fill bytes before the first of each of these markers (ITU-T T.81, B.1.1.2)."""
    for marker in markers:
        raw = raw.replace(b"\xff" + marker, FILL + b"\xff" + marker, 1)
    return raw


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(5000), b"\0motion\0", b"\xff\xd8\xff\0"])
def test_a_whole_jpeg_with_fill_bytes_and_a_tail(kind: str, tail: bytes) -> None:
    """Both are allowed, as is anything after the end marker: cameras put films there."""
    mode, options = JPEGS[kind]
    raw = encoded(photograph(61, 47, mode), "JPEG", **options)
    expected = decode.decode(raw, (32, 32))
    # tables, frame, scan, end
    for markers in ((b"\xdb",), (b"\xc4",), (b"\xda",), (b"\xd9",), (b"\xdb", b"\xc4", b"\xda")):
        whole = filled(raw, *markers) + tail
        assert len(whole) == len(raw) + len(tail) + len(FILL) * len(markers)
        assert np.array_equal(decode.decode(whole, (32, 32)), expected), markers


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_marker_is_truncated(kind: str) -> None:
    mode, options = JPEGS[kind]
    raw = encoded(photograph(61, 47, mode), "JPEG", **options)
    thumbnail = b"\xff\xe1\0\x0aExif\xff\xd9ab"  # its own end is not that of the image
    for whole in (raw, raw[:2] + thumbnail + raw[2:], filled(raw, b"\xda")):
        scan = whole.rindex(b"\xff\xda") + 20
        for stop in (len(whole) - 1, len(whole) - 2, len(whole) - 7, scan):
            with pytest.raises(ValueError, match=r"^truncated: it has no end marker$"):
                decode.decode(whole[:stop].rstrip(b"\0"), (32, 32))
            with pytest.raises(
                ValueError, match="no end marker, and the rest of the file is zeros"
            ):
                decode.decode(whole[:stop] + bytes(3000), (32, 32))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"text", r"^not an image \(JPEG, PNG, WEBP, GIF, BMP\)$"),
        (encoded(plain(), "TIFF"), r"\), but TIFF$"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", r"\), but HEIC$"),
        (b"\n <!doctype html><title>404</title>", r"\), but HTML or XML$"),
        (b"\x1f\x8b\x08\0", r"\), but gzip$"),
        (b"\xff\xd8\xff\xdb\0\x43", "a JPEG that Pillow refuses|Truncated File Read"),
        (
            b"\xff\xd8\xff\xc0\0\x08\x0c\0\x08\0\x08\x03",
            r"^a JPEG that Pillow refuses \(.*12-bit.*\)$",
        ),
        (encoded(plain(), "GIF")[:5] + b"b", r"^not an image"),
        (encoded(plain(), "BMP")[:20], "^a BMP that Pillow refuses|Truncated File Read"),
        (encoded(plain(), "PNG")[:12], r"PNG|[Tt]runcated"),
    ],
)
def test_why_a_file_is_no_image(content: bytes, why: str) -> None:
    """The decoder's own reason, or the file's actual format."""
    with pytest.raises((OSError, ValueError, SyntaxError)) as caught:
        decode.decode(content, (8, 8))
    assert re.search(why, decode.fault(caught.value)), decode.fault(caught.value)


def test_a_lack_of_memory_is_not_the_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither listed nor counted as a bad file."""

    def exhausted(*_: Any, **__: Any) -> Any:
        raise MemoryError

    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photograph(90, 60), "JPEG"))
    monkeypatch.setattr(Image.Image, "resize", exhausted)
    with pytest.raises(MemoryError):
        decode.read_image(path, 24)


@pytest.mark.usefixtures("either")
def test_a_stored_jpeg_is_decoded_in_place() -> None:
    raw = encoded(photograph(32, 32), "JPEG", quality=95, subsampling=0)
    batch = np.zeros((3, 32, 32, 3), np.uint8)
    decode.decode_stored(raw, batch[1])
    with Image.open(BytesIO(raw)) as image:
        assert np.array_equal(batch[1], np.asarray(image))
    assert not batch[0].any() and not batch[2].any()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("size", [(31, 32), (32, 31), (33, 32), (32, 33), (64, 16), (16, 16)])
def test_a_stored_jpeg_of_another_size_is_refused(size: tuple[int, int]) -> None:
    raw = encoded(photograph(*size), "JPEG")
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels"):
        decode.decode_stored(raw, np.zeros((32, 32, 3), np.uint8))


@pytest.mark.usefixtures("either")
def test_a_damaged_stored_jpeg_is_refused() -> None:
    raw = encoded(photograph(32, 32), "JPEG")
    with pytest.raises(OSError, match=r"(?i)truncated"):
        decode.decode_stored(raw[: len(raw) // 2], np.zeros((32, 32, 3), np.uint8))


@pytest.mark.usefixtures("either")
def test_read_image(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photograph(90, 60), "JPEG"))
    image = decode.read_image(path, 24)
    assert image.shape == (24, 24, 3) and image.dtype == np.uint8
    with Image.open(path) as whole:
        middle = whole.resize((24, 24), Image.Resampling.BICUBIC, (15, 0, 75, 60))
    assert np.array_equal(image, np.asarray(middle))
    assert np.array_equal(decode.read_image(str(path), 24), image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"text", r"not an image \(JPEG, PNG, WEBP, GIF, BMP\)"),
        (png16(0, [0], (9000, 8000)), "9000 x 8000 pixels, more than"),
        (None, "No such file"),
    ],
)
def test_read_image_refuses_in_a_sentence(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "odd \udce9.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        decode.read_image(path, 8)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/odd \\xe9.png: ")
    assert text.endswith("; an image was expected.")


def test_without_simplejpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # as if it were not installed
    decode.simplejpeg.cache_clear()
    try:
        assert decode.simplejpeg() is None
        assert np.abs(decode.decode(encoded(plain(), "JPEG"), (8, 8)).astype(int) - RED).max() <= 4
    finally:
        decode.simplejpeg.cache_clear()
