"""Philox4x32-10, the counter-based generator of dropout's masks, for draws on the host.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def draws(block: Words, *, seed: int, step: int, layer: int) -> npt.NDArray[np.uint32]:
    """The four 32-bit words (..., 4) of each block.

    `block` (...) are counters: the generator's words are (its low half, step, layer, its high half)
    under the key (low half of seed, high half).
    """
    c0, c3 = block & _LOW, block >> _HALF
    c1, c2 = np.full_like(block, step), np.full_like(block, layer)
    keys = (seed & 0xFFFFFFFF, seed >> 32)
    for turn in range(_ROUNDS):
        k0, k1 = (
            np.uint64((key + turn * grow) & 0xFFFFFFFF)
            for key, grow in zip(keys, _KEY_STEPS, strict=True)
        )
        # A 32 x 32 bit product fills one 64-bit word: both halves come out of one multiplication.
        c0 *= _MULTIPLIERS[0]
        c2 *= _MULTIPLIERS[1]
        c1 ^= c2 >> _HALF
        c1 ^= k0
        c3 ^= c0 >> _HALF
        c3 ^= k1
        c2 &= _LOW
        c0 &= _LOW
        c0, c1, c2, c3 = c1, c2, c3, c0
    words: npt.NDArray[Any] = np.stack((c0, c1, c2, c3), axis=-1)
    return words.astype(np.uint32)
