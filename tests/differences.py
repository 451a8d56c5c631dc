"""Gradients by central differences, of the float64 oracle and of the op itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.oracle import Exact, Floats, double
from samples import signs
from tolerance import SUM, assert_close, bound

# Four points leave an error of h^4 f'''''/30. In float64 that is 1e-12 of a smooth f.
STEP64 = 2.0**-10
# In float32 the step must be well above the rounding; samples.on_grid makes it exact.
STEP32 = 2.0**-5


class Op(NamedTuple):
    """A map in float32 and its gradient, as functions of NumPy arrays."""

    fprop: Callable[[NDArray[np.float32]], NDArray[Any]]
    dgrad: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]


class Oracle(NamedTuple):
    """The same two in float64."""

    fprop: Callable[[Any], Exact]
    dgrad: Callable[[Any, Any], Exact]


def stencil(f: Callable[[Any], Any], x: Any, direction: Any, h: float) -> Floats:
    """df/dx along a direction, from four points."""
    near = double(f(x + h * direction)) - double(f(x - h * direction))
    far = double(f(x + 2 * h * direction)) - double(f(x - 2 * h * direction))
    slope: Floats = (8 * near - far) / (12 * h)
    return slope


def gradient(f: Callable[[Floats], Floats], x: Any, dy: Any) -> Floats:
    """d<f(x), dy>/dx, one element of x after another, in float64."""
    x, dx = double(x), np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        direction = np.zeros(x.shape)
        direction[place] = 1
        dx[place] = (stencil(f, x, direction, STEP64) * dy).sum()
    return dx


def assert_gradient(
    op: Op,
    oracle: Oracle,
    slopes: Floats,
    x: NDArray[np.float32],
    dy: NDArray[np.float32],
    units: float = SUM,
) -> None:
    """Check an op's gradient against the oracle's slopes, and its own slope along one direction.

    The op's own slope is only as good as its outputs' rounding (at most `bound`, four times, over
    the step) and the stencil's error, which is measured on the oracle.

    Args:
        op: under test.
        oracle: what it should be.
        slopes: `gradient` of the oracle, which is slow and the same for every backend.
        x, dy: the input, and the gradient with respect to the output.
        units: rounding of both passes, in units of their magnitudes.
    """
    dx, exact_dx = op.dgrad(x, dy), oracle.dgrad(x, dy)
    assert_close(dx, Exact(slopes, exact_dx.magnitude), units)

    direction = signs(*x.shape, seed=99)
    own = (stencil(op.fprop, x, direction, STEP32) * dy).sum()
    exact = (stencil(lambda z: oracle.fprop(z).value, x, direction, STEP32) * dy).sum()
    rounding = sum(
        weight * abs(dy) * bound(oracle.fprop(x + away * STEP32 * direction), units)
        for weight, away in ((1 / 12, -2), (8 / 12, -1), (8 / 12, 1), (1 / 12, 2))
    )
    allowed = (
        np.sum(rounding) / STEP32
        + abs(exact - (exact_dx.value * direction).sum())
        + bound(exact_dx, units).sum()
    )
    assert abs(own - (double(dx) * direction).sum()) <= allowed
