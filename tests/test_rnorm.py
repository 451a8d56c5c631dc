"""cuda-convnet's response norm within a map."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import Exact, Floats
from differences import Op, Oracle, assert_gradient, gradient
from samples import EACH_ELEMENT, normal, on_grid
from shapes import RNORMS, RNorm, each
from tolerance import assert_close, norm_units
from trial import run

CASES = pytest.mark.parametrize("case", each(RNORMS))
SMALL = [case for case in RNORMS if np.prod(case.x) <= 100]


@cache
def exact(case: RNorm, dtype: Any) -> tuple[Exact, Exact]:
    """y and dx of a case."""
    x, dy = arrays(case, dtype)
    return (
        oracle.rnorm_fprop(x, **case.constants),
        oracle.rnorm_dgrad(x, dy, **case.constants),
    )


def arrays(case: RNorm, dtype: Any) -> tuple[Any, Any]:
    """x, dy."""
    return normal(*case.x, seed=1).astype(dtype), normal(*case.x, seed=2).astype(dtype)


@cache
def slopes(case: RNorm) -> Floats:
    """The gradient by central differences, around numbers from which float32 steps are exact."""
    x, dy = on_grid(*case.x, seed=1), normal(*case.x, seed=2)
    return gradient(lambda z: oracle.rnorm_fprop(z, **case.constants).value, x, dy)


@EACH_ELEMENT
@CASES
def test_fprop(be: Any, case: RNorm, dtype: Any) -> None:
    x, _ = arrays(case, dtype)
    (y,) = run(be, "rnorm_fprop", x, **case.constants)
    assert_close(y, exact(case, dtype)[0], norm_units(case.beta), dtype=dtype)


@EACH_ELEMENT
@CASES
def test_dgrad(be: Any, case: RNorm, dtype: Any) -> None:
    (dx,) = run(be, "rnorm_dgrad", *arrays(case, dtype), **case.constants)
    assert_close(dx, exact(case, dtype)[1], norm_units(case.beta), dtype=dtype)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradient_by_differences(be: Any, case: RNorm) -> None:
    op = Op(
        lambda x: run(be, "rnorm_fprop", x, **case.constants)[0],
        lambda x, dy: run(be, "rnorm_dgrad", x, dy, **case.constants)[0],
    )
    numbers = Oracle(
        lambda x: oracle.rnorm_fprop(x, **case.constants),
        lambda x, dy: oracle.rnorm_dgrad(x, dy, **case.constants),
    )
    x, dy = on_grid(*case.x, seed=1), normal(*case.x, seed=2)
    assert_gradient(op, numbers, slopes(case), x, dy, norm_units(case.beta))


def test_a_constant_map(be: Any) -> None:
    """Windows of 4 pixels in a corner, 6 at an edge, 9 inside."""
    x = np.ones((2, 3, 4, 3), dtype=np.float32)
    (y,) = run(be, "rnorm_fprop", x, size=3, alpha=1.0, beta=0.75, k=1.0)
    pixels = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]])
    expected = np.broadcast_to((1.0 + pixels[None, :, :, None]) ** -0.75, x.shape)
    assert_close(y, Exact(expected, expected), norm_units(0.75))


def test_nan_reaches_exactly_the_windows_that_see_it(be: Any) -> None:
    x = normal(2, 6, 7, 2)
    x[1, 2, 3, 1] = np.nan
    (y,) = run(be, "rnorm_fprop", x, size=4, alpha=1.0, beta=0.75, k=2.0)
    expected = np.zeros(x.shape, dtype=bool)
    expected[1, 1:5, 2:6, 1] = True  # pixels whose window h - 2 .. h + 1 contains this one
    np.testing.assert_array_equal(np.isnan(y), expected)
