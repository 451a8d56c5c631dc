"""Every op at the ends of the range: denormal numbers, overflowing squares and sums, infinities and
NaN. Results must match the oracle's in kind: finite, infinite with the same sign, or NaN.

ENDS lie along an axis that the op does not sum over, so that each is tested on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import Exact
from pyalexnet.ops.elements import BFLOAT16, ELEMENTS, FLOAT32
from pyalexnet.ops.records import Mask
from samples import EACH_ELEMENT, EACH_PRODUCT, ENDS, generator, normal, pixels, planted
from shapes import LRN, Conv, LRNPool, Pool, RNorm
from tolerance import FUNCTION, SUM, assert_close, assert_same, largest, norm_units, same_bits
from trial import place, run
from updates import B_RULE, W_RULE, updated
from variants import ONE_ORDER

# The values do not depend on the order of threads.
pytestmark = [pytest.mark.parametrize("be", ONE_ORDER, indirect=True), pytest.mark.every(3)]

EACH_NORM = pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
COUNT = len(ENDS)


def due(op: Callable[..., Any], *inputs: Any, **parameters: Any) -> Any:
    """The oracle's answer; overflow is expected."""
    with np.errstate(all="ignore"):
        return op(*inputs, **parameters)


# ------------------------------------------------------------------------------- response norms

LRN_CASES = (
    LRN("one channel, Caffe's constants", (COUNT, 2, 3, 1), 5, alpha=2e-5, k=1.0),
    LRN("the source's constants", (COUNT, 2, 3, 16), 5, groups=2, alpha=2e-5),
    LRN("alpha 1", (COUNT, 2, 3, 12), 5, groups=2),
    LRN("another power", (COUNT, 2, 2, 7), 4, alpha=0.3, beta=1.25, k=1.0),
)
RNORM_CASES = (
    RNorm("one pixel, the source's constants", (COUNT, 1, 1, 2), 5, alpha=0.001 / 25, k=1.0),
    RNorm("alpha 1", (COUNT, 4, 5, 3), 3),
    RNorm("another power", (COUNT, 3, 4, 2), 3, alpha=0.3, beta=1.25, k=1.0),
)
NORMS = [("lrn", case) for case in LRN_CASES] + [("rnorm", case) for case in RNORM_CASES]
EACH_CASE = pytest.mark.parametrize(("norm", "case"), NORMS, ids=str)
POOLED = (
    (
        LRN("Caffe's constants", (COUNT, 2, 3, 8), 5, alpha=2e-5, k=1.0),
        Pool("", (COUNT, 2, 3, 8), 2, 1),
    ),
    (LRN_CASES[1], Pool("", (COUNT, 5, 7, 16), 3, 2)),
    (LRN("alpha and k 1", (COUNT, 4, 5, 8), 5, k=1.0), Pool("", (COUNT, 4, 5, 8), 2, 2)),
    (LRN_CASES[1], Pool("", (COUNT, 18, 17, 16), 8, 3)),
)
EACH_POOLED = pytest.mark.parametrize(
    "case",
    [LRNPool(f"{norm.name}, {pool.x}", norm, pool) for norm, pool in POOLED],
    ids=str,
)


@EACH_ELEMENT
@EACH_NORM
@EACH_CASE
def test_norm_fprop(be: Any, norm: str, case: Any, everywhere: bool, dtype: Any) -> None:
    x = planted(normal(*case.x).astype(dtype), 0, everywhere=everywhere)
    (y,) = run(be, f"{norm}_fprop", x, **case.constants)
    exact = due(getattr(oracle, f"{norm}_fprop"), x, **case.constants)
    assert_close(y, exact, norm_units(case.beta), dtype=dtype)


WHICH = ("x", "dy", "x, of large dy")


def spread(
    which: str, x_shape: tuple[int, ...], dy_shape: tuple[int, ...], everywhere: bool, dtype: Any
) -> tuple[Any, Any]:
    """x and dy, one of them with the ends.

    If all of dy has them they are 64 times smaller, and if all of it is large it is 1e30, so that
    no sum whose terms are within the range overflows on the way.
    """
    x, dy = normal(*x_shape, seed=1), normal(*dy_shape, seed=2)
    if which == "dy":
        dy = planted(dy, 0, everywhere=everywhere) * np.float32(2.0**-6 if everywhere else 1)
    else:
        x = planted(x, 0, everywhere=everywhere)
        dy *= np.float32(1e30 if "large" in which else 1)
    with np.errstate(over="ignore"):
        return x.astype(dtype), dy.astype(dtype)


@EACH_ELEMENT
@EACH_NORM
@EACH_CASE
@pytest.mark.parametrize("which", WHICH)
def test_norm_dgrad(
    be: Any, norm: str, case: Any, which: str, everywhere: bool, dtype: Any
) -> None:
    x, dy = spread(which, case.x, case.x, everywhere, dtype)
    (dx,) = run(be, f"{norm}_dgrad", x, dy, **case.constants)
    exact = due(getattr(oracle, f"{norm}_dgrad"), x, dy, **case.constants)
    assert_close(dx, exact, norm_units(case.beta), dtype=dtype)


@EACH_ELEMENT
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@EACH_NORM
@EACH_POOLED
def test_norm_and_pool_fprop(
    be: Any, case: LRNPool, everywhere: bool, relu: bool, dtype: Any
) -> None:
    x = planted(normal(*case.x).astype(dtype), 0, everywhere=everywhere)
    y, where = run(be, "lrn_maxpool_fprop", x, **case.constants, relu=relu)
    exact, _ = due(oracle.lrn_maxpool_fprop, x, **case.constants, relu=relu)
    assert_close(y, exact, norm_units(case.norm.beta), dtype=dtype)
    normalised = due(oracle.lrn_fprop, x, **case.norm.constants)
    pool = {"size": case.pool.size, "stride": case.pool.stride}
    named = Exact(*(oracle.chosen(each, where, **pool) for each in normalised))
    best, _ = due(oracle.lrn_maxpool_fprop, x, **case.constants)
    assert_close(named.value.astype(np.float32), best, 2 * norm_units(case.norm.beta))


@EACH_ELEMENT
@pytest.mark.parametrize("relus", [False, True], ids=["plain", "relus"])
@pytest.mark.parametrize("which", WHICH)
@EACH_NORM
@EACH_POOLED
def test_norm_and_pool_dgrad(
    be: Any, case: LRNPool, everywhere: bool, which: str, relus: bool, dtype: Any
) -> None:
    x, dy = spread(which, case.x, case.y, everywhere, dtype)
    _, where = due(oracle.lrn_maxpool_fprop, x, **case.constants)
    where = where.astype(case.where_dtype)
    y = planted(normal(*case.y, seed=3).astype(dtype), 0) if relus else None
    on_device = None if y is None else be.asarray(y)
    how = {**case.constants, "gated": relus}
    (dx,) = run(be, "lrn_maxpool_dgrad", x, dy, where, **how, y=on_device)
    exact = due(oracle.lrn_maxpool_dgrad, x, dy, where, **how, y=y)
    assert_close(dx, exact, norm_units(case.norm.beta) + SUM, dtype=dtype)


def test_one_activation_whose_square_overflows(be: Any) -> None:
    """By hand: the sum of squares is infinite, its power 0, and so 2e19 becomes 0."""
    how: dict[str, Any] = {"size": 5, "alpha": 2e-5, "beta": 0.75, "k": 1.0}
    pool = {"pool_size": 1, "pool_stride": 1}
    for channels in (1, 8):
        x = np.full((1, 1, 1, channels), 2e19, np.float32)
        assert (run(be, "lrn_fprop", x, **how)[0] == 0).all()
        dy = np.ones_like(x)
        assert (run(be, "lrn_dgrad", x, dy, **how)[0] == 0).all()
    y, where = run(be, "lrn_maxpool_fprop", x, **how, **pool)
    assert (y == 0).all()
    assert (run(be, "lrn_maxpool_dgrad", x, dy, where, **how, **pool)[0] == 0).all()


# -------------------------------------------------------------------------------------- products

CONV = Conv("", (COUNT, 6, 5, COUNT), (COUNT, 3, 2), stride=(2, 1), pad=(1, 0, 1, 1))
DRAW: dict[str, Any] = {"keep": 0.6, "seed": 11, "step": 7, "layer": 2}
# An operand of each pass, and the axis along which each of ENDS is on its own.
OPERANDS = [("fprop", "x", 0), ("fprop", "w", 0), ("fprop", "b", 0)]
OPERANDS += [("dgrad", "dy", 0), ("dgrad", "w", -1), ("wgrad", "x", -1), ("wgrad", "dy", -1)]
EACH_OPERAND = pytest.mark.parametrize(("op", "which", "axis"), OPERANDS, ids=str)
EACH_LAYER = pytest.mark.parametrize("layer", ["conv", "linear"])


def operands(layer: str, dtype: Any) -> dict[str, Any]:
    """x, w, b and dy of a layer."""
    linear = layer == "linear"
    x, w, y = ((COUNT, COUNT),) * 3 if linear else (CONV.x, CONV.w, CONV.y)
    shapes = {"x": x, "w": w, "b": (COUNT,), "dy": y}
    arrays: dict[str, Any] = {
        name: normal(*s, seed=i) for i, (name, s) in enumerate(shapes.items())
    }
    return {name: a if name == "b" else a.astype(dtype) for name, a in arrays.items()}


def as_multiplied(be: Any, array: Any, tensor: bool) -> Any:
    """Values that three bfloat16 cannot represent are NaN in products that split them (ops.h)."""
    if not tensor or be.name == "cpu":
        return array
    return np.where(abs(array) < 2.0**128 - 2.0**119, array, np.float32(np.nan))


def before_the_end(actual: Any, exact: Exact, tensor: bool) -> Exact:
    """What three planes owe: their largest product may overflow 2^-7 before the sum (ops.h)."""
    early = np.isinf(actual) & (actual * exact.value > 0) if tensor else False
    early &= abs(exact.value) > (1 - 2.0**-7) * largest(FLOAT32)
    return Exact(np.where(early, actual, exact.value), exact.magnitude)


def products(be: Any, layer: str, op: str, arrays: dict[str, Any], **how: Any) -> Any:
    """A pass of a layer on the backend, or exactly if that is the oracle."""
    names = {"fprop": ("x", "w", "b"), "dgrad": ("dy", "w"), "wgrad": ("x", "dy")}[op]
    if layer == "conv":
        how |= CONV.geometry
        how |= {"dgrad": {"x_shape": CONV.x}, "wgrad": {"w_shape": CONV.w}}.get(op, {})
    inputs = [arrays[name] for name in names]
    if be is oracle:
        found = due(getattr(oracle, f"{layer}_{op}"), *inputs, **how)
        return found if op == "wgrad" else (found,)
    return run(be, f"{layer}_{op}", *inputs, **how)


def check_products(
    be: Any, layer: str, op: str, which: str, axis: int, dtype: Any, tensor: bool
) -> None:
    arrays = operands(layer, dtype)
    arrays[which] = planted(arrays[which], axis)
    found = products(be, layer, op, arrays, tensor=tensor)
    if which != "b":
        arrays[which] = as_multiplied(be, arrays[which], tensor)
    for actual, exact in zip(found, products(oracle, layer, op, arrays), strict=True):
        if (op, which) == ("dgrad", "w"):
            # Zeros of padding, which belong to no output, also meet the weight (ops.h).
            finite = np.isfinite(arrays["w"]).all(axis=tuple(range(arrays["w"].ndim - 1)))
            value = np.where(np.isnan(actual) & ~finite, np.nan, exact.value)
            exact = Exact(value, exact.magnitude)
        exact = before_the_end(actual, exact, tensor)
        assert_close(actual, exact, dtype=FLOAT32 if op == "wgrad" else dtype)


@EACH_PRODUCT
@EACH_OPERAND
@EACH_LAYER
def test_products(
    be: Any, layer: str, op: str, which: str, axis: int, dtype: Any, tensor: bool
) -> None:
    check_products(be, layer, op, which, axis, dtype, tensor)


@EACH_PRODUCT
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dropped", [False, True], ids=["kept", "dropped"])
@pytest.mark.parametrize("which", ["x", "b"])
@EACH_LAYER
def test_epilogue(
    be: Any, layer: str, which: str, dropped: bool, activation: str, dtype: Any, tensor: bool
) -> None:
    arrays = operands(layer, dtype)
    arrays[which] = planted(arrays[which], 0)
    how = {"dropout": Mask(**DRAW, factor=1.75)} if dropped else {}
    (y,) = products(be, layer, "fprop", arrays, activation=activation, tensor=tensor, **how)
    if which != "b":
        arrays[which] = as_multiplied(be, arrays[which], tensor)
    (exact,) = products(oracle, layer, "fprop", arrays, activation=activation)
    rounding = FUNCTION * abs(exact.value) if activation == "tanh" else 0.0
    exact = Exact(exact.value, exact.magnitude + rounding / SUM)
    if dropped:
        exact = due(oracle.dropped, exact, **DRAW, factor=1.75)
    assert_close(y, exact, dtype=dtype)


@EACH_PRODUCT
@pytest.mark.parametrize("which", ["dy", "gate"])
@EACH_LAYER
def test_gate(be: Any, layer: str, which: str, dtype: Any, tensor: bool) -> None:
    arrays = operands(layer, dtype)
    arrays["gate"] = normal(*arrays["x"].shape, seed=5).astype(dtype)
    arrays[which] = planted(arrays[which], 0)
    gate = be.asarray(arrays["gate"])
    (dx,) = products(be, layer, "dgrad", arrays, gate=gate, factor=-1.75, tensor=tensor)
    arrays["dy"] = as_multiplied(be, arrays["dy"], tensor)
    (exact,) = products(oracle, layer, "dgrad", arrays)
    assert_close(dx, due(oracle.let_pass, exact, arrays["gate"], -1.75), dtype=dtype)


@EACH_PRODUCT
@pytest.mark.parametrize("which", ["x", "dy"])
@EACH_LAYER
def test_learned_at_once(be: Any, layer: str, which: str, dtype: Any, tensor: bool) -> None:
    """wgrad_sgd is sgd_update of the gradients, each of which is tested on its own."""
    arrays = operands(layer, dtype)
    arrays[which] = planted(arrays[which], -1)
    how = CONV.geometry if layer == "conv" else {}
    inputs = (arrays["x"], arrays["dy"])
    gradients = products(be, layer, "wgrad", arrays, tensor=tensor)
    before = [(planted(normal(*g.shape, seed=6), 0), normal(*g.shape, seed=7)) for g in gradients]
    after = updated(be, layer, inputs, before, dtype, 0.25, **how, tensor=tensor)
    for dw, (w, v), pair, rule in zip(gradients, before, after, (W_RULE, B_RULE), strict=True):
        learned = [place(be, one) for one in (w, v, dw)]
        be.sgd_update(*learned, lr=0.25, **rule)
        for alone, fused in zip(learned[:2], pair, strict=True):
            np.testing.assert_array_equal(be.to_numpy(alone), fused)


# ---------------------------------------------------------------------------- what goes by elements


def every_pair(outputs: Any, dtype: Any) -> list[Any]:
    """Every gradient at every output."""
    with np.errstate(over="ignore"):
        pairs = np.meshgrid(outputs, ENDS)
        return [np.ascontiguousarray(each, np.float32).astype(dtype) for each in pairs]


@EACH_ELEMENT
def test_relu(be: Any, dtype: Any) -> None:
    """It only selects: exact to the bit, also for denormal numbers."""
    x = planted(normal(COUNT).astype(dtype), 0)
    (y,) = run(be, "relu_fprop", x)
    assert_same(y, oracle.relu_fprop(x), dtype=dtype)
    y, dy = every_pair(ENDS, dtype)
    (dx,) = run(be, "relu_dgrad", y, dy)
    assert_same(dx, oracle.relu_dgrad(y, dy), dtype=dtype)


@EACH_ELEMENT
def test_tanh(be: Any, dtype: Any) -> None:
    x = planted(normal(COUNT).astype(dtype), 0)
    (y,) = run(be, "tanh_fprop", x)
    assert_close(y, oracle.tanh_fprop(x), FUNCTION, dtype=dtype)
    y, dy = every_pair(np.tanh([*ENDS, 0.5]), dtype)
    (dx,) = run(be, "tanh_dgrad", y, dy)
    assert_close(dx, due(oracle.tanh_dgrad, y, dy), dtype=dtype)


@EACH_ELEMENT
@pytest.mark.parametrize("factor", [-1.75, 0.0, 1e-30, 1e30])
def test_scale(be: Any, factor: float, dtype: Any) -> None:
    x = planted(normal(COUNT).astype(dtype), 0)
    (y,) = run(be, "scale", x, factor=factor)
    with np.errstate(all="ignore"):
        assert_same(y, np.float32(factor) * x.astype(np.float32), dtype=dtype)


@EACH_ELEMENT
def test_dropout(be: Any, dtype: Any) -> None:
    """It only selects: dropped elements leave no trace."""
    x = planted(normal(7, COUNT).astype(dtype), -1, everywhere=True)
    for op in ("dropout_fprop", "dropout_dgrad"):
        (y,) = run(be, op, x, **DRAW)
        assert_same(y, oracle.dropout(x, **DRAW), dtype=dtype)


@EACH_ELEMENT
@pytest.mark.parametrize("which", ["mean", "shifts"])
def test_augment(be: Any, which: str, dtype: Any) -> None:
    x = pixels(3, 5, 4, COUNT)
    mean, shifts = 100 * normal(5, 4, COUNT), normal(3, COUNT, seed=1)
    mean = planted(mean, -1) if which == "mean" else mean
    shifts = planted(shifts, -1) if which == "shifts" else shifts
    places: dict[str, Any] = {
        "corners": generator(1).integers(0, 2, (3, 2), np.int32),
        "flips": np.array([0, 1, 1], np.uint8),
        "shifts": shifts,
        "size": (4, 3),
        "scale": 1 / 1.1,
        "mean_at_pixel": True,
    }
    (y,) = run(be, "augment", x, mean, **places, dtype=dtype)
    assert_close(y, due(oracle.augment, x, mean, **places), dtype=dtype)


@pytest.mark.parametrize("halves", [False, True], ids=["whole", "halves"])
@pytest.mark.parametrize(
    "rule",
    [
        {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.5},
        {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.9},
        {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.0},
    ],
    ids=str,
)
def test_sgd_update(be: Any, rule: dict[str, float], halves: bool) -> None:
    """Each weight with each momentum and each gradient."""
    cube = [np.ascontiguousarray(each) for each in np.meshgrid(*[ENDS] * 3)]
    w, v, dw = (place(be, each) for each in cube)
    if halves:
        high, low = be.split_weights(w)
        be.sgd_update(high, v, dw, **rule, low=low)
        w = be.join_weights(high, low)
    else:
        be.sgd_update(w, v, dw, **rule)
    for actual, exact in zip((w, v), due(oracle.sgd_update, *cube, **rule), strict=True):
        assert_close(be.to_numpy(actual), exact)


def test_weights_in_halves(be: Any) -> None:
    """The upper half is the nearest bfloat16, infinite from half a place above the largest."""
    high, low = run(be, "split_weights", ENDS)
    with np.errstate(over="ignore"):
        assert_same(high, ENDS, dtype=BFLOAT16)
    (joined,) = run(be, "join_weights", high, low)
    assert same_bits(joined[:-1], ENDS[:-1]) and np.isnan(joined[-1])


# ------------------------------------------------------------------------------ pools, loss, towers


@EACH_ELEMENT
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("pool", ["maxpool", "avgpool"])
@EACH_NORM
def test_pool_fprop(be: Any, pool: str, everywhere: bool, channels: int, dtype: Any) -> None:
    x = abs(normal(COUNT, 6, 5, channels)).astype(dtype)  # so that all sums have the same sign
    x = planted(x, 0, everywhere=everywhere)
    (y, *where) = run(be, f"{pool}_fprop", x, size=3, stride=2)
    exact = due(getattr(oracle, f"{pool}_fprop"), x, size=3, stride=2)
    if pool == "maxpool":
        assert_same(y, exact[0], dtype=dtype)
        np.testing.assert_array_equal(where[0], exact[1])
    else:
        assert_close(y, exact, dtype=dtype)


@EACH_ELEMENT
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("pool", ["maxpool", "avgpool"])
@EACH_NORM
def test_pool_dgrad(be: Any, pool: str, everywhere: bool, channels: int, dtype: Any) -> None:
    how: dict[str, Any] = {"x_shape": (COUNT, 6, 5, channels), "size": 3, "stride": 2}
    dy = abs(normal(COUNT, 3, 2, channels)).astype(dtype)
    inputs = [planted(dy, 0, everywhere=everywhere)]
    if pool == "maxpool":
        inputs.append(oracle.maxpool_fprop(normal(*how["x_shape"]), size=3, stride=2)[1])
        inputs[1] = inputs[1].astype(np.uint8)
    (dx,) = run(be, f"{pool}_dgrad", *inputs, **how)
    exact = due(getattr(oracle, f"{pool}_dgrad"), *inputs, **how)
    assert_close(dx, exact, dtype=dtype)
    if pool == "maxpool":
        gate = planted(normal(*how["x_shape"]).astype(dtype), 0)
        (dx,) = run(be, "maxpool_dgrad", *inputs, **how, gate=be.asarray(gate))
        assert_close(dx, due(oracle.let_pass, exact, gate), dtype=dtype)


@EACH_ELEMENT
@pytest.mark.parametrize("number", ENDS, ids=str)
@pytest.mark.parametrize("label", [0, 2], ids=["the label's", "another"])
def test_softmax(be: Any, label: int, number: float, dtype: Any) -> None:
    for others in ([1.0, -2.0, 0.5], [-3e38, 3e38, 1e30], [-np.inf, -np.inf, 1.0], [number] * 3):
        logits = np.array([[number, *others], [1, 2, 3, 4]], np.float32)
        labels = np.array([label, 1])
        loss, dlogits, top1, top5 = run(be, "softmax_cross_entropy", logits, labels, dtype=dtype)
        exact_loss, exact_dlogits = due(oracle.softmax_cross_entropy, logits, labels)
        assert_close(loss, exact_loss, 2 * FUNCTION + SUM)
        assert_close(dlogits, exact_dlogits, 2 * FUNCTION + SUM, dtype=dtype)
        for error, k in ((top1, 1), (top5, 5)):
            assert_close(
                error, Exact(np.asarray(oracle.topk_error(logits, labels, k)), np.ones(()))
            )


def test_exchange(be: Any) -> None:
    wholes = [planted(normal(3, COUNT, seed=i), -1, everywhere=i == 0) for i in range(2)]
    (dpart,) = run(be, "exchange_scatter_add", wholes, start=0, channels=COUNT)
    exact = due(oracle.exchange_scatter_add, wholes, start=0, channels=COUNT)
    assert_close(dpart, exact)
    for dtype in ELEMENTS:
        (y,) = run(be, "sum_parts", wholes, dtype=dtype)
        assert_close(y, due(oracle.sum_parts, wholes), dtype=dtype)
