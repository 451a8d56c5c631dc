"""The element types of maps and of operand weights: float32 or bfloat16."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from pyalexnet.errors import ArgumentError

Array: TypeAlias = Any  # np.ndarray on the host's backends, cupy.ndarray on cuda
Shape: TypeAlias = tuple[int, ...]

FLOAT32: np.dtype[Any] = np.dtype(np.float32)
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
"""The upper half of a float32: its range, and 8 bits of precision."""

ELEMENTS = (FLOAT32, BFLOAT16)


def element_of(who: str, name: str, dtype: Any) -> np.dtype[Any]:
    """`dtype` as one of ELEMENTS; `who` is the operation or layer."""
    for element in ELEMENTS:
        if dtype is not None and dtype == element:
            return element
    raise ArgumentError(f"{who}: {name} is {dtype!r}; float32 or bfloat16 was expected.")
