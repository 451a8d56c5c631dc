"""Convolution."""

from __future__ import annotations

from typing import Any

from pyalexnet.ops.checks import real
from pyalexnet.ops.device import with_sizes
from pyalexnet.ops.elements import FLOAT32, Array, Shape
from pyalexnet.ops.epilogue import Activation, Epilogue, widened
from pyalexnet.ops.records import ConvGeometry, Learned, Mask, Pad, Stride


class ConvOps(Epilogue):
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
        n, h, width, _ = self._shape(who, "x", x, "NHWC")
        k, r, s, _ = self._shape(who, "w", w, "KRSC")
        shape = (n, *geometry.out_size(who, h, width, r, s), k)
        y = self._result(who, out, shape, widened(who, dtype, x.dtype))
        finish = self._finish(who, towers, activation, dropout, shape)
        self._run(who, x, w, b, y, geometry, self._unit(x.dtype, tensor), *finish)
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
            gate: x, of x_shape and dy's type; dx is 0 where it is not above 0. None counts as above
                0 everywhere.
            factor: a finite number that dx is multiplied by: the factor of the dropout.
            stride, pad, groups, tensor: as in `conv_fprop`.

        Returns:
            dx: (N, H, W, C), of dy's type; zero where no window reads the pixel, if w is finite.
        """
        who = "conv_dgrad"
        geometry = ConvGeometry.of(who, stride, pad, groups)
        self._shape(who, "dy", dy, "NPQK")
        dx = self._result(who, out, with_sizes(who, "x_shape", x_shape, "NHWC"), dy.dtype)
        factor = real(who, "factor", factor)
        self._run(who, dy, w, gate, dx, geometry, self._unit(dy.dtype, tensor), factor)
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
        self._shape(who, "x", x, "NHWC")
        w_shape = with_sizes(who, "w_shape", w_shape, "KRSC")
        dw, db = self._results(who, out, dw=(w_shape, FLOAT32), db=(w_shape[:1], FLOAT32))
        self._run(who, x, dy, dw, db, geometry, self._unit(x.dtype, tensor))
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
            w: filters (K, R, S, C / groups) of x's type; with `low` where that is bfloat16.
            b: biases (K,) float32.
            x, dy, stride, pad, groups, tensor: as in `conv_wgrad`.
        """
        who = "conv_wgrad_sgd"
        self._update(who, x, dy, w, b, tensor, ConvGeometry.of(who, stride, pad, groups))
