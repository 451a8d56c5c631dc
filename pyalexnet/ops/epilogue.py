"""The epilogues of conv and linear: activation, dropout, the update of parameters."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, real
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import FLOAT32, Array, Shape, element_of
from pyalexnet.ops.records import ConvGeometry, Learned, Mask

Activation: TypeAlias = Literal["relu", "tanh"] | None

MOST_TOWERS = 8  # the most that the exchange kernels support
_LAST = 2**63 - 1  # the kernels count features in int64


class Epilogue(Device):
    """Common to layers with weights."""

    def _finish(
        self, who: str, towers: int, activation: Activation, dropout: Mask | None, shape: Shape
    ) -> tuple[int, Activation, Mask | None]:
        """The epilogue for an output of this shape, checked."""
        mask = None if dropout is None else self._mask(who, dropout, shape)
        return integer(who, "towers", towers, low=1, high=MOST_TOWERS), activation, mask

    def _update(
        self,
        who: str,
        x: Array,
        dy: Array,
        w: Learned,
        b: Learned,
        tensor: bool,
        *geometry: ConvGeometry,
    ) -> None:
        """Compute a layer's gradients, and update its parameters with them."""
        self._shape(who, "x", x)
        for name, given in (("w", w), ("b", b)):
            if not isinstance(given, Learned):
                raise ArgumentError(
                    f"{who}: {name} is of type {type(given).__name__}; a Learned was expected."
                )
        if b.low is not None:
            raise ArgumentError(
                f"{who}: b.low is given; None was expected, since biases are float32."
            )
        rules = [self._rule(who, prefix, *given.rule) for prefix, given in (("w.", w), ("b.", b))]
        arrays = (x, dy, w.w, w.low, w.v, b.w, b.v)
        self._run(who, *arrays, *geometry, self._unit(x.dtype, tensor), *rules)

    def _rule(
        self, who: str, prefix: str, lr: float | Array, momentum: float, weight_decay: float
    ) -> tuple[Any, float, float]:
        """How parameters are updated, checked; `prefix` comes before the names in a refusal."""
        if not isinstance(lr, self.array_type):
            lr = real(who, f"{prefix}lr", lr)
        momentum = real(who, f"{prefix}momentum", momentum)
        return lr, momentum, real(who, f"{prefix}weight_decay", weight_decay)

    def _mask(self, who: str, mask: Mask, shape: Shape) -> Mask:
        """The mask of an array (N, ...), checked, its total spelled out."""
        if not isinstance(mask, Mask):
            raise ArgumentError(
                f"{who}: dropout is of type {type(mask).__name__}; a Mask or None was expected."
            )
        total, step = mask.total, mask.step
        if not isinstance(step, self.array_type):
            step = integer(who, "step", step, high=2**32 - 1)
        return Mask(
            real(who, "keep", mask.keep, low=0.0, high=1.0),
            integer(who, "seed", mask.seed, high=2**64 - 1),
            step,
            integer(who, "layer", mask.layer, high=2**32 - 1),
            integer(who, "offset", mask.offset, high=_LAST),
            math.prod(shape[1:])
            if total is None
            else integer(who, "total", total, low=1, high=_LAST),
            real(who, "factor", mask.factor),
            integer(who, "first", mask.first, high=_LAST),
        )


def widened(who: str, dtype: Any, element: np.dtype[Any]) -> np.dtype[Any]:
    """Check the type of a result: None for the inputs' type, or float32, the type of the sums."""
    chosen = element if dtype is None else element_of(who, "dtype", dtype)
    if chosen not in (element, FLOAT32):
        raise ArgumentError(f"{who}: dtype is {chosen}; x is {element}, so that was expected.")
    return chosen
