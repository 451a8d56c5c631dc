"""A network's maps for an image, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyalexnet.show.page import MARGIN, SOFT, WIDTH, cells
from pyalexnet.show.tiles import Array, Pixels, about_zero, centred, fitted, framed, from_zero, grid

_ACROSS = 3
_BETWEEN = 40
_PANEL = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * _BETWEEN) // _ACROSS
_HEADING = 72
_GAP = 4
_MOST = 64


def maps(
    image: Pixels, layers: Mapping[str, Array], path: Path, *, title: str, own_scale: bool = True
) -> None:
    """Draw an image and the maps of some layers as tiles into the PNG `path`.

    image: (H, W, C) uint8. layers: maps (P, Q, K) by the layer's name, in order; the first 64 are
    drawn. own_scale: whether each map has its own scale, or all of a layer the same. Black is 0, or
    middle grey if a layer has values below 0.
    """
    height, width, channels = image.shape
    pictures = [("input", f"{height} x {width} x {channels}", fitted(image, _PANEL))]
    pictures += [
        (name, _about(values), tiled(values[..., :_MOST], _PANEL, own_scale=own_scale))
        for name, values in layers.items()
    ]
    note = "each map on its own scale" if own_scale else "a layer's maps on one scale"
    size, gaps = (_PANEL, _HEADING + _PANEL), (_BETWEEN, _BETWEEN)
    page, places = cells(len(pictures), _ACROSS, size, gaps, title=title, note=note)
    for (name, about, picture), (left, top) in zip(pictures, places, strict=True):
        page.text(name, left, top + 24, bold=True, room=_PANEL)
        page.text(about, left, top + 54, colour=SOFT, room=_PANEL)
        page.paste(picture, left, top + _HEADING)
    page.write(path)


def tiled(values: Array, side: int, *, own_scale: bool = True) -> Pixels:
    """Maps (P, Q, K) as tiles in rows, at most `side` pixels each way."""
    numbers = values.transpose(2, 0, 1)[..., None]
    signed = bool((numbers < 0).any())
    shades = (about_zero if signed else from_zero)(numbers, own_scale=own_scale)
    columns = math.isqrt(len(shades) - 1) + 1
    room = (side - (columns - 1) * _GAP) // columns
    tiles = np.array([centred(fitted(shade, room - 2), room - 2) for shade in shades])
    return grid(framed(tiles), columns, _GAP)


def _about(values: Array) -> str:
    height, width, count = values.shape
    shown = f", the first {_MOST}" if count > _MOST else ""
    zero = "middle grey is 0" if bool((values[..., :_MOST] < 0).any()) else "black is 0"
    return f"{height} x {width} x {count}{shown}; {zero}"
