"""Images and numbers as tiles, and tiles in rows: NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]  # a picture (height, width, 3)

_SQUARES_FROM = 4  # pixels enlarged at least so many times are drawn as squares


def coloured(images: Array) -> Pixels:
    """Images (..., H, W, C) uint8 as (..., H, W, 3); if C is not 3, the mean of the channels."""
    if images.shape[-1] == 3:
        return images.astype(np.uint8, copy=False)
    grey = images.mean(axis=-1, keepdims=True).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)


def fitted(image: Array, side: int) -> Pixels:
    """An image (H, W, C) uint8 as large as fits a square of `side` pixels, its aspect kept."""
    from PIL import Image

    colours = coloured(image)
    height, width = colours.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    squares = scale >= _SQUARES_FROM
    method = Image.Resampling.NEAREST if squares else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).resize(size, method))


def centred(image: Pixels, side: int) -> Pixels:
    """An image in the middle of a white square of `side` pixels."""
    margins = [(left // 2, left - left // 2) for left in (side - own for own in image.shape[:2])]
    return np.pad(image, (*margins, (0, 0)), constant_values=255)


def enlarged(tiles: Pixels, largest: int) -> Pixels:
    """Tiles (n, h, w, 3), each pixel a square, framed, at most `largest` on a side if possible."""
    scale = max(1, (largest - 2) // max(tiles.shape[1:3]))
    return framed(tiles.repeat(scale, axis=1).repeat(scale, axis=2))


def framed(tiles: Pixels) -> Pixels:
    """Tiles (n, h, w, 3) in frames of middle grey, one pixel thick."""
    return np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)


def grid(tiles: Pixels | Sequence[Pixels], columns: int, gap: int) -> Pixels:
    """Tiles (n, h, w, 3) as one picture, row by row, `gap` white pixels between them."""
    tiles = np.asarray(tiles)
    count, height, width, _ = tiles.shape
    rows = math.ceil(count / columns)
    spaced = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    blank = np.full((rows * columns - count, *spaced.shape[1:]), 255, np.uint8)
    cells = np.concatenate([spaced, blank]).reshape(rows, columns, *spaced.shape[1:])
    whole = cells.swapaxes(1, 2).reshape(rows * (height + gap), columns * (width + gap), 3)
    return whole[:-gap, :-gap] if gap else whole


def about_zero(values: Array, *, own_scale: bool) -> Pixels:
    """Numbers (n, H, W, C) as colours: middle grey is 0, black and white the largest magnitude.

    own_scale: whether the largest is taken per item or over all. Three channels are red, green and
    blue; any other number is shown as its mean.
    """
    values = _finite(values)
    if values.shape[-1] != 3:
        values = np.repeat(values.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.rint(127.5 + 127.5 * values / _largest(values, own_scale)).astype(np.uint8)


def from_zero(values: Array, *, own_scale: bool) -> Pixels:
    """Numbers (n, H, W, 1), none below 0, as greys: black is 0, white the largest."""
    values = np.repeat(_finite(values), 3, axis=-1)
    return np.rint(255 * values / _largest(values, own_scale)).astype(np.uint8)


def _finite(values: Array) -> npt.NDArray[np.float64]:
    """The values in float64, with 0 for those that are not finite and have no colour."""
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _largest(values: npt.NDArray[np.float64], own_scale: bool) -> npt.NDArray[np.float64]:
    """The largest magnitudes, to divide `values` by (they broadcast); 1 where all are 0."""
    axes = tuple(range(1 if own_scale else 0, values.ndim))
    largest = np.abs(values).max(axis=axes, keepdims=True)
    return np.where(largest > 0, largest, 1.0)
