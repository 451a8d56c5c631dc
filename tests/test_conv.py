"""Convolution: each pass against the oracle, the adjoint identities, and the paper's layers."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

import pyalexnet
from bench import oracle
from bench.oracle import Exact, double
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ops.records import Mask
from samples import EACH_PRODUCT, normal
from shapes import ALEXNET, CONVS, Conv, each, in_vectors
from tolerance import (
    FUNCTION,
    SUM,
    UNIT,
    assert_close,
    convolved,
    inner,
    product_units,
    same_bits,
    unsplit,
)
from trial import run
from updates import LR, check_same_update, check_update
from variants import CPU_EXACT, ONE_ORDER, SIM, parameters

# Hopper's own loop has its tests in test_hopper_loop.py.
pytestmark = pytest.mark.usefixtures("any_cards_loop")

CASES = pytest.mark.parametrize("case", each(CONVS))
DIFFERENT, GROUPED, IN_GROUPS = CONVS[0], CONVS[1], CONVS[22]
AS_BIG = [*ONE_ORDER, *parameters(CPU_EXACT)]
DRAW: dict[str, Any] = {"keep": 0.6, "seed": 11, "step": 7, "layer": 2}


def arrays(case: Conv, dtype: Any = FLOAT32) -> tuple[Any, Any, Any, Any]:
    """x, w, b, dy; all but b rounded to `dtype`, from which the oracle widens them."""
    return (
        normal(*case.x, seed=1).astype(dtype),
        normal(*case.w, seed=2).astype(dtype),
        normal(case.w[0], seed=3),
        normal(*case.y, seed=4).astype(dtype),
    )


@cache
def exact(case: Conv, dtype: Any = FLOAT32) -> tuple[Exact, Exact, Exact, Exact]:
    """y, dx, dw and db of a case."""
    x, w, b, dy = arrays(case, dtype)
    return (
        oracle.conv_fprop(x, w, b, **case.geometry),
        oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry),
        *oracle.conv_wgrad(x, dy, w_shape=case.w, **case.geometry),
    )


def due(be: Any, case: Conv, dtype: Any = FLOAT32) -> tuple[Exact, Exact, Exact, Exact]:
    """The same, with magnitudes scaled to what the backend is allowed."""
    *maps, db = exact(case, dtype)
    y, dx, dw = (
        convolved(be, one, case.w, case.stride, tiled)
        for one, tiled in zip(maps, (case.y, case.x, case.y), strict=True)
    )
    return y, dx, dw, db


@pytest.mark.every(4)
@CASES
@EACH_PRODUCT
def test_fprop(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(case, dtype)
    (y,) = run(be, "conv_fprop", x, w, b, **case.geometry, tensor=tensor)
    assert_close(y, due(be, case, dtype)[0], dtype=dtype)


@pytest.mark.every(5)
@CASES
@EACH_PRODUCT
def test_dgrad(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    _, w, _, dy = arrays(case, dtype)
    (dx,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry, tensor=tensor)
    assert_close(dx, due(be, case, dtype)[1], dtype=dtype)


@pytest.mark.every(4)
@CASES
@EACH_PRODUCT
def test_wgrad(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    """Gradients of weights are float32, whatever the type of the weights."""
    x, _, _, dy = arrays(case, dtype)
    dw, db = run(be, "conv_wgrad", x, dy, w_shape=case.w, **case.geometry, tensor=tensor)
    assert_close(dw, due(be, case, dtype)[2])
    assert_close(db, due(be, case, dtype)[3])


# For the epilogue, on full and partial tiles.
FINISHED = pytest.mark.parametrize("case", each((GROUPED, CONVS[20], *in_vectors(CONVS))))


@pytest.mark.every(4)
@FINISHED
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@EACH_PRODUCT
def test_epilogue(
    be: Any, case: Conv, activation: str | None, with_bias: bool, dtype: Any, tensor: bool
) -> None:
    x, w, b, _ = arrays(case, dtype)
    bias = b if with_bias else None
    (y,) = run(be, "conv_fprop", x, w, bias, activation=activation, **case.geometry, tensor=tensor)
    assert_close(y, finished(be, case, bias, activation, dtype), dtype=dtype)


def finished(be: Any, case: Conv, bias: Any, activation: str | None, dtype: Any) -> Exact:
    """y with an activation; the activation's rounding is added to the sum's magnitude."""
    x, w, _, _ = arrays(case, dtype)
    y = oracle.conv_fprop(x, w, bias, activation=activation, **case.geometry)
    rounding = FUNCTION * abs(y.value) if activation == "tanh" else 0.0
    magnitude = y.magnitude + rounding / SUM
    return convolved(be, Exact(y.value, magnitude), case.w, case.stride, case.y)


def test_fused_relu_gives_the_bits_of_the_two_ops(be: Any) -> None:
    x, w, b, _ = arrays(DIFFERENT)
    (plain,) = run(be, "conv_fprop", x, w, b, **DIFFERENT.geometry)
    (fused,) = run(be, "conv_fprop", x, w, b, activation="relu", **DIFFERENT.geometry)
    np.testing.assert_array_equal(fused, np.maximum(plain, 0))


@FINISHED
def test_sums_of_bfloat16_in_float32(be: Any, case: Conv) -> None:
    """The sums before rounding: logits leave a network this way, without loss."""
    x, w, b, _ = arrays(case, BFLOAT16)
    (y,) = run(be, "conv_fprop", x, w, b, **case.geometry)
    (wide,) = run(be, "conv_fprop", x, w, b, **case.geometry, dtype=FLOAT32)
    assert_close(wide, due(be, case, BFLOAT16)[0])
    assert same_bits(wide.astype(BFLOAT16), y)


@FINISHED
@EACH_PRODUCT
def test_dropout(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    mask = Mask(**DRAW, offset=5, total=9001, factor=1.75)
    check_dropout(be, case, mask, dtype, tensor)


@pytest.mark.every(3)
@pytest.mark.parametrize("case", each((GROUPED, IN_GROUPS)))
@pytest.mark.parametrize(
    "mask",
    [
        Mask(**DRAW),
        Mask(**{**DRAW, "keep": 1.0}, factor=-2.0),
        Mask(**{**DRAW, "keep": 0.0, "seed": 2**64 - 1}),
        Mask(**DRAW, offset=2**40 + 2, total=2**41 + 1),
        Mask(**DRAW, first=3),
    ],
    ids=str,
)
@EACH_PRODUCT
def test_masks(be: Any, case: Conv, mask: Mask, dtype: Any, tensor: bool) -> None:
    """Masks of each kind; a draw depends only on an output's place, whichever product is used."""
    check_dropout(be, case, mask, dtype, tensor)


def check_dropout(be: Any, case: Conv, mask: Mask, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(case, dtype)
    (y,) = run(
        be, "conv_fprop", x, w, b, activation="relu", dropout=mask, **case.geometry, tensor=tensor
    )
    draw = {name: value for name, value in mask._asdict().items() if name != "factor"}
    kept = oracle.dropped(finished(be, case, b, "relu", dtype), **draw, factor=mask.factor)
    assert_close(y, kept, dtype=dtype)
    assert not np.any(y[kept.magnitude == 0]), "dropped is 0, to the bit"


@pytest.mark.every(3)
@FINISHED
@EACH_PRODUCT
def test_fused_dropout_gives_the_bits_of_the_two_ops(
    be: Any, case: Conv, dtype: Any, tensor: bool
) -> None:
    x, w, b, _ = arrays(case, dtype)
    step = be.asarray(np.array(DRAW["step"], np.uint32))
    mask = Mask(**{**DRAW, "step": step})
    (plain,) = run(be, "conv_fprop", x, w, b, activation="tanh", **case.geometry, tensor=tensor)
    (fused,) = run(
        be, "conv_fprop", x, w, b, activation="tanh", dropout=mask, **case.geometry, tensor=tensor
    )
    (dropped,) = run(be, "dropout_fprop", plain, **DRAW)
    np.testing.assert_array_equal(fused.astype(np.float32), dropped.astype(np.float32))


def test_dropped_means_zero(be: Any) -> None:
    """The mask selects rather than multiplies, so NaN and infinity are dropped as well."""
    x, w, b, _ = arrays(DIFFERENT)
    (y,) = run(be, "conv_fprop", x, w, b * np.nan, dropout=Mask(**DRAW), **DIFFERENT.geometry)
    kept = oracle.dropout(np.ones(y.shape), **DRAW) == 1
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(np.isnan(y), kept)
    assert (y[~kept] == 0).all()


@pytest.mark.every(4)
@FINISHED
@pytest.mark.parametrize("factor", [1.0, -1.75])
@pytest.mark.parametrize("with_gate", [True, False], ids=["gate", "no gate"])
@EACH_PRODUCT
def test_gate(
    be: Any, case: Conv, factor: float, with_gate: bool, dtype: Any, tensor: bool
) -> None:
    _, w, _, dy = arrays(case, dtype)
    gate = gate_of(case, dtype) if with_gate else None
    how = {"x_shape": case.x, **case.geometry, "factor": factor}
    (dx,) = run(be, "conv_dgrad", dy, w, gate=placed(be, gate), **how, tensor=tensor)
    assert_close(dx, oracle.let_pass(due(be, case, dtype)[1], gate, factor), dtype=dtype)


def gate_of(case: Conv, dtype: Any) -> Any:
    """A possible output of a ReLU, with both zeros, and a NaN, which is not above 0."""
    gate = np.maximum(normal(*case.x, seed=5), 0)
    gate.flat[0], gate.flat[-1] = -0.0, np.nan
    return gate.astype(dtype)


def placed(be: Any, one: Any) -> Any:
    """An optional array on the device."""
    return None if one is None else be.asarray(one)


@pytest.mark.every(3)
@FINISHED
@EACH_PRODUCT
def test_fused_gate_gives_the_bits_of_the_two_ops(
    be: Any, case: Conv, dtype: Any, tensor: bool
) -> None:
    _, w, _, dy = arrays(case, dtype)
    gate = gate_of(case, dtype)
    how = {"x_shape": case.x, **case.geometry}
    (plain,) = run(be, "conv_dgrad", dy, w, **how, tensor=tensor)
    (fused,) = run(be, "conv_dgrad", dy, w, gate=be.asarray(gate), **how, tensor=tensor)
    (apart,) = run(be, "relu_dgrad", gate, plain)
    np.testing.assert_array_equal(fused.astype(np.float32), apart.astype(np.float32))


# Including several tiles and a split depth.
LEARNING = (GROUPED, CONVS[19], CONVS[20], *in_vectors(CONVS))


@pytest.mark.every(4)
@pytest.mark.parametrize("case", each(LEARNING))
@pytest.mark.parametrize("lr", LR, ids=str)
@EACH_PRODUCT
def test_update(be: Any, case: Conv, lr: float, dtype: Any, tensor: bool) -> None:
    """wgrad_sgd against the exact rule on the exact gradients."""
    x, _, _, dy = arrays(case, dtype)
    check_update(
        be, "conv", (x, dy), due(be, case, dtype)[2:], dtype, lr, **case.geometry, tensor=tensor
    )


@pytest.mark.every(8)
@pytest.mark.parametrize("case", each(LEARNING))
@EACH_PRODUCT
def test_update_has_the_bits_of_the_two_ops(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    x, _, _, dy = arrays(case, dtype)
    check_same_update(
        be, "conv", (x, dy), (case.w, case.w[:1]), dtype, **case.geometry, tensor=tensor
    )


# With one group each tower sees all channels, with two its own half.
IN_TOWERS = (DIFFERENT, GROUPED, CONVS[17], *in_vectors(CONVS)[:2])
# The depth, 630, is cut at 320 for all filters, but would be cut at 256 for half of them.
SPLIT = (
    Conv("one group", (1, 8, 8, 70), (8448, 3, 3), pad=1),
    Conv("two groups", (1, 8, 8, 140), (8448, 3, 3), pad=1, groups=2),
)


def check_towers(be: Any, case: Conv, dtype: Any, tensor: bool) -> None:
    """Check that two towers' maps are bit for bit those of the whole layer."""
    x, w, b, _ = arrays(case, dtype)
    (whole,) = run(be, "conv_fprop", x, w, b, **case.geometry, tensor=tensor)
    alone = {**case.geometry, "groups": 1, "towers": 2, "tensor": tensor}
    halves: list[Any] = []
    for tower in range(2):
        filters = np.split(np.arange(len(w)), 2)[tower]
        channels = np.split(np.arange(x.shape[3]), case.groups)[tower % case.groups]
        own = np.ascontiguousarray(x[..., channels])
        halves += run(be, "conv_fprop", own, w[filters], b[filters], **alone)
    assert same_bits(whole, np.concatenate(halves, axis=-1))


@pytest.mark.every(4)
@pytest.mark.parametrize("case", each(IN_TOWERS))
@EACH_PRODUCT
def test_towers_are_halves_of_the_whole_layer(
    be: Any, case: Conv, dtype: Any, tensor: bool
) -> None:
    check_towers(be, case, dtype, tensor)


@pytest.mark.every(9)
@pytest.mark.big
@pytest.mark.parametrize("be", AS_BIG, indirect=True)
@pytest.mark.parametrize("case", each(SPLIT))
@EACH_PRODUCT
def test_towers_split_the_depth_as_the_whole_layer_does(
    be: Any, case: Conv, dtype: Any, tensor: bool
) -> None:
    check_towers(be, case, dtype, tensor)


@EACH_PRODUCT
def test_nan_reaches_exactly_the_windows_that_see_it(be: Any, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(DIFFERENT, dtype)
    x[1, 2, 3, 4] = np.nan
    (y,) = run(be, "conv_fprop", x, w, b, **DIFFERENT.geometry, tensor=tensor)
    expected = np.isnan(oracle.conv_fprop(x, w, b, **DIFFERENT.geometry).value)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@pytest.mark.parametrize("case", each((*CONVS, *ALEXNET)))
def test_no_sum_is_too_long_for_its_tolerance(be: Any, case: Conv) -> None:
    """Where tensor cores cut sums. The gradient of conv1's images is rounded to bfloat16."""
    (_, r, s, _), filters = case.w, case.w[0] // case.groups
    depths = {
        "fprop": math.prod(case.w[1:]),
        "dgrad": r * s * filters if case.name != "conv1" else 0,
        "wgrad": math.prod(case.y[:3]),
    }
    for hopper, (op, depth) in product((False, True), depths.items()):
        with be.with_hopper(hopper):
            longest = unsplit(be, f"conv_{op}", case.x, case.w, depth, **case.geometry)
        assert product_units(be, BFLOAT16, longest) == SUM, op


# The gradient of conv1's images, which no network needs, takes the emulation a minute.
AT_FULL_SIZE = pytest.mark.parametrize(
    ("layer", "dtype", "tensor"),
    [
        pytest.param(
            *(layer, dtype, tensor),
            id=f"{layer}-{dtype}{'x3' if tensor else ''}",
            marks=[pytest.mark.slow, pytest.mark.timeout(1200)]
            if tensor or layer.name == "conv1"
            else [],
        )
        for layer in ALEXNET
        for dtype, tensor in ((FLOAT32, False), (FLOAT32, True), (BFLOAT16, False))
    ],
)


@pytest.mark.every(4)
@pytest.mark.big
@pytest.mark.parametrize("be", AS_BIG, indirect=True)
@AT_FULL_SIZE
def test_adjoint_identities_at_full_size(be: Any, layer: Conv, dtype: Any, tensor: bool) -> None:
    """<conv(x, w), dy> = <x, dgrad> = <w, wgrad>: three sums of the same products.

    Each op's error is at most so many units of its magnitude (scaled by `convolved`), whose inner
    product with the other factor is the same for all three: <conv(|x|, |w|), |dy|>. A bfloat16 dx
    has been rounded once more.
    """
    x, w, _, dy = arrays(layer, dtype)
    on_x, on_w, on_dy = be.asarray(x), be.asarray(w), be.asarray(dy)
    how: dict[str, Any] = {**layer.geometry, "tensor": tensor}
    y = be.conv_fprop(on_x, on_w, None, **how, dtype=FLOAT32)
    dx = be.conv_dgrad(on_dy, on_w, x_shape=layer.x, **how)
    dw, _ = be.conv_wgrad(on_x, on_dy, w_shape=layer.w, **how)
    assert_some_pixels(be, layer, be.to_numpy(y), x, w, None, FLOAT32)
    sums = (
        inner(be.to_numpy(y), dy),
        inner(be.to_numpy(dx), x),
        inner(be.to_numpy(dw), w),
    )
    # Only for the tolerance, so on the fastest backend.
    sizes = pyalexnet.backend("cpu").conv_fprop(abs(x), abs(w), None, **how, dtype=FLOAT32)
    exact = Exact(sizes, sizes)
    due = [convolved(be, exact, layer.w, layer.stride, tiled) for tiled in (layer.x, layer.y)]
    longest = max(math.prod(layer.y[:3]), w[0].size, w[..., 0].size // layer.groups)
    units = product_units(be, dtype, longest)
    allowed = units * UNIT * sum(inner(one.magnitude, abs(dy)) for one in due)
    if dtype == BFLOAT16:
        allowed += 2.0**-8 * inner(abs(be.to_numpy(dx)), abs(x))
    assert max(sums) - min(sums) <= allowed, sums


# The others' values, without bias and rounding, are looked at where their adjoints are.
@pytest.mark.big
@pytest.mark.parametrize("be", AS_BIG, indirect=True)
@pytest.mark.parametrize("layer", ALEXNET[:1], ids=str)
@EACH_PRODUCT
def test_values_at_full_size(be: Any, layer: Conv, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(layer, dtype)
    on_device = map(be.asarray, (x, w, b))
    y = be.to_numpy(be.conv_fprop(*on_device, **layer.geometry, tensor=tensor))
    assert_some_pixels(be, layer, y, x, w, b, dtype)


def assert_some_pixels(be: Any, layer: Conv, y: Any, x: Any, w: Any, b: Any, dtype: Any) -> None:
    """Check some output pixels, corners included, against the oracle's window."""
    _, P, Q, _ = layer.y
    image = oracle.padded(double(x), layer.pad)
    down, across = oracle.pair(layer.stride)
    _, R, S = layer.filters
    for p, q in ((0, 0), (0, Q - 1), (P - 1, 0), (P - 1, Q - 1), (P // 2, Q // 3)):
        seen = image[:, p * down : p * down + R, q * across : q * across + S]
        expected = oracle.conv_fprop(seen, w, b, stride=1, pad=0, groups=layer.groups)
        expected = convolved(be, expected, layer.w, layer.stride, layer.y)
        assert_close(y[:, p : p + 1, q : q + 1], expected, dtype=dtype)


def test_runs_in_a_row_leave_each_other_alone(be: Any) -> None:
    """A small call reuses the scratch of a large one, and the other way round."""
    results = []
    for case in (GROUPED, CONVS[2], GROUPED):
        x, _, _, dy = arrays(case)
        results.append(run(be, "conv_wgrad", x, dy, w_shape=case.w, **case.geometry))
    for before, after in zip(results[0], results[2], strict=True):
        assert same_bits(before, after)
