"""Max-pool and average pool: overlapping, clipped and dropped windows, ties, NaN."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bench import oracle
from bench.oracle import Exact, Floats, double
from differences import Op, Oracle, assert_gradient, gradient
from samples import EACH_ELEMENT, all_different, few_values, normal, on_grid
from shapes import POOLS, Pool, each
from tolerance import SUM, UNIT, assert_close, assert_same
from trial import run

CASES = pytest.mark.parametrize("case", each(POOLS))
SMALL = [case for case in POOLS if np.prod(case.x) <= 150]


@cache
def expected_maxima(case: Pool) -> tuple[Any, Any]:
    """y and where on data full of ties."""
    return oracle.maxpool_fprop(few_values(*case.x), **case.geometry)


@cache
def expected_gradients(case: Pool, dtype: Any) -> tuple[Exact, Exact]:
    """dx of the max-pool and of the average pool."""
    _, where = expected_maxima(case)
    dy = normal(*case.y, seed=1).astype(dtype)
    return (
        oracle.maxpool_dgrad(dy, where, x_shape=case.x, **case.geometry),
        oracle.avgpool_dgrad(dy, x_shape=case.x, **case.geometry),
    )


def where_dtype(case: Pool) -> type:
    """The narrowest unsigned integer that can hold a place in the window."""
    return np.uint8 if case.size <= 16 else np.uint16


@cache
def slopes_of_maxima(case: Pool) -> Floats:
    """The max-pool's gradient by central differences, with no two pixels of nearly equal value."""
    x, dy = all_different(*case.x), normal(*case.y, seed=1)
    return gradient(lambda z: oracle.maxpool_fprop(z, **case.geometry)[0], x, dy)


@cache
def slopes_of_means(case: Pool) -> Floats:
    """The average pool's gradient by central differences."""
    x, dy = on_grid(*case.x), normal(*case.y, seed=1)
    return gradient(lambda z: oracle.avgpool_fprop(z, **case.geometry).value, x, dy)


@EACH_ELEMENT
@CASES
def test_maxpool_fprop_with_ties(be: Any, case: Pool, dtype: Any) -> None:
    """All values are below zero, so an empty or padded window cannot pass for a maximum of 0."""
    y, where = run(be, "maxpool_fprop", few_values(*case.x).astype(dtype), **case.geometry)
    expected, places = expected_maxima(case)
    assert_same(y, expected, dtype=dtype)
    assert_array_equal(where, places.astype(where_dtype(case)), strict=True)


@EACH_ELEMENT
@CASES
def test_maxpool_dgrad_with_ties(be: Any, case: Pool, dtype: Any) -> None:
    """On ties the gradient goes to the first, according to the op's own `where`."""
    dy = normal(*case.y, seed=1).astype(dtype)
    _, where = run(be, "maxpool_fprop", few_values(*case.x).astype(dtype), **case.geometry)
    (dx,) = run(be, "maxpool_dgrad", dy, where, x_shape=case.x, **case.geometry)
    assert_close(dx, expected_gradients(case, dtype)[0], dtype=dtype)


@EACH_ELEMENT
@CASES
def test_maxpool_dgrad_through_a_relu(be: Any, case: Pool, dtype: Any) -> None:
    """No gradient passes where the ReLU's output was 0, or NaN."""
    dy = normal(*case.y, seed=1).astype(dtype)
    _, places = expected_maxima(case)
    gate = np.maximum(normal(*case.x, seed=2), 0).astype(dtype)
    gate[-1, -1, -1, -1] = np.nan
    where = places.astype(where_dtype(case))
    (dx,) = run(be, "maxpool_dgrad", dy, where, x_shape=case.x, gate=gate, **case.geometry)
    ungated = expected_gradients(case, dtype)[0]
    open_ = double(gate) > 0
    assert_close(dx, Exact(ungated.value * open_, ungated.magnitude * open_), dtype=dtype)


@EACH_ELEMENT
@CASES
def test_avgpool_fprop(be: Any, case: Pool, dtype: Any) -> None:
    x = normal(*case.x).astype(dtype)
    (y,) = run(be, "avgpool_fprop", x, **case.geometry)
    assert_close(y, oracle.avgpool_fprop(x, **case.geometry), dtype=dtype)


@EACH_ELEMENT
@CASES
def test_avgpool_dgrad(be: Any, case: Pool, dtype: Any) -> None:
    dy = normal(*case.y, seed=1).astype(dtype)
    (dx,) = run(be, "avgpool_dgrad", dy, x_shape=case.x, **case.geometry)
    assert_close(dx, expected_gradients(case, dtype)[1], dtype=dtype)


@CASES
def test_avgpool_is_its_own_adjoint(be: Any, case: Pool) -> None:
    """<avgpool(x), dy> = <x, dgrad(dy)>."""
    x, dy = normal(*case.x), normal(*case.y, seed=1)
    (y,) = run(be, "avgpool_fprop", x, **case.geometry)
    (dx,) = run(be, "avgpool_dgrad", dy, x_shape=case.x, **case.geometry)
    magnitude = (oracle.avgpool_fprop(x, **case.geometry).magnitude * abs(dy)).sum()
    assert abs((double(y) * dy).sum() - (double(dx) * x).sum()) <= 2 * SUM * UNIT * magnitude


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_maxpool_gradient_by_differences(be: Any, case: Pool) -> None:
    """Values are .5 apart and a step moves them by .06: no window changes its choice."""

    def maxima(x: Any) -> Any:
        return run(be, "maxpool_fprop", x, **case.geometry)

    back = {"x_shape": case.x, **case.geometry}
    op = Op(
        lambda x: maxima(x)[0],
        lambda x, dy: run(be, "maxpool_dgrad", dy, maxima(x)[1], **back)[0],
    )

    def exact_maxima(x: Any) -> Exact:
        y, _ = oracle.maxpool_fprop(x, **case.geometry)
        return Exact(y, abs(y))

    def exact_gradient(x: Any, dy: Any) -> Exact:
        return oracle.maxpool_dgrad(dy, oracle.maxpool_fprop(x, **case.geometry)[1], **back)

    x, dy = all_different(*case.x), normal(*case.y, seed=1)
    assert_gradient(op, Oracle(exact_maxima, exact_gradient), slopes_of_maxima(case), x, dy)


@pytest.mark.parametrize("case", SMALL[:3], ids=str)
def test_avgpool_gradient_by_differences(be: Any, case: Pool) -> None:
    back = {"x_shape": case.x, **case.geometry}
    op = Op(
        lambda x: run(be, "avgpool_fprop", x, **case.geometry)[0],
        lambda _, dy: run(be, "avgpool_dgrad", dy, **back)[0],
    )
    exact = Oracle(
        lambda x: oracle.avgpool_fprop(x, **case.geometry),
        lambda _, dy: oracle.avgpool_dgrad(dy, **back),
    )
    x, dy = on_grid(*case.x), normal(*case.y, seed=1)
    assert_gradient(op, exact, slopes_of_means(case), x, dy)


def test_cifar_maps_of_32_pool_to_16(be: Any) -> None:
    """cuda-convnet's CIFAR nets need the sixteenth window, which is clipped at the border."""
    x = normal(1, 32, 32, 1)
    assert run(be, "maxpool_fprop", x, size=3, stride=2)[0].shape == (1, 16, 16, 1)
    assert run(be, "maxpool_fprop", x, size=3, stride=2, ceil=False)[0].shape == (1, 15, 15, 1)
    assert run(be, "avgpool_fprop", x, size=3, stride=2)[0].shape == (1, 16, 16, 1)


@EACH_ELEMENT
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("size", [3, 17])
def test_nan_wins(be: Any, size: int, channels: int, dtype: Any) -> None:
    """A NaN is the maximum of each window that holds it, and the first one takes the gradient."""
    case = Pool("nan", (2, 20, 19, channels), size, 2)
    x, dy = normal(*case.x).astype(dtype), normal(*case.y, seed=1).astype(dtype)
    x[0, 3, 4, 1] = x[0, 3, 5, 1] = x[0, 4, 3, 1] = x[1, 18, 18, 2] = np.nan
    y, where = run(be, "maxpool_fprop", x, **case.geometry)
    expected, places = oracle.maxpool_fprop(x, **case.geometry)
    assert_same(y, expected, dtype=dtype)
    assert_array_equal(where, places)
    (dx,) = run(be, "maxpool_dgrad", dy, where, x_shape=case.x, **case.geometry)
    exact = oracle.maxpool_dgrad(dy, places, x_shape=case.x, **case.geometry)
    assert_close(dx, exact, dtype=dtype)


def test_windows_of_minus_infinity(be: Any) -> None:
    """The first pixel is the maximum even if nothing exceeds the initial value."""
    x = np.full((1, 4, 5, 2), -np.inf, dtype=np.float32)
    y, where = run(be, "maxpool_fprop", x, size=3, stride=2)
    assert (y == -np.inf).all() and (where == 0).all()


def test_avgpool_of_ones_is_one_at_the_border(be: Any) -> None:
    (y,) = run(be, "avgpool_fprop", np.ones((1, 8, 6, 2), np.float32), size=3, stride=2)
    np.testing.assert_allclose(y, 1, rtol=UNIT * SUM)
