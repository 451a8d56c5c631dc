"""Image files of every kind to test on, good and damaged."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (10, 12)) -> Image.Image:
    return Image.new("RGB", size, colour)


def write_class(root: Path, name: str, count: int, colour: tuple[int, int, int] = RED) -> Path:
    """A class of `count` plain images that differ in green, so that each can be told apart."""
    path = root / name
    path.mkdir(parents=True)
    for number in range(count):
        shade = (colour[0], number % 256, colour[2])
        (path / f"{number:04}.png").write_bytes(encoded(plain(shade)))
    return path


def png16(colour_type: int, samples: list[int], size: tuple[int, int] = (9, 9)) -> bytes:
    """A PNG of one colour, 16 bits a sample, which Pillow cannot write; always 9 x 9 of data."""
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples) * 9

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">2I5B", *size, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * 9))
        + chunk(b"IEND", b"")
    )


def damaged_files(path: Path) -> dict[str, str]:
    """Write a file of each unreadable kind; return a map from name to part of the reason."""
    jpeg = encoded(Image.effect_noise((64, 64), 90), "JPEG")
    png = encoded(Image.effect_noise((64, 64), 90))
    contents = {
        "empty.jpg": (b"", "an empty file"),
        "text.jpg": (b"not an image at all", "not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "Truncated"),
        "zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2), "is zeros"),
        "zeros.png": (png[: len(png) // 2] + bytes(len(png) // 2), "broken PNG"),
        "flipped.png": (png[:999] + bytes([png[999] ^ 1]) + png[1000:], "broken PNG"),
        "tiff.png": (encoded(plain(), "TIFF"), "not an image"),
        "huge.png": (png16(0, [0], (9000, 8000)), "9000 x 8000 pixels, more than"),
        "bomb.png": (png16(0, [0], (10_000, 10_000)), "decompression bomb"),
        "pickle.jpg": (b"\x80\x04N.", "not an image"),
    }
    for name, (content, _) in contents.items():
        (path / name).write_bytes(content)
    (path / "link.png").symlink_to("nowhere")
    os.mkfifo(path / "pipe.png")
    (path / "folder.png").mkdir()
    special = {
        "link.png": "No such file",
        "pipe.png": "not a regular file",
        "folder.png": "not a regular file",
    }
    return {name: reason for name, (_, reason) in contents.items()} | special
