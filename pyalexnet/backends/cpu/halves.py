"""Float32 weights as two halves of 16 bits, of which the first is their bfloat16.

The first half is rounded, so the second is what it lacks, a signed number: for every float32
bits = first * 2^16 + second, counted modulo 2^32. A NaN becomes the plain one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[Any]

_NAN = np.uint32(0x7FC00000)
_TIE = np.uint32(0x8000)


def split(w: Floats, high: Halves, low: Halves) -> None:
    """Write the bfloat16 nearest to w (ties away from zero) to `high`, and the rest to `low`."""
    bits = w.view(np.uint32).copy()
    bits[np.isnan(w)] = _NAN  # some others would be rounded to zeros
    np.copyto(low, bits, casting="unsafe")  # the lower 16 bits
    np.copyto(high.view(np.uint16), bits + _TIE >> np.uint32(16), casting="unsafe")


def join(high: Halves, low: Halves, w: Floats) -> None:
    """Write the weights of which these are the halves to `w`."""
    bits = w.view(np.uint32)
    np.left_shift(high.view(np.uint16), np.uint32(16), out=bits, dtype=np.uint32)
    bits += low.view(np.int16).astype(np.int32).view(np.uint32)
