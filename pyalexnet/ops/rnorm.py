"""Response normalisation within a map."""

from __future__ import annotations

from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array
from pyalexnet.ops.records import Norm


class RnormOps(Device):
    def rnorm_fprop(
        self, x: Array, *, size: int, alpha: float, beta: float, k: float, out: Array | None = None
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
        norm = Norm.of("rnorm_fprop", size, alpha, beta, k, 1)
        return self._mapped("rnorm_fprop", out, norm, x=x)

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
        """Gradient dx of `rnorm_fprop` with respect to x; x, dy and dx are (N, H, W, C).

        The formula is `lrn_dgrad`'s.
        """
        norm = Norm.of("rnorm_dgrad", size, alpha, beta, k, 1)
        return self._mapped("rnorm_dgrad", out, norm, x=x, dy=dy)
