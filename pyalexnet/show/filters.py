"""A convolution's filters as tiles, the first layer's as in figure 3 of the paper."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.show.page import BODY, HEADER, LINE, MARGIN, NARROWEST, SOFT, WIDTH, Page
from pyalexnet.show.tiles import Array, Pixels, about_zero, enlarged, grid

_GAP = 6
_BETWEEN_TOWERS = 36
_LARGEST = 132
_TOWER_NAME = 40  # pixels that a tower's name takes above its filters


def filters(
    weights: Array,
    path: Path,
    *,
    title: str,
    towers: int = 1,
    own_scale: bool = True,
    grey: bool = False,
) -> None:
    """Draw filters (K, R, S, C) as tiles into the PNG `path`.

    weights: three channels are shown as colours, any other number as the grey of their mean.
    towers: parts of the filters on separate devices, drawn one above the other; figure 3 has two.
    own_scale: whether each filter has its own scale, or all the same; middle grey is a weight of 0.
    grey: show colours as greys too.
    """
    count = len(weights)
    if towers < 1 or count % towers:
        raise ArgumentError(f"filters: towers is {towers}; a divisor of {count} was expected.")
    if grey:
        weights = weights.mean(axis=3, keepdims=True)
    parts = sheets(weights, towers=towers, own_scale=own_scale)
    height, width, _ = parts[0].shape
    name = _TOWER_NAME if towers > 1 else 0
    wide = max(NARROWEST, width + 2 * MARGIN)
    high = HEADER + towers * (name + height) + (towers - 1) * _BETWEEN_TOWERS + MARGIN
    page = Page(wide, high, title=title, note=_note(weights.shape[3], own_scale))
    top = HEADER
    for number, part in enumerate(parts):
        if name:
            first, last = number * count // towers + 1, (number + 1) * count // towers
            page.text(f"tower {number + 1}", MARGIN, top + LINE - 8, bold=True)
            right = MARGIN + page.extent(f"tower {number + 1}", BODY, bold=True)
            page.text(f"filters {first} to {last}", right + 16, top + LINE - 8, colour=SOFT)
        page.paste(part, MARGIN, top + name)
        top += name + height + _BETWEEN_TOWERS
    page.write(path)


def sheets(weights: Array, *, towers: int = 1, own_scale: bool = True) -> list[Pixels]:
    """Filters (K, R, S, C) as a picture for each tower, row by row, all of one size.

    Each pixel of a filter is a square, and each filter has a thin frame of middle grey.
    """
    count = len(weights) // towers
    columns = _columns(count, weights.shape[1] / weights.shape[2], towers)
    room = (WIDTH - 2 * MARGIN - (columns - 1) * _GAP) // columns
    tiles = enlarged(about_zero(weights, own_scale=own_scale), min(room, _LARGEST))
    return [grid(part, columns, _GAP) for part in np.split(tiles, towers)]


def _note(channels: int, own_scale: bool) -> str:
    scale = "each filter on its own scale" if own_scale else "all filters on one scale"
    mean = "" if channels in (1, 3) else f"; the mean of {channels} channels"
    return f"{scale}, middle grey is a weight of 0{mean}"


def _columns(count: int, aspect: float, towers: int) -> int:
    """Tiles in a row: a divisor of `count` if one makes the whole 1 to 3 times as wide as high.

    count: of a tower. aspect: height of a tile over its width.
    """
    good = [n for n in range(1, count + 1) if 1 <= n * n / (count * towers * aspect) <= 3]
    whole = [n for n in good if count % n == 0]
    return max(whole or good or [math.isqrt(count - 1) + 1])
