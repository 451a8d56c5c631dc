"""Convolutions, linear layers, and the activations in their epilogues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from .exact import Exact, Floats, Numbers, Pair, Sides, double, padded, pair, sides, single


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


def relu_fprop(x: Numbers) -> Floats:
    """max(x, 0); a NaN stays one."""
    x = double(x)
    return np.where(x <= 0, 0.0, x)


def relu_dgrad(y: Numbers, dy: Numbers) -> Floats:
    """dy where the output was positive."""
    return np.where(double(y) > 0, double(dy), 0.0)


def tanh_fprop(x: Numbers) -> Exact:
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
    value = relu_fprop(sums.value) if activation == "relu" else double(np.tanh(sums.value))
    return Exact(value, np.where(np.isinf(single(sums.value)), abs(value), sums.magnitude))
