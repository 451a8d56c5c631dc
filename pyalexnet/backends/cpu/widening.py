"""Operations on bfloat16 that compute in float32: widened before, rounded once after."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import numpy as np

from pyalexnet.backends.elements import BFLOAT16

Operation = TypeVar("Operation", bound=Callable[..., None])


def rounds(*results: str) -> Callable[[Operation], Operation]:
    """Lets a raw operation in float32 work on bfloat16 too, as the kernels do.

    Its bfloat16 arrays are widened, which is exact. A result is computed in float32, whatever lies
    between included, and rounded to the nearest (ties to even) where the operation has ended. What
    is float32 anyway is passed on as it is.

    Args:
        results: the parameters that the operation writes and does not read.
    """

    def wrap(operation: Operation) -> Operation:
        names = list(signature(operation).parameters)
        written = [names.index(name) for name in results]

        @wraps(operation)
        def widened(*arguments: Any) -> None:
            rounded = [place for place in written if _is_bfloat16(arguments[place])]
            wide = [
                np.empty(argument.shape, np.float32) if place in rounded else widen(argument)
                for place, argument in enumerate(arguments)
            ]
            operation(*wide)
            for place in rounded:
                narrow(wide[place], arguments[place])

        return widened  # type: ignore[return-value]

    return wrap


def widen(argument: Any) -> Any:
    """A bfloat16 array in float32; anything else as it is."""
    return argument.astype(np.float32) if _is_bfloat16(argument) else argument


def narrow(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    """Write float32 `x` to bfloat16 `y`, rounded to the nearest, ties to even; NaN stays NaN."""
    with np.errstate(all="ignore"):  # beyond the largest bfloat16 lies infinity, as on a GPU
        y[...] = x


def _is_bfloat16(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.dtype == BFLOAT16
