"""Local response normalisation across channels. alpha is 1, so a wrong window shows clearly."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import Exact, Floats
from differences import Op, Oracle, assert_gradient, gradient
from samples import EACH_ELEMENT, normal, on_grid
from shapes import LRN, LRNS, each
from tolerance import assert_close, norm_units
from trial import run

CASES = pytest.mark.parametrize("case", each(LRNS))
SMALL = [case for case in LRNS if np.prod(case.x) <= 100]


@cache
def exact(case: LRN, dtype: Any) -> tuple[Exact, Exact]:
    """y and dx of a case."""
    x, dy = arrays(case, dtype)
    return (
        oracle.lrn_fprop(x, **case.constants),
        oracle.lrn_dgrad(x, dy, **case.constants),
    )


def arrays(case: LRN, dtype: Any) -> tuple[Any, Any]:
    """x, dy."""
    return normal(*case.x, seed=1).astype(dtype), normal(*case.x, seed=2).astype(dtype)


@cache
def slopes(case: LRN) -> Floats:
    """The gradient by central differences, around numbers from which float32 steps are exact."""
    x, dy = on_grid(*case.x, seed=1), normal(*case.x, seed=2)
    return gradient(lambda z: oracle.lrn_fprop(z, **case.constants).value, x, dy)


@EACH_ELEMENT
@CASES
def test_fprop(be: Any, case: LRN, dtype: Any) -> None:
    x, _ = arrays(case, dtype)
    (y,) = run(be, "lrn_fprop", x, **case.constants)
    assert_close(y, exact(case, dtype)[0], norm_units(case.beta), dtype=dtype)


@EACH_ELEMENT
@CASES
def test_dgrad(be: Any, case: LRN, dtype: Any) -> None:
    (dx,) = run(be, "lrn_dgrad", *arrays(case, dtype), **case.constants)
    assert_close(dx, exact(case, dtype)[1], norm_units(case.beta), dtype=dtype)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradient_by_differences(be: Any, case: LRN) -> None:
    op = Op(
        lambda x: run(be, "lrn_fprop", x, **case.constants)[0],
        lambda x, dy: run(be, "lrn_dgrad", x, dy, **case.constants)[0],
    )
    numbers = Oracle(
        lambda x: oracle.lrn_fprop(x, **case.constants),
        lambda x, dy: oracle.lrn_dgrad(x, dy, **case.constants),
    )
    x, dy = on_grid(*case.x, seed=1), normal(*case.x, seed=2)
    assert_gradient(op, numbers, slopes(case), x, dy, norm_units(case.beta))


def test_a_constant_map(be: Any) -> None:
    """The source's constants on a map of 30s: a / (2 + 2e-5 m a^2)^.75, m = 3, 4, 5, ..."""
    x = np.full((2, 3, 2, 8), 30, dtype=np.float32)
    (y,) = run(be, "lrn_fprop", x, size=5, alpha=2e-5, beta=0.75, k=2.0)
    m = np.array([3, 4, 5, 5, 5, 5, 4, 3])
    expected = np.broadcast_to(30 / (2 + 2e-5 * m * 900) ** 0.75, x.shape)
    assert_close(y, Exact(expected, expected), norm_units(0.75))


def test_nan_reaches_exactly_the_windows_that_see_it(be: Any) -> None:
    x = normal(1, 2, 2, 12)
    x[0, 1, 0, 4] = np.nan
    (y,) = run(be, "lrn_fprop", x, size=4, alpha=1.0, beta=0.75, k=2.0, groups=2)
    expected = np.zeros(x.shape, dtype=bool)
    expected[0, 1, 0, 3:6] = True  # window i - 2 .. i + 1, and the first group ends at 5
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_photograph_sized_numbers(be: Any) -> None:
    """The first layer's maps reach hundreds: the sum of squares must not swamp the other terms."""
    x, dy = 200 * normal(1, 3, 2, 16, seed=1), normal(1, 3, 2, 16, seed=2)
    constants: dict[str, Any] = {"size": 5, "alpha": 2e-5, "beta": 0.75, "k": 2.0, "groups": 2}
    (y,) = run(be, "lrn_fprop", x, **constants)
    assert_close(y, oracle.lrn_fprop(x, **constants), norm_units(0.75))
    (dx,) = run(be, "lrn_dgrad", x, dy, **constants)
    assert_close(dx, oracle.lrn_dgrad(x, dy, **constants), norm_units(0.75))
