"""Activations, on arrays of any shape."""

from __future__ import annotations

from pyalexnet.ops.checks import real
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array


class ActivationOps(Device):
    def relu_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = max(x, 0) (paper, section 3.1); NaN stays NaN. May run in place."""
        return self._mapped("relu_fprop", out, x=x)

    def relu_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy where y > 0, else 0; y is the output of `relu_fprop`. May overwrite y or dy."""
        return self._mapped("relu_dgrad", out, y=y, dy=dy)

    def tanh_fprop(self, x: Array, *, out: Array | None = None) -> Array:
        """y = tanh(x), the unit that the paper's figure 1 compares with. May run in place."""
        return self._mapped("tanh_fprop", out, x=x)

    def tanh_dgrad(self, y: Array, dy: Array, *, out: Array | None = None) -> Array:
        """dx = dy (1 - y^2); y is the output of `tanh_fprop`. May overwrite y or dy."""
        return self._mapped("tanh_dgrad", out, y=y, dy=dy)

    def scale(self, x: Array, *, factor: float, out: Array | None = None) -> Array:
        """y = factor x for a finite factor, as dropout needs it (section 4.2). May overwrite x."""
        return self._mapped("scale", out, real("scale", "factor", factor), x=x)
