"""Normalisation across channels and max-pooling at once."""

from __future__ import annotations

from pyalexnet.ops.elements import Array
from pyalexnet.ops.pool import PoolOps
from pyalexnet.ops.records import Norm, PoolGeometry


class LrnPoolOps(PoolOps):
    def lrn_maxpool_fprop(
        self,
        x: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        pool_size: int,
        pool_stride: int,
        ceil: bool = True,
        relu: bool = False,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """`maxpool_fprop` of `lrn_fprop`, and `relu_fprop` of that if asked, in one pass.

        Intermediate results are neither stored nor rounded.

        Args:
            x: (N, H, W, C).
            size, alpha, beta, k, groups: as in `lrn_fprop`.
            pool_size, pool_stride, ceil: size, stride and ceil of `maxpool_fprop`.
            relu: whether a ReLU follows the pool.

        Returns:
            y: (N, P, Q, C).
            where: (N, P, Q, C), as in `maxpool_fprop`; for `lrn_maxpool_dgrad`.
        """
        who = "lrn_maxpool_fprop"
        pool = PoolGeometry.of(who, pool_size, pool_stride, ceil, prefix="pool_")
        norm = Norm.of(who, size, alpha, beta, k, groups)
        return self._maxpooled(who, x, pool, out, norm, pool, bool(relu))

    def lrn_maxpool_dgrad(
        self,
        x: Array,
        dy: Array,
        where: Array,
        *,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int = 1,
        pool_size: int,
        pool_stride: int,
        ceil: bool = True,
        y: Array | None = None,
        gated: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Gradient of `lrn_maxpool_fprop` with respect to x, in one pass.

        Args:
            x: (N, H, W, C), its input.
            dy: (N, P, Q, C), the gradient with respect to y.
            where: (N, P, Q, C), as `lrn_maxpool_fprop` returned it.
            size, alpha, beta, k, groups, pool_size, pool_stride, ceil: as given to it.
            y: (N, P, Q, C), its output if `relu` was set; else None.
            gated: whether x is the output of a ReLU: dx is then 0 where x is not above 0, which
                makes it the gradient with respect to the ReLU's input.

        Returns:
            dx: (N, H, W, C).
        """
        who = "lrn_maxpool_dgrad"
        pool = PoolGeometry.of(who, pool_size, pool_stride, ceil, prefix="pool_")
        norm = Norm.of(who, size, alpha, beta, k, groups)
        dx = self._result(who, out, self._shape(who, "x", x), x.dtype)
        self._run(who, x, y, dy, where, dx, norm, pool, bool(gated))
        return dx
