"""Linear layers."""

from __future__ import annotations

from typing import Any

from pyalexnet.ops.checks import real
from pyalexnet.ops.elements import FLOAT32, Array
from pyalexnet.ops.epilogue import Activation, Epilogue, widened
from pyalexnet.ops.records import Learned, Mask


class LinearOps(Epilogue):
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
        images, _ = self._shape(who, "x", x, ("N", "in"))
        outputs, _ = self._shape(who, "w", w, ("out", "in"))
        y = self._result(who, out, (images, outputs), widened(who, dtype, x.dtype))
        finish = self._finish(who, towers, activation, dropout, (images, outputs))
        self._run(who, x, w, b, y, self._unit(x.dtype, tensor), *finish)
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
        images, _ = self._shape(who, "dy", dy, ("N", "out"))
        _, inputs = self._shape(who, "w", w, ("out", "in"))
        dx = self._result(who, out, (images, inputs), dy.dtype)
        self._run(who, dy, w, gate, dx, self._unit(dy.dtype, tensor), real(who, "factor", factor))
        return dx

    def linear_wgrad(
        self, x: Array, dy: Array, *, tensor: bool = False, out: tuple[Array, Array] | None = None
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
        _, inputs = self._shape(who, "x", x, ("N", "in"))
        _, outputs = self._shape(who, "dy", dy, ("N", "out"))
        dw, db = self._results(who, out, dw=((outputs, inputs), FLOAT32), db=((outputs,), FLOAT32))
        self._run(who, x, dy, dw, db, self._unit(x.dtype, tensor))
        return dw, db

    def linear_wgrad_sgd(
        self, x: Array, dy: Array, w: Learned, b: Learned, *, tensor: bool = False
    ) -> None:
        """In place: `linear_wgrad`, then `sgd_update` of w and b with its gradients.

        As in `conv_wgrad_sgd`, the gradients are not stored.

        Args:
            w: weights (out, in) of x's type; with `low` where that is bfloat16.
            b: biases (out,) float32.
            x, dy, tensor: as in `linear_wgrad`.
        """
        self._update("linear_wgrad_sgd", x, dy, w, b, tensor)
