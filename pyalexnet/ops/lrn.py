"""Response normalisation across channels."""

from __future__ import annotations

from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array
from pyalexnet.ops.records import Norm


class LrnOps(Device):
    """Response normalisation across channels."""

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
        shape, element = self._typed(who, "x", x, "NHWC")
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
        shape, element = self._typed(who, "x", x, "NHWC")
        self._like(who, "dy", dy, shape, element)
        norm = Norm.of(who, shape[3], size, alpha, beta, k, groups)
        dx = self._result(who, "out", out, shape, x, dy, dtype=element)
        self._run(who, x, dy, dx, norm)
        return dx
