"""Pooling."""

from __future__ import annotations

from typing import Any

from pyalexnet.ops.device import Device, with_sizes
from pyalexnet.ops.elements import Array, Shape
from pyalexnet.ops.records import PoolGeometry


class PoolOps(Device):
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
        pool = PoolGeometry.of("maxpool_fprop", size, stride, ceil)
        return self._maxpooled("maxpool_fprop", x, pool, out, pool)

    def _maxpooled(
        self, who: str, x: Array, pool: PoolGeometry, out: tuple[Array, Array] | None, *records: Any
    ) -> tuple[Array, Array]:
        """Compute an operation that returns the maxima of x's windows and their places."""
        n, h, w, c = self._shape(who, "x", x, "NHWC")
        shape = (n, *pool.out_size(who, h, w), c)
        y, where = self._results(who, out, y=(shape, x.dtype), where=(shape, pool.where_dtype))
        self._run(who, x, y, where, *records)
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
        pool = PoolGeometry.of(who, size, stride, ceil)
        self._shape(who, "dy", dy)
        dx = self._result(who, out, with_sizes(who, "x_shape", x_shape, "NHWC"), dy.dtype)
        self._run(who, dy, where, gate, dx, pool)
        return dx

    def avgpool_fprop(
        self, x: Array, *, size: int, stride: int, ceil: bool = True, out: Array | None = None
    ) -> Array:
        """Mean of the pixels of each window that lie inside the image (cuda-convnet's rule).

        x: (N, H, W, C). size, stride, ceil, and the shape of y, (N, P, Q, C): as in
        `maxpool_fprop`.
        """
        who = "avgpool_fprop"
        pool = PoolGeometry.of(who, size, stride, ceil)
        n, h, w, c = self._shape(who, "x", x, "NHWC")
        y = self._result(who, out, (n, *pool.out_size(who, h, w), c), x.dtype)
        self._run(who, x, y, pool)
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
        """Gradient dx, of x_shape (N, H, W, C), of `avgpool_fprop` with respect to x.

        dy: (N, P, Q, C), the gradient with respect to y. size, stride, ceil: as in `maxpool_fprop`.
        """
        who = "avgpool_dgrad"
        pool = PoolGeometry.of(who, size, stride, ceil)
        self._shape(who, "dy", dy)
        dx = self._result(who, out, with_sizes(who, "x_shape", x_shape, "NHWC"), dy.dtype)
        self._run(who, dy, dx, pool)
        return dx
