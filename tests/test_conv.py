"""Convolution: each pass against the oracle, the adjoint identities, and the paper's layers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import oracle
from oracle import Exact, double
from samples import normal
from shapes import ALEXNET, CONVS, Conv, each
from tolerance import FUNCTION, SUM, UNIT, assert_close, inner, same_bits
from trial import run
from variants import ONE_ORDER

CASES = pytest.mark.parametrize("case", each(CONVS))
DIFFERENT, GROUPED = CONVS[0], CONVS[1]


def arrays(case: Conv) -> tuple[Any, Any, Any, Any]:
    """x, w, b, dy."""
    return (
        normal(*case.x, seed=1),
        normal(*case.w, seed=2),
        normal(case.w[0], seed=3),
        normal(*case.y, seed=4),
    )


@cache
def exact(case: Conv) -> tuple[Exact, Exact, Exact, Exact]:
    """y, dx, dw and db of a case."""
    x, w, b, dy = arrays(case)
    return (
        oracle.conv_fprop(x, w, b, **case.geometry),
        oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry),
        *oracle.conv_wgrad(x, dy, w_shape=case.w, **case.geometry),
    )


@CASES
def test_fprop(be: Any, case: Conv) -> None:
    x, w, b, _ = arrays(case)
    (y,) = run(be, "conv_fprop", x, w, b, **case.geometry)
    assert_close(y, exact(case)[0])


@CASES
def test_dgrad(be: Any, case: Conv) -> None:
    _, w, _, dy = arrays(case)
    (dx,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    assert_close(dx, exact(case)[1])


@CASES
def test_wgrad(be: Any, case: Conv) -> None:
    x, _, _, dy = arrays(case)
    dw, db = run(be, "conv_wgrad", x, dy, w_shape=case.w, **case.geometry)
    assert_close(dw, exact(case)[2])
    assert_close(db, exact(case)[3])


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
def test_epilogue(be: Any, activation: str | None, with_bias: bool) -> None:
    x, w, b, _ = arrays(GROUPED)
    bias = b if with_bias else None
    (y,) = run(be, "conv_fprop", x, w, bias, activation=activation, **GROUPED.geometry)
    expected = oracle.conv_fprop(x, w, bias, activation=activation, **GROUPED.geometry)
    rounding = FUNCTION * abs(expected.value) if activation == "tanh" else 0.0
    assert_close(y, Exact(expected.value, expected.magnitude + rounding / SUM))


def test_fused_relu_gives_the_bits_of_the_two_ops(be: Any) -> None:
    x, w, b, _ = arrays(DIFFERENT)
    (plain,) = run(be, "conv_fprop", x, w, b, **DIFFERENT.geometry)
    (fused,) = run(be, "conv_fprop", x, w, b, activation="relu", **DIFFERENT.geometry)
    np.testing.assert_array_equal(fused, np.maximum(plain, 0))


# In one group each tower sees all channels, in two its own half of them.
IN_TOWERS = (DIFFERENT, GROUPED, CONVS[17])
# The depth, 630, is cut at 320 for all filters and would be at 256 for half of them.
SPLIT = (
    Conv("one group", (1, 8, 8, 70), (8448, 3, 3), pad=1),
    Conv("two groups", (1, 8, 8, 140), (8448, 3, 3), pad=1, groups=2),
)


def check_towers(be: Any, case: Conv) -> None:
    """Two towers' maps: bit for bit those of the whole layer, but for BLAS's order of sums."""
    x, w, b, _ = arrays(case)
    (whole,) = run(be, "conv_fprop", x, w, b, **case.geometry)
    alone = {**case.geometry, "groups": 1, "towers": 2}
    halves: list[Any] = []
    for tower in range(2):
        filters = np.split(np.arange(len(w)), 2)[tower]
        channels = np.split(np.arange(x.shape[3]), case.groups)[tower % case.groups]
        own = np.ascontiguousarray(x[..., channels])
        halves += run(be, "conv_fprop", own, w[filters], b[filters], **alone)
    towers = np.concatenate(halves, axis=-1)
    if be.name == "numpy":
        sizes = be.conv_fprop(abs(x), abs(w), abs(b), **case.geometry)
        assert_close(whole, Exact(double(towers), 2 * double(sizes)))
    else:
        assert same_bits(whole, towers)


@pytest.mark.parametrize("case", each(IN_TOWERS))
def test_towers_are_halves_of_the_whole_layer(be: Any, case: Conv) -> None:
    check_towers(be, case)


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize("case", each(SPLIT))
def test_towers_split_the_depth_as_the_whole_layer_does(be: Any, case: Conv) -> None:
    check_towers(be, case)


def test_nan_reaches_exactly_the_windows_that_see_it(be: Any) -> None:
    x, w, b, _ = arrays(DIFFERENT)
    x[1, 2, 3, 4] = np.nan
    (y,) = run(be, "conv_fprop", x, w, b, **DIFFERENT.geometry)
    expected = np.isnan(oracle.conv_fprop(x, w, b, **DIFFERENT.geometry).value)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize("layer", ALEXNET, ids=str)
def test_adjoint_identities_at_full_size(be: Any, layer: Conv) -> None:
    """<conv(x, w), dy> = <x, dgrad> = <w, wgrad>: three sums of the same products.

    Each op's error is at most SUM units of its magnitude, whose inner product with the other factor
    is the same for all three: <conv(|x|, |w|), |dy|>.
    """
    x, w, _, dy = arrays(layer)
    on_x, on_w, on_dy = be.asarray(x), be.asarray(w), be.asarray(dy)
    y = be.conv_fprop(on_x, on_w, None, **layer.geometry)
    dx = be.conv_dgrad(on_dy, on_w, x_shape=layer.x, **layer.geometry)
    dw, _ = be.conv_wgrad(on_x, on_dy, w_shape=layer.w, **layer.geometry)
    sums = (
        inner(be.to_numpy(y), dy),
        inner(be.to_numpy(dx), x),
        inner(be.to_numpy(dw), w),
    )
    sizes = be.conv_fprop(be.asarray(abs(x)), be.asarray(abs(w)), None, **layer.geometry)
    allowed = 2 * SUM * UNIT * inner(be.to_numpy(sizes), abs(dy))
    assert max(sums) - min(sums) <= allowed, sums


@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize("layer", ALEXNET, ids=str)
def test_values_at_full_size(be: Any, layer: Conv) -> None:
    """Some output pixels of the paper's layers, corners among them, by the oracle's window."""
    x, w, b, _ = arrays(layer)
    y = be.to_numpy(be.conv_fprop(be.asarray(x), be.asarray(w), be.asarray(b), **layer.geometry))
    _, P, Q, _ = layer.y
    image = oracle.padded(double(x), layer.pad)
    down, across = oracle.pair(layer.stride)
    _, R, S = layer.filters
    for p, q in ((0, 0), (0, Q - 1), (P - 1, 0), (P - 1, Q - 1), (P // 2, Q // 3)):
        seen = image[:, p * down : p * down + R, q * across : q * across + S]
        expected = oracle.conv_fprop(seen, w, b, stride=1, pad=0, groups=layer.groups)
        assert_close(y[:, p : p + 1, q : q + 1], expected)


def test_runs_in_a_row_leave_each_other_alone(be: Any) -> None:
    """Scratch of a large call is reused by a small one, and the other way round."""
    results = []
    for case in (GROUPED, CONVS[2], GROUPED):
        x, _, _, dy = arrays(case)
        results.append(run(be, "conv_wgrad", x, dy, w_shape=case.w, **case.geometry))
    for before, after in zip(results[0], results[2], strict=True):
        assert same_bits(before, after)
