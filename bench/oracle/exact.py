"""Exact answers: a value in float64, and the scale of its rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.floating] | NDArray[np.integer]
Pair = int | tuple[int, int]
Sides = int | tuple[int, int, int, int]


class Exact(NamedTuple):
    """One output of an op in float64, and the scale of its rounding."""

    value: Floats
    magnitude: Floats


def pair(stride: Pair) -> tuple[int, int]:
    """A stride as (vertical, horizontal)."""
    return (stride, stride) if isinstance(stride, int) else stride


def sides(pad: Sides) -> tuple[int, int, int, int]:
    """A padding as (top, bottom, left, right)."""
    return (pad, pad, pad, pad) if isinstance(pad, int) else pad


def double(x: Numbers) -> Floats:
    """The same numbers in float64."""
    return np.asarray(x, dtype=np.float64)


LEAST = 2.0**-126
"""The smallest normal number of float32 and of bfloat16."""


def single(x: Floats) -> Floats:
    """x with float32's range: values of 2^128 - 2^103 and above round to infinity."""
    return np.where(abs(x) >= 2.0**128 - 2.0**103, np.copysign(np.inf, x), x)


def rounded(x: Floats) -> Floats:
    """The size to which rounding errors of x are proportional: at least the smallest normal."""
    return np.maximum(abs(x), LEAST)


def padded(x: Floats, pad: Sides) -> Floats:
    """x (N, H, W, C) with zeros around each image."""
    top, bottom, left, right = sides(pad)
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
