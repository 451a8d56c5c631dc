"""Squares of pixels as pixels of many channels, and filters to match: moves, no arithmetic."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores
from pyalexnet.backends.cpu.widening import narrow
from pyalexnet.backends.geometry import BlockGeometry

Numbers: TypeAlias = npt.NDArray[Any]


def to_blocks(cores: Cores, crops: Numbers, y: Numbers, g: BlockGeometry) -> None:
    """y (n, rows, columns, block^2 C) = crops (n, H, W, C) in blocks, with zeros around them."""
    images, height, width, channels = crops.shape
    rows, columns = y.shape[1] * g.block, y.shape[2] * g.block
    padded = cores.scratch("padded", (images, rows, columns, channels))
    padded.fill(0)
    padded[:, g.pad_top : g.pad_top + height, g.pad_left : g.pad_left + width] = crops
    narrow(_in_blocks(padded, g.block), _squares(y, g.block))


def filters_to_blocks(w: Numbers, deep: Numbers, block: int) -> None:
    """deep (K, rows, columns, block^2 C) = w (K, R, S, C) in blocks, zeros behind it."""
    k, height, width, channels = w.shape
    padded = np.zeros((k, deep.shape[1] * block, deep.shape[2] * block, channels), w.dtype)
    padded[:, :height, :width] = w
    np.copyto(_squares(deep, block), _in_blocks(padded, block))


def filters_from_blocks(ddeep: Numbers, dw: Numbers, block: int) -> None:
    """dw (K, R, S, C) = what ddeep (K, rows, columns, block^2 C) has in its place."""
    k, rows, columns, _ = ddeep.shape
    flat = _squares(ddeep, block).swapaxes(2, 3).reshape(k, rows * block, columns * block, -1)
    np.copyto(dw, flat[:, : dw.shape[1], : dw.shape[2]])


def _squares(y: Numbers, block: int) -> Numbers:
    """A view (n, rows, columns, block, block, C) of (n, rows, columns, block^2 C)."""
    return y.reshape(*y.shape[:3], block, block, -1)


def _in_blocks(x: Numbers, block: int) -> Numbers:
    """The same view of (n, rows block, columns block, C)."""
    n, rows, columns, channels = x.shape
    split = x.reshape(n, rows // block, block, columns // block, block, channels)
    return split.swapaxes(2, 3)
