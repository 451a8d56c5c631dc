"""The operations in NumPy, for the CPU: products by BLAS, all else by whole-array arithmetic.

`pyalexnet.backends.cpu` has what they are made of, and why equal arguments give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.base import Activation
from pyalexnet.backends.cpu import philox
from pyalexnet.backends.cpu.augment import centre, shift_and_scale, subtract_mean
from pyalexnet.backends.cpu.blocks import filters_from_blocks, filters_to_blocks, to_blocks
from pyalexnet.backends.cpu.convolution import convolve, convolve_wgrad, finish, sum_rows
from pyalexnet.backends.cpu.cores import Cores
from pyalexnet.backends.cpu.elementwise import rectify, select
from pyalexnet.backends.cpu.halves import join, split
from pyalexnet.backends.cpu.normalisation import Settings, normalise, normalise_dgrad
from pyalexnet.backends.cpu.patches import Window, phases
from pyalexnet.backends.cpu.pieces import PARTS, spans
from pyalexnet.backends.cpu.pooling import Taps, avgpool, avgpool_dgrad, maxpool, maxpool_dgrad
from pyalexnet.backends.cpu.widening import rounds
from pyalexnet.backends.geometry import BlockGeometry, ConvGeometry, PoolGeometry
from pyalexnet.backends.host import HostBackend
from pyalexnet.backends.learned import Learned
from pyalexnet.backends.masks import Mask

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[Any]

# Bytes of an operation's first array in a piece of work. Less would suit a core's cache, but then
# the threads get in each other's way: between two loops of NumPy only one of them can run.
_PIECE_BYTES = 2**20
# Multiplications that make a piece of a matrix product worth a thread.
_PRODUCT = 2**22


class NumpyBackend(HostBackend):
    """The CPU device, for machines without a GPU and for comparison."""

    name = "numpy"

    def __init__(self, device: int = 0) -> None:
        super().__init__(device)
        self._cores = Cores()

    # Images

    def _augment(
        self,
        x: Ints,
        mean: Floats,
        corners: Ints,
        flips: Ints,
        shifts: Floats,
        y: Floats,
        size: tuple[int, int],
        g: BlockGeometry,
        scale: float,
        mean_at_pixel: bool,
    ) -> None:
        means = mean if mean_at_pixel else centre(mean, size)
        as_they_are = y.shape[1:] == (*size, mean.shape[2]) and y.dtype == np.float32

        def work(y: Floats, x: Ints, corners: Ints, flips: Ints, shifts: Floats) -> None:
            crops = y if as_they_are else self._cores.scratch("crops", (len(x), *size, x.shape[3]))
            subtract_mean(self._cores, x, means, corners, flips, crops, mean_at_pixel=mean_at_pixel)
            shift_and_scale(crops, shifts, scale)
            if not as_they_are:
                to_blocks(self._cores, crops, y, g)

        self._itemwise(work, y, x, corners, flips, shifts)

    def _images_to_depth(self, x: Floats, y: Floats, g: BlockGeometry) -> None:
        self._itemwise(lambda y, x: to_blocks(self._cores, x, y, g), y, x)

    def _filters_to_depth(self, w: Floats, deep: Floats, block: int) -> None:
        filters_to_blocks(w, deep, block)

    def _filters_from_depth(self, ddeep: Floats, dw: Floats, block: int) -> None:
        filters_from_blocks(ddeep, dw, block)

    # Convolution

    @rounds("y")
    def _conv_fprop(
        self,
        x: Floats,
        w: Floats,
        b: Floats | None,
        y: Floats,
        g: ConvGeometry,
        activation: Activation,
        towers: int,
        mask: Mask | None,
        tensor: bool,
    ) -> None:
        window = Window(w.shape[1], w.shape[2], g.stride_h, g.stride_w, g.pad_top, g.pad_left)
        with self._cores.one_blas_thread_each():
            for channels, filters in _groups(w.shape, g.groups):
                matrices = _by_row(w[filters].transpose(1, 2, 3, 0))
                bias = None if b is None else b[filters]
                maps = y[..., filters]
                convolve(self._cores, x[..., channels], matrices, maps, window, bias, activation)
        self._drop(y, mask)

    @rounds("dx")
    def _conv_dgrad(
        self,
        dy: Floats,
        w: Floats,
        gate: Floats | None,
        factor: float,
        dx: Floats,
        g: ConvGeometry,
        tensor: bool,
    ) -> None:
        with self._cores.one_blas_thread_each():
            for phase in phases(dx, w, g):
                if phase.w.size == 0:
                    phase.dx.fill(0)
                    continue
                for channels, filters in _groups(w.shape, g.groups):
                    # Turned by half a turn, the filters take dy back to the pixels.
                    matrices = _by_row(phase.w[filters, ::-1, ::-1].transpose(1, 2, 0, 3))
                    pixels = phase.dx[..., channels]
                    convolve(self._cores, dy[..., filters], matrices, pixels, phase.window)
        self._let_pass(dx, gate, factor)

    @rounds()
    def _conv_wgrad(
        self, x: Floats, dy: Floats, dw: Floats, db: Floats, g: ConvGeometry, tensor: bool
    ) -> None:
        k, r, s, c = dw.shape
        window = Window(r, s, g.stride_h, g.stride_w, g.pad_top, g.pad_left)
        rows = dw.reshape(k, r, s * c)
        with self._cores.one_blas_thread_each():
            for channels, filters in _groups(dw.shape, g.groups):
                images, maps = x[..., channels], dy[..., filters]
                convolve_wgrad(self._cores, images, maps, rows[filters], db[filters], window)

    def _conv_wgrad_sgd(
        self, x: Floats, dy: Floats, w: Learned, b: Learned, g: ConvGeometry, tensor: bool
    ) -> None:
        dw, db = self.empty(w.w.shape), self.empty(b.w.shape)
        self._conv_wgrad(x, dy, dw, db, g, tensor)
        self._learn(w, dw)
        self._learn(b, db)

    # Linear layers: one product, cut along the side that no sum runs over

    @rounds("y")
    def _linear_fprop(
        self,
        x: Floats,
        w: Floats,
        b: Floats | None,
        y: Floats,
        activation: Activation,
        towers: int,
        mask: Mask | None,
        tensor: bool,
    ) -> None:
        def work(outputs: slice) -> None:
            rows = y[:, outputs]
            np.matmul(x, w[outputs].T, out=rows)
            finish(self._cores, rows, None if b is None else b[outputs], activation)

        self._product(len(w), x.size, work)
        self._drop(y, mask)

    @rounds("dx")
    def _linear_dgrad(
        self, dy: Floats, w: Floats, gate: Floats | None, factor: float, dx: Floats, tensor: bool
    ) -> None:
        def work(inputs: slice) -> None:
            np.matmul(dy, w[:, inputs], out=dx[:, inputs])

        self._product(w.shape[1], dy.size, work)
        self._let_pass(dx, gate, factor)

    @rounds()
    def _linear_wgrad(self, x: Floats, dy: Floats, dw: Floats, db: Floats, tensor: bool) -> None:
        def work(outputs: slice) -> None:
            np.matmul(dy[:, outputs].T, x, out=dw[outputs])
            np.copyto(db[outputs], sum_rows(self._cores, dy[:, outputs]))

        self._product(len(dw), x.size, work)

    def _linear_wgrad_sgd(
        self, x: Floats, dy: Floats, w: Learned, b: Learned, tensor: bool
    ) -> None:
        dw, db = self.empty(w.w.shape), self.empty(b.w.shape)
        self._linear_wgrad(x, dy, dw, db, tensor)
        self._learn(w, dw)
        self._learn(b, db)

    # What conv and linear do with their sums, still in float32

    def _drop(self, y: Floats, mask: Mask | None) -> None:
        """Dropout in place, as a kernel applies it before it stores y."""
        if mask is None:
            return
        if mask.factor != 1:
            self._scale(y, y, mask.factor)
        self._dropout(y, y, mask)

    def _let_pass(self, dx: Floats, gate: Floats | None, factor: float) -> None:
        """dx in place: times the factor where the gate is above 0, else 0."""
        if factor != 1:
            self._scale(dx, dx, factor)
        if gate is not None:
            self._relu_dgrad(gate, dx, dx)

    def _learn(self, learned: Learned, dw: Floats) -> None:
        """Update parameters by their gradient."""
        rule = (learned.lr, learned.momentum, learned.weight_decay)
        self._sgd_update(learned.w, learned.low, learned.v, dw, *rule)

    def _product(self, length: int, cost: int, work: Callable[[slice], None]) -> None:
        """Share out `length` rows or columns of a product, each of `cost` multiplications."""
        pieces = max(1, min(PARTS, length * cost // _PRODUCT))
        shares = spans(length, -(-length // pieces))
        with self._cores.one_blas_thread_each():
            self._cores.run(len(shares), lambda piece: work(slice(*shares[piece])))

    # Activations

    @rounds("y")
    def _relu_fprop(self, x: Floats, y: Floats) -> None:
        self._elementwise(lambda x, y: rectify(self._cores, x, y), x, y)

    @rounds("dx")
    def _relu_dgrad(self, y: Floats, dy: Floats, dx: Floats) -> None:
        def work(y: Floats, dy: Floats, dx: Floats) -> None:
            on = self._cores.scratch("on", y.shape, np.bool_)
            select(np.greater(y, 0, out=on), dy, dx)

        self._elementwise(work, y, dy, dx)

    @rounds("y")
    def _scale(self, x: Floats, y: Floats, factor: float) -> None:
        self._elementwise(lambda x, y: np.multiply(x, np.float32(factor), out=y), x, y)

    @rounds("y")
    def _tanh_fprop(self, x: Floats, y: Floats) -> None:
        self._elementwise(lambda x, y: np.tanh(x, out=y), x, y)

    @rounds("dx")
    def _tanh_dgrad(self, y: Floats, dy: Floats, dx: Floats) -> None:
        def work(y: Floats, dy: Floats, dx: Floats) -> None:
            slope = self._cores.scratch("slope", y.shape)
            np.multiply(y, y, out=slope)
            np.subtract(1, slope, out=slope)
            np.multiply(dy, slope, out=dx)

        self._elementwise(work, y, dy, dx)

    def _elementwise(self, work: Callable[..., Any], *arrays: Floats) -> None:
        """Call `work` on matching pieces of arrays of one shape."""
        self._itemwise(work, *(array.reshape(-1) for array in arrays))

    def _itemwise(self, work: Callable[..., Any], *arrays: Ints) -> None:
        """Call `work` on matching runs of the items (first axis) of arrays of one length."""
        items = len(arrays[0])
        runs = spans(items, _PIECE_BYTES * items // arrays[0].nbytes)
        self._cores.run(
            len(runs), lambda run: work(*(array[slice(*runs[run])] for array in arrays))
        )

    # Normalisation

    @rounds("y")
    def _lrn_fprop(
        self, x: Floats, y: Floats, size: int, alpha: float, beta: float, k: float, groups: int
    ) -> None:
        shape = (-1, x.shape[3] // groups, 1)
        self._rnorm_fprop(x.reshape(shape), y.reshape(shape), size, alpha, beta, k)

    @rounds("dx")
    def _lrn_dgrad(
        self,
        x: Floats,
        dy: Floats,
        dx: Floats,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
    ) -> None:
        shape = (-1, x.shape[3] // groups, 1)
        arrays = (x.reshape(shape), dy.reshape(shape), dx.reshape(shape))
        self._rnorm_dgrad(*arrays, size, alpha, beta, k)

    @rounds("y")
    def _rnorm_fprop(
        self, x: Floats, y: Floats, size: int, alpha: float, beta: float, k: float
    ) -> None:
        settings = Settings(size, alpha, beta, k)
        self._itemwise(lambda x, y: normalise(self._cores, x, y, settings), x, y)

    @rounds("dx")
    def _rnorm_dgrad(
        self, x: Floats, dy: Floats, dx: Floats, size: int, alpha: float, beta: float, k: float
    ) -> None:
        settings = Settings(size, alpha, beta, k)

        def work(x: Floats, dy: Floats, dx: Floats) -> None:
            normalise_dgrad(self._cores, x, dy, dx, settings)

        self._itemwise(work, x, dy, dx)

    # Pooling

    @rounds("y")
    def _maxpool_fprop(self, x: Floats, y: Floats, where: Ints, g: PoolGeometry) -> None:
        taps = Taps.of(x, y, g)

        def work(x: Floats, y: Floats, where: Ints) -> None:
            maxpool(self._cores, x, y, where, taps)

        self._itemwise(work, x, y, where)

    @rounds("dx")
    def _maxpool_dgrad(
        self, dy: Floats, where: Ints, gate: Floats | None, dx: Floats, g: PoolGeometry
    ) -> None:
        taps = Taps.of(dx, dy, g)

        def work(dx: Floats, dy: Floats, where: Ints) -> None:
            maxpool_dgrad(self._cores, dy, where, dx, taps)

        self._itemwise(work, dx, dy, where)
        if gate is not None:
            self._relu_dgrad(gate, dx, dx)

    @rounds("y")
    def _avgpool_fprop(self, x: Floats, y: Floats, g: PoolGeometry) -> None:
        taps = Taps.of(x, y, g)
        pixels = taps.pixels(y)
        self._itemwise(lambda x, y: avgpool(self._cores, x, y, taps, pixels), x, y)

    @rounds("dx")
    def _avgpool_dgrad(self, dy: Floats, dx: Floats, g: PoolGeometry) -> None:
        taps = Taps.of(dx, dy, g)
        pixels = taps.pixels(dy)
        self._itemwise(lambda dx, dy: avgpool_dgrad(self._cores, dy, dx, taps, pixels), dx, dy)

    # Normalisation and max-pooling at once: one after the other, nothing rounded between

    @rounds("y")
    def _lrn_maxpool_fprop(
        self,
        x: Floats,
        y: Floats,
        where: Ints,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
        g: PoolGeometry,
        relu: bool,
    ) -> None:
        normalised = np.empty_like(x)
        self._lrn_fprop(x, normalised, size, alpha, beta, k, groups)
        self._maxpool_fprop(normalised, y, where, g)
        if relu:
            self._relu_fprop(y, y)

    @rounds("dx")
    def _lrn_maxpool_dgrad(
        self,
        x: Floats,
        y: Floats | None,
        dy: Floats,
        where: Ints,
        dx: Floats,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
        g: PoolGeometry,
        gated: bool,
    ) -> None:
        if y is not None:
            passed = np.empty_like(dy)
            self._relu_dgrad(y, dy, passed)
            dy = passed
        spread = np.empty_like(x)
        self._maxpool_dgrad(dy, where, None, spread, g)
        self._lrn_dgrad(x, spread, dx, size, alpha, beta, k, groups)
        if gated:
            self._relu_dgrad(x, dx, dx)

    # Dropout

    @rounds("y")
    def _dropout(self, x: Floats, y: Floats, mask: Mask) -> None:
        counter = int(mask.step)
        below = math.ceil(mask.keep * 2**32)
        features = x.size // len(x)
        total, offset = np.uint64(mask.total or features), np.uint64(mask.offset)

        def work(x: Floats, y: Floats, images: Ints) -> None:
            first, skipped = np.divmod(images * total + offset, np.uint64(4))
            # An image may begin and end within a block of four draws.
            blocks = first[:, np.newaxis] + np.arange(features // 4 + 2, dtype=np.uint64)
            words = philox.draws(blocks, seed=mask.seed, step=counter, layer=mask.layer)
            kept = words.reshape(len(images), -1) < below
            for image, skip in enumerate(skipped.tolist()):
                select(kept[image, skip : skip + features], x[image], y[image])

        rows = (x.reshape(-1, features), y.reshape(-1, features))
        self._itemwise(work, *rows, np.arange(len(x), dtype=np.uint64))

    # Loss

    @rounds("dlogits")
    def _softmax_cross_entropy(
        self,
        logits: Floats,
        labels: Ints,
        loss: Floats,
        dlogits: Floats,
        top1: Floats,
        top5: Floats,
    ) -> None:
        images = np.arange(len(logits))
        label_logits = logits[images, labels][:, np.newaxis]
        above = np.count_nonzero(logits > label_logits, axis=1)
        equal = np.count_nonzero(logits == label_logits, axis=1)
        for error, k in ((top1, 1), (top5, 5)):
            credit = np.clip((k - above) / np.maximum(equal, 1), 0, 1)
            # Not even the label's own logit equals it if it is NaN: no credit then.
            error[...] = 1 - np.mean(credit * (equal > 0))
        with np.errstate(all="ignore"):
            shifted = logits - logits.max(axis=1, keepdims=True)
            np.exp(shifted, out=dlogits)
            sums = dlogits.sum(axis=1, keepdims=True)
            loss[...] = np.mean(np.log(sums[:, 0]) - shifted[images, labels])
            dlogits /= sums
            dlogits[images, labels] -= 1
            dlogits /= len(logits)

    # Learning

    def _sgd_update(
        self,
        w: Any,
        low: Ints | None,
        v: Floats,
        dw: Floats,
        lr: Any,
        momentum: float,
        weight_decay: float,
    ) -> None:
        rate = float(lr)
        if rate == 0:
            return

        def work(w: Floats, v: Floats, dw: Floats) -> None:
            change = self._cores.scratch("change", w.shape)
            v *= momentum
            v -= np.multiply(w, weight_decay * rate, out=change)
            v -= np.multiply(dw, rate, out=change)
            w += v

        def work_on_halves(high: Ints, low: Ints, v: Floats, dw: Floats) -> None:
            w = self._cores.scratch("w", high.shape)
            join(high, low, w)
            work(w, v, dw)
            split(w, high, low)

        if low is None:
            self._elementwise(work, w, v, dw)
        else:
            self._elementwise(work_on_halves, w, low, v, dw)

    def _split_weights(self, w: Floats, high: Ints, low: Ints) -> None:
        self._elementwise(split, w, high, low)

    def _join_weights(self, high: Ints, low: Ints, w: Floats) -> None:
        self._elementwise(join, high, low, w)

    # Exchange: all devices share the host's memory

    def _exchange_gather(self, parts: Sequence[Floats], whole: Floats) -> None:
        np.concatenate(parts, axis=-1, out=whole)

    def _exchange_scatter_add(self, dwholes: Sequence[Floats], dpart: Floats, start: int) -> None:
        channels = slice(start, start + dpart.shape[-1])
        np.copyto(dpart, dwholes[0][..., channels])
        with np.errstate(all="ignore"):
            for dwhole in dwholes[1:]:
                dpart += dwhole[..., channels]


def _groups(w_shape: tuple[int, ...], count: int) -> list[tuple[slice, slice]]:
    """The channels of x and the filters of each group, for filters (K, R, S, C / groups)."""
    channels, filters = w_shape[3], w_shape[0] // count
    return [
        (slice(i * channels, (i + 1) * channels), slice(i * filters, (i + 1) * filters))
        for i in range(count)
    ]


def _by_row(filters: Floats) -> Floats:
    """(R, S, inputs, outputs) of any strides as one matrix (S * inputs, outputs) for each row."""
    r, s, inputs, outputs = filters.shape
    return np.ascontiguousarray(filters).reshape(r, s * inputs, outputs)
