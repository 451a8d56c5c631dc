"""Every operation in float64, to check answers against before they are timed.

A backend like the others, so that whole networks run on it too; results are rounded to float32 once
at the end of an operation. It shares only the interface of the backends that it checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pyalexnet.backends.base import Activation
from pyalexnet.backends.host import HostBackend
from pyalexnet.ops.records import BlockGeometry, ConvGeometry, Mask, Norm, PoolGeometry

Numbers: TypeAlias = NDArray[Any]


class ReferenceBackend(HostBackend):
    """The operations as their formulas read, on arrays of the host."""

    name = "reference"

    def _run(self, op: str, *arguments: Any) -> None:
        getattr(self, f"_{op}")(*arguments)

    def _unit(self, x: Numbers, tensor: bool) -> str:
        return "fma"

    # Images

    def _augment(
        self,
        x: Numbers,
        mean: Numbers,
        corners: Numbers,
        flips: Numbers,
        shifts: Numbers,
        y: Numbers,
        size: tuple[int, int],
        g: BlockGeometry,
        scale: float,
        mean_at_pixel: bool,
    ) -> None:
        rows, columns = (np.arange(length) for length in size)
        down, right = (mean.shape[0] - len(rows)) // 2, (mean.shape[1] - len(columns)) // 2
        crops = np.zeros((len(x), *size, mean.shape[2]))
        for image, (top, left) in enumerate(corners):
            seen = np.ix_(top + rows, left + (columns[::-1] if flips[image] else columns))
            m = mean[seen if mean_at_pixel else np.ix_(down + rows, right + columns)]
            crops[image] = (_double(x[image][seen]) - m + shifts[image]) * scale
        self._images_to_depth(crops, y, g)

    def _images_to_depth(self, x: Numbers, y: Numbers, g: BlockGeometry) -> None:
        pads = ((0, 0), (g.pad_top, g.pad_bottom), (g.pad_left, g.pad_right), (0, 0))
        self._filters_to_depth(np.pad(x, pads), y, g.block)

    def _filters_to_depth(self, w: Numbers, deep: Numbers, block: int) -> None:
        deep[...] = 0
        for offset, at in _block_pixels(w.shape, block):
            pixels = w[at]
            deep[:, : pixels.shape[1], : pixels.shape[2], offset] = pixels

    def _filters_from_depth(self, ddeep: Numbers, dw: Numbers, block: int) -> None:
        for offset, at in _block_pixels(dw.shape, block):
            rows, columns = dw[at].shape[1:3]
            dw[at] = ddeep[:, :rows, :columns, offset]

    # Convolution: a product for each tap (r, s)

    def _conv_fprop(
        self,
        x: Numbers,
        w: Numbers,
        b: Numbers | None,
        y: Numbers,
        g: ConvGeometry,
        unit: str,
        towers: int,
        activation: Activation,
        mask: Mask | None,
    ) -> None:
        padded, total = _padded(x, g), np.zeros(y.shape)
        for r, s, at in _taps(w.shape, y.shape, g):
            for channels, filters in _groups(w.shape, g.groups):
                pixels = padded[at][..., channels]
                total[..., filters] += pixels @ _double(w[filters, r, s]).T
        self._finish(total, b, y, activation, mask)

    def _conv_dgrad(
        self,
        dy: Numbers,
        w: Numbers,
        gate: Numbers | None,
        dx: Numbers,
        g: ConvGeometry,
        unit: str,
        factor: float,
    ) -> None:
        n, h, width, c = dx.shape
        rows, columns = g.pad_top + h + g.pad_bottom, g.pad_left + width + g.pad_right
        padded, dy = np.zeros((n, rows, columns, c)), _double(dy)
        for r, s, at in _taps(w.shape, dy.shape, g):
            for channels, filters in _groups(w.shape, g.groups):
                padded[at][..., channels] += dy[..., filters] @ _double(w[filters, r, s])
        inside = padded[:, g.pad_top : g.pad_top + h, g.pad_left : g.pad_left + width]
        dx[...] = _let_pass(inside, gate, factor)

    def _conv_wgrad(
        self, x: Numbers, dy: Numbers, dw: Numbers, db: Numbers, g: ConvGeometry, unit: str
    ) -> None:
        padded, dy = _padded(x, g), _double(dy)
        for r, s, at in _taps(dw.shape, dy.shape, g):
            for channels, filters in _groups(dw.shape, g.groups):
                pixels = padded[at][..., channels]
                dw[filters, r, s] = np.tensordot(dy[..., filters], pixels, ((0, 1, 2), (0, 1, 2)))
        db[...] = dy.sum(axis=(0, 1, 2))

    def _conv_wgrad_sgd(self, x: Numbers, dy: Numbers, *arguments: Any) -> None:
        *learned, g, unit, w_rule, b_rule = arguments
        dw, db = _gradients(learned)
        self._conv_wgrad(x, dy, dw, db, g, unit)
        self._learn(learned, dw, db, w_rule, b_rule)

    # Linear layers

    def _linear_fprop(
        self,
        x: Numbers,
        w: Numbers,
        b: Numbers | None,
        y: Numbers,
        unit: str,
        towers: int,
        activation: Activation,
        mask: Mask | None,
    ) -> None:
        self._finish(_double(x) @ _double(w).T, b, y, activation, mask)

    def _linear_dgrad(
        self,
        dy: Numbers,
        w: Numbers,
        gate: Numbers | None,
        dx: Numbers,
        unit: str,
        factor: float,
    ) -> None:
        dx[...] = _let_pass(_double(dy) @ _double(w), gate, factor)

    def _linear_wgrad(self, x: Numbers, dy: Numbers, dw: Numbers, db: Numbers, unit: str) -> None:
        dw[...] = _double(dy).T @ _double(x)
        db[...] = _double(dy).sum(axis=0)

    def _linear_wgrad_sgd(self, x: Numbers, dy: Numbers, *arguments: Any) -> None:
        *learned, unit, w_rule, b_rule = arguments
        dw, db = _gradients(learned)
        self._linear_wgrad(x, dy, dw, db, unit)
        self._learn(learned, dw, db, w_rule, b_rule)

    def _finish(
        self,
        total: Numbers,
        b: Numbers | None,
        y: Numbers,
        activation: Activation,
        mask: Mask | None,
    ) -> None:
        done = _activated(total if b is None else total + b, activation)
        if mask is not None:
            done *= mask.factor
            self._dropout(done, done, mask)
        y[...] = done

    def _learn(
        self, learned: list[Any], dw: Numbers, db: Numbers, w_rule: Any, b_rule: Any
    ) -> None:
        w, low, v, b, bv = learned
        self._sgd_update(w, low, v, dw, w_rule)
        self._sgd_update(b, None, bv, db, b_rule)

    # Activations

    def _relu_fprop(self, x: Numbers, y: Numbers) -> None:
        y[...] = _activated(_double(x), "relu")

    def _relu_dgrad(self, y: Numbers, dy: Numbers, dx: Numbers) -> None:
        dx[...] = np.where(y > 0, _double(dy), 0)

    def _tanh_fprop(self, x: Numbers, y: Numbers) -> None:
        y[...] = _activated(_double(x), "tanh")

    def _tanh_dgrad(self, y: Numbers, dy: Numbers, dx: Numbers) -> None:
        dx[...] = _double(dy) * (1 - _double(y) ** 2)

    def _scale(self, x: Numbers, y: Numbers, factor: float) -> None:
        y[...] = _double(x) * factor

    # Norms: a sum of squares over windows, and one over the windows that contain a unit

    def _lrn_fprop(self, x: Numbers, y: Numbers, norm: Norm) -> None:
        shape = (-1, x.shape[3] // norm.groups)
        _normalise(x.reshape(shape), y.reshape(shape), (1,), norm)

    def _lrn_dgrad(
        self,
        x: Numbers,
        dy: Numbers,
        dx: Numbers,
        norm: Norm,
    ) -> None:
        shape = (-1, x.shape[3] // norm.groups)
        arrays = (x.reshape(shape), dy.reshape(shape), dx.reshape(shape))
        _normalise_dgrad(*arrays, (1,), norm)

    def _rnorm_fprop(self, x: Numbers, y: Numbers, norm: Norm) -> None:
        _normalise(x, y, (1, 2), norm)

    def _rnorm_dgrad(self, x: Numbers, dy: Numbers, dx: Numbers, norm: Norm) -> None:
        _normalise_dgrad(x, dy, dx, (1, 2), norm)

    # Pooling: window by window

    def _maxpool_fprop(self, x: Numbers, y: Numbers, where: Numbers, g: PoolGeometry) -> None:
        for p, q, rows, columns in _windows(x.shape, y.shape, g):
            seen = _double(x[:, rows, columns])
            n, _, width, c = seen.shape
            first = seen.reshape(n, -1, c).argmax(axis=1)
            y[:, p, q] = np.take_along_axis(seen.reshape(n, -1, c), first[:, None], 1)[:, 0]
            where[:, p, q] = first // width * g.size + first % width

    def _maxpool_dgrad(
        self, dy: Numbers, where: Numbers, gate: Numbers | None, dx: Numbers, g: PoolGeometry
    ) -> None:
        dx[...] = _let_pass(_unpooled(_double(dy), where, dx.shape, g), gate, 1.0)

    def _avgpool_fprop(self, x: Numbers, y: Numbers, g: PoolGeometry) -> None:
        for p, q, rows, columns in _windows(x.shape, y.shape, g):
            y[:, p, q] = _double(x[:, rows, columns]).mean(axis=(1, 2))

    def _avgpool_dgrad(self, dy: Numbers, dx: Numbers, g: PoolGeometry) -> None:
        total = np.zeros(dx.shape)
        for p, q, rows, columns in _windows(dx.shape, dy.shape, g):
            pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
            total[:, rows, columns] += _double(dy[:, p, q])[:, None, None] / pixels
        dx[...] = total

    # A norm and the pool after it

    def _lrn_maxpool_fprop(
        self,
        x: Numbers,
        y: Numbers,
        where: Numbers,
        norm: Norm,
        g: PoolGeometry,
        relu: bool,
    ) -> None:
        normed, pooled = np.empty(x.shape), np.empty(y.shape)
        self._lrn_fprop(x, normed, norm)
        self._maxpool_fprop(normed, pooled, where, g)
        y[...] = _activated(pooled, "relu" if relu else None)

    def _lrn_maxpool_dgrad(
        self,
        x: Numbers,
        y: Numbers | None,
        dy: Numbers,
        where: Numbers,
        dx: Numbers,
        norm: Norm,
        g: PoolGeometry,
        gated: bool,
    ) -> None:
        dnormed = _unpooled(_let_pass(_double(dy), y, 1.0), where, x.shape, g)
        total = np.empty(x.shape)
        self._lrn_dgrad(x, dnormed, total, norm)
        dx[...] = _let_pass(total, x if gated else None, 1.0)

    # Dropout

    def _dropout(self, x: Numbers, y: Numbers, mask: Mask) -> None:
        features = np.arange(x.size // len(x), dtype=np.uint64)
        for image, source in enumerate(x):
            element = np.uint64(image * (mask.total or len(features)) + mask.offset) + features
            draws = _draws(element, mask.seed, int(mask.step), mask.layer).reshape(x.shape[1:])
            y[image] = np.where(draws < math.ceil(mask.keep * 2**32), source, 0)

    # Loss and learning

    def _softmax_cross_entropy(
        self,
        logits: Numbers,
        labels: Numbers,
        loss: Numbers,
        dlogits: Numbers,
        top1: Numbers,
        top5: Numbers,
    ) -> None:
        z, rows = _double(logits), np.arange(len(labels))
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        loss[...] = -log_p[rows, labels].mean()
        gradient = np.exp(log_p)
        gradient[rows, labels] -= 1
        dlogits[...] = gradient / len(z)
        own = logits[rows, labels][:, None]
        above, equal = (logits > own).sum(axis=1), (logits == own).sum(axis=1)
        for error, k in ((top1, 1), (top5, 5)):
            error[...] = 1 - np.clip((k - above) / equal, 0, 1).mean()

    def _sgd_update(
        self,
        w: Numbers,
        low: Numbers | None,
        v: Numbers,
        dw: Numbers,
        rule: tuple[Any, float, float],
    ) -> None:
        lr, momentum, weight_decay = rule
        if float(lr) == 0:
            return
        whole = w if low is None else joined(w, low)
        new = momentum * _double(v) - weight_decay * float(lr) * _double(whole) - float(lr) * dw
        v[...] = new
        if low is None:
            w[...] = w + new
        else:
            self._split_weights((whole + new).astype(np.float32), w, low)

    def _split_weights(self, w: Numbers, high: Numbers, low: Numbers) -> None:
        # A NaN becomes the canonical one: rounding would turn some into numbers.
        bits = np.where(np.isnan(w), 0x7FC00000, w.view(np.uint32).astype(np.int64))
        upper = (bits + 2**15) // 2**16
        high[...] = upper.astype(np.uint16).view(high.dtype)
        low[...] = (bits - 2**16 * upper).astype(np.int16).view(np.uint16)

    def _join_weights(self, high: Numbers, low: Numbers, w: Numbers) -> None:
        w[...] = joined(high, low)

    # Exchange

    def _exchange_gather(self, parts: Sequence[Numbers], whole: Numbers) -> None:
        whole[...] = np.concatenate(parts, axis=-1)

    def _exchange_scatter_add(self, dwholes: Sequence[Numbers], dpart: Numbers, start: int) -> None:
        channels = slice(start, start + dpart.shape[-1])
        dpart[...] = sum(_double(dwhole[..., channels]) for dwhole in dwholes)


def _gradients(learned: list[Any]) -> tuple[Numbers, Numbers]:
    """Room for the gradients of weights and biases."""
    w, _, _, b, _ = learned
    return np.empty(w.shape), np.empty(b.shape)


def joined(high: Numbers, low: Numbers) -> NDArray[np.float32]:
    """The float32 numbers made of two halves: 2^16 times the first's bits, plus the second's."""
    bits = 2**16 * high.view(np.uint16).astype(np.int64) + low.view(np.int16)
    return bits.astype(np.uint32).view(np.float32)


def _double(x: Numbers) -> Numbers:
    return x.astype(np.float64)


def _activated(x: Numbers, activation: Activation) -> Numbers:
    if activation == "relu":
        return np.maximum(x, 0)
    return np.tanh(x) if activation == "tanh" else x


def _let_pass(dx: Numbers, gate: Numbers | None, factor: float) -> Numbers:
    return dx * factor if gate is None else np.where(gate > 0, dx * factor, 0)


def _block_pixels(
    shape: tuple[int, ...], block: int
) -> Iterator[tuple[slice, tuple[slice, slice, slice]]]:
    """Each pixel of a block: its channels among the block's, and its place in the image."""
    for a in range(block):
        for b in range(block):
            first = (a * block + b) * shape[3]
            yield slice(first, first + shape[3]), np.s_[:, a::block, b::block]


def _padded(x: Numbers, g: ConvGeometry) -> Numbers:
    margins = ((0, 0), (g.pad_top, g.pad_bottom), (g.pad_left, g.pad_right), (0, 0))
    return np.pad(_double(x), margins)


def _taps(
    w_shape: tuple[int, ...], y_shape: tuple[int, ...], g: ConvGeometry
) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
    """Each tap (r, s), and the pixels of the padded image that it covers over all windows."""
    _, height, width, _ = y_shape
    for r in range(w_shape[1]):
        rows = slice(r, r + g.stride_h * (height - 1) + 1, g.stride_h)
        for s in range(w_shape[2]):
            columns = slice(s, s + g.stride_w * (width - 1) + 1, g.stride_w)
            yield r, s, (slice(None), rows, columns)


def _groups(w_shape: tuple[int, ...], count: int) -> Iterator[tuple[slice, slice]]:
    """Channels and filters of each group."""
    channels, filters = w_shape[3], w_shape[0] // count
    for i in range(count):
        yield (
            slice(i * channels, (i + 1) * channels),
            slice(i * filters, (i + 1) * filters),
        )


def _window_sums(x: Numbers, axes: tuple[int, ...], size: int, before: int) -> Numbers:
    """Sums over windows of `size` along `axes` that start `before` units earlier, clipped."""
    for axis in axes:
        margins = [(0, 0)] * x.ndim
        margins[axis] = (before, size - 1 - before)
        x = sliding_window_view(np.pad(x, margins), size, axis=axis).sum(axis=-1)
    return x


def _normalise(
    x: Numbers,
    y: Numbers,
    axes: tuple[int, ...],
    norm: Norm,
) -> None:
    size, alpha, beta, k, _ = norm
    d = k + alpha * _window_sums(_double(x) ** 2, axes, size, size // 2)
    y[...] = _double(x) * d**-beta


def _normalise_dgrad(
    x: Numbers,
    dy: Numbers,
    dx: Numbers,
    axes: tuple[int, ...],
    norm: Norm,
) -> None:
    size, alpha, beta, k, _ = norm
    x, dy = _double(x), _double(dy)
    d = k + alpha * _window_sums(x**2, axes, size, size // 2)
    # The windows that contain a unit: the mirrored window.
    reached = _window_sums(dy * x * d ** (-beta - 1), axes, size, size - 1 - size // 2)
    dx[...] = dy * d**-beta - 2 * alpha * beta * x * reached


def _windows(
    x_shape: tuple[int, ...], y_shape: tuple[int, ...], g: PoolGeometry
) -> Iterator[tuple[int, int, slice, slice]]:
    """Each window's place, rows and columns, clipped to the image."""
    for p in range(y_shape[1]):
        rows = slice(p * g.stride, min(p * g.stride + g.size, x_shape[1]))
        for q in range(y_shape[2]):
            yield p, q, rows, slice(q * g.stride, min(q * g.stride + g.size, x_shape[2]))


def _unpooled(dy: Numbers, where: Numbers, shape: tuple[int, ...], g: PoolGeometry) -> Numbers:
    """Each window's gradient at its maximum's place; those at one pixel are added."""
    total = np.zeros(shape)
    image, channel = np.ix_(range(shape[0]), range(shape[3]))
    for p, q, rows, columns in _windows(shape, dy.shape, g):
        down, right = np.divmod(where[:, p, q].astype(np.intp), g.size)
        total[image, rows.start + down, columns.start + right, channel] += dy[:, p, q]
    return total


def _draws(element: Numbers, seed: int, step: int, layer: int) -> Numbers:
    """The 32-bit draws of elements: words of Philox4x32-10 (Salmon et al., SC 2011)."""
    low, word = np.uint64(2**32 - 1), np.uint64(32)
    block = element // np.uint64(4)
    counter: list[Any] = [block & low, np.uint64(step), np.uint64(layer), block >> word]
    keys = [seed & (2**32 - 1), seed >> 32]
    for _ in range(10):
        one, two = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (two >> word) ^ counter[1] ^ np.uint64(keys[0]),
            two & low,
            (one >> word) ^ counter[3] ^ np.uint64(keys[1]),
            one & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    words = np.stack([np.broadcast_to(one, block.shape) for one in counter])
    word_of = (element % np.uint64(4)).astype(np.intp)
    drawn: Numbers = np.choose(word_of, words)
    return drawn
