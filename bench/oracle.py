"""Every op of pyalexnet in float64 NumPy, written as on a blackboard: what tests and bench compare
with.

Nothing here is shared with the package. Where rounding matters an op returns `Exact`: the value,
and the magnitude, which is the same expression with every product of inputs replaced by its
absolute value. The error allowed in a float32 result is proportional to the magnitude
(tests/tolerance.py). Ops that only choose among their inputs (ReLU, max-pool, dropout, the gather)
return plain arrays, which results must equal exactly.

Values that an op has to hold in float32 have float32's range here: a sum of squares, the sum of a
mean, or a logit minus the largest one becomes infinite where float32 would round it to infinity
(`single`), and a value rounded below the smallest normal number is uncertain by an absolute amount
(`rounded`). Other intermediate values have no limits here, since an op may compute them in any
order: it is up to the op to find one that stays within the range. A result beyond the range is an
infinity (tests/tolerance.py).

Layouts: images and maps NHWC, filters KRSC (C per group), linear weights (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil as round_up
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.floating] | NDArray[np.integer]
Pair = int | tuple[int, int]
Sides = int | tuple[int, int, int, int]


class Exact(NamedTuple):
    """One output of an op in float64, and the scale of its rounding."""

    value: Floats
    magnitude: Floats


def pair(stride: Pair) -> tuple[int, int]:
    """A stride as (vertical, horizontal)."""
    return (stride, stride) if isinstance(stride, int) else stride


def sides(pad: Sides) -> tuple[int, int, int, int]:
    """A padding as (top, bottom, left, right)."""
    return (pad, pad, pad, pad) if isinstance(pad, int) else pad


def double(x: Numbers) -> Floats:
    """The same numbers in float64."""
    return np.asarray(x, dtype=np.float64)


LEAST = 2.0**-126
"""The smallest normal number of float32 and of bfloat16."""


def single(x: Floats) -> Floats:
    """x with float32's range: values of 2^128 - 2^103 and above round to infinity."""
    return np.where(abs(x) >= 2.0**128 - 2.0**103, np.copysign(np.inf, x), x)


def rounded(x: Floats) -> Floats:
    """The size to which rounding errors of x are proportional: at least the smallest normal."""
    return np.maximum(abs(x), LEAST)


# ------------------------------------------------------------------------------------------- images


def augment_operands(
    x: Numbers,
    mean: Numbers,
    *,
    corners: Numbers,
    flips: Numbers,
    shifts: Numbers,
    size: tuple[int, int],
    mean_at_pixel: bool = False,
) -> tuple[Floats, Floats, Floats]:
    """The pixel, the mean and the shift that make each element of the crops (N, H, W, C)."""
    (N, Hs, Ws, C), (H, W) = x.shape, size
    pixels, means, added = (np.zeros((N, H, W, C)) for _ in range(3))
    for n, h, w in product(range(N), range(H), range(W)):
        top, left = corners[n]
        r, q = top + h, left + (W - 1 - w if flips[n] else w)
        centre = (Hs - H) // 2 + h, (Ws - W) // 2 + w
        pixels[n, h, w] = x[n, r, q]
        means[n, h, w] = mean[r, q] if mean_at_pixel else mean[centre]
        added[n, h, w] = shifts[n]
    return pixels, means, added


def augment(
    x: Numbers,
    mean: Numbers,
    *,
    corners: Numbers,
    flips: Numbers,
    shifts: Numbers,
    size: tuple[int, int],
    scale: float = 1.0,
    mean_at_pixel: bool = False,
    block: int = 1,
    pad: Sides = 0,
) -> Exact:
    """(pixel - mean + shift) * scale over crops, mirrored or not; in blocks, zeros around them."""
    pixels, means, added = augment_operands(
        x,
        mean,
        corners=corners,
        flips=flips,
        shifts=shifts,
        size=size,
        mean_at_pixel=mean_at_pixel,
    )
    magnitude = (abs(pixels) + abs(means) + abs(added)) * abs(scale)
    crops = (pixels - means + added) * scale
    return Exact(in_blocks(padded(crops, pad), block), in_blocks(padded(magnitude, pad), block))


def in_blocks(x: Numbers, block: int) -> Floats:
    """y[n,i,j,(a block + b) C + c] = x[n, block i + a, block j + b, c], and 0 outside x."""
    N, H, W, C = x.shape
    y = np.zeros((N, round_up(H / block), round_up(W / block), block * block * C))
    for a, b in product(range(block), range(block)):
        pixels, first = x[:, a::block, b::block], (a * block + b) * C
        y[:, : pixels.shape[1], : pixels.shape[2], first : first + C] = pixels
    return y


def out_of_blocks(y: Numbers, x_shape: tuple[int, ...], block: int) -> Floats:
    """The inverse of in_blocks, without the zeros that it added."""
    _, H, W, C = x_shape
    x = np.zeros(x_shape)
    for a, b in product(range(block), range(block)):
        rows, columns, first = len(range(a, H, block)), len(range(b, W, block)), (a * block + b) * C
        x[:, a::block, b::block] = y[:, :rows, :columns, first : first + C]
    return x


# -------------------------------------------------------------------------------------- convolution


class Tap(NamedTuple):
    """One element (r, s) of the filters of one group, and the padded image's pixels that it meets
    in all windows.
    """

    r: int
    s: int
    rows: slice
    columns: slice
    channels: slice
    filters: slice


def taps(
    w_shape: tuple[int, ...], y_shape: tuple[int, ...], stride: Pair, groups: int
) -> Iterator[Tap]:
    """All taps of filters (K, R, S, C / groups) with outputs (N, P, Q, K)."""
    (K, R, S, C), (_, P, Q, _) = w_shape, y_shape
    down, right = pair(stride)
    for r, s, g in product(range(R), range(S), range(groups)):
        yield Tap(
            r,
            s,
            slice(r, r + down * (P - 1) + 1, down),
            slice(s, s + right * (Q - 1) + 1, right),
            slice(g * C, (g + 1) * C),
            slice(g * K // groups, (g + 1) * K // groups),
        )


def padded(x: Floats, pad: Sides) -> Floats:
    """x (N, H, W, C) with zeros around each image."""
    top, bottom, left, right = sides(pad)
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def conv_out_shape(
    x_shape: tuple[int, int, int, int],
    w_shape: tuple[int, int, int, int],
    stride: Pair,
    pad: Sides,
) -> tuple[int, int, int, int]:
    """(N, P, Q, K): as many whole filter positions as fit into the padded image."""
    (N, H, W, _), (K, R, S, _) = x_shape, w_shape
    top, bottom, left, right = sides(pad)
    down, across = pair(stride)
    return N, (H + top + bottom - R) // down + 1, (W + left + right - S) // across + 1, K


def _conv(x: Floats, w: Floats, stride: Pair, pad: Sides, groups: int) -> Floats:
    image = padded(x, pad)
    y = np.zeros(conv_out_shape(x.shape, w.shape, stride, pad))
    for at in taps(w.shape, y.shape, stride, groups):
        seen = image[:, at.rows, at.columns, at.channels]
        y[..., at.filters] += seen @ w[at.filters, at.r, at.s].T
    return y


def conv_fprop(
    x: Numbers,
    w: Numbers,
    b: Numbers | None,
    *,
    stride: Pair,
    pad: Sides,
    groups: int = 1,
    activation: str | None = None,
) -> Exact:
    """y[n,p,q,k] = f(b[k] + sum over r,s,c of w[k,r,s,c] x[n, p down + r, q right + s, c]).

    x counts from the padded image's corner.
    """
    x, w = double(x), double(w)
    bias = np.zeros(w.shape[0]) if b is None else double(b)
    total = _conv(x, w, stride, pad, groups) + bias
    magnitude = _conv(abs(x), abs(w), stride, pad, groups) + abs(bias)
    return activated(Exact(total, magnitude), activation)


def _conv_dgrad(
    dy: Floats, w: Floats, x_shape: tuple[int, ...], stride: Pair, pad: Sides, groups: int
) -> Floats:
    _, H, W, _ = x_shape
    top, _, left, _ = sides(pad)
    d_image = padded(np.zeros(x_shape), pad)
    for at in taps(w.shape, dy.shape, stride, groups):
        share = dy[..., at.filters] @ w[at.filters, at.r, at.s]
        d_image[:, at.rows, at.columns, at.channels] += share
    return d_image[:, top : top + H, left : left + W]


def conv_dgrad(
    dy: Numbers,
    w: Numbers,
    *,
    x_shape: tuple[int, ...],
    stride: Pair,
    pad: Sides,
    groups: int = 1,
) -> Exact:
    """Each output pixel sends dy w back to the pixels it saw; the padding's share is dropped."""
    dy, w = double(dy), double(w)
    return Exact(
        _conv_dgrad(dy, w, x_shape, stride, pad, groups),
        _conv_dgrad(abs(dy), abs(w), x_shape, stride, pad, groups),
    )


def _conv_wgrad(
    x: Floats, dy: Floats, w_shape: tuple[int, ...], stride: Pair, pad: Sides, groups: int
) -> Floats:
    image = padded(x, pad)
    dw = np.zeros(w_shape)
    for at in taps(w_shape, dy.shape, stride, groups):
        seen = image[:, at.rows, at.columns, at.channels]
        over = (0, 1, 2), (0, 1, 2)  # images and pixels
        dw[at.filters, at.r, at.s] = np.tensordot(dy[..., at.filters], seen, over)
    return dw


def conv_wgrad(
    x: Numbers,
    dy: Numbers,
    *,
    w_shape: tuple[int, ...],
    stride: Pair,
    pad: Sides,
    groups: int = 1,
) -> tuple[Exact, Exact]:
    """dw: dy times the pixels each output saw, over all images and pixels. db: the sum of dy."""
    x, dy = double(x), double(dy)
    dw = Exact(
        _conv_wgrad(x, dy, w_shape, stride, pad, groups),
        _conv_wgrad(abs(x), abs(dy), w_shape, stride, pad, groups),
    )
    return dw, Exact(dy.sum(axis=(0, 1, 2)), abs(dy).sum(axis=(0, 1, 2)))


# ------------------------------------------------------------------------------------------- linear


def linear_fprop(
    x: Numbers, w: Numbers, b: Numbers | None, *, activation: str | None = None
) -> Exact:
    """y[n,o] = f(b[o] + sum over i of x[n,i] w[o,i])."""
    x, w = double(x), double(w)
    bias = np.zeros(w.shape[0]) if b is None else double(b)
    return activated(Exact(x @ w.T + bias, abs(x) @ abs(w).T + abs(bias)), activation)


def linear_dgrad(dy: Numbers, w: Numbers) -> Exact:
    """dx[n,i] = sum over o of dy[n,o] w[o,i]."""
    dy, w = double(dy), double(w)
    return Exact(dy @ w, abs(dy) @ abs(w))


def linear_wgrad(x: Numbers, dy: Numbers) -> tuple[Exact, Exact]:
    """dw[o,i] = sum over n of dy[n,o] x[n,i]; db[o] = sum over n of dy[n,o]."""
    x, dy = double(x), double(dy)
    dw = Exact(dy.T @ x, abs(dy).T @ abs(x))
    return dw, Exact(dy.sum(axis=0), abs(dy).sum(axis=0))


# -------------------------------------------------------------------------------------- activations


def relu(x: Numbers) -> Floats:
    """max(x, 0); a NaN stays one."""
    x = double(x)
    return np.where(x <= 0, 0.0, x)


def relu_dgrad(y: Numbers, dy: Numbers) -> Floats:
    """dy where the output was positive."""
    return np.where(double(y) > 0, double(dy), 0.0)


def tanh(x: Numbers) -> Exact:
    """tanh x; the magnitude is its absolute value."""
    y = np.tanh(double(x))
    return Exact(y, abs(y))


def tanh_dgrad(y: Numbers, dy: Numbers) -> Exact:
    """dy (1 - y^2)."""
    y, dy = double(y), double(dy)
    return Exact(dy * (1 - y * y), abs(dy) * (1 + y * y))


def activated(sums: Exact, activation: str | None) -> Exact:
    """The activation that conv and linear may apply to their sums.

    The magnitude stays that of the sum: neither ReLU nor tanh enlarges an error. For an infinite
    sum, 0 and 1 are exact.
    """
    if activation is None:
        return sums
    value = relu(sums.value) if activation == "relu" else double(np.tanh(sums.value))
    return Exact(value, np.where(np.isinf(single(sums.value)), abs(value), sums.magnitude))


# --------------------------------------------------------------------------- response normalisation

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


# ------------------------------------------------------------------------------------------ pooling


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


# ----------------------------------------------------------------------- normalised, then pooled


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


# ------------------------------------------------------------------------------------------ dropout

LOW_WORD = 0xFFFFFFFF


def philox4x32(counter: Sequence[Numbers | int], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).

    `counter`: four words, lowest first, each a number or an array. Returns the four output words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)  # 64-bit products
        c0, c1, c2, c3 = (
            (right >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            right & np.uint64(LOW_WORD),
            (left >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            left & np.uint64(LOW_WORD),
        )
        k0, k1 = (k0 + 0x9E3779B9) & LOW_WORD, (k1 + 0xBB67AE85) & LOW_WORD
    return [c0, c1, c2, c3]


def dropout_draws(
    shape: tuple[int, ...],
    *,
    seed: int,
    step: int,
    layer: int,
    offset: int = 0,
    total: int | None = None,
) -> NDArray[np.uint64]:
    """The 32-bit draw of every element of a batch: element e is word e % 4 of block e // 4."""
    images, features = shape[0], int(np.prod(shape[1:]))
    image, feature = np.indices((images, features), dtype=np.uint64)
    e = image * np.uint64(features if total is None else total) + np.uint64(offset) + feature
    block = e // np.uint64(4)
    words = philox4x32(
        (block & np.uint64(LOW_WORD), step, layer, block >> np.uint64(32)),
        (seed & LOW_WORD, seed >> 32),
    )
    return np.choose((e % np.uint64(4)).astype(np.intp), words).reshape(shape)


def dropout(
    x: Numbers,
    *,
    keep: float,
    seed: int,
    step: int,
    layer: int,
    offset: int = 0,
    total: int | None = None,
) -> Floats:
    """x where the draw, as a fraction of 2^32, is below keep; else 0. No rescaling (2012 rule)."""
    draws = dropout_draws(x.shape, seed=seed, step=step, layer=layer, offset=offset, total=total)
    return np.where(draws.astype(np.float64) < keep * 2.0**32, double(x), 0.0)


def dropped(y: Exact, *, factor: float = 1.0, **draw: Any) -> Exact:
    """An output times the factor where it is kept, else 0; `draw` are the arguments of dropout."""
    kept = dropout(np.ones(y.value.shape), **draw) == 1
    return Exact(np.where(kept, y.value * factor, 0), np.where(kept, y.magnitude * abs(factor), 0))


def let_pass(dx: Exact, gate: Numbers | None, factor: float = 1.0) -> Exact:
    """A gradient times the factor where the gate is above 0, else 0."""
    on = np.ones(dx.value.shape, bool) if gate is None else double(gate) > 0
    return Exact(np.where(on, dx.value * factor, 0), np.where(on, dx.magnitude * abs(factor), 0))


# ------------------------------------------------------------------------------ softmax, top-k, sgd


def softmax_cross_entropy(logits: Numbers, labels: Numbers) -> tuple[Exact, Exact]:
    """loss = mean of log(sum of exp z) - z[label]; dlogits = (softmax - onehot) / N.

    Magnitudes, with t = z - max z, p = softmax, S = sum of exp t: exp, log and the division each
    add a constant number of units (the tests count 24), and rounding t once by a relative u
    changes exp t by u |t|, so the uncertainty of S and p grows by 1 + the sum of p |t| / 8. A t
    below the range is -inf, and its exp 0; if the sum of the losses overflows, so does the mean.
    """
    z = double(logits)
    rows = np.arange(len(z))
    t = single(z - z.max(axis=1, keepdims=True))
    S = np.exp(t).sum(axis=1, keepdims=True)
    p = np.exp(t) / S
    slips = np.where(p > 0, p * abs(t), 0) / 8
    unsure = 1 + slips.sum(axis=1, keepdims=True)
    onehot = np.zeros_like(z)
    onehot[rows, labels] = 1
    loss = Exact(
        single((np.log(S[:, 0]) - t[rows, labels]).sum()) / len(z),
        np.asarray((unsure[:, 0] + np.log(S[:, 0]) + abs(t[rows, labels]) / 8).mean()),
    )
    return loss, Exact((p - onehot) / len(z), (p * unsure + slips + onehot) / len(z))


def topk_error(logits: Numbers, labels: Numbers, k: int) -> float:
    """1 - mean credit; credit = clamp((k - g) / t, 0, 1): g logits above the label's, t equal.

    A label whose logit is NaN equals nothing, itself included, and gets no credit.
    """
    credit = 0.0
    for z, label in zip(double(logits), np.asarray(labels), strict=True):
        above, equal = int((z > z[label]).sum()), int((z == z[label]).sum())
        credit += min(max((k - above) / equal, 0.0), 1.0) if equal else 0.0
    return 1 - credit / len(labels)


def sgd_update(
    w: Numbers,
    v: Numbers,
    dw: Numbers | Exact,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> tuple[Exact, Exact]:
    """Paper section 5: v = momentum v - weight_decay lr w - lr dw; w = w + v. Returns (w, v).

    dw may itself be a sum with a magnitude, which then counts as its size.
    """
    gradient = dw if isinstance(dw, Exact) else Exact(double(dw), abs(double(dw)))
    w, v = double(w), double(v)
    if lr == 0:
        return Exact(w, np.zeros_like(w)), Exact(v, np.zeros_like(v))
    step = momentum * v - weight_decay * lr * w - lr * gradient.value
    size = abs(momentum * v) + abs(weight_decay * lr * w) + abs(lr) * gradient.magnitude
    return Exact(w + step, abs(w) + size), Exact(step, size)


def split(w: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Bits of the nearest bfloat16 (of two equally near the even one), and of what it lacks: w's
    bits are 2^16 times the first, plus the second, which has a sign. A NaN becomes the canonical
    one: rounding would turn some into numbers.
    """
    bits = np.where(np.isnan(w), 0x7FC00000, w.view(np.uint32).astype(np.int64))
    high = (bits + 2**15) // 2**16
    return high.astype(np.uint16), (bits - 2**16 * high).astype(np.int16).view(np.uint16)


def joined(high: NDArray[Any], low: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers that `split` has taken apart."""
    bits = 2**16 * high.view(np.uint16).astype(np.int64) + low.view(np.int16)
    return bits.astype(np.uint32).view(np.float32)


# ----------------------------------------------------------------------------------------- exchange


def exchange_gather(parts: Sequence[Numbers]) -> Floats:
    """The towers' maps concatenated."""
    return np.concatenate([double(part) for part in parts], axis=-1)


def exchange_scatter_add(dwholes: Sequence[Numbers], *, start: int, channels: int) -> Exact:
    """A tower's share of the gradients of all towers that read its maps."""
    shares = [double(dwhole)[..., start : start + channels] for dwhole in dwholes]
    return Exact(sum(shares[1:], shares[0]), sum(map(abs, shares[1:]), abs(shares[0])))
