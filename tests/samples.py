"""Arrays to test on, of zero mean: what is dropped cannot hide behind a large sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyalexnet.backends.elements import BFLOAT16, ELEMENTS, FLOAT32

Floats32 = NDArray[np.float32]


EACH_ELEMENT = pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
"""For tests of what takes float32 and bfloat16."""

EACH_PRODUCT = pytest.mark.parametrize(
    ("dtype", "tensor"),
    [
        pytest.param(FLOAT32, False, id="float32"),
        pytest.param(FLOAT32, True, id="float32x3"),
        pytest.param(BFLOAT16, False, id="bfloat16"),
    ],
)
"""For tests of what multiplies them: float32 on tensor cores, too."""


def generator(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but the key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def normal(*shape: int, seed: int = 0) -> Floats32:
    """Standard normal numbers; another seed for each array of a test."""
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


def classes(rows: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """A label for each row."""
    return generator(seed, rows, count).integers(0, count, rows)


def garbage(like: NDArray[Any]) -> NDArray[Any]:
    """What an output buffer may hold before an op writes it: NaN, or the largest integer."""
    worst = np.nan if like.dtype in ELEMENTS else np.iinfo(like.dtype).max
    return np.full(like.shape, worst, dtype=like.dtype)
