"""Linear layers."""

from __future__ import annotations

from typing import Any

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, real
from pyalexnet.ops.device import split_out
from pyalexnet.ops.elements import Array
from pyalexnet.ops.epilogue import MOST_TOWERS, Activation, Epilogue, check_activation, widened
from pyalexnet.ops.records import Learned, Mask


class LinearOps(Epilogue):
    """Linear layers."""

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
        (images, inputs), element = self._typed(who, "x", x, ("N", "in"))
        outputs, columns = self._shape(who, "w", w, ("out", "in"), element)
        if columns != inputs:
            raise ArgumentError(
                f"{who}: w has {columns} inputs; x has {inputs}, so {inputs} were expected."
            )
        if b is not None:
            self._like(who, "b", b, (outputs,))
        towers = integer(who, "towers", towers, low=1, high=MOST_TOWERS)
        check_activation(who, activation)
        shape = (images, outputs)
        mask = self._mask(who, dropout, shape)
        element = widened(who, dtype, element)
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
        (images, outputs), element = self._typed(who, "dy", dy, ("N", "out"))
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
        dw_out, db_out = split_out(who, out, "(dw, db)")
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
        (images, inputs), element = self._typed(who, "x", x, ("N", "in"))
        rows, outputs = self._shape(who, "dy", dy, ("N", "out"), element)
        if rows != images:
            raise ArgumentError(
                f"{who}: dy has {rows} images; x has {images}, so {images} were expected."
            )
        return inputs, outputs
