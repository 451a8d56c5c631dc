"""Activations, on arrays of any shape."""

from __future__ import annotations

from pyalexnet.ops.checks import real
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array


class ActivationOps(Device):
    """Activations, on arrays of any shape."""

    def relu_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = max(x, 0) (paper, section 3.1); NaN stays NaN. May run in place."""
        return self._activated("relu_fprop", x, out)

    def relu_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy where y > 0, else 0; y is the output of `relu_fprop`. May overwrite y or dy."""
        return self._gradient("relu_dgrad", y, dy, out)

    def tanh_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = tanh(x), the unit that the paper's figure 1 compares with. May run in place."""
        return self._activated("tanh_fprop", x, out)

    def tanh_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy (1 - y^2); y is the output of `tanh_fprop`. May overwrite y or dy."""
        return self._gradient("tanh_dgrad", y, dy, out)

    def scale(self, x: Array, *, factor: float, out: Array | None = None) -> Array:
        """y = factor x, as dropout needs it (paper, section 4.2). May overwrite x.

        Args:
            x: any shape.
            factor: a finite number.
        """
        who = "scale"
        shape, element = self._typed(who, "x", x)
        factor = real(who, "factor", factor)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run(who, x, y, factor)
        return y

    def _activated(self, who: str, x: Array, out: Array | None) -> Array:
        shape, element = self._typed(who, "x", x)
        y = self._result(who, "out", out, shape, x, dtype=element, in_place=True)
        self._run(who, x, y)
        return y

    def _gradient(self, who: str, y: Array, dy: Array, out: Array | None) -> Array:
        shape, element = self._typed(who, "y", y)
        self._like(who, "dy", dy, shape, element)
        dx = self._result(who, "out", out, shape, y, dy, dtype=element, in_place=True)
        self._run(who, y, dy, dx)
        return dx
