"""Pooling."""

from __future__ import annotations

from pyalexnet.ops.device import Device, split_out, with_sizes
from pyalexnet.ops.elements import Array, Shape
from pyalexnet.ops.records import PoolGeometry


class PoolOps(Device):
    """Pooling."""

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
        (n, h, w, c), element = self._typed(who, "x", x, "NHWC")
        shape = (n, *geometry.out_size(who, h, w), c)
        y_out, where_out = split_out(who, out, "(y, where)")
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
        n, h, w, c = x_shape = with_sizes(who, "x_shape", x_shape, "NHWC")
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
        (n, h, w, c), element = self._typed(who, "x", x, "NHWC")
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
        n, h, w, c = x_shape = with_sizes(who, "x_shape", x_shape, "NHWC")
        element = self._element(who, "dy", dy)
        self._like(who, "dy", dy, (n, *geometry.out_size(who, h, w), c), element)
        dx = self._result(who, "out", out, x_shape, dy, dtype=element)
        self._run(who, dy, dx, geometry)
        return dx
