"""The operations of every backend: their contract, the checks of their arguments, and allocation.

An operation checks its arguments (a refusal is one sentence), allocates outputs that `out` does not
give, and passes both on to `_run`, the one method behind which the kernels are.

Conventions: maps are NHWC and filters KRSC (C = channels per group), weights of linear layers are
(out, in); all are C-contiguous and lie on the backend's device. Maps, their gradients and operand
weights are float32 or bfloat16, one type per call; everything else is float32 unless said
otherwise. All arithmetic is in float32; a result stored as bfloat16 is rounded once.
N images, C H W input channels, height and width; K filters of R x S; P Q output height and width.
No operation waits for the device: losses and errors are 0-d arrays. Every public operation raises
ArgumentError for an argument it refuses. `out`, if given, is written and returned; it may not
overlap an input, except that relu, tanh and dropout may run in place (out is the input).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from pyalexnet.backends.checks import integer, real
from pyalexnet.backends.elements import BFLOAT16, ELEMENTS, FLOAT32, element_of
from pyalexnet.backends.lane import Lane
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.records import (
    BlockGeometry,
    ConvGeometry,
    Learned,
    Mask,
    Norm,
    Pad,
    PoolGeometry,
    Stride,
)

Array: TypeAlias = Any  # np.ndarray on the host's backends, cupy.ndarray on cuda
Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["relu", "tanh"] | None

_MOST_TOWERS = 8  # the most that the exchange kernels support


class Backend(ABC):
    """One device's arrays and operations.

    Attributes:
        name: its name for `pyalexnet.backend`.
        device: the device's number.
        array_type: class of the arrays it computes on.
    """

    name: ClassVar[str]
    array_type: ClassVar[type[Any]]
    device: int

    # Arrays

    @abstractmethod
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """`x` as a C-contiguous array of this device; copied only where it has to be.

        Args:
            x: numbers, an array of the host or of another device (DLPack,
                __cuda_array_interface__).
            dtype: type to convert to; None keeps the type of `x`.
        """

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` on the host; waits for the device."""

    @abstractmethod
    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of unspecified contents."""

    @abstractmethod
    def zeros(self, shape: Shape, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of zeros."""

    @abstractmethod
    def copy(self, x: Array) -> Array:
        """A new C-contiguous copy of `x`, an array of this device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all work enqueued so far."""

    def assign(self, x: Array, values: Any) -> None:
        """Write `values`, of the host or any device, into `x`, an array of this device.

        They have its shape; their type is converted. Values on the host have been read when this
        returns, and may be changed.
        """
        x[...] = self.asarray(values, x.dtype)

    def same_memory(self, x: Array, other: Array) -> bool:
        """Whether two C-contiguous arrays of this device agree in type, shape and address."""
        alike = x.dtype == other.dtype and x.shape == other.shape
        return alike and self._address(x) == self._address(other)

    def record(self, work: Callable[[], None], *, graph: bool = True) -> Callable[[], None]:
        """Make `work`, which calls operations, ready to be run again and again on the same arrays.

        Args:
            work: called once here, or at every run; it must do nothing but call operations of this
                backend, always the same ones.
            graph: whether a GPU may run them all as one CUDA graph.

        Returns:
            A function that runs it on the stream current at the call. All recordings of a backend
            share scratch, so they may not run on two streams at a time.
        """
        return work

    def aside(self) -> AbstractContextManager[None]:
        """A context, inside `record`, for operations that may run beside all later ones.

        No later operation may touch what those inside write, or write what they read.
        """
        return nullcontext()

    def lane(self, shape: Shape, dtype: Any = np.uint8) -> Lane:
        """A reusable path from the host to this device for arrays of at most `shape`."""
        return Lane(self, shape, dtype)

    # The kernels

    @abstractmethod
    def _run(self, op: str, *arguments: Any) -> None:
        """Compute `op` from arguments that are checked: arrays, outputs among them, then records.

        Raises:
            ArgumentError: the kernels have a limit that the operation does not state.
            KernelError: a kernel could not be launched, or broke a rule.
        """

    @abstractmethod
    def _unit(self, x: Array, tensor: bool) -> str:
        """The unit that multiplies where `x` is an operand, as named in `kernels/ops.h`."""

    @abstractmethod
    def _readable(self, arrays: Sequence[Array]) -> AbstractContextManager[Sequence[Array]]:
        """`arrays` of any devices, or copies, that kernels of this device may read.

        Once the context has been left, later operations on their own devices may write them again.
        """

    @abstractmethod
    def _address(self, x: Array) -> int:
        """Address of the first byte of `x`."""

    def _overlap(self, x: Array, other: Array) -> bool:
        """Whether two C-contiguous arrays have a byte in common."""
        first, start = self._address(x), self._address(other)
        return bool(first < start + other.nbytes and start < first + x.nbytes)

    @abstractmethod
    def _lies_here(self, x: Array) -> bool:
        """Whether `x` lies on this device."""

    @abstractmethod
    def _may_write(self, x: Array) -> bool:
        """Whether `x` may be written."""

    # Images

    def augment(
        self,
        x: Array,
        mean: Array,
        *,
        corners: Array,
        flips: Array,
        shifts: Array,
        size: tuple[int, int],
        scale: float = 1.0,
        mean_at_pixel: bool = False,
        block: int = 1,
        pad: Pad = 0,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Network inputs from stored images: y = ((x - mean) + shift) * scale (section 4.1).

        Each image is cut at its own corner, mirrored or not, and shifted in colour; each of the
        three steps is rounded to float32, so that all backends give the same bits. To see whole
        images: size as stored; corners, flips and shifts 0.

        In blocks, y[n,i,j,(a block + b) C + c] is pixel (block i + a, block j + b) of the padded
        crop: a convolution of the crop whose stride is the block is one of stride 1 over y, with
        the filters of `filters_to_depth`. (The inverse of Shi et al.'s sub-pixel shuffle, 2016.)

        Args:
            x: (N, Hs, Ws, C) uint8, the stored images.
            mean: (Hs, Ws, C), their mean.
            corners: (N, 2) int32, top and left pixel of each crop, of the host or the device. A
                crop that does not lie inside the image is refused if the corners are on the host,
                and moved inside if they are on a GPU.
            flips: (N,) uint8, not 0 where the crop is mirrored, of the host or the device.
            shifts: (N, C), grey levels, of the host or the device.
            size: (H, W) of a crop.
            scale: the final factor.
            mean_at_pixel: subtract the mean of the crop's own pixels; otherwise that of the centre
                of the images, wherever the crop is, as the paper's program does.
            block: pixels on a side of the squares that become one pixel of y.
            pad: zeros around the crop; one number, or (top, bottom, left, right).
            dtype: of y, float32 or bfloat16, to which the result is rounded.

        Returns:
            y: (N, rows, columns, block^2 C) with rows = (H + top + bottom) / block, rounded up, the
                last ones padded with zeros; columns likewise. (N, H, W, C) with block 1, pad 0.
        """
        who = "augment"
        geometry = BlockGeometry.of(who, block, pad)
        element = element_of(who, "dtype", dtype)
        n, h, w, c = self._shape(who, "x", x, ("N", "Hs", "Ws", "C"), np.uint8)
        if self._shape(who, "mean", mean, ("Hs", "Ws", "C")) != (h, w, c):
            raise ArgumentError(f"{who}: mean has shape {mean.shape}; {(h, w, c)} was expected.")
        height, width = _sizes(who, "size", size, "HW")
        if height > h or width > w:
            raise ArgumentError(
                f"{who}: size is {height} x {width}; at most the {h} x {w} pixels of x were "
                "expected."
            )
        self._check_beside(who, "corners", corners, (n, 2), np.int32)
        self._check_beside(who, "flips", flips, (n,), np.uint8)
        self._check_beside(who, "shifts", shifts, (n, c), np.float32)
        if isinstance(corners, np.ndarray):
            _check_corners(who, corners, h - height, w - width)
        scale = real(who, "scale", scale)
        corners, flips, shifts = map(self.asarray, (corners, flips, shifts))
        shape = (n, *geometry.out_shape(height, width, c))
        inputs = (x, mean, corners, flips, shifts)
        y = self._result(who, "out", out, shape, *inputs, dtype=element)
        self._run(who, *inputs, y, (height, width), geometry, scale, bool(mean_at_pixel))
        return y

    def _check_beside(self, who: str, name: str, x: Any, shape: Shape, dtype: Any) -> None:
        """Check numbers that go with the images, on the host or the device."""
        if not isinstance(x, (self.array_type, np.ndarray)):
            raise ArgumentError(
                f"{who}: {name} is of type {type(x).__name__}; an array was expected."
            )
        if x.dtype != dtype:
            raise ArgumentError(f"{who}: {name} is {x.dtype}; {np.dtype(dtype)} was expected.")
        if x.shape != shape:
            raise ArgumentError(f"{who}: {name} has shape {x.shape}; {shape} was expected.")

    def images_to_depth(
        self,
        x: Array,
        *,
        block: int = 1,
        pad: Pad = 0,
        dtype: Any = np.float32,
        out: Array | None = None,
    ) -> Array:
        """Images in blocks, as `augment` makes them, from images already cropped.

        Args:
            x: (N, H, W, C).
            block, pad, dtype: as in `augment`.

        Returns:
            y: (N, rows, columns, block^2 C), as in `augment`; with block 1, pad 0, x in dtype.
        """
        who = "images_to_depth"
        geometry = BlockGeometry.of(who, block, pad)
        element = element_of(who, "dtype", dtype)
        n, h, w, c = self._shape(who, "x", x, "NHWC")
        shape = (n, *geometry.out_shape(h, w, c))
        y = self._result(who, "out", out, shape, x, dtype=element)
        self._run(who, x, y, geometry)
        return y

    def filters_to_depth(self, w: Array, *, block: int, out: Array | None = None) -> Array:
        """Filters for the images in blocks that `augment` makes.

        A convolution with w whose stride is the block is one of stride 1 with these: the same
        products, plus zeros where a filter does not fill its last blocks.

        Args:
            w: (K, R, S, C), float32 or bfloat16.
            block: pixels on a side of a block.

        Returns:
            deep: (K, R / block, S / block, block^2 C), both rounded up, of w's type;
                deep[k,i,j,(a block + b) C + c] = w[k, block i + a, block j + b, c], 0 outside.
        """
        who = "filters_to_depth"
        element = self._element(who, "w", w)
        k, r, s, c = self._shape(who, "w", w, "KRSC", element)
        geometry = BlockGeometry.of(who, block, 0)
        shape = (k, *geometry.out_shape(r, s, c))
        deep = self._result(who, "out", out, shape, w, dtype=element)
        self._run(who, w, deep, geometry.block)
        return deep

    def filters_from_depth(
        self, ddeep: Array, *, w_shape: Shape, block: int, out: Array | None = None
    ) -> Array:
        """Gradient of `filters_to_depth` with respect to w; that of its zeros is dropped.

        Args:
            ddeep: (K, R / block, S / block, block^2 C), both rounded up.
            w_shape: (K, R, S, C), which ddeep's shape alone does not determine.
            block: as in `filters_to_depth`.

        Returns:
            dw: (K, R, S, C).
        """
        who = "filters_from_depth"
        k, r, s, c = w_shape = _sizes(who, "w_shape", w_shape, "KRSC")
        geometry = BlockGeometry.of(who, block, 0)
        self._like(who, "ddeep", ddeep, (k, *geometry.out_shape(r, s, c)))
        dw = self._result(who, "out", out, w_shape, ddeep)
        self._run(who, ddeep, dw, geometry.block)
        return dw

    # Convolution

    def conv_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        *,
        stride: Stride,
        pad: Pad,
        groups: int = 1,
        towers: int = 1,
        activation: Activation = None,
        dropout: Mask | None = None,
        dtype: Any = None,
        tensor: bool = False,
        out: Array | None = None,
    ) -> Array:
        """y[n,p,q,k] = f(b[k] + sum over r,s,c of x[n, stride p + r - top, stride q + s - left, c]
        w[k,r,s,c]).

        Source: the paper's section 3.5; groups are its two towers of conv2, conv4 and conv5.

        Args:
            x: (N, H, W, C), float32 or bfloat16; pixels outside the image read as 0.
            w: (K, R, S, C / groups), of x's type; group i of the filters reads group i of the
                channels.
            b: (K,) float32, or None for zeros.
            stride: one number, or (vertical, horizontal).
            pad: rows and columns of zeros; one number, or (top, bottom, left, right).
            towers: devices that share the layer, 1 to 8, each with K of its filters. The kernels
                then sum in the order of the whole layer: the towers' maps side by side are, bit for
                bit, those of one device with all the filters.
            activation: f: None (identity), "relu" or "tanh".
            dropout: the result of f is then multiplied by the mask's factor where it is kept, and
                0 elsewhere; a feature is an index into y[image].ravel().
            dtype: of y: x's where None, or float32. Only y itself is rounded to it.
            tensor: whether a GPU's tensor cores multiply float32 too, each number as the sum of
                three bfloat16: as accurate, but with other bits. A number that is infinite, NaN, or
                at least 2^128 - 2^119 in size then turns every sum that it enters into NaN, and one
                smaller than 2^-110 loses the part below 2^-133. Ignored by cpu.

        Returns:
            y: (N, P, Q, K) with P = (H + top + bottom - R) // stride + 1, Q likewise.
        """
        who = "conv_fprop"
        geometry = ConvGeometry.of(who, stride, pad, groups)
        element = self._element(who, "x", x)
        x_shape = self._shape(who, "x", x, "NHWC", element)
        w_shape = self._shape(who, "w", w, "KRSC", element)
        y_shape = _conv_shape(who, geometry, x_shape, w_shape)
        if b is not None:
            self._like(who, "b", b, (w_shape[0],))
        towers = integer(who, "towers", towers, low=1, high=_MOST_TOWERS)
        _check_activation(who, activation)
        mask = self._mask(who, dropout, y_shape)
        element = _widened(who, dtype, element)
        y = self._result(who, "out", out, y_shape, x, w, b, dtype=element)
        unit = self._unit(x, tensor)
        self._run(who, x, w, b, y, geometry, unit, towers, activation, mask)
        return y

    def conv_dgrad(
        self,
        dy: Array,
        w: Array,
        *,
        x_shape: Shape,
        stride: Stride,
        pad: Pad,
        groups: int = 1,
        gate: Array | None = None,
        factor: float = 1.0,
        tensor: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `conv_fprop` (without activation and dropout) with respect to x.

        With a gate, the gradient with respect to the input of the ReLU, and of any dropout after
        it, that produced x: x is above 0 exactly where both let the value pass.

        Args:
            dy: (N, P, Q, K), float32 or bfloat16, the gradient with respect to y.
            w: (K, R, S, C / groups), of dy's type.
            x_shape: (N, H, W, C), which dy's shape alone does not determine.
            stride, pad, groups: as in `conv_fprop`.
            gate: x, of x_shape and dy's type; dx is 0 where it is not above 0. None counts as above
                0 everywhere.
            factor: a finite number that dx is multiplied by: the factor of the dropout.
            tensor: as in `conv_fprop`.

        Returns:
            dx: (N, H, W, C), of dy's type; zero where no window reads the pixel, if w is finite.
        """
        who = "conv_dgrad"
        geometry = ConvGeometry.of(who, stride, pad, groups)
        x_shape = _sizes(who, "x_shape", x_shape, "NHWC")
        element = self._element(who, "dy", dy)
        w_shape = self._shape(who, "w", w, "KRSC", element)
        self._like(who, "dy", dy, _conv_shape(who, geometry, x_shape, w_shape), element)
        if gate is not None:
            self._like(who, "gate", gate, x_shape, element)
        factor = real(who, "factor", factor)
        dx = self._result(who, "out", out, x_shape, dy, w, gate, dtype=element)
        self._run(who, dy, w, gate, dx, geometry, self._unit(dy, tensor), factor)
        return dx

    def conv_wgrad(
        self,
        x: Array,
        dy: Array,
        *,
        w_shape: Shape,
        stride: Stride,
        pad: Pad,
        groups: int = 1,
        tensor: bool = False,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Gradient of `conv_fprop` (without activation) with respect to w and b.

        The order of the sums is fixed, so that equal arguments give equal bits.

        Args:
            x: (N, H, W, C), float32 or bfloat16.
            dy: (N, P, Q, K), of x's type, the gradient with respect to y.
            w_shape: (K, R, S, C / groups).
            stride, pad, groups, tensor: as in `conv_fprop`.

        Returns:
            dw: (K, R, S, C / groups) float32; db: (K,) float32.
        """
        who = "conv_wgrad"
        geometry = ConvGeometry.of(who, stride, pad, groups)
        element = self._element(who, "x", x)
        x_shape = self._shape(who, "x", x, "NHWC", element)
        w_shape = _sizes(who, "w_shape", w_shape, "KRSC")
        self._like(who, "dy", dy, _conv_shape(who, geometry, x_shape, w_shape), element)
        dw_out, db_out = _split_out(who, out, "(dw, db)")
        dw = self._result(who, "out[0] (dw)", dw_out, w_shape, x, dy)
        db = self._result(who, "out[1] (db)", db_out, (w_shape[0],), x, dy, dw_out)
        self._run(who, x, dy, dw, db, geometry, self._unit(x, tensor))
        return dw, db

    def conv_wgrad_sgd(
        self,
        x: Array,
        dy: Array,
        w: Learned,
        b: Learned,
        *,
        stride: Stride,
        pad: Pad,
        groups: int = 1,
        tensor: bool = False,
    ) -> None:
        """In place: `conv_wgrad`, then `sgd_update` of w and b with its gradients.

        The gradients are not stored; w, b and their momenta get the same bits as from the two
        operations one after the other.

        Args:
            x: (N, H, W, C), float32 or bfloat16.
            dy: (N, P, Q, K), of x's type, the gradient with respect to y.
            w: filters (K, R, S, C / groups) of x's type; with `low` where that is bfloat16.
            b: biases (K,) float32.
            stride, pad, groups, tensor: as in `conv_fprop`.
        """
        who = "conv_wgrad_sgd"
        geometry = ConvGeometry.of(who, stride, pad, groups)
        element = self._element(who, "x", x)
        x_shape = self._shape(who, "x", x, "NHWC", element)
        w = self._learned(who, "w", w, "KRSC", element)
        self._like(who, "dy", dy, _conv_shape(who, geometry, x_shape, w.w.shape), element)
        b = self._learned_biases(who, b, w)
        self._check_updated(who, w, b, x, dy)
        arrays = (x, dy, w.w, w.low, w.v, b.w, b.v)
        self._run(who, *arrays, geometry, self._unit(x, tensor), w.rule, b.rule)

    # Linear layers

    def linear_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        *,
        towers: int = 1,
        activation: Activation = None,
        dropout: Mask | None = None,
        dtype: Any = None,
        tensor: bool = False,
        out: Array | None = None,
    ) -> Array:
        """y = f(x w^T + b).

        Args:
            x: (N, in), float32 or bfloat16.
            w: (out, in), of x's type.
            b: (out,) float32, or None for zeros.
            towers: devices that share the layer, each with `out` of its outputs; as in
                `conv_fprop`.
            activation: f: None (identity), "relu" or "tanh".
            dropout, dtype, tensor: as in `conv_fprop`.

        Returns:
            y: (N, out).
        """
        who = "linear_fprop"
        element = self._element(who, "x", x)
        images, inputs = self._shape(who, "x", x, ("N", "in"), element)
        outputs, columns = self._shape(who, "w", w, ("out", "in"), element)
        if columns != inputs:
            raise ArgumentError(
                f"{who}: w has {columns} inputs; x has {inputs}, so {inputs} were expected."
            )
        if b is not None:
            self._like(who, "b", b, (outputs,))
        towers = integer(who, "towers", towers, low=1, high=_MOST_TOWERS)
        _check_activation(who, activation)
        shape = (images, outputs)
        mask = self._mask(who, dropout, shape)
        element = _widened(who, dtype, element)
        y = self._result(who, "out", out, shape, x, w, b, dtype=element)
        self._run(who, x, w, b, y, self._unit(x, tensor), towers, activation, mask)
        return y

    def linear_dgrad(
        self,
        dy: Array,
        w: Array,
        *,
        gate: Array | None = None,
        factor: float = 1.0,
        tensor: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `linear_fprop` (without activation) with respect to x: dy w.

        Args:
            dy: (N, out), float32 or bfloat16, the gradient with respect to y.
            w: (out, in), of dy's type.
            gate: x, (N, in) of dy's type, or None; as in `conv_dgrad`.
            factor, tensor: as in `conv_dgrad`.

        Returns:
            dx: (N, in), of dy's type.
        """
        who = "linear_dgrad"
        element = self._element(who, "dy", dy)
        images, outputs = self._shape(who, "dy", dy, ("N", "out"), element)
        rows, inputs = self._shape(who, "w", w, ("out", "in"), element)
        if rows != outputs:
            raise ArgumentError(
                f"{who}: w has {rows} outputs; dy has {outputs}, so {outputs} were expected."
            )
        if gate is not None:
            self._like(who, "gate", gate, (images, inputs), element)
        factor = real(who, "factor", factor)
        dx = self._result(who, "out", out, (images, inputs), dy, w, gate, dtype=element)
        self._run(who, dy, w, gate, dx, self._unit(dy, tensor), factor)
        return dx

    def linear_wgrad(
        self,
        x: Array,
        dy: Array,
        *,
        tensor: bool = False,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Gradient of `linear_fprop` (without activation) with respect to w and b.

        Args:
            x: (N, in), float32 or bfloat16.
            dy: (N, out), of x's type, the gradient with respect to y.
            tensor: as in `conv_fprop`.

        Returns:
            dw: (out, in) float32, dy^T x; db: (out,) float32, the sum of dy over the images.
        """
        who = "linear_wgrad"
        inputs, outputs = self._linear_wgrad_shape(who, x, dy)
        dw_out, db_out = _split_out(who, out, "(dw, db)")
        dw = self._result(who, "out[0] (dw)", dw_out, (outputs, inputs), x, dy)
        db = self._result(who, "out[1] (db)", db_out, (outputs,), x, dy, dw_out)
        self._run(who, x, dy, dw, db, self._unit(x, tensor))
        return dw, db

    def linear_wgrad_sgd(
        self, x: Array, dy: Array, w: Learned, b: Learned, *, tensor: bool = False
    ) -> None:
        """In place: `linear_wgrad`, then `sgd_update` of w and b with its gradients.

        As in `conv_wgrad_sgd`, the gradients are not stored.

        Args:
            x: (N, in), float32 or bfloat16.
            dy: (N, out), of x's type, the gradient with respect to y.
            w: weights (out, in) of x's type; with `low` where that is bfloat16.
            b: biases (out,) float32.
            tensor: as in `conv_fprop`.
        """
        who = "linear_wgrad_sgd"
        inputs, outputs = self._linear_wgrad_shape(who, x, dy)
        w = self._learned(who, "w", w, ("out", "in"), x.dtype)
        if w.w.shape != (outputs, inputs):
            raise ArgumentError(
                f"{who}: w.w has shape {w.w.shape}; {(outputs, inputs)} was expected."
            )
        b = self._learned_biases(who, b, w)
        self._check_updated(who, w, b, x, dy)
        arrays = (x, dy, w.w, w.low, w.v, b.w, b.v)
        self._run(who, *arrays, self._unit(x, tensor), w.rule, b.rule)

    def _linear_wgrad_shape(self, who: str, x: Array, dy: Array) -> tuple[int, int]:
        """Numbers of a layer's inputs and outputs, from its input and output gradient."""
        element = self._element(who, "x", x)
        images, inputs = self._shape(who, "x", x, ("N", "in"), element)
        rows, outputs = self._shape(who, "dy", dy, ("N", "out"), element)
        if rows != images:
            raise ArgumentError(
                f"{who}: dy has {rows} images; x has {images}, so {images} were expected."
            )
        return inputs, outputs

    # Arguments of conv and linear for what follows their sums

    def _mask(self, who: str, dropout: Any, shape: Shape) -> Mask | None:
        """Checked dropout, if any, of an output (N, ...)."""
        if dropout is None:
            return None
        if not isinstance(dropout, Mask):
            raise ArgumentError(
                f"{who}: dropout is of type {type(dropout).__name__}; a Mask or None was expected."
            )
        return self._checked_mask(who, dropout, shape)

    def _checked_mask(self, who: str, mask: Mask, shape: Shape) -> Mask:
        """The mask of an array (N, ...), its total spelled out."""
        features = math.prod(shape[1:])
        keep = real(who, "keep", mask.keep, low=0.0, high=1.0)
        seed = integer(who, "seed", mask.seed, high=2**64 - 1)
        step = mask.step
        if isinstance(step, self.array_type):
            self._like(who, "step", step, (), np.uint32)
        else:
            step = integer(who, "step", step, high=2**32 - 1)
        layer = integer(who, "layer", mask.layer, high=2**32 - 1)
        offset = integer(who, "offset", mask.offset)
        total = features if mask.total is None else integer(who, "total", mask.total, low=1)
        if offset + features > total:
            raise ArgumentError(
                f"{who}: total is {total}; offset {offset} and an image's {features} features need "
                f"at least {offset + features}."
            )
        factor = real(who, "factor", mask.factor)
        return Mask(keep, seed, step, layer, offset, total, factor)

    def _learned(
        self, who: str, name: str, given: Any, axes: Sequence[str], element: np.dtype[Any]
    ) -> Learned:
        """Checked parameters: of this type, their arrays of one shape, the rates finite."""
        if not isinstance(given, Learned):
            raise ArgumentError(
                f"{who}: {name} is of type {type(given).__name__}; a Learned was expected."
            )
        shape = self._shape(who, f"{name}.w", given.w, axes, element)
        self._like(who, f"{name}.v", given.v, shape)
        self._check_low(who, f"{name}.", given.low, shape, element)
        lr = given.lr
        if isinstance(lr, self.array_type):
            self._like(who, f"{name}.lr", lr, ())
        else:
            lr = real(who, f"{name}.lr", lr)
        momentum = real(who, f"{name}.momentum", given.momentum)
        weight_decay = real(who, f"{name}.weight_decay", given.weight_decay)
        return Learned(given.w, given.v, lr, momentum, weight_decay, given.low)

    def _learned_biases(self, who: str, b: Any, w: Learned) -> Learned:
        """Checked biases, float32, one for each of the filters or outputs of w."""
        biases = self._learned(who, "b", b, ("K",), FLOAT32)
        if biases.w.shape != w.w.shape[:1]:
            raise ArgumentError(
                f"{who}: b.w has shape {biases.w.shape}; {w.w.shape[:1]} was expected."
            )
        return biases

    def _check_updated(self, who: str, w: Learned, b: Learned, *inputs: Array) -> None:
        """Refuse to update parameters that overlap another array of the call."""
        updated = {
            f"{name}.{part}": getattr(learned, part)
            for name, learned in (("w", w), ("b", b))
            for part in ("w", "v", "low")
            if getattr(learned, part) is not None
        }
        others = list(inputs)
        for name, array in updated.items():
            self._check_written(who, name, array, *others)
            others.append(array)

    # Activations, on arrays of any shape

    def relu_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = max(x, 0) (paper, section 3.1); NaN stays NaN. May run in place."""
        who = "relu_fprop"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, dtype=element)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run(who, x, y)
        return y

    def relu_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy where y > 0, else 0; y is the output of `relu_fprop`. May overwrite y or dy."""
        who = "relu_dgrad"
        element = self._element(who, "y", y)
        shape = self._shape(who, "y", y, dtype=element)
        self._like(who, "dy", dy, shape, element)
        dx = self._result(who, "out", out, shape, y, dy, dtype=element, in_place=True)
        self._run(who, y, dy, dx)
        return dx

    def tanh_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = tanh(x), the unit that the paper's figure 1 compares with. May run in place."""
        who = "tanh_fprop"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, dtype=element)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run(who, x, y)
        return y

    def tanh_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy (1 - y^2); y is the output of `tanh_fprop`. May overwrite y or dy."""
        who = "tanh_dgrad"
        element = self._element(who, "y", y)
        shape = self._shape(who, "y", y, dtype=element)
        self._like(who, "dy", dy, shape, element)
        dx = self._result(who, "out", out, shape, y, dy, dtype=element, in_place=True)
        self._run(who, y, dy, dx)
        return dx

    def scale(self, x: Array, *, factor: float, out: Array | None = None) -> Array:
        """y = factor x, as dropout needs it (paper, section 4.2). May overwrite x.

        Args:
            x: any shape.
            factor: a finite number.
        """
        who = "scale"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, dtype=element)
        factor = real(who, "factor", factor)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run(who, x, y, factor)
        return y

    # Normalisation

    def lrn_fprop(
        self,
        x: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        out: Array | None = None,
    ) -> Array:
        """Local response normalisation across channels: y = x (k + alpha sum x^2)^-beta.

        The sum for channel i of a pixel runs over the `size` channels from i - size // 2, clipped
        at the edges of its group, and is a float32: one |x| of 2^64 makes it infinite, and y 0.
        Source: paper, section 3.3; `cmrnorm` of cuda-convnet, whose `scale` is alpha times size.

        Args:
            x: (N, H, W, C).
            size: channels in a window, at least 1.
            alpha: weight of each square (not divided by size), at least 0.
            beta: exponent.
            k: constant term, above 0.
            groups: number of equal parts of the channels, each normalised on its own.

        Returns:
            y: (N, H, W, C).
        """
        who = "lrn_fprop"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, "NHWC", element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, groups)
        y = self._result(who, "out", out, shape, x, dtype=element)
        self._run(who, x, y, norm)
        return y

    def lrn_dgrad(
        self,
        x: Array,
        dy: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `lrn_fprop` with respect to x.

        With d = k + alpha sum x^2: dx_i = dy_i d_i^-beta
        - 2 alpha beta x_i sum of dy_j x_j d_j^(-beta - 1) over every j whose window contains i.

        Args:
            x: (N, H, W, C), the input of `lrn_fprop`.
            dy: (N, H, W, C), the gradient with respect to y.
            size, alpha, beta, k, groups: as in `lrn_fprop`.

        Returns:
            dx: (N, H, W, C).
        """
        who = "lrn_dgrad"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, "NHWC", element)
        self._like(who, "dy", dy, shape, element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, groups)
        dx = self._result(who, "out", out, shape, x, dy, dtype=element)
        self._run(who, x, dy, dx, norm)
        return dx

    def rnorm_fprop(
        self,
        x: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        out: Array | None = None,
    ) -> Array:
        """Response normalisation within a map: y = x (k + alpha sum x^2)^-beta.

        The sum runs over the size x size pixels of the same channel from (h - size // 2,
        w - size // 2), clipped at the border; where it overflows, y is 0, as in `lrn_fprop`.
        Source: `rnorm` of cuda-convnet, whose `scale` is alpha times size^2.

        Args:
            x: (N, H, W, C).
            size: pixels on a side of the window, at least 1.
            alpha: weight of each square, at least 0.
            beta: exponent.
            k: constant term, above 0.

        Returns:
            y: (N, H, W, C).
        """
        who = "rnorm_fprop"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, "NHWC", element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, 1)
        y = self._result(who, "out", out, shape, x, dtype=element)
        self._run(who, x, y, norm)
        return y

    def rnorm_dgrad(
        self,
        x: Array,
        dy: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `rnorm_fprop` with respect to x; the formula is `lrn_dgrad`'s.

        Args:
            x: (N, H, W, C), the input of `rnorm_fprop`.
            dy: (N, H, W, C), the gradient with respect to y.
            size, alpha, beta, k: as in `rnorm_fprop`.

        Returns:
            dx: (N, H, W, C).
        """
        who = "rnorm_dgrad"
        element = self._element(who, "x", x)
        shape = self._shape(who, "x", x, "NHWC", element)
        self._like(who, "dy", dy, shape, element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, 1)
        dx = self._result(who, "out", out, shape, x, dy, dtype=element)
        self._run(who, x, dy, dx, norm)
        return dx

    # Pooling

    def maxpool_fprop(
        self,
        x: Array,
        *,
        size: int,
        stride: int,
        ceil: bool = True,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Largest value of each window of a map, overlapping where stride < size (section 3.4).

        A NaN counts as larger than any number.

        Args:
            x: (N, H, W, C).
            size: pixels on a side of a window, 1 to 256.
            stride: pixels from one window to the next, at least 1.
            ceil: keep the windows that the bottom and right border clip (cuda-convnet's rule).

        Returns:
            y: (N, P, Q, C); P = (H - size) / stride + 1, rounded up with `ceil`, but no window
                starts outside the image; rounded down without. Q likewise.
            where: (N, P, Q, C), for `maxpool_dgrad`: r * size + s of the first maximum in
                row-major order; uint8 where size <= 16, else uint16.
        """
        who = "maxpool_fprop"
        geometry = PoolGeometry.of(who, size, stride, ceil)
        y, where = self._pooled(who, x, geometry, out)
        self._run(who, x, y, where, geometry)
        return y, where

    def _pooled(
        self, who: str, x: Array, geometry: PoolGeometry, out: tuple[Array, Array] | None
    ) -> tuple[Array, Array]:
        """The maxima of x's windows and their places, checked or new, to be written."""
        element = self._element(who, "x", x)
        n, h, w, c = self._shape(who, "x", x, "NHWC", element)
        shape = (n, *geometry.out_size(who, h, w), c)
        y_out, where_out = _split_out(who, out, "(y, where)")
        y = self._result(who, "out[0] (y)", y_out, shape, x, dtype=element)
        where = self._result(
            who, "out[1] (where)", where_out, shape, x, y_out, dtype=geometry.where_dtype
        )
        return y, where

    def maxpool_dgrad(
        self,
        dy: Array,
        where: Array,
        *,
        x_shape: Shape,
        size: int,
        stride: int,
        ceil: bool = True,
        gate: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `maxpool_fprop` with respect to x: all of it goes to the first maximum.

        Args:
            dy: (N, P, Q, C), the gradient with respect to y.
            where: (N, P, Q, C), as `maxpool_fprop` returned it.
            x_shape: (N, H, W, C).
            size, stride, ceil: as in `maxpool_fprop`.
            gate: (N, H, W, C), x itself where it is the output of a ReLU: dx is 0 where x is not
                above 0, which makes it the gradient with respect to the ReLU's input.

        Returns:
            dx: (N, H, W, C).
        """
        who = "maxpool_dgrad"
        geometry = PoolGeometry.of(who, size, stride, ceil)
        n, h, w, c = x_shape = _sizes(who, "x_shape", x_shape, "NHWC")
        shape = (n, *geometry.out_size(who, h, w), c)
        element = self._element(who, "dy", dy)
        self._like(who, "dy", dy, shape, element)
        self._like(who, "where", where, shape, geometry.where_dtype)
        if gate is not None:
            self._like(who, "gate", gate, x_shape, element)
        dx = self._result(who, "out", out, x_shape, dy, where, gate, dtype=element)
        self._run(who, dy, where, gate, dx, geometry)
        return dx

    def avgpool_fprop(
        self, x: Array, *, size: int, stride: int, ceil: bool = True, out: Array | None = None
    ) -> Array:
        """Mean of the pixels of each window that lie inside the image (cuda-convnet's rule).

        Args:
            x: (N, H, W, C).
            size, stride, ceil: as in `maxpool_fprop`.

        Returns:
            y: (N, P, Q, C), of `maxpool_fprop`'s shape.
        """
        who = "avgpool_fprop"
        geometry = PoolGeometry.of(who, size, stride, ceil)
        element = self._element(who, "x", x)
        n, h, w, c = self._shape(who, "x", x, "NHWC", element)
        shape = (n, *geometry.out_size(who, h, w), c)
        y = self._result(who, "out", out, shape, x, dtype=element)
        self._run(who, x, y, geometry)
        return y

    def avgpool_dgrad(
        self,
        dy: Array,
        *,
        x_shape: Shape,
        size: int,
        stride: int,
        ceil: bool = True,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `avgpool_fprop` with respect to x.

        Args:
            dy: (N, P, Q, C), the gradient with respect to y.
            x_shape: (N, H, W, C).
            size, stride, ceil: as in `maxpool_fprop`.

        Returns:
            dx: (N, H, W, C).
        """
        who = "avgpool_dgrad"
        geometry = PoolGeometry.of(who, size, stride, ceil)
        n, h, w, c = x_shape = _sizes(who, "x_shape", x_shape, "NHWC")
        element = self._element(who, "dy", dy)
        self._like(who, "dy", dy, (n, *geometry.out_size(who, h, w), c), element)
        dx = self._result(who, "out", out, x_shape, dy, dtype=element)
        self._run(who, dy, dx, geometry)
        return dx

    # Normalisation and max-pooling at once

    def lrn_maxpool_fprop(
        self,
        x: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        pool_size: int,
        pool_stride: int,
        ceil: bool = True,
        relu: bool = False,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """`maxpool_fprop` of `lrn_fprop`, and `relu_fprop` of that if asked, in one pass.

        Intermediate results are neither stored nor rounded.

        Args:
            x: (N, H, W, C).
            size, alpha, beta, k, groups: as in `lrn_fprop`.
            pool_size, pool_stride, ceil: size, stride and ceil of `maxpool_fprop`.
            relu: whether a ReLU follows the pool.

        Returns:
            y: (N, P, Q, C).
            where: (N, P, Q, C), as in `maxpool_fprop`; for `lrn_maxpool_dgrad`.
        """
        who = "lrn_maxpool_fprop"
        geometry = PoolGeometry.of(who, pool_size, pool_stride, ceil, prefix="pool_")
        y, where = self._pooled(who, x, geometry, out)
        norm = Norm.of(who, x.shape[3], size, alpha, beta, k, groups)
        self._run(who, x, y, where, norm, geometry, bool(relu))
        return y, where

    def lrn_maxpool_dgrad(
        self,
        x: Array,
        dy: Array,
        where: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        pool_size: int,
        pool_stride: int,
        ceil: bool = True,
        y: Array | None = None,
        gated: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `lrn_maxpool_fprop` with respect to x, in one pass.

        Args:
            x: (N, H, W, C), its input.
            dy: (N, P, Q, C), the gradient with respect to y.
            where: (N, P, Q, C), as `lrn_maxpool_fprop` returned it.
            size, alpha, beta, k, groups, pool_size, pool_stride, ceil: as given to it.
            y: (N, P, Q, C), its output if `relu` was set; else None.
            gated: whether x is the output of a ReLU: dx is then 0 where x is not above 0, which
                makes it the gradient with respect to the ReLU's input.

        Returns:
            dx: (N, H, W, C).
        """
        who = "lrn_maxpool_dgrad"
        geometry = PoolGeometry.of(who, pool_size, pool_stride, ceil, prefix="pool_")
        element = self._element(who, "x", x)
        n, h, w, c = x_shape = self._shape(who, "x", x, "NHWC", element)
        norm = Norm.of(who, c, size, alpha, beta, k, groups)
        shape = (n, *geometry.out_size(who, h, w), c)
        self._like(who, "dy", dy, shape, element)
        self._like(who, "where", where, shape, geometry.where_dtype)
        if y is not None:
            self._like(who, "y", y, shape, element)
        dx = self._result(who, "out", out, x_shape, x, dy, where, y, dtype=element)
        self._run(who, x, y, dy, where, dx, norm, geometry, bool(gated))
        return dx

    # Dropout

    def dropout_fprop(
        self,
        x: Array,
        *,
        keep: float,
        seed: int,
        step: int | Array,
        layer: int,
        offset: int = 0,
        total: int | None = None,
        out: Array | None = None,
    ) -> Array:
        """y = x where the element is kept, else 0; nothing is rescaled (paper, section 4.2).

        The mask depends on the arguments alone: element e = image * total + offset + feature is
        kept iff word e % 4 of Philox4x32-10, keyed by seed at counter (e // 4, step, layer), is
        below keep * 2^32. May run in place.

        Args:
            x: (N, ...); a feature is an index into x[image].ravel().
            keep: probability of keeping an element, 0 to 1.
            seed: 0 to 2^64 - 1.
            step: 0 to 2^32 - 1, or a 0-d uint32 array of the device.
            layer: 0 to 2^32 - 1.
            offset: index of x's first feature in the whole layer, for one tower of several.
            total: features of the whole layer; those of x where None.

        Returns:
            y: of x's shape.
        """
        return self._masked("dropout_fprop", "x", x, keep, seed, step, layer, offset, total, out)

    def dropout_dgrad(
        self,
        dy: Array,
        *,
        keep: float,
        seed: int,
        step: int | Array,
        layer: int,
        offset: int = 0,
        total: int | None = None,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `dropout_fprop` with respect to x: the same mask on dy. May run in place.

        Args:
            dy: (N, ...), the gradient with respect to y.
            keep, seed, step, layer, offset, total: as in `dropout_fprop`.

        Returns:
            dx: of dy's shape.
        """
        return self._masked("dropout_dgrad", "dy", dy, keep, seed, step, layer, offset, total, out)

    def _masked(
        self,
        who: str,
        name: str,
        x: Array,
        keep: float,
        seed: int,
        step: int | Array,
        layer: int,
        offset: int,
        total: int | None,
        out: Array | None,
    ) -> Array:
        element = self._element(who, name, x)
        shape = self._shape(who, name, x, dtype=element)
        if not shape:
            raise ArgumentError(f"{who}: {name} has no dimensions; (N, ...) was expected.")
        mask = self._checked_mask(who, Mask(keep, seed, step, layer, offset, total), shape)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run("dropout", x, y, mask)
        return y

    # Loss

    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Any,
        *,
        dtype: Any = np.float32,
        out: tuple[Array, Array, Array, Array] | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Mean cross-entropy of the softmax, its gradient, and the errors (paper, section 3.5).

        With g logits above the label's and t equal to it (itself included), the top-k credit of an
        image is (k - g) / t clamped to 0..1, as in cuda-convnet; an error is 1 - the mean credit.

        Args:
            logits: (N, classes).
            labels: (N,) integers of any type, of the host or the device. A label that is no class
                is refused if on the host; on a GPU it makes loss and gradient NaN.
            dtype: of dlogits, float32 or bfloat16; logits are float32 in either case.

        Returns:
            loss: 0-d, the mean of -log softmax(logits)[label].
            dlogits: (N, classes), its gradient.
            top1_error, top5_error: 0-d, fractions.
        """
        who = "softmax_cross_entropy"
        shape = self._shape(who, "logits", logits, ("N", "classes"))
        labels = self.checked_labels(labels, *shape)
        element = element_of(who, "dtype", dtype)
        loss, dlogits, top1, top5 = _split_out(
            who, out, "(loss, dlogits, top1_error, top5_error)", count=4
        )
        results = (
            self._result(who, "out[0] (loss)", loss, (), logits),
            self._result(who, "out[1] (dlogits)", dlogits, shape, logits, loss, dtype=element),
            self._result(who, "out[2] (top1_error)", top1, (), logits, loss, dlogits),
            self._result(who, "out[3] (top5_error)", top5, (), logits, loss, dlogits, top1),
        )
        self._run(who, logits, labels, *results)
        return results

    def checked_labels(self, labels: Any, rows: int, classes: int) -> Array:
        """Labels as `softmax_cross_entropy` takes them for logits (rows, classes), int64 here."""
        who = "softmax_cross_entropy"
        visible = not isinstance(labels, self.array_type) or self.array_type is np.ndarray
        if visible:
            labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise ArgumentError(f"{who}: labels are {labels.dtype}; integers were expected.")
        if labels.shape != (rows,):
            raise ArgumentError(
                f"{who}: labels has shape {labels.shape}; logits has {rows} rows, so ({rows},) was "
                "expected."
            )
        if visible and not 0 <= labels.min() <= labels.max() < classes:
            bad = labels[(labels < 0) | (labels >= classes)][0]
            raise ArgumentError(
                f"{who}: labels has {bad}; with {classes} classes 0 to {classes - 1} were expected."
            )
        return self.asarray(labels, np.int64)

    # Learning

    def sgd_update(
        self,
        w: Array,
        v: Array,
        dw: Array,
        *,
        lr: float | Array,
        momentum: float,
        weight_decay: float,
        low: Array | None = None,
    ) -> None:
        """In place: v = momentum v - weight_decay lr w - lr dw, then w = w + v (section 5).

        With lr = 0 neither changes: the 2012 program froze a layer in this way, momentum and all.

        Args:
            w: parameters, of any shape; float32, or the bfloat16 half of float32 parameters, as
                `split_weights` made it.
            v: momentum buffer, of w's shape.
            dw: gradient (mean over the batch), of w's shape.
            lr: learning rate, or a 0-d float32 array of the device.
            low: uint16 of w's shape, the other half, where w is bfloat16: the two are updated as
                the float32 that they form.
        """
        who = "sgd_update"
        element = self._element(who, "w", w)
        shape = self._shape(who, "w", w, dtype=element)
        self._like(who, "v", v, shape)
        self._like(who, "dw", dw, shape)
        self._check_low(who, "", low, shape, element)
        if isinstance(lr, self.array_type):
            self._like(who, "lr", lr, ())
        else:
            lr = real(who, "lr", lr)
        momentum = real(who, "momentum", momentum)
        weight_decay = real(who, "weight_decay", weight_decay)
        self._check_written(who, "w", w, v, dw, low)
        self._check_written(who, "v", v, dw, low)
        if low is not None:
            self._check_written(who, "low", low, dw)
        self._run(who, w, low, v, dw, (lr, momentum, weight_decay))

    def _check_low(
        self, who: str, prefix: str, low: Array | None, shape: Shape, element: np.dtype[Any]
    ) -> None:
        """Check `low`, which bfloat16 weights need and float32 ones must not have.

        Args:
            prefix: of the names of both, in the error's text.
        """
        if element != BFLOAT16:
            if low is not None:
                raise ArgumentError(
                    f"{who}: {prefix}low is given; None was expected, for {prefix}w is {element} "
                    "and whole."
                )
        elif low is None:
            raise ArgumentError(
                f"{who}: {prefix}low is None; {prefix}w is bfloat16, so the other half of the "
                "weights was expected."
            )
        else:
            self._like(who, f"{prefix}low", low, shape, np.uint16)

    def split_weights(
        self, w: Array, *, out: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """Float32 weights as two halves; bfloat16 operations read the first.

        Every float32 is kept to the last bit; a NaN stays a NaN, in `high` too.

        Args:
            w: of any shape.

        Returns:
            high: w rounded to bfloat16, ties away from zero.
            low: uint16, the rest: the bits of w are those of `high` times 2^16, plus `low` read
                as a signed number.
        """
        who = "split_weights"
        shape = self._shape(who, "w", w)
        high_out, low_out = _split_out(who, out, "(high, low)")
        high = self._result(who, "out[0] (high)", high_out, shape, w, dtype=BFLOAT16)
        low = self._result(who, "out[1] (low)", low_out, shape, w, high_out, dtype=np.uint16)
        self._run(who, w, high, low)
        return high, low

    def join_weights(self, high: Array, low: Array, *, out: Array | None = None) -> Array:
        """The weights that `split_weights` split.

        Args:
            high: bfloat16, of any shape.
            low: uint16, of high's shape.

        Returns:
            w: float32, of high's shape.
        """
        who = "join_weights"
        shape = self._shape(who, "high", high, dtype=BFLOAT16)
        self._like(who, "low", low, shape, np.uint16)
        w = self._result(who, "out", out, shape, high, low)
        self._run(who, high, low, w)
        return w

    # Exchange between devices

    def exchange_gather(self, parts: Sequence[Array], *, out: Array | None = None) -> Array:
        """Towers' channels side by side: conv3 and the linear layers read both (section 3.5).

        Args:
            parts: arrays (..., C_i) of one shape but for C_i, each on any device of this kind.

        Returns:
            whole: (..., sum of C_i), on this device.
        """
        who = "exchange_gather"
        lead = self._exchanged(who, "parts", parts)
        for index, part in enumerate(parts):
            if part.shape[:-1] != lead[:-1]:
                raise ArgumentError(
                    f"{who}: parts[{index}] has shape {part.shape}; {lead[:-1]} and any number of "
                    "channels was expected, as in parts[0]."
                )
        shape = (*lead[:-1], sum(part.shape[-1] for part in parts))
        whole = self._result(who, "out", out, shape, *parts)
        with self._readable(parts) as near:
            self._run(who, near, whole)
        return whole

    def exchange_scatter_add(
        self, dwholes: Sequence[Array], *, start: int, channels: int, out: Array | None = None
    ) -> Array:
        """Gradient of `exchange_gather`: every reader's, for one tower's channels, summed.

        Args:
            dwholes: arrays (..., C) of one shape, each on any device of this kind.
            start: first channel of the tower.
            channels: number of its channels.

        Returns:
            dpart: (..., channels), the sum of dwholes[t][..., start : start + channels] in the
                order of t, on this device.
        """
        who = "exchange_scatter_add"
        lead = self._exchanged(who, "dwholes", dwholes)
        for index, dwhole in enumerate(dwholes):
            if dwhole.shape != lead:
                raise ArgumentError(
                    f"{who}: dwholes[{index}] has shape {dwhole.shape}; {lead} was expected, as in "
                    "dwholes[0]."
                )
        start = integer(who, "start", start)
        channels = integer(who, "channels", channels, low=1)
        if start + channels > lead[-1]:
            raise ArgumentError(
                f"{who}: start {start} plus {channels} channels is {start + channels}; at most the "
                f"{lead[-1]} channels of dwholes were expected."
            )
        dpart = self._result(who, "out", out, (*lead[:-1], channels), *dwholes)
        with self._readable(dwholes) as near:
            self._run(who, near, dpart, start)
        return dpart

    def _exchanged(self, who: str, name: str, arrays: Sequence[Array]) -> Shape:
        """Shape of the first of `arrays`, which may lie on other devices, all checked."""
        if not isinstance(arrays, Sequence) or not arrays:
            came = "empty" if isinstance(arrays, Sequence) else f"of type {type(arrays).__name__}"
            raise ArgumentError(f"{who}: {name} is {came}; a list of arrays was expected.")
        for index, array in enumerate(arrays):
            shape = self._shape(who, f"{name}[{index}]", array, anywhere=True)
            if not shape:
                raise ArgumentError(
                    f"{who}: {name}[{index}] has no dimensions; (..., channels) was expected."
                )
        return tuple(arrays[0].shape)

    # Checks of arrays

    def _check_array(self, who: str, name: str, x: Any) -> None:
        if not isinstance(x, self.array_type):
            raise ArgumentError(
                f"{who}: {name} is of type {type(x).__name__}; an array of type "
                f"{self.array_type.__module__}.{self.array_type.__name__} was expected."
            )

    def _element(self, who: str, name: str, x: Array) -> np.dtype[Any]:
        """Type of the numbers in `x`, float32 or bfloat16.

        Pass it on as the `dtype` of all arrays of the call that share it.
        """
        self._check_array(who, name, x)
        if x.dtype not in ELEMENTS:
            raise ArgumentError(f"{who}: {name} is {x.dtype}; float32 or bfloat16 was expected.")
        element: np.dtype[Any] = x.dtype
        return element

    def _shape(
        self,
        who: str,
        name: str,
        x: Array,
        axes: Sequence[str] | None = None,
        dtype: Any = np.float32,
        *,
        anywhere: bool = False,
    ) -> Shape:
        """Shape of a usable array; `axes` names its dimensions (any number of them where None)."""
        self._check_array(who, name, x)
        if x.dtype != dtype:
            raise ArgumentError(f"{who}: {name} is {x.dtype}; {np.dtype(dtype)} was expected.")
        shape: Shape = x.shape
        if axes is not None and len(shape) != len(axes):
            raise ArgumentError(
                f"{who}: {name} has shape {shape}; {len(axes)} dimensions ({', '.join(axes)}) were "
                "expected."
            )
        if 0 in shape:
            place = shape.index(0)
            axis = axes[place] if axes else f"dimension {place}"
            raise ArgumentError(
                f"{who}: {name} has shape {shape}, so {axis} is 0; at least 1 was expected."
            )
        if not x.flags.c_contiguous:
            raise ArgumentError(f"{who}: {name} is strided; a C-contiguous array was expected.")
        if not (anywhere or self._lies_here(x)):
            raise ArgumentError(
                f"{who}: {name} lies on another device; device {self.device} was expected."
            )
        return shape

    def _like(self, who: str, name: str, x: Array, shape: Shape, dtype: Any = np.float32) -> None:
        """Check an array whose shape is known."""
        if self._shape(who, name, x, dtype=dtype) != shape:
            raise ArgumentError(f"{who}: {name} has shape {x.shape}; {shape} was expected.")

    def _result(
        self,
        who: str,
        name: str,
        given: Array | None,
        shape: Shape,
        *inputs: Array | None,
        dtype: Any = np.float32,
        in_place: bool = False,
    ) -> Array:
        """The array to write: the one given, checked, or a new one."""
        if given is None:
            return self.empty(shape, dtype)
        self._like(who, name, given, shape, dtype)
        self._check_written(who, name, given, *inputs, in_place=in_place)
        return given

    def _check_written(
        self, who: str, name: str, x: Array, *others: Array | None, in_place: bool = False
    ) -> None:
        """Refuse to write `x` where that would spoil one of `others`."""
        if not self._may_write(x):
            raise ArgumentError(f"{who}: {name} is read-only; a writable array was expected.")
        for other in others:
            if other is None or not self._overlap(x, other):
                continue
            if not (in_place and (x is other or self._address(x) == self._address(other))):
                raise ArgumentError(
                    f"{who}: {name} overlaps another argument; memory of its own was expected."
                )


def _widened(who: str, dtype: Any, element: np.dtype[Any]) -> np.dtype[Any]:
    """Check the type of a result: None for the inputs' type, or float32, the type of the sums."""
    chosen = element if dtype is None else element_of(who, "dtype", dtype)
    if chosen not in (element, FLOAT32):
        raise ArgumentError(f"{who}: dtype is {chosen}; x is {element}, so that was expected.")
    return chosen


def _check_corners(who: str, corners: np.ndarray[Any, Any], down: int, right: int) -> None:
    """Refuse a crop outside its image: its corner may be at most `down`, `right`."""
    bad = ((corners < 0) | (corners > (down, right))).any(axis=1)
    if bad.any():
        top, left = corners[bad][0].tolist()
        raise ArgumentError(
            f"{who}: corners has ({top}, {left}); (0, 0) to ({down}, {right}) was expected, for "
            "crops that lie inside the images."
        )


def _conv_shape(who: str, g: ConvGeometry, x_shape: Shape, w_shape: Shape) -> Shape:
    """Shape of the output of a convolution whose shapes fit each other."""
    n, h, w, c = x_shape
    k, r, s, per_group = w_shape
    if c % g.groups:
        raise ArgumentError(
            f"{who}: x has {c} channels; a multiple of the {g.groups} groups was expected."
        )
    if per_group != c // g.groups:
        raise ArgumentError(
            f"{who}: w has {per_group} channels per group; x has {c} channels in {g.groups} "
            f"groups, so {c // g.groups} were expected."
        )
    if k % g.groups:
        raise ArgumentError(
            f"{who}: w has {k} filters; a multiple of the {g.groups} groups was expected."
        )
    return (n, *g.out_size(who, h, w, r, s), k)


def _sizes(who: str, name: str, shape: Shape, axes: str) -> Shape:
    """Check a shape given as an argument; `axes` names its dimensions."""
    if not isinstance(shape, (tuple, list)) or len(shape) != len(axes):
        raise ArgumentError(f"{who}: {name} is {shape!r}; ({', '.join(axes)}) was expected.")
    pairs = zip(axes, shape, strict=True)
    return tuple(integer(who, f"{name}'s {axis}", length, low=1) for axis, length in pairs)


def _split_out(who: str, out: Any, form: str, *, count: int = 2) -> tuple[Any, ...]:
    """The parts of `out` of an operation that returns several arrays."""
    if out is None:
        return (None,) * count
    if not isinstance(out, (tuple, list)) or len(out) != count:
        raise ArgumentError(f"{who}: out is of type {type(out).__name__}; {form} was expected.")
    return tuple(out)


def _check_activation(who: str, activation: Activation) -> None:
    if activation not in (None, "relu", "tanh"):
        raise ArgumentError(
            f"{who}: activation is {activation!r}; None, 'relu' or 'tanh' was expected."
        )
