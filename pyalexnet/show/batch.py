"""What a network really sees: stored images, their crops, and the changes to these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyalexnet.show.page import HEADER, MARGIN, NARROWEST, SMALL, SOFT, WIDTH, Page, Pixels, rgb
from pyalexnet.show.tiles import Array, centred, fitted

_ACROSS = 3
_BETWEEN = 36
_ARROW = 30
_LINES = 84
_SIDE = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * _BETWEEN - _ACROSS * _ARROW) // (2 * _ACROSS)

_OUTLINE = "#f28c28"


class Look(NamedTuple):
    """How one stored image is seen: rows and columns cut off above and left of the crop, whether
    it is mirrored, and what is added to each channel, in grey levels."""

    top: int
    left: int
    mirrored: bool
    shift: Sequence[float]


def batch(
    stored: Pixels,
    seen: Array,
    looks: Sequence[Look],
    path: Path,
    *,
    captions: Sequence[str] | None = None,
    title: str,
    note: str = "stored images with the crop outlined, and what the network sees of them",
) -> None:
    """Draw stored images with the crop outlined, each beside the input, into the PNG `path`.

    Args:
        stored: (n, Hs, Ws, C) uint8.
        seen: (n, H, W, C) in grey levels, the mean added back; values outside 0 to 255 are clipped.
        looks: n; described below each pair.
        captions: n names, for instance of classes.
        note: text common to all.
    """
    count = len(stored)
    across = min(_ACROSS, count)
    wide = 2 * _SIDE + _ARROW
    tall = _SIDE + _LINES + (26 if captions else 0)
    page = Page(
        max(NARROWEST, 2 * MARGIN + across * (wide + _BETWEEN) - _BETWEEN),
        HEADER + -(-count // across) * tall - 8 + MARGIN,
        title=title,
        note=note,
    )
    size = seen.shape[1:3]
    for number, look in enumerate(looks):
        row, column = divmod(number, across)
        left, top = MARGIN + column * (wide + _BETWEEN), HEADER + row * tall
        page.paste(centred(outlined(stored[number], look, size, _SIDE), _SIDE), left, top)
        page.text("→", left + _SIDE + _ARROW / 2, top + _SIDE / 2 + 6, colour=SOFT, align="center")
        page.paste(centred(fitted(levels(seen[number]), _SIDE), _SIDE), left + _SIDE + _ARROW, top)
        baseline = top + _SIDE + 26
        if captions:
            page.text(captions[number], left, baseline, size=SMALL, bold=True, room=wide)
            baseline += 26
        whole = tuple(stored.shape[1:3]) == tuple(size)
        page.text(_place(look, whole), left, baseline, size=SMALL, colour=SOFT, room=wide)
        page.text(_colour(look), left, baseline + 25, size=SMALL, colour=SOFT, room=wide)
    page.write(path)


def levels(image: Array) -> Pixels:
    """Floats as grey levels, rounded and clipped; NaN is black."""
    return np.nan_to_num(image, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def outlined(image: Pixels, look: Look, size: tuple[int, ...], side: int) -> Pixels:
    """A stored image on a square of `side` pixels: the crop of `size` in a frame, the rest pale."""
    large = fitted(image, side)
    scale = np.array(large.shape[:2]) / image.shape[:2]
    start = np.rint(scale * (look.top, look.left)).astype(int)
    end = np.rint(scale * (look.top + size[0], look.left + size[1])).astype(int)
    pale = (255 - (255 - large.astype(np.uint16)) * 2 // 5).astype(np.uint8)
    inside = (slice(start[0], end[0]), slice(start[1], end[1]))
    pale[inside] = rgb(_OUTLINE)
    frame = 3
    inner = tuple(slice(part.start + frame, part.stop - frame) for part in inside)
    pale[inner] = large[inner]
    return pale


def _place(look: Look, whole: bool) -> str:
    where = "whole" if whole else f"from row {look.top}, column {look.left}"
    return f"{where}, mirrored" if look.mirrored else where


def _colour(look: Look) -> str:
    """The shift of each channel, in words."""
    if not any(look.shift):
        return "colours as stored"
    names = ("red", "green", "blue") if len(look.shift) == 3 else ("grey",) * len(look.shift)
    return ", ".join(
        f"{name} {_signed(value)}" for name, value in zip(names, look.shift, strict=True)
    )


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
