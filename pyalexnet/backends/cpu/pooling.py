"""Pooling, by passes over all windows at once: down the columns first, in long runs of memory."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores
from pyalexnet.backends.cpu.elementwise import select
from pyalexnet.backends.geometry import PoolGeometry

Floats: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[Any]  # r * size + s, of type geometry.where_dtype


class Tap(NamedTuple):
    """One position within every window of an axis."""

    outputs: slice  # the windows that have it: the border clips the last ones
    inputs: slice  # what they find there


class Taps(NamedTuple):
    """The positions within a window, and the windows' geometry."""

    rows: list[Tap]
    columns: list[Tap]
    size: int
    stride: int

    @classmethod
    def of(cls, x: Floats, y: Floats, geometry: PoolGeometry) -> Taps:
        """For pooling x (N, H, W, C) to y (N, P, Q, C)."""
        size, stride, _ = geometry
        rows = _taps(x.shape[1], y.shape[1], size, stride)
        return cls(rows, _taps(x.shape[2], y.shape[2], size, stride), size, stride)

    def pixels(self, y: Floats) -> Floats:
        """Number of pixels of each window inside the image, (P, Q, C)."""
        pixels = np.zeros(y.shape[1:], np.float32)
        for p, _ in self.rows:
            for q, _ in self.columns:
                pixels[p, q] += 1
        return pixels


def maxpool(cores: Cores, x: Floats, y: Floats, where: Codes, taps: Taps) -> None:
    """Write the maxima of x's windows to y, and the codes of the first ones to `where`."""
    maxima, codes = _column_maxima(cores, x, where.dtype, y.shape[1], taps)
    np.copyto(y, maxima[:, :, taps.columns[0].inputs])
    for q, w in taps.columns[1:]:
        np.maximum(y[:, :, q], maxima[:, :, w], out=y[:, :, q])
    # The first maximum in row-major order has the least code of the columns that hold one; the
    # others count with all bits set.
    where.fill(np.iinfo(where.dtype).max)
    missed = cores.scratch("missed", y.shape, np.bool_)
    none = cores.scratch("none", y.shape, where.dtype)
    code = cores.scratch("code", y.shape, where.dtype)
    for s, (q, w) in enumerate(taps.columns):
        np.not_equal(maxima[:, :, w], y[:, :, q], out=missed[:, :, q])
        np.negative(missed.view(np.uint8), out=none, dtype=where.dtype)
        np.add(codes[:, :, w], where.dtype.type(s), out=code[:, :, q])
        code |= none
        np.minimum(where[:, :, q], code[:, :, q], out=where[:, :, q])
    if np.isnan(y.max()):
        _mark_nans(x, where, taps)


def _column_maxima(cores: Cores, x: Floats, dtype: Any, p: int, taps: Taps) -> tuple[Floats, Codes]:
    """Maxima over the rows of each window, (n, P, W, C), and r * size of the first of them."""
    shape = (len(x), p, *x.shape[2:])
    maxima: Floats = cores.scratch("maxima", shape)
    np.copyto(maxima, x[:, taps.rows[0].inputs])
    for rows, h in taps.rows[1:]:
        np.maximum(maxima[:, rows], x[:, h], out=maxima[:, rows])
    # r counts the rows that pass before the maximum.
    before = cores.scratch("before", shape, np.bool_)
    before.fill(True)
    missed = cores.scratch("missed", shape, np.bool_)
    first: Codes = cores.scratch("first", shape, dtype)
    first.fill(0)
    for rows, h in taps.rows[:-1]:
        np.not_equal(x[:, h], maxima[:, rows], out=missed[:, rows])
        before[:, rows] &= missed[:, rows]
        first += before.view(np.uint8)
    first *= taps.size
    return maxima, first


def _mark_nans(x: Floats, where: Codes, taps: Taps) -> None:
    """Point every window that has a NaN to its first one, which equals nothing, not even itself."""
    for r, (p, h) in reversed(list(enumerate(taps.rows))):
        for s, (q, w) in reversed(list(enumerate(taps.columns))):
            where[:, p, q][np.isnan(x[:, h, w])] = r * taps.size + s


def maxpool_dgrad(cores: Cores, dy: Floats, where: Codes, dx: Floats, taps: Taps) -> None:
    """Write dx: dy at the pixels that `where` names, summed, and 0 elsewhere."""
    part = cores.scratch("part", dy.shape)
    chosen = cores.scratch("chosen", dy.shape, np.bool_)
    stride = taps.stride
    # Pixels a stride apart stand side by side while they are summed, in long runs of memory.
    for a, b in np.ndindex(min(stride, dx.shape[1]), min(stride, dx.shape[2])):
        pixels = dx[:, a::stride, b::stride]
        total = cores.scratch("total", pixels.shape)
        total.fill(0)
        for r in range(a, len(taps.rows), stride):
            p = taps.rows[r].outputs
            rows = slice(r // stride, r // stride + p.stop)
            for s in range(b, len(taps.columns), stride):
                q = taps.columns[s].outputs
                columns = slice(s // stride, s // stride + q.stop)
                select(np.equal(where, r * taps.size + s, out=chosen), dy, part)
                total[:, rows, columns] += part[:, p, q]
        np.copyto(pixels, total)


def avgpool(cores: Cores, x: Floats, y: Floats, taps: Taps, pixels: Floats) -> None:
    """Write the means of x's windows to y; `pixels` as `taps.pixels` gives them."""
    sums = cores.scratch("sums", (len(x), y.shape[1], *x.shape[2:]))
    np.copyto(sums, x[:, taps.rows[0].inputs])
    for p, h in taps.rows[1:]:
        sums[:, p] += x[:, h]
    np.copyto(y, sums[:, :, taps.columns[0].inputs])
    for q, w in taps.columns[1:]:
        y[:, :, q] += sums[:, :, w]
    y /= pixels


def avgpool_dgrad(cores: Cores, dy: Floats, dx: Floats, taps: Taps, pixels: Floats) -> None:
    """Write dx: each pixel's shares of the windows that hold it."""
    share = np.divide(dy, pixels, out=cores.scratch("share", dy.shape))
    sums = cores.scratch("sums", (len(dy), dy.shape[1], *dx.shape[2:]))
    sums.fill(0)
    for q, w in taps.columns:
        sums[:, :, w] += share[:, :, q]
    dx.fill(0)
    for p, h in taps.rows:
        dx[:, h] += sums[:, p]


def _taps(length: int, outputs: int, size: int, stride: int) -> list[Tap]:
    taps = []
    for position in range(min(size, length)):
        count = min(outputs, -(-(length - position) // stride))
        end = position + (count - 1) * stride + 1
        taps.append(Tap(slice(count), slice(position, end, stride)))
    return taps
