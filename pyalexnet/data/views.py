"""Which part of a stored image the network sees, mirrored or not, and in which colours.

Everything random is drawn from Philox: the run's seed is the key; the image, the epoch and the
operation form the counter. So neither the number of workers nor the point where a run was stopped
changes a byte. Draws are made on the host, in float64, and are the same for all backends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.data import philox
from pyalexnet.data.colour import Colour
from pyalexnet.data.dataset import Labels
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.recipe import Augment

Side: TypeAlias = tuple[int, int]  # (height, width) in pixels

# The counter word that distinguishes operations; dropout's layers are numbered from 0.
_CROP, _JITTER = 0x80000000, 0x80000001


@dataclass(frozen=True, eq=False)
class Views:
    """How `Backend.augment` makes inputs of N stored images of C channels."""

    corners: npt.NDArray[np.int32]  # (N, 2), top and left pixel of each crop
    flips: npt.NDArray[np.uint8]  # (N,), 1 where the crop is mirrored
    shifts: npt.NDArray[np.float32]  # (N, C), grey levels added after the mean is subtracted
    scale: float = 1.0  # the final factor


def centre(count: int, stored: Side, size: Side, channels: int) -> Views:
    """The centre of each of `count` stored images."""
    down, right = _room(stored, size)
    return _fixed(count, down // 2, right // 2, 0, channels)


def ten(count: int, stored: Side, size: Side, channels: int) -> tuple[Views, ...]:
    """The paper's ten patches (section 4.1), in the order of the original's `convdata_jpeg.py`."""
    down, right = _room(stored, size)
    places = ((0, 0), (0, right), (down // 2, right // 2), (down, 0), (down, right))
    return tuple(_fixed(count, *place, flip, channels) for flip in (0, 1) for place in places)


def training(
    augment: Augment,
    colour: Colour | None,
    *,
    seed: int,
    epoch: int,
    images: Labels,
    positions: Labels,
    stored: Side,
    size: Side,
    channels: int,
    progress: float,
) -> Views:
    """Views for a training batch.

    Args:
        colour: the principal axes for the jitter; None if the images do not have three channels.
        seed, epoch: the run's seed, and its epoch, from 0.
        images: (N,) indices in the training set.
        positions: (N,) places in the epoch's order, which is divided into chunks.
        stored, size, channels: of the stored images, of the network's input, and of both.
        progress: epochs done, fractions included.
    """
    room = _room(stored, size)
    whose = images if augment.chunk == 1 else positions // augment.chunk
    words = philox.draws(whose.astype(np.uint64), seed=seed, step=epoch, layer=_CROP)
    corners = (words[:, :2] * (np.array(room, np.uint64) + 1)) >> np.uint64(32)
    flips = words[:, 2] >> np.uint32(31) if augment.flip else np.zeros(len(images))
    jitter = augment.jitter_at(progress)
    return Views(
        corners.astype(np.int32),
        flips.astype(np.uint8),
        _shifts(jitter, colour, seed, epoch, images, channels),
        1 / (1 + jitter) if augment.jitter_shrinks else 1.0,
    )


def _shifts(
    jitter: float, colour: Colour | None, seed: int, epoch: int, images: Labels, channels: int
) -> npt.NDArray[np.float32]:
    """Shifts along each principal axis: its standard deviation times jitter times N(0, 1).

    The paper multiplies by the eigenvalue instead, the deviation's square, which on pixels of 0 to
    255 would be over a thousand grey levels; the program behind its results uses the deviation
    (`pca_stdevs` in `convdata_jpeg.py`).
    """
    if jitter == 0:
        return np.zeros((len(images), channels), np.float32)
    if colour is None:
        found = f"jitter is {jitter:g} and the images have {channels} channels"
        raise ArgumentError(f"augment: {found}; 3 were expected, or a jitter of 0.")
    words = philox.draws(images.astype(np.uint64), seed=seed, step=epoch, layer=_JITTER)
    along = jitter * colour.sigmas * _normals(words)[:, :3]
    return (along @ colour.vectors.T).astype(np.float32)


def _normals(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Four independent N(0, 1) from four words each, by the Box-Muller transform."""
    uniform = (words + 0.5) / 2**32  # above 0, so that the logarithm is finite
    radius = np.sqrt(-2 * np.log(uniform[:, :2]))
    angle = 2 * np.pi * uniform[:, 2:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def _fixed(count: int, top: int, left: int, flip: int, channels: int) -> Views:
    return Views(
        np.tile(np.array([top, left], np.int32), (count, 1)),
        np.full(count, flip, np.uint8),
        np.zeros((count, channels), np.float32),
    )


def _room(stored: Side, size: Side) -> Side:
    """By how many pixels an image is higher, and wider, than the input."""
    if size[0] > stored[0] or size[1] > stored[1]:
        found, least = (f"{height}x{width}" for height, width in (stored, size))
        wanted = f"at least the network's {least} was expected"
        raise ArgumentError(f"augment: images are stored as {found}; {wanted}.")
    return stored[0] - size[0], stored[1] - size[1]
