"""Learning: the update of parameters, and their halves."""

from __future__ import annotations

import numpy as np

from pyalexnet.ops.elements import BFLOAT16, Array
from pyalexnet.ops.epilogue import Epilogue


class SgdOps(Epilogue):
    def sgd_update(
        self,
        w: Array,
        v: Array,
        dw: Array,
        *,
        lr: float | Array,
        momentum: float,
        weight_decay: float,
        low: Array | None = None,
    ) -> None:
        """In place: v = momentum v - weight_decay lr w - lr dw, then w = w + v (section 5).

        With lr = 0 neither changes: the 2012 program froze a layer in this way, momentum and all.

        Args:
            w: parameters, of any shape; float32, or the bfloat16 half of float32 parameters, as
                `split_weights` made it.
            v: momentum buffer, of w's shape.
            dw: gradient (mean over the batch), of w's shape.
            lr: learning rate, or a 0-d float32 array of the device.
            low: uint16 of w's shape, the other half, where w is bfloat16: the two are updated as
                the float32 that they form.
        """
        who = "sgd_update"
        self._run(who, w, low, v, dw, self._rule(who, "", lr, momentum, weight_decay))

    def split_weights(
        self, w: Array, *, out: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """Float32 weights as two halves; bfloat16 operations read the first.

        Every float32 is kept to the last bit; a NaN stays a NaN, in `high` too.

        Args:
            w: of any shape.

        Returns:
            high: w rounded to bfloat16, ties away from zero.
            low: uint16, the rest: the bits of w are those of `high` times 2^16, plus `low` read
                as a signed number.
        """
        who = "split_weights"
        shape = self._shape(who, "w", w)
        high, low = self._results(who, out, high=(shape, BFLOAT16), low=(shape, np.uint16))
        self._run(who, w, high, low)
        return high, low

    def join_weights(self, high: Array, low: Array, *, out: Array | None = None) -> Array:
        """The weights, float32, that `split_weights` split.

        high: bfloat16, of any shape. low: uint16, of high's shape.
        """
        who = "join_weights"
        w = self._result(who, out, self._shape(who, "high", high))
        self._run(who, high, low, w)
        return w
