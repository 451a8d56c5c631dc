"""What conv and linear do with their sums: activation, dropout, the update of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, real
from pyalexnet.ops.device import Device
from pyalexnet.ops.elements import BFLOAT16, FLOAT32, Array, Shape, element_of
from pyalexnet.ops.records import Learned, Mask

Activation: TypeAlias = Literal["relu", "tanh"] | None

MOST_TOWERS = 8  # the most that the exchange kernels support


class Epilogue(Device):
    """Checks of what follows the sums of a layer with weights."""

    def _mask(self, who: str, dropout: Any, shape: Shape) -> Mask | None:
        """Checked dropout, if any, of an output (N, ...)."""
        if dropout is None:
            return None
        if not isinstance(dropout, Mask):
            raise ArgumentError(
                f"{who}: dropout is of type {type(dropout).__name__}; a Mask or None was expected."
            )
        return self._checked_mask(who, dropout, shape)

    def _checked_mask(self, who: str, mask: Mask, shape: Shape) -> Mask:
        """The mask of an array (N, ...), its total spelled out."""
        features = math.prod(shape[1:])
        keep = real(who, "keep", mask.keep, low=0.0, high=1.0)
        seed = integer(who, "seed", mask.seed, high=2**64 - 1)
        step = mask.step
        if isinstance(step, self.array_type):
            self._like(who, "step", step, (), np.uint32)
        else:
            step = integer(who, "step", step, high=2**32 - 1)
        layer = integer(who, "layer", mask.layer, high=2**32 - 1)
        offset = integer(who, "offset", mask.offset)
        total = features if mask.total is None else integer(who, "total", mask.total, low=1)
        if offset + features > total:
            raise ArgumentError(
                f"{who}: total is {total}; offset {offset} and an image's {features} features need "
                f"at least {offset + features}."
            )
        factor = real(who, "factor", mask.factor)
        return Mask(keep, seed, step, layer, offset, total, factor)

    def _learned(
        self, who: str, name: str, given: Any, axes: Sequence[str], element: np.dtype[Any]
    ) -> Learned:
        """Checked parameters: of this type, their arrays of one shape, the rates finite."""
        if not isinstance(given, Learned):
            raise ArgumentError(
                f"{who}: {name} is of type {type(given).__name__}; a Learned was expected."
            )
        shape = self._shape(who, f"{name}.w", given.w, axes, element)
        self._like(who, f"{name}.v", given.v, shape)
        self._check_low(who, f"{name}.", given.low, shape, element)
        lr = given.lr
        if isinstance(lr, self.array_type):
            self._like(who, f"{name}.lr", lr, ())
        else:
            lr = real(who, f"{name}.lr", lr)
        momentum = real(who, f"{name}.momentum", given.momentum)
        weight_decay = real(who, f"{name}.weight_decay", given.weight_decay)
        return Learned(given.w, given.v, lr, momentum, weight_decay, given.low)

    def _learned_biases(self, who: str, b: Any, w: Learned) -> Learned:
        """Checked biases, float32, one for each of the filters or outputs of w."""
        biases = self._learned(who, "b", b, ("K",), FLOAT32)
        if biases.w.shape != w.w.shape[:1]:
            raise ArgumentError(
                f"{who}: b.w has shape {biases.w.shape}; {w.w.shape[:1]} was expected."
            )
        return biases

    def _check_updated(self, who: str, w: Learned, b: Learned, *inputs: Array) -> None:
        """Refuse to update parameters that overlap another array of the call."""
        updated = {
            f"{name}.{part}": getattr(learned, part)
            for name, learned in (("w", w), ("b", b))
            for part in ("w", "v", "low")
            if getattr(learned, part) is not None
        }
        others = list(inputs)
        for name, array in updated.items():
            self._check_written(who, name, array, *others)
            others.append(array)

    def _check_low(
        self, who: str, prefix: str, low: Array | None, shape: Shape, element: np.dtype[Any]
    ) -> None:
        """Check `low`, which bfloat16 weights need and float32 ones must not have.

        Args:
            prefix: of the names of both, in the error's text.
        """
        if element != BFLOAT16:
            if low is not None:
                raise ArgumentError(
                    f"{who}: {prefix}low is given; None was expected, for {prefix}w is {element} "
                    "and whole."
                )
        elif low is None:
            raise ArgumentError(
                f"{who}: {prefix}low is None; {prefix}w is bfloat16, so the other half of the "
                "weights was expected."
            )
        else:
            self._like(who, f"{prefix}low", low, shape, np.uint16)


def widened(who: str, dtype: Any, element: np.dtype[Any]) -> np.dtype[Any]:
    """Check the type of a result: None for the inputs' type, or float32, the type of the sums."""
    chosen = element if dtype is None else element_of(who, "dtype", dtype)
    if chosen not in (element, FLOAT32):
        raise ArgumentError(f"{who}: dtype is {chosen}; x is {element}, so that was expected.")
    return chosen


def check_activation(who: str, activation: Activation) -> None:
    if activation not in (None, "relu", "tanh"):
        raise ArgumentError(
            f"{who}: activation is {activation!r}; None, 'relu' or 'tanh' was expected."
        )
