"""Response normalisation, pools, and the two in one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil as round_up
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .exact import Exact, Floats, Numbers, double, rounded, single
from .products import relu_dgrad

Index = tuple[slice | EllipsisType, ...]


def clipped(centre: int, size: int, low: int, high: int) -> slice:
    """The window of `size` that starts size // 2 before `centre`, cut to low .. high - 1."""
    start = centre - size // 2
    return slice(max(start, low), min(start + size, high))


def across_channels(x_shape: tuple[int, ...], size: int, groups: int) -> list[tuple[Index, Index]]:
    """LRN: each channel, and the channels of its own group that normalise it."""
    C = x_shape[-1]
    per_group = C // groups
    windows: list[tuple[Index, Index]] = []
    for i in range(C):
        first = i // per_group * per_group
        windows.append(((..., slice(i, i + 1)), (..., clipped(i, size, first, first + per_group))))
    return windows


def within_map(x_shape: tuple[int, ...], size: int) -> list[tuple[Index, Index]]:
    """Same-map norm: each pixel, and the pixels of the same map that normalise it."""
    _, H, W, _ = x_shape
    return [
        (
            (slice(None), slice(h, h + 1), slice(w, w + 1)),
            (slice(None), clipped(h, size, 0, H), clipped(w, size, 0, W)),
        )
        for h, w in product(range(H), range(W))
    ]


class Norm(NamedTuple):
    """Windows (pairs of indices), the axes they extend over, and the constants of the formula."""

    windows: list[tuple[Index, Index]]
    axes: tuple[int, ...]
    alpha: float
    beta: float
    k: float

    def denominator(self, x: Floats) -> Floats:
        """D_i = k + alpha times the sum of x_j^2 over i's window.

        The sum is taken before alpha makes it smaller: squares beyond the range make D infinite
        and D^-beta 0.
        """
        D = np.zeros_like(x)
        for centre, window in self.windows:
            squares = single((x[window] ** 2).sum(axis=self.axes, keepdims=True))
            D[centre] = single(self.k + self.alpha * squares)
        return D

    def fprop(self, x: Floats) -> Exact:
        """y_i = x_i D_i^-beta."""
        power = self.denominator(x) ** -self.beta
        return Exact(x * power, abs(x) * rounded(power))

    def dgrad(self, x: Floats, dy: Floats) -> Exact:
        """Each output y_i = x_i D_i^-beta sends its gradient to x_i and to all x_j in its D_i."""
        D = self.denominator(x)
        power = D**-self.beta
        dx = dy * power
        magnitude = abs(dy) * rounded(power)
        # dL/dD_i, times dD_i/dx_j = 2 alpha x_j for every j in i's window.
        dD_2alpha = -2 * self.alpha * self.beta * dy * x * D ** (-self.beta - 1)
        for centre, window in self.windows:
            dx[window] += dD_2alpha[centre] * x[window]
            magnitude[window] += rounded(dD_2alpha[centre]) * abs(x[window])
        return Exact(dx, magnitude)


def lrn_fprop(
    x: Numbers, *, size: int, alpha: float, beta: float, k: float, groups: int = 1
) -> Exact:
    """Paper section 3.3: across channels, with the window clipped at the group's edge."""
    x = double(x)
    return Norm(across_channels(x.shape, size, groups), (-1,), alpha, beta, k).fprop(x)


def lrn_dgrad(
    x: Numbers,
    dy: Numbers,
    *,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int = 1,
) -> Exact:
    """The gradient of lrn_fprop."""
    x, dy = double(x), double(dy)
    return Norm(across_channels(x.shape, size, groups), (-1,), alpha, beta, k).dgrad(x, dy)


def rnorm_fprop(x: Numbers, *, size: int, alpha: float, beta: float, k: float) -> Exact:
    """cuda-convnet's same-map norm: size x size pixels of one map, clipped at the border."""
    x = double(x)
    return Norm(within_map(x.shape, size), (1, 2), alpha, beta, k).fprop(x)


def rnorm_dgrad(
    x: Numbers, dy: Numbers, *, size: int, alpha: float, beta: float, k: float
) -> Exact:
    """The gradient of rnorm_fprop."""
    x, dy = double(x), double(dy)
    return Norm(within_map(x.shape, size), (1, 2), alpha, beta, k).dgrad(x, dy)


def pool_starts(length: int, size: int, stride: int, ceil: bool) -> list[int]:
    """First pixel of each window along one axis; with ceil, those that start inside the image."""
    if not ceil:
        return list(range(0, length - size + 1, stride))
    windows = round_up((length - size) / stride) + 1
    return [i * stride for i in range(windows) if i * stride < length]


def pool_windows(
    x_shape: tuple[int, ...], size: int, stride: int, ceil: bool
) -> Iterator[tuple[int, int, slice, slice]]:
    """(p, q, rows, columns) of every window; slices end at the image's border."""
    _, H, W, _ = x_shape
    rows, columns = pool_starts(H, size, stride, ceil), pool_starts(W, size, stride, ceil)
    for (p, top), (q, left) in product(enumerate(rows), enumerate(columns)):
        yield p, q, slice(top, min(top + size, H)), slice(left, min(left + size, W))


def pool_out_shape(
    x_shape: tuple[int, ...], size: int, stride: int, ceil: bool
) -> tuple[int, int, int, int]:
    """(N, P, Q, C)."""
    N, H, W, C = x_shape
    P, Q = (len(pool_starts(length, size, stride, ceil)) for length in (H, W))
    return N, P, Q, C


def maxpool_fprop(
    x: Numbers, *, size: int, stride: int, ceil: bool = True
) -> tuple[Floats, NDArray[np.int64]]:
    """The largest of each window, and its place r size + s: on ties, the first in row-major order.

    A NaN counts as larger than any number, and the first NaN as the largest of all.
    """
    x = double(x)
    shape = pool_out_shape(x.shape, size, stride, ceil)
    y, where = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for p, q, rows, columns in pool_windows(x.shape, size, stride, ceil):
        seen = x[:, rows, columns]
        N, _, width, C = seen.shape
        first = seen.reshape(N, -1, C).argmax(axis=1)
        y[:, p, q] = np.take_along_axis(seen.reshape(N, -1, C), first[:, None], axis=1)[:, 0]
        where[:, p, q] = first // width * size + first % width
    return y, where


def chosen(x: Floats, where: NDArray[np.integer], *, size: int, stride: int) -> Floats:
    """The elements of maps (N, H, W, C) at a pool's places."""
    n, p, q, c = np.indices(where.shape)
    r, s = np.divmod(where.astype(int), size)
    named: Floats = x[n, p * stride + r, q * stride + s, c]
    return named


def maxpool_dgrad(
    dy: Numbers,
    where: NDArray[np.integer],
    *,
    x_shape: tuple[int, ...],
    size: int,
    stride: int,
    ceil: bool = True,
) -> Exact:
    """Each window gives its dy to the pixel it chose; overlapping windows add up."""
    dy = double(dy)
    dx, magnitude = np.zeros(x_shape), np.zeros(x_shape)
    n, c = np.ix_(range(x_shape[0]), range(x_shape[3]))
    for p, q, rows, columns in pool_windows(x_shape, size, stride, ceil):
        r, s = np.divmod(where[:, p, q].astype(int), size)
        dx[n, rows.start + r, columns.start + s, c] += dy[:, p, q]
        magnitude[n, rows.start + r, columns.start + s, c] += abs(dy[:, p, q])
    return Exact(dx, magnitude)


def avgpool_fprop(x: Numbers, *, size: int, stride: int, ceil: bool = True) -> Exact:
    """The mean of the pixels of each window that lie inside the image (cuda-convnet's rule).

    The sum is taken first, and is infinite if it leaves the range.
    """
    x = double(x)
    shape = pool_out_shape(x.shape, size, stride, ceil)
    y, magnitude = np.zeros(shape), np.zeros(shape)
    for p, q, rows, columns in pool_windows(x.shape, size, stride, ceil):
        seen = x[:, rows, columns]
        pixels = seen.shape[1] * seen.shape[2]
        y[:, p, q] = single(seen.sum(axis=(1, 2))) / pixels
        magnitude[:, p, q] = abs(seen).sum(axis=(1, 2)) / pixels
    return Exact(y, magnitude)


def avgpool_dgrad(
    dy: Numbers, *, x_shape: tuple[int, ...], size: int, stride: int, ceil: bool = True
) -> Exact:
    """Each window shares its dy equally among the pixels that it averaged."""
    dy = double(dy)
    dx, magnitude = np.zeros(x_shape), np.zeros(x_shape)
    for p, q, rows, columns in pool_windows(x_shape, size, stride, ceil):
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        dx[:, rows, columns] += dy[:, p, q][:, None, None] / pixels
        magnitude[:, rows, columns] += abs(dy[:, p, q])[:, None, None] / pixels
    return Exact(dx, magnitude)


def lrn_maxpool_fprop(
    x: Numbers,
    *,
    pool_size: int,
    pool_stride: int,
    ceil: bool = True,
    relu: bool = False,
    **norm: Any,
) -> tuple[Exact, NDArray[np.int64]]:
    """The largest normalised value of each window, with ReLU if requested, and its place.

    Two values closer than their rounding may change places: the larger is accurate within its own
    tolerance, so the maximum's magnitude is that of the value itself.
    """
    normalised = lrn_fprop(x, **norm)
    y, where = maxpool_fprop(normalised.value, size=pool_size, stride=pool_stride, ceil=ceil)
    magnitude = chosen(normalised.magnitude, where, size=pool_size, stride=pool_stride)
    return Exact(np.maximum(y, 0) if relu else y, magnitude), where


def lrn_maxpool_dgrad(
    x: Numbers,
    dy: Numbers,
    where: NDArray[np.integer],
    *,
    pool_size: int,
    pool_stride: int,
    ceil: bool = True,
    y: Numbers | None = None,
    gated: bool = False,
    **norm: Any,
) -> Exact:
    """Back through a ReLU after the pool, the pool, the norm, and a ReLU before the norm."""
    passed = double(dy) if y is None else relu_dgrad(y, dy)
    pool: dict[str, Any] = {"size": pool_size, "stride": pool_stride, "ceil": ceil}
    spread = maxpool_dgrad(passed, where, x_shape=x.shape, **pool)
    value = lrn_dgrad(x, spread.value, **norm).value
    magnitude = lrn_dgrad(x, spread.magnitude, **norm).magnitude
    if not gated:
        return Exact(value, magnitude)
    return Exact(relu_dgrad(x, value), relu_dgrad(x, magnitude))
