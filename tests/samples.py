"""Arrays to test on, with zero mean, so that a dropped term cannot hide behind a large sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyalexnet.ops.elements import BFLOAT16, ELEMENTS, FLOAT32

Floats32 = NDArray[np.float32]


EACH_ELEMENT = pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
"""For tests of ops that take float32 and bfloat16."""

EACH_PRODUCT = pytest.mark.parametrize(
    ("dtype", "tensor"),
    [
        pytest.param(FLOAT32, False, id="float32"),
        pytest.param(FLOAT32, True, id="float32x3"),
        pytest.param(BFLOAT16, False, id="bfloat16"),
    ],
)
"""For tests of matrix products: float32 on tensor cores, too."""


def generator(*key: int) -> np.random.Generator:
    """A generator that depends only on the key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def normal(*shape: int, seed: int = 0) -> Floats32:
    """Standard normal numbers; use a different seed for each array of a test."""
    return generator(seed, *shape).standard_normal(shape, dtype=np.float32)


def on_grid(*shape: int, seed: int = 0, spacing: float = 2.0**-8) -> Floats32:
    """Normal numbers rounded to odd multiples of spacing: none is 0, a step of 2^-5 is exact."""
    halves = np.floor(generator(seed, *shape).standard_normal(shape) / (2 * spacing))
    return ((2 * halves + 1) * spacing).astype(np.float32)


def all_different(*shape: int, seed: int = 0, spacing: float = 0.5) -> Floats32:
    """Numbers around 0 in random order, the nearest two `spacing` apart: no ties, no near-ties."""
    count = int(np.prod(shape))
    order = generator(seed, *shape).permutation(count)
    return ((order - count // 2 + 0.5) * spacing).astype(np.float32).reshape(shape)


def few_values(*shape: int, seed: int = 0, values: int = 3) -> Floats32:
    """Whole numbers from -values to -1: ties nearly everywhere, and nothing above zero."""
    return generator(seed, *shape).integers(-values, 0, shape).astype(np.float32)


def signs(*shape: int, seed: int = 0) -> Floats32:
    """-1 and 1."""
    return (2 * generator(seed, *shape).integers(0, 2, shape) - 1).astype(np.float32)


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bytes of all values."""
    return generator(seed, *shape).integers(0, 256, shape, np.uint8)


# By rows: zeros and denormals; the smallest normal number, one whose square is denormal, one whose
# square is just within the range, and two beyond; near the largest bfloat16 and float32.
ENDS = np.array(
    [
        *(0.0, -0.0, 1e-45, -1e-40),
        *(2.0**-126, -1e-20, 1.8e19, -2e19, 1e30),
        *(-1e38, 3e38, 3.3967e38, -(2.0**128 - 2.0**104)),
        *(np.inf, -np.inf, np.nan),
    ],
    np.float32,
)
"""Sixteen numbers from the ends of float32's range, used to test every op."""


def planted(x: NDArray[Any], axis: int, *, everywhere: bool = False) -> NDArray[Any]:
    """x with ENDS along an axis of the same length: in the middle of the other axes, or everywhere,
    times x's signs; the rest of x, and its type, stay."""
    ends = ENDS.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    middle = [slice(n // 2, n // 2 + 1) for n in x.shape]
    middle[axis] = slice(None)
    place = ... if everywhere else tuple(middle)
    planted = x.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        planted[place] = np.copysign(ends, ends * planted)[place] if everywhere else ends
        return planted.astype(x.dtype)


def classes(rows: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """A label for each row."""
    return generator(seed, rows, count).integers(0, count, rows)


def garbage(like: NDArray[Any]) -> NDArray[Any]:
    """The possible contents of an output buffer before an op: NaN, or the largest integer."""
    worst = np.nan if like.dtype in ELEMENTS else np.iinfo(like.dtype).max
    return np.full(like.shape, worst, dtype=like.dtype)
