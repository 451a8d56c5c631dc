"""Response normalisation across channels."""

from __future__ import annotations

from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import Array
from pyalexnet.ops.records import Norm


class LrnOps(Device):
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
        norm = Norm.of("lrn_fprop", size, alpha, beta, k, groups)
        return self._mapped("lrn_fprop", out, norm, x=x)

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
        """Gradient dx of `lrn_fprop` with respect to x; x, dy and dx are (N, H, W, C).

        With d = k + alpha sum x^2: dx_i = dy_i d_i^-beta
        - 2 alpha beta x_i sum of dy_j x_j d_j^(-beta - 1) over every j whose window contains i.
        """
        norm = Norm.of("lrn_dgrad", size, alpha, beta, k, groups)
        return self._mapped("lrn_dgrad", out, norm, x=x, dy=dy)
