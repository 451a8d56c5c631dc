"""What a network really sees: stored images, their crops, and the changes to these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyalexnet.data.views import Views
from pyalexnet.show.page import MARGIN, SMALL, SOFT, WIDTH, cells, rgb
from pyalexnet.show.tiles import Array, Pixels, fitted

_ACROSS = 3
_BETWEEN = 36, 8
_ARROW = 30
_LINES = 76
_LINE = 26
_SIDE = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * _BETWEEN[0] - _ACROSS * _ARROW) // (2 * _ACROSS)

_OUTLINE = "#f28c28"


def batch(
    stored: Pixels,
    seen: Array,
    looks: Views,
    path: Path,
    *,
    captions: Sequence[str] | None = None,
    title: str,
    note: str = "stored images with the crop outlined, and what the network sees of them",
) -> None:
    """Draw stored images with the crop outlined, each beside the input, into the PNG `path`.

    stored: (n, Hs, Ws, C) uint8. seen: (n, H, W, C) in grey levels, the mean added back; values
    outside 0 to 255 are clipped. looks: the views that lead from stored to seen, described below
    each pair. captions: n names, for instance of classes. note: common to all.
    """
    wide = 2 * _SIDE + _ARROW
    tall = _SIDE + _LINES + (_LINE if captions else 0)
    page, places = cells(len(stored), _ACROSS, (wide, tall), _BETWEEN, title=title, note=note)
    size = seen.shape[1:3]
    for number, (left, top) in enumerate(places):
        corner, shift = looks.corners[number].tolist(), looks.shifts[number].tolist()
        page.show(outlined(stored[number], corner, size, _SIDE), _SIDE, left, top)
        page.text("→", left + _SIDE + _ARROW / 2, top + _SIDE / 2 + 6, colour=SOFT, align="center")
        page.show(levels(seen[number]), _SIDE, left + _SIDE + _ARROW, top)
        baseline = top + _SIDE + _LINE
        if captions:
            page.text(captions[number], left, baseline, size=SMALL, bold=True, room=wide)
            baseline += _LINE
        whole = tuple(stored.shape[1:3]) == tuple(size)
        place = "whole" if whole else f"from row {corner[0]}, column {corner[1]}"
        place += ", mirrored" if looks.flips[number] else ""
        page.text(place, left, baseline, size=SMALL, colour=SOFT, room=wide)
        page.text(_colour(shift), left, baseline + 25, size=SMALL, colour=SOFT, room=wide)
    page.write(path)


def levels(image: Array) -> Pixels:
    """Floats as grey levels, rounded and clipped; NaN is black."""
    return np.nan_to_num(image, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def outlined(image: Pixels, corner: Sequence[int], size: tuple[int, ...], side: int) -> Pixels:
    """A stored image fitted to `side` pixels: the crop of `size` in a frame, the rest pale.

    corner: top and left pixel of the crop.
    """
    large = fitted(image, side)
    scale = np.array(large.shape[:2]) / image.shape[:2]
    start = np.rint(scale * corner).astype(int)
    end = np.rint(scale * (np.array(corner) + size)).astype(int)
    pale = (255 - (255 - large.astype(np.uint16)) * 2 // 5).astype(np.uint8)
    inside = (slice(start[0], end[0]), slice(start[1], end[1]))
    pale[inside] = rgb(_OUTLINE)
    frame = 3
    inner = tuple(slice(part.start + frame, part.stop - frame) for part in inside)
    pale[inner] = large[inner]
    return pale


def _colour(shift: Sequence[float]) -> str:
    """The shift of each channel, in words."""
    if not any(shift):
        return "colours as stored"
    names = ("red", "green", "blue") if len(shift) == 3 else ("grey",) * len(shift)
    return ", ".join(
        f"{name} {value:+.1f}".replace("-", "\N{MINUS SIGN}")
        for name, value in zip(names, shift, strict=True)
    )
