"""Response normalisation within a map."""

from __future__ import annotations

from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array
from pyalexnet.ops.records import Norm


class RnormOps(Device):
    """Response normalisation within a map."""

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
        shape, element = self._typed(who, "x", x, "NHWC")
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
        shape, element = self._typed(who, "x", x, "NHWC")
        self._like(who, "dy", dy, shape, element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, 1)
        dx = self._result(who, "out", out, shape, x, dy, dtype=element)
        self._run(who, x, dy, dx, norm)
        return dx
