"""Linear layers: each pass against the oracle, the adjoint identities, and the paper's layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import oracle
from oracle import Exact, double
from samples import normal
from tolerance import FUNCTION, SUM, UNIT, assert_close, inner, same_bits
from trial import run
from variants import ONE_ORDER

# (N, in, out)
SMALL = (3, 7, 5)
SIZES = [
    SMALL,
    (1, 6, 4),
    (5, 1, 3),
    (4, 5, 1),
    (1, 1, 1),
    (2, 70, 131),
    (33, 17, 66),
    (129, 9, 10),
    (101, 110, 125),
    (300, 5, 6),
    (3, 1030, 7),
    pytest.param((64, 512, 301), marks=pytest.mark.big),
]
EACH_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def arrays(size: tuple[int, int, int]) -> tuple[Any, Any, Any, Any]:
    """x, w, b, dy."""
    N, inputs, outputs = size
    return (
        normal(N, inputs, seed=1),
        normal(outputs, inputs, seed=2),
        normal(outputs, seed=3),
        normal(N, outputs, seed=4),
    )


@cache
def exact(size: tuple[int, int, int]) -> tuple[Exact, Exact, Exact, Exact]:
    """y, dx, dw and db."""
    x, w, b, dy = arrays(size)
    return (
        oracle.linear_fprop(x, w, b),
        oracle.linear_dgrad(dy, w),
        *oracle.linear_wgrad(x, dy),
    )


@EACH_SIZE
def test_fprop(be: Any, size: tuple[int, int, int]) -> None:
    x, w, b, _ = arrays(size)
    (y,) = run(be, "linear_fprop", x, w, b)
    assert_close(y, exact(size)[0])


@EACH_SIZE
def test_dgrad(be: Any, size: tuple[int, int, int]) -> None:
    _, w, _, dy = arrays(size)
    (dx,) = run(be, "linear_dgrad", dy, w)
    assert_close(dx, exact(size)[1])


@EACH_SIZE
def test_wgrad(be: Any, size: tuple[int, int, int]) -> None:
    x, _, _, dy = arrays(size)
    dw, db = run(be, "linear_wgrad", x, dy)
    assert_close(dw, exact(size)[2])
    assert_close(db, exact(size)[3])


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_epilogue(be: Any, activation: str | None, with_bias: bool) -> None:
    x, w, b, _ = arrays(SMALL)
    bias = b if with_bias else None
    (y,) = run(be, "linear_fprop", x, w, bias, activation=activation)
    expected = oracle.linear_fprop(x, w, bias, activation=activation)
    rounding = FUNCTION * abs(expected.value) if activation == "tanh" else 0.0
    assert_close(y, Exact(expected.value, expected.magnitude + rounding / SUM))


def check_towers(be: Any, size: tuple[int, int, int]) -> None:
    """Two towers' outputs: bit for bit those of the whole layer, but for BLAS's order of sums."""
    x, w, b, _ = arrays(size)
    (whole,) = run(be, "linear_fprop", x, w, b)
    halves = [
        run(be, "linear_fprop", x, w[outputs], b[outputs], towers=2)[0]
        for outputs in np.split(np.arange(len(w)), 2)
    ]
    towers = np.concatenate(halves, axis=-1)
    if be.name == "numpy":
        sizes = be.linear_fprop(abs(x), abs(w), abs(b))
        assert_close(whole, Exact(double(towers), 2 * double(sizes)))
    else:
        assert same_bits(whole, towers)


@pytest.mark.parametrize("size", [(2, 70, 130), (3, 7, 6)], ids=str)
def test_towers_are_halves_of_the_whole_layer(be: Any, size: tuple[int, int, int]) -> None:
    check_towers(be, size)


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_towers_split_the_depth_as_the_whole_layer_does(be: Any) -> None:
    """At 304 of 600, as suits 8,448 outputs; half of them alone would be split at 256."""
    check_towers(be, (64, 600, 8448))


def test_nan_stays_in_its_row(be: Any) -> None:
    x, w, b, _ = arrays(SMALL)
    x[1, 2] = np.nan
    (y,) = run(be, "linear_fprop", x, w, b)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, False])
    assert not np.isnan(y[[0, 2]]).any()


@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize(
    "size", [(2, 9216, 4096), (2, 4096, 4096), (2, 4096, 1000)], ids=["fc6", "fc7", "fc8"]
)
def test_adjoint_identities_at_full_size(be: Any, size: tuple[int, int, int]) -> None:
    """<x w^T, dy> = <x, dgrad> = <w, wgrad>, as for convolution."""
    x, w, _, dy = arrays(size)
    on_x, on_w, on_dy = be.asarray(x), be.asarray(w), be.asarray(dy)
    y, dx = be.linear_fprop(on_x, on_w, None), be.linear_dgrad(on_dy, on_w)
    dw, db = be.linear_wgrad(on_x, on_dy)
    sums = (
        inner(be.to_numpy(y), dy),
        inner(be.to_numpy(dx), x),
        inner(be.to_numpy(dw), w),
    )
    sizes = be.linear_fprop(be.asarray(abs(x)), be.asarray(abs(w)), None)
    allowed = 2 * SUM * UNIT * inner(be.to_numpy(sizes), abs(dy))
    assert max(sums) - min(sums) <= allowed, sums
    assert_close(be.to_numpy(db), Exact(double(dy).sum(axis=0), abs(double(dy)).sum(axis=0)))
