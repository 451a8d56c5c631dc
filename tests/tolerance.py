"""How far a float32 result may lie from the exact one: derived from the arithmetic, never fitted.

u = 2^-24 is the relative error of one float32 rounding, one ulp is at most 2 u.

A sum of products in any sensible order (tiles, lanes, a fixed tree) stays within 8 u of the sum of
the absolute products: with n terms the roundings are a random walk of about sqrt(n) steps over
partial sums that are themselves far below the magnitude. The bound holds from 25 to 9,216 terms,
and it notices nearly every single dropped term (test_tolerance.py measures both).

Tensor cores do not round sums of bfloat16 products but cut them (tests/tensor_cores.py), towards
zero: on average by 1/32 of the last place for each product, at most u / 16 of the sum. Sums of n
products of zero mean and deviation s are normally distributed: the mean of all partial sums has the
deviation s sqrt(n / 3), and six times that, for the worst of many elements, times n u / 16 is
sqrt(n) / 3 units of the magnitude, 0.64 n s: 8 units at 576 terms. Kernels add up long sums in
parts, and test_conv.py and test_linear.py check that no part is longer where 8 units are asked;
elsewhere they ask `product_units`. Products of one sign drift further, about n / 4 units, and no
test sums many.

Products of float32 in three planes omit at most one u of each (kernels/tensor.cuh), and are summed
from zero 16 at a time, so the large sums are rounded less often than with one term at a time. The
bound is the same, and `python -m bench --errors` shows how much of it is left.

A bfloat16 result is that float32 result rounded once: another half unit in the last place.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.oracle import Exact
from pyalexnet.ops.elements import BFLOAT16

UNIT = 2.0**-24
SUM = 8.0
# pow, exp, log and tanh in float32: 4 ulp covers CUDA's (powf 4, expf, logf and tanhf less),
# NumPy's vector versions (below 4) and libm's (1). A power of -.75 made of two reciprocal roots,
# each accurate to 2^-22.9, and two products is accurate to 7.4 units.
FUNCTION = 8.0
# Below the smallest normal number roundings are absolute, and a device may flush to zero.
UNDERFLOW = 2.0**-126

Array = NDArray[np.generic]


def bound(exact: Exact, units: float = SUM) -> NDArray[np.float64]:
    """The error allowed in each element."""
    return np.asarray(units * UNIT * exact.magnitude + UNDERFLOW)


def product_units(be: Any, dtype: Any, terms: int) -> float:
    """How far a sum of so many products of zero mean may be off on a backend."""
    cut = be.name != "cpu" and dtype == BFLOAT16
    return max(SUM, terms**0.5 / 3) if cut else SUM


def unsplit(be: Any, op: str, x: Any, w: Any, depth: int, **settings: Any) -> int:
    """The longest part of a sum of bfloat16 products of this depth, on a backend with kernels."""
    parts = re.search(r"depth in (\d+) parts", be.choice(op, x, w, BFLOAT16, settings))
    part = depth / int(parts[1]) if parts else depth
    return 64 * math.ceil(part / 64)  # whole slices


def convolved(
    be: Any, exact: Exact, w_shape: tuple[int, ...], stride: Any, tiled: tuple[int, ...]
) -> Exact:
    """The exact result of a convolution pass, scaled so that a backend owes SUM units of magnitude.

    Args:
        be: the backend.
        exact: y, dx or dw.
        w_shape: (K, R, S, C / groups) of the filters.
        stride: of the convolution.
        tiled: (N, height, width, channels) of the map that Winograd's algorithm would cut into
            tiles: y in fprop, dx in dgrad, dy in wgrad.
    """
    units = convolution_units(be, w_shape, stride, tiled)
    return exact if units == SUM else Exact(exact.value, exact.magnitude * units / SUM)


def convolution_units(
    be: Any, w_shape: tuple[int, ...], stride: Any, tiled: tuple[int, ...]
) -> float:
    """How far a convolution may be off on a backend: the one place that says so.

    Convolutions that cpu may compute by Winograd's algorithm (kernels/cpu/conv.cpp) may be further
    off than sums, unless cpu is to be exact. The tile size is the one with the fewest products.
    """
    _, r, s, channels = w_shape
    _, rows, columns, _ = tiled
    products = {
        -(-rows // m) * -(-columns // m) * (m + r - 1) ** 2: m for m, size in POINTS if size == r
    }
    may_take = be.name == "cpu" and not be.exact and r == s and stride in (1, (1, 1))
    if not (may_take and products and channels >= 16):
        return SUM
    return SUM * amplification(products[min(products)], r)


POINTS = {
    (5, 3): (0.0, 1.0, -1.0, 0.5, -0.5, 3.0),
    (4, 3): (0.0, 1.0, -1.0, 0.5, -2.0),
    (4, 5): (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5),
}
"""Where Winograd's F(m, r) interpolates, besides infinity. In a tie, the last one is taken."""


@cache
def amplification(m: int, r: int) -> float:
    """How much larger than the sum's own the roundings of F(m x m, r x r) are.

    At [(G g) * (Bt d)] adds up products of sums that largely cancel. With roundings as a random
    walk, as for SUM, the factor along an axis is the root of the sum of its squared weights,
    relative to that of the r products that make up an output; in wgrad, Gt [(A dy) * (Bt d)], of
    the m products that make up a tap. It is the larger of the two, at the worst output, squared
    because a tile has two axes.
    """
    at, g, bt = _transforms(POINTS[m, r], m, r)
    squares = [np.square(matrix).sum(axis=1) for matrix in (g, at.T, bt)]
    forward = np.square(at) @ (squares[0] * squares[2]) / r
    backward = np.square(g.T) @ (squares[1] * squares[2]) / m
    return float(max(forward.max(), backward.max()))


def _transforms(points: tuple[float, ...], m: int, r: int) -> tuple[NDArray[np.float64], ...]:
    """At, G and Bt of F(m, r) by Toom and Cook: products of polynomials by their values."""
    powers = np.vander(points, max(m, r), increasing=True)
    at = np.vstack([powers[:, :m], np.eye(m)[-1:]]).T
    others = [[p for p in points if p != point] for point in points]
    distances = [
        np.prod([point - p for p in beside]) for point, beside in zip(points, others, strict=True)
    ]
    g = np.vstack([powers[:, :r] / np.array(distances)[:, None], np.eye(r)[-1:]])
    bt = np.zeros((m + r - 1, m + r - 1))
    for row, zeros in zip(bt, [*others, points], strict=True):
        polynomial = np.poly(zeros)[::-1]
        row[: polynomial.size] = polynomial
    return at, g, bt


def norm_units(beta: float) -> float:
    """Units for x D^-beta and for its gradient's terms, with powers up to D^(-beta - 1).

    D is a sum of positive terms, accurate to SUM units; a power multiplies that by its exponent;
    the power itself and the sum over the window add their own.
    """
    return (beta + 1) * SUM + FUNCTION + SUM


# exp, the log or the division by a sum of exps, and the sums; the part that grows with the logits
# is in the oracle's magnitude.
SOFTMAX = 2 * FUNCTION + SUM


def stored(value: Any, allowed: Any, dtype: Any) -> Any:
    """The error allowed in a value stored as `dtype`; `allowed` is the error of its float32."""
    if dtype == np.float32:
        return allowed
    assert dtype == BFLOAT16
    _, exponent = np.frexp(np.minimum(abs(value) + allowed, largest(dtype)))
    half_a_place = np.ldexp(1.0, np.maximum(exponent, -125) - 9)  # of 8 bits, below 2^exponent
    return allowed + half_a_place


def assert_close(
    actual: Array, exact: Exact, units: float = SUM, *, dtype: Any = np.float32
) -> None:
    """Check that an array has the exact one's shape and `dtype` (float32 or bfloat16) and is close.

    Close means within `units` of the magnitude, before any rounding to bfloat16. Where the exact
    value is beyond the range of `dtype`, that infinity is due, and NaN where it is NaN.
    """
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {np.dtype(dtype)}"
    assert actual.shape == exact.value.shape, f"shape {actual.shape}, expected {exact.value.shape}"
    _refuse_beyond(stored(exact.value, bound(exact, units), dtype), actual, exact.value)


def _refuse_beyond(allowed: Any, actual: Array, due: NDArray[np.float64]) -> None:
    """Fail if an element is further than `allowed` from the value due.

    NaN has to match NaN; an infinity also passes if the range ends within the tolerance.
    """
    got = actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = abs(got - due)
        near = np.isfinite(got) & (error <= allowed)
        over = abs(due) + allowed > largest(actual.dtype)
        beyond = np.isinf(got) & (got * np.sign(due) > 0) & over
    bad = ~np.where(
        np.isnan(due), np.isnan(got), np.where(np.isinf(due), got == due, near | beyond)
    )
    if not bad.any():
        return
    with np.errstate(invalid="ignore"):
        tolerances = np.where(bad, error / allowed, 0)
    worst = np.unravel_index(np.argmax(tolerances), error.shape)  # the first NaN, if there is one
    place = tuple(int(i) for i in worst)
    raise AssertionError(
        f"{int(bad.sum())} of {error.size} elements are off; worst {place}: {actual[place]!r}; "
        f"{due[place]!r} was due, {tolerances[place]:.3g} tolerances away"
    )


def largest(dtype: Any) -> float:
    """The largest finite number of float32 or bfloat16."""
    return 2.0**128 - (2.0**104 if dtype == np.float32 else 2.0**120)


def assert_same(
    actual: Array,
    expected: NDArray[np.floating] | NDArray[np.integer],
    *,
    dtype: Any = np.float32,
) -> None:
    """Check that an array has `dtype` and equals the expected one elementwise; NaN equals NaN."""
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {np.dtype(dtype)}"
    due = np.asarray(expected, dtype=np.float32).astype(dtype)  # rounded twice only if inexact
    np.testing.assert_array_equal(actual.astype(np.float32), due.astype(np.float32), strict=True)


def inner(a: Any, b: Any) -> float:
    """The inner product of two arrays, summed in float64."""
    return float(np.einsum("i,i->", a.ravel(), b.ravel(), dtype=np.float64, casting="same_kind"))


def same_bits(a: Array, b: Array) -> bool:
    """Equal in dtype, shape and every bit: distinguishes 0 from -0 and one NaN from another."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
