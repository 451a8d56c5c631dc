"""Linear layers: each pass against the oracle, the adjoint identities, and the paper's layers."""

from __future__ import annotations

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
from tolerance import FUNCTION, SUM, UNIT, assert_close, inner, product_units, same_bits, unsplit
from trial import run
from updates import LR, check_same_update, check_update
from variants import ONE_ORDER, SIM, parameters

# (N, in, out)
# Hopper's own loop has its tests in test_hopper_loop.py.
pytestmark = pytest.mark.usefixtures("any_cards_loop")

SMALL, VECTORS, DEEP = (3, 7, 5), (5, 72, 24), (16, 1064, 40)
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
    VECTORS,  # rows that begin at multiples of eight, as tensor cores need
    (130, 16, 8),
    (7, 24, 129),
    (8, 5, 16),
    DEEP,
    pytest.param((64, 512, 301), marks=pytest.mark.big),
    pytest.param((136, 520, 264), marks=pytest.mark.big),
]
EACH_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
FINISHED = pytest.mark.parametrize("size", [SMALL, VECTORS, DEEP], ids=str)
DRAW: dict[str, Any] = {"keep": 0.6, "seed": 11, "step": 7, "layer": 2}


def arrays(size: tuple[int, int, int], dtype: Any = FLOAT32) -> tuple[Any, Any, Any, Any]:
    """x, w, b, dy; all but b rounded to `dtype`, from which the oracle widens them."""
    N, inputs, outputs = size
    return (
        normal(N, inputs, seed=1).astype(dtype),
        normal(outputs, inputs, seed=2).astype(dtype),
        normal(outputs, seed=3),
        normal(N, outputs, seed=4).astype(dtype),
    )


@cache
def exact(size: tuple[int, int, int], dtype: Any = FLOAT32) -> tuple[Exact, Exact, Exact, Exact]:
    """y, dx, dw and db."""
    x, w, b, dy = arrays(size, dtype)
    return (
        oracle.linear_fprop(x, w, b),
        oracle.linear_dgrad(dy, w),
        *oracle.linear_wgrad(x, dy),
    )


@pytest.mark.every(4)
@EACH_SIZE
@EACH_PRODUCT
def test_fprop(be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(size, dtype)
    (y,) = run(be, "linear_fprop", x, w, b, tensor=tensor)
    assert_close(y, exact(size, dtype)[0], dtype=dtype)


@pytest.mark.every(4)
@EACH_SIZE
@EACH_PRODUCT
def test_dgrad(be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool) -> None:
    _, w, _, dy = arrays(size, dtype)
    (dx,) = run(be, "linear_dgrad", dy, w, tensor=tensor)
    assert_close(dx, exact(size, dtype)[1], dtype=dtype)


@pytest.mark.every(4)
@EACH_SIZE
@EACH_PRODUCT
def test_wgrad(be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool) -> None:
    """Gradients of weights are float32, whatever the type of the weights."""
    x, _, _, dy = arrays(size, dtype)
    dw, db = run(be, "linear_wgrad", x, dy, tensor=tensor)
    assert_close(dw, exact(size, dtype)[2])
    assert_close(db, exact(size, dtype)[3])


@pytest.mark.every(4)
@FINISHED
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@EACH_PRODUCT
def test_epilogue(
    be: Any,
    size: tuple[int, int, int],
    activation: str | None,
    with_bias: bool,
    dtype: Any,
    tensor: bool,
) -> None:
    x, w, b, _ = arrays(size, dtype)
    bias = b if with_bias else None
    (y,) = run(be, "linear_fprop", x, w, bias, activation=activation, tensor=tensor)
    assert_close(y, finished(size, bias, activation, dtype), dtype=dtype)


def finished(size: tuple[int, int, int], bias: Any, activation: str | None, dtype: Any) -> Exact:
    """y with an activation; the activation's rounding is added to the sum's magnitude."""
    x, w, _, _ = arrays(size, dtype)
    due = oracle.linear_fprop(x, w, bias, activation=activation)
    rounding = FUNCTION * abs(due.value) if activation == "tanh" else 0.0
    return Exact(due.value, due.magnitude + rounding / SUM)


@FINISHED
def test_sums_of_bfloat16_in_float32(be: Any, size: tuple[int, int, int]) -> None:
    """The sums before rounding: logits leave a network this way, without loss."""
    x, w, b, _ = arrays(size, BFLOAT16)
    (y,) = run(be, "linear_fprop", x, w, b)
    (wide,) = run(be, "linear_fprop", x, w, b, dtype=FLOAT32)
    assert_close(wide, exact(size, BFLOAT16)[0])
    assert same_bits(wide.astype(BFLOAT16), y)


@pytest.mark.every(4)
@FINISHED
@pytest.mark.parametrize(
    "mask",
    [
        Mask(**DRAW, factor=1.75),
        Mask(**DRAW, offset=5, total=211),
        Mask(**DRAW, offset=4, total=72),
        Mask(**DRAW, offset=5, total=211, first=3),
    ],
    ids=str,
)
@EACH_PRODUCT
def test_dropout(be: Any, size: tuple[int, int, int], mask: Mask, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(size, dtype)
    (y,) = run(be, "linear_fprop", x, w, b, activation="relu", dropout=mask, tensor=tensor)
    draw = {name: value for name, value in mask._asdict().items() if name != "factor"}
    due = oracle.dropped(finished(size, b, "relu", dtype), **draw, factor=mask.factor)
    assert_close(y, due, dtype=dtype)
    assert not np.any(y[due.magnitude == 0]), "dropped is 0, to the bit"


@FINISHED
@EACH_PRODUCT
def test_fused_dropout_gives_the_bits_of_the_two_ops(
    be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool
) -> None:
    x, w, b, _ = arrays(size, dtype)
    step = be.asarray(np.array(DRAW["step"], np.uint32))
    (plain,) = run(be, "linear_fprop", x, w, b, activation="relu", tensor=tensor)
    mask = Mask(**{**DRAW, "step": step})
    (fused,) = run(be, "linear_fprop", x, w, b, activation="relu", dropout=mask, tensor=tensor)
    (dropped,) = run(be, "dropout_fprop", plain, **DRAW)
    np.testing.assert_array_equal(fused.astype(np.float32), dropped.astype(np.float32))


@pytest.mark.every(4)
@FINISHED
@pytest.mark.parametrize("factor", [1.0, -1.75])
@pytest.mark.parametrize("with_gate", [True, False], ids=["gate", "no gate"])
@EACH_PRODUCT
def test_gate(
    be: Any, size: tuple[int, int, int], factor: float, with_gate: bool, dtype: Any, tensor: bool
) -> None:
    x, w, _, dy = arrays(size, dtype)
    gate = np.maximum(x, 0).astype(dtype) if with_gate else None
    on_device = None if gate is None else be.asarray(gate)
    (dx,) = run(be, "linear_dgrad", dy, w, gate=on_device, factor=factor, tensor=tensor)
    assert_close(dx, oracle.let_pass(exact(size, dtype)[1], gate, factor), dtype=dtype)


@FINISHED
@EACH_PRODUCT
def test_fused_gate_gives_the_bits_of_the_two_ops(
    be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool
) -> None:
    x, w, _, dy = arrays(size, dtype)
    (plain,) = run(be, "linear_dgrad", dy, w, tensor=tensor)
    (fused,) = run(be, "linear_dgrad", dy, w, gate=be.asarray(x), tensor=tensor)
    (apart,) = run(be, "relu_dgrad", x, plain)
    np.testing.assert_array_equal(fused.astype(np.float32), apart.astype(np.float32))


# The last one's sum over a thousand images is split.
LEARNING = pytest.mark.parametrize("size", [SMALL, VECTORS, (1064, 7, 16)], ids=str)


@pytest.mark.every(4)
@LEARNING
@pytest.mark.parametrize("lr", LR, ids=str)
@EACH_PRODUCT
def test_update(be: Any, size: tuple[int, int, int], lr: float, dtype: Any, tensor: bool) -> None:
    """wgrad_sgd against the exact rule on the exact gradients."""
    x, _, _, dy = arrays(size, dtype)
    check_update(be, "linear", (x, dy), exact(size, dtype)[2:], dtype, lr, tensor=tensor)


@pytest.mark.every(3)
@LEARNING
@EACH_PRODUCT
def test_update_has_the_bits_of_the_two_ops(
    be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool
) -> None:
    x, w, b, dy = arrays(size, dtype)
    check_same_update(be, "linear", (x, dy), (w.shape, b.shape), dtype, tensor=tensor)


def check_towers(be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool) -> None:
    """Check that two towers' outputs are bit for bit those of the whole layer."""
    x, w, b, _ = arrays(size, dtype)
    (whole,) = run(be, "linear_fprop", x, w, b, tensor=tensor)
    halves = [
        run(be, "linear_fprop", x, w[outputs], b[outputs], towers=2, tensor=tensor)[0]
        for outputs in np.split(np.arange(len(w)), 2)
    ]
    assert same_bits(whole, np.concatenate(halves, axis=-1))


@pytest.mark.parametrize("size", [(2, 70, 130), (3, 7, 6), (2, 72, 144)], ids=str)
@EACH_PRODUCT
def test_towers_are_halves_of_the_whole_layer(
    be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool
) -> None:
    check_towers(be, size, dtype, tensor)


@pytest.mark.every(6)
@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@EACH_PRODUCT
def test_towers_split_the_depth_as_the_whole_layer_does(be: Any, dtype: Any, tensor: bool) -> None:
    """At 304 of 600, as for 8,448 outputs; half of them on their own would be split at 256."""
    check_towers(be, (64, 600, 8448), dtype, tensor)


@EACH_PRODUCT
def test_nan_stays_in_its_row(be: Any, dtype: Any, tensor: bool) -> None:
    x, w, b, _ = arrays(SMALL, dtype)
    x[1, 2] = np.nan
    (y,) = run(be, "linear_fprop", x, w, b, tensor=tensor)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, False])
    assert not np.isnan(y[[0, 2]]).any()


@EACH_PRODUCT
def test_infinity_stays_in_its_row(be: Any, dtype: Any, tensor: bool) -> None:
    """Infinite or NaN, not finite; with three planes, also values too large for a bfloat16."""
    for number in (np.inf, -np.inf, np.finfo(np.float32).max if tensor else np.inf):
        x, w, b, _ = arrays(VECTORS, dtype)
        x[1, 2] = number
        (y,) = run(be, "linear_fprop", x, w, b, tensor=tensor)
        if np.isinf(number):
            assert not np.isfinite(y[1]).any()
        assert np.isfinite(np.delete(y, 1, axis=0)).all()


@pytest.mark.every(4)
@pytest.mark.parametrize("tensor", [False, True], ids=["float32", "float32x3"])
@pytest.mark.parametrize("exponent", [-72, 0, 72])
def test_numbers_of_many_sizes(be: Any, exponent: int, tensor: bool) -> None:
    """From 2^-110 up, a number is exactly the sum of its three planes. A processor without fused
    multiply-adds also rounds each product, by a unit of its magnitude."""
    x, w, b, _ = arrays(DEEP)
    for one, middle, seed in ((x, exponent, 8), (w, -exponent, 9)):
        one *= np.exp2(middle + 24 * np.sin(normal(*one.shape, seed=seed)))
    (y,) = run(be, "linear_fprop", x, w, b, tensor=tensor)
    assert_close(y, oracle.linear_fprop(x, w, b), SUM + 1)


def test_tensor_cores_give_other_bits() -> None:
    """Otherwise the argument might be lost on the way, and every test would still pass."""
    be = pyalexnet.backend("sim")
    x, w, b, dy = map(be.asarray, arrays(DEEP))
    for op, inputs in (("fprop", (x, w, b)), ("dgrad", (dy, w)), ("wgrad", (x, dy))):
        both = [getattr(be, f"linear_{op}")(*inputs, tensor=tensor) for tensor in (False, True)]
        first, second = (each[0] if isinstance(each, tuple) else each for each in both)
        assert not np.array_equal(first, second), op


@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@EACH_SIZE
def test_no_sum_is_too_long_for_its_tolerance(be: Any, size: tuple[int, int, int]) -> None:
    """Where tensor cores cut sums."""
    images, inputs, outputs = size
    depths = {"fprop": inputs, "dgrad": outputs, "wgrad": images}
    for hopper, (op, depth) in product((False, True), depths.items()):
        with be.with_hopper(hopper):
            longest = unsplit(be, f"linear_{op}", (images, inputs), (outputs, inputs), depth)
        assert product_units(be, BFLOAT16, longest) == SUM, op


FC6, FC7, FC8 = (2, 9216, 4096), (2, 4096, 4096), (2, 4096, 1000)


# fc7 is as deep as fc8, and as wide as fc6.
SLOW = ((FC6, BFLOAT16), (FC7, FLOAT32), (FC7, BFLOAT16))


@pytest.mark.slow
@pytest.mark.big
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize(
    ("size", "dtype", "tensor"),
    [
        pytest.param(
            *(size, dtype, tensor),
            id=f"{name}-{dtype}{'x3' if tensor else ''}",
            marks=[pytest.mark.slow] if tensor or (size, dtype) in SLOW else [],
        )
        for name, size in (("fc6", FC6), ("fc7", FC7), ("fc8", FC8))
        for dtype, tensor in ((FLOAT32, False), (FLOAT32, True), (BFLOAT16, False))
    ],
)
def test_adjoint_identities_at_full_size(
    be: Any, size: tuple[int, int, int], dtype: Any, tensor: bool
) -> None:
    """<x w^T, dy> = <x, dgrad> = <w, wgrad>, as for convolution."""
    x, w, _, dy = arrays(size, dtype)
    on_x, on_w, on_dy = be.asarray(x), be.asarray(w), be.asarray(dy)
    y = be.linear_fprop(on_x, on_w, None, dtype=FLOAT32, tensor=tensor)
    dx = be.linear_dgrad(on_dy, on_w, tensor=tensor)
    dw, db = be.linear_wgrad(on_x, on_dy, tensor=tensor)
    sums = (
        inner(be.to_numpy(y), dy),
        inner(be.to_numpy(dx), x),
        inner(be.to_numpy(dw), w),
    )
    # Only for the tolerance, so on the fastest backend.
    sizes = pyalexnet.backend("cpu").linear_fprop(abs(x), abs(w), None, dtype=FLOAT32)
    allowed = 2 * product_units(be, dtype, max(size)) * UNIT * inner(sizes, abs(dy))
    if dtype == BFLOAT16:
        allowed += 2.0**-8 * inner(abs(be.to_numpy(dx)), abs(x))
    assert max(sums) - min(sums) <= allowed, sums
    assert_close(be.to_numpy(db), Exact(double(dy).sum(axis=0), abs(double(dy)).sum(axis=0)))
