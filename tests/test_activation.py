"""ReLU, tanh and scaling: values, gradients, in place, and NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bench import oracle
from bench.oracle import Exact
from differences import Op, Oracle, assert_gradient, gradient
from pyalexnet.ops.elements import BFLOAT16
from samples import EACH_ELEMENT, normal, on_grid
from tolerance import FUNCTION, SUM, assert_close, assert_same, same_bits
from trial import run

EACH_SHAPE = pytest.mark.parametrize(
    "shape",
    [(2, 7, 5, 6), (1,), (3, 1031), (), pytest.param((3, 70001), marks=pytest.mark.big)],
    ids=str,
)
EDGES = np.array(
    [0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan, 3e38, -3e38, 88.0, -88.0], dtype=np.float32
)
# 1 - y^2 also inherits the rounding of y: 2 y^2 times it, less than the magnitude.
TANH_GRADIENT = SUM + FUNCTION


@EACH_ELEMENT
@EACH_SHAPE
def test_relu(be: Any, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy = normal(*shape, seed=1).astype(dtype), normal(*shape, seed=2).astype(dtype)
    (y,) = run(be, "relu_fprop", x)
    assert_same(y, oracle.relu_fprop(x), dtype=dtype)
    (dx,) = run(be, "relu_dgrad", y, dy)
    assert_same(dx, oracle.relu_dgrad(y, dy), dtype=dtype)


@EACH_ELEMENT
@EACH_SHAPE
def test_tanh(be: Any, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy = normal(*shape, seed=1).astype(dtype), normal(*shape, seed=2).astype(dtype)
    (y,) = run(be, "tanh_fprop", x)
    assert_close(y, oracle.tanh_fprop(x), FUNCTION, dtype=dtype)
    (dx,) = run(be, "tanh_dgrad", y, dy)
    assert_close(dx, oracle.tanh_dgrad(y, dy), dtype=dtype)


@EACH_ELEMENT
@EACH_SHAPE
def test_scale(be: Any, shape: tuple[int, ...], dtype: Any) -> None:
    x = normal(*shape, seed=1).astype(dtype)
    (y,) = run(be, "scale", x, factor=0.3)
    assert_same(y, x.astype(np.float32) * np.float32(0.3), dtype=dtype)


def test_scale_passes_nan_and_infinity(be: Any) -> None:
    (y,) = run(be, "scale", np.array([np.nan, np.inf, -2], np.float32), factor=-0.5)
    assert_array_equal(y, [np.nan, -np.inf, 1])


@EACH_ELEMENT
def test_relu_at_the_edges(be: Any, dtype: Any) -> None:
    """In bfloat16, 1e-45 is 0."""
    with np.errstate(all="ignore"):
        x = EDGES.astype(dtype)
    (y,) = run(be, "relu_fprop", x)
    assert_same(y, oracle.relu_fprop(x), dtype=dtype)
    (dx,) = run(be, "relu_dgrad", y, np.full_like(x, 2))
    assert_same(dx, np.where(y.astype(np.float32) > 0, 2, 0), dtype=dtype)


def test_a_bfloat16_is_rounded_to_the_nearest_once(be: Any) -> None:
    """Ties go to even; values that differ only in float32 are not rounded beforehand."""
    tie, up = 1 + 2.0**-8, 1 + 3 * 2.0**-8
    halves = np.array([1.0, 1.0, -1.0, 2.0**127, np.inf, np.nan], BFLOAT16)
    (y,) = run(be, "scale", halves[:2], factor=tie)
    assert_array_equal(y.astype(np.float32), [1, 1])
    (y,) = run(be, "scale", halves[:3], factor=up)
    assert_array_equal(y.astype(np.float32), [1 + 2.0**-6, 1 + 2.0**-6, -1 - 2.0**-6])
    (y,) = run(be, "scale", halves[:3], factor=tie + 2.0**-20)
    assert_array_equal(y.astype(np.float32), [1 + 2.0**-7, 1 + 2.0**-7, -1 - 2.0**-7])
    (y,) = run(be, "scale", halves[3:], factor=1.999)
    assert_array_equal(y.astype(np.float32), [np.inf, np.inf, np.nan])


def test_relu_gradient_of_nan_passes(be: Any) -> None:
    (dx,) = run(be, "relu_dgrad", np.ones(2, np.float32), np.array([np.nan, 1], np.float32))
    assert_array_equal(dx, [np.nan, 1])


def test_tanh_at_the_edges(be: Any) -> None:
    """Small numbers keep their relative precision; large ones saturate at exactly 1."""
    (y,) = run(be, "tanh_fprop", EDGES)
    assert_array_equal(np.isnan(y), np.isnan(EDGES))
    numbers = ~np.isnan(EDGES)
    assert_close(y[numbers], oracle.tanh_fprop(EDGES[numbers]), FUNCTION)
    tiny = np.array([1e-4, -1e-6, 1e-30], dtype=np.float32)
    assert_close(run(be, "tanh_fprop", tiny)[0], oracle.tanh_fprop(tiny), FUNCTION)


def test_tanh_gradient_by_differences(be: Any) -> None:
    op = Op(
        lambda x: run(be, "tanh_fprop", x)[0],
        lambda x, dy: run(be, "tanh_dgrad", run(be, "tanh_fprop", x)[0], dy)[0],
    )
    exact = Oracle(
        oracle.tanh_fprop, lambda x, dy: oracle.tanh_dgrad(np.tanh(oracle.double(x)), dy)
    )
    x, dy = on_grid(3, 7), normal(3, 7, seed=1)
    assert_gradient(op, exact, gradient(np.tanh, x, dy), x, dy, TANH_GRADIENT)


def test_relu_gradient_by_differences(be: Any) -> None:
    x = np.where(abs(on_grid(3, 7)) < 0.25, np.float32(0.75), on_grid(3, 7))  # away from the kink
    op = Op(
        lambda x: run(be, "relu_fprop", x)[0],
        lambda x, dy: run(be, "relu_dgrad", run(be, "relu_fprop", x)[0], dy)[0],
    )

    def forward(x: Any) -> Exact:
        return Exact(oracle.relu_fprop(x), abs(oracle.relu_fprop(x)))

    def backward(x: Any, dy: Any) -> Exact:
        dx = oracle.relu_dgrad(x, dy)
        return Exact(dx, abs(dx))

    dy = normal(3, 7, seed=1)
    slopes = gradient(oracle.relu_fprop, x, dy)
    assert_gradient(op, Oracle(forward, backward), slopes, x, dy)


@pytest.mark.parametrize(
    ("op", "parameters"), [("relu_fprop", {}), ("tanh_fprop", {}), ("scale", {"factor": 0.3})]
)
@EACH_ELEMENT
def test_fprop_in_place(be: Any, op: str, parameters: dict[str, float], dtype: Any) -> None:
    x = normal(3, 5, seed=1).astype(dtype)
    (apart,) = run(be, op, x, **parameters)
    here = be.asarray(x.copy())
    assert getattr(be, op)(here, **parameters, out=here) is here
    assert same_bits(be.to_numpy(here), apart)


@pytest.mark.parametrize("op", ["relu_dgrad", "tanh_dgrad"])
@pytest.mark.parametrize("over", [0, 1], ids=["y", "dy"])
@EACH_ELEMENT
def test_dgrad_in_place(be: Any, op: str, over: int, dtype: Any) -> None:
    y = np.tanh(normal(3, 5, seed=1)).astype(dtype)
    dy = normal(3, 5, seed=2).astype(dtype)
    (apart,) = run(be, op, y, dy)
    here = be.asarray(y.copy()), be.asarray(dy.copy())
    getattr(be, op)(*here, out=here[over])
    assert same_bits(be.to_numpy(here[over]), apart)
