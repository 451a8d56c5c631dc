"""Crops of stored images, mirrored or not, minus their mean: by slices, a run of images a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores

Floats: TypeAlias = npt.NDArray[np.float32]
Pixels: TypeAlias = npt.NDArray[Any]  # uint8, or the means of such


class Place(NamedTuple):
    """Where an image is cut."""

    top: int
    left: int
    flipped: bool


def centre(mean: Floats, size: tuple[int, int]) -> Floats:
    """The middle (H, W, C) of (Hs, Ws, C), in one piece: a view takes half as long again."""
    top, left = ((stored - cut) // 2 for stored, cut in zip(mean.shape, size, strict=False))
    return np.ascontiguousarray(mean[top : top + size[0], left : left + size[1]])


def subtract_mean(
    cores: Cores,
    x: Pixels,
    means: Floats,
    corners: Pixels,
    flips: Pixels,
    y: Floats,
    *,
    mean_at_pixel: bool,
) -> None:
    """y = crops of x, less `means`: of the crop (H, W, C), or of the image, to be cut like it."""
    for place, images in _alike(corners, flips):
        pixels = _cut(cores, "pixels", x[images], place, y)
        less = _cut(cores, "means", means[np.newaxis], place, y) if mean_at_pixel else means
        np.subtract(pixels, less, out=y[images])


def shift_and_scale(y: Floats, shifts: Floats, scale: float) -> None:
    """y = (y + shift of the image and channel) * scale; adding 0 would change no bit."""
    images, height, width, channels = y.shape
    if shifts.any():
        rows = y.reshape(images, height, width * channels)
        rows += np.tile(shifts, width)[:, np.newaxis]
    if scale != 1:
        y *= np.float32(scale)


def _alike(corners: Pixels, flips: Pixels) -> Iterator[tuple[Place, slice]]:
    """Runs of neighbours that are cut at one place: in one go they cost no more than one array."""
    other = (corners[1:] != corners[:-1]).any(axis=1) | (flips[1:] != flips[:-1])
    firsts = [0, *(np.flatnonzero(other) + 1).tolist()]
    for first, end in zip(firsts, [*firsts[1:], len(flips)], strict=True):
        top, left = corners[first].tolist()
        yield Place(top, left, bool(flips[first])), slice(first, end)


def _cut(cores: Cores, name: str, images: Pixels, place: Place, y: Floats) -> Pixels:
    """The images' part, of y's height and width, at a place: a view, or mirrored a copy."""
    height, width = y.shape[1:3]
    rows = slice(place.top, place.top + height)
    part = images[:, rows, place.left : place.left + width]
    return _mirrored(cores, name, part) if place.flipped else part


def _mirrored(cores: Cores, name: str, images: Pixels) -> Pixels:
    """Images (n, H, W, C) with their columns turned round.

    A channel at a time: NumPy's innermost loops are then over a row, and not over a pixel.
    """
    turned: Pixels = cores.scratch(name, images.shape, images.dtype)
    for channel in range(images.shape[-1]):
        turned[..., channel] = images[:, :, ::-1, channel]
    return turned
