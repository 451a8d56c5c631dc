"""How cards' tensor cores add products of bfloat16, after two models that give a card's bits:

Khattak and Mikaitis, arXiv 2512.07004; Xie and others, arXiv 2511.10909.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Card(NamedTuple):
    """How many products are added to a sum at once, and bits kept below the largest exponent."""

    products: int
    bits: int


AMPERE, HOPPER = Card(8, 24), Card(16, 25)  # mma.sync, wgmma


def added(sums: Any, a: Any, b: Any, card: Card) -> Doubles:
    """Add a[..., k] b[..., k], finite numbers, to the sums: aligned and cut, `products` at once."""
    total: Doubles
    total, a, b = (np.asarray(x, np.float64) for x in (sums, a, b))
    for first in range(0, a.shape[-1], card.products):
        some = np.s_[..., first : first + card.products]
        exponents = _exponent(a[some]) + _exponent(b[some])
        largest = np.maximum(exponents.max(-1), _exponent(total))
        unit = np.ldexp(1.0, largest - card.bits)
        aligned = np.trunc(a[some] * b[some] / unit[..., None]).sum(-1) + np.trunc(total / unit)
        total = _cut(aligned * unit)
    return total


def _exponent(x: Doubles) -> NDArray[np.intp]:
    """That of 1 <= |x| / 2^exponent < 2; of 0 and denormal numbers, the smallest there is."""
    return np.where(x == 0, -126, np.maximum(np.frexp(x)[1] - 1, -126))


def _cut(x: Doubles) -> Doubles:
    """The nearest float32 towards zero."""
    with np.errstate(over="ignore"):
        nearest = x.astype(np.float32)
    away = (abs(nearest.astype(np.float64)) > abs(x)) & (abs(x) < 2.0**128)
    return np.where(away, np.nextafter(nearest, np.float32(0)), nearest).astype(np.float64)
