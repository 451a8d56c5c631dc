"""The float64 result of a call of the bindings, and how far the kernels may be off.

The reference is rounded once, at the end of an operation; sums of small whole numbers are exact in
any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import oracle
from bench.oracle import Exact
from bench.reference import ReferenceBackend, by_formula
from cases import in_the_bindings
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.elements import ELEMENTS
from pyalexnet.ops.records import Learned, Mask
from tolerance import FUNCTION, SOFTMAX, SUM, UNIT, bound, norm_units, stored
from trial import place

Answer = dict[int, tuple[Any, Any]]
"""By place among the arguments: a result's value, and the error allowed (None: no error)."""

LARGEST = 64
"""The largest number in sums that are compared, and the largest size given to the reference."""


def answer(op: str, arguments: list[Any]) -> Answer | None:
    """The reference's answer; None if it refuses, or if nothing can be compared."""
    if op not in in_the_bindings():
        return None
    try:
        copies = [_copied(one) for one in arguments]
        return _ANSWERS[op](*copies) if op in _ANSWERS else _by_formula(op, copies)
    except (ArgumentError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
        return None  # the last one for more groups than channels


def _copied(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(_copied(one) for one in argument)
    if isinstance(argument, np.ndarray):
        _expect(argument.flags.c_contiguous)
        return argument.copy()
    return argument


@functools.cache
def _reference() -> Any:
    return ReferenceBackend()


def _expect(holds: object) -> None:
    if not holds:
        raise ValueError("not to be compared")


def _small(*sizes: int) -> None:
    """Limit the sizes: with large padding the reference would need gigabytes."""
    _expect(all(abs(size) <= LARGEST for size in sizes))


def _whole(*arrays: Any) -> None:
    """Require small whole numbers, whose sums are exact; NaN and infinities are allowed."""
    for array in arrays:
        if array is not None:
            ordinary = array[np.isfinite(array)]
            _expect((abs(ordinary) <= LARGEST).all() and (ordinary == np.round(ordinary)).all())


def _factors(unit: str, *arrays: Any) -> None:
    """Require a product's operands whose products are summed exactly, as in float64."""
    _whole(*arrays)
    if unit != "fma" and arrays[0].dtype == np.float32:  # in planes, infinities make NaN
        _finite(*arrays)


def _finite(*arrays: Any) -> None:
    for array in arrays:
        _expect(np.isfinite(array).all() and (abs(array) <= LARGEST).all())


def _moderate(*numbers: float) -> None:
    _expect(all(abs(number) <= 4 for number in numbers))


def _of(shape: Any, *results: Any) -> None:
    for result in results:
        _expect(result.shape == shape)


def _apart(exact: Exact, units: float = SUM) -> Any:
    """The difference allowed between a result and the reference's, which was rounded once."""
    return bound(exact, units) + UNIT * abs(exact.value)


def _after(activation: str | None, y: Any) -> Any:
    """The error allowed in an exact sum after an activation."""
    if activation != "tanh":
        return None
    value = oracle.double(y)
    return _rounded(value, _apart(Exact(value, abs(value)), FUNCTION), y.dtype)


def _near(due: Any, exact: Exact, units: float = SUM) -> Any:
    """The error allowed in a result computed in float32 and stored in the type of `due`."""
    return _rounded(exact.value, _apart(exact, units), due.dtype)


def _rounded(value: Any, allowed: Any, dtype: Any) -> Any:
    """The difference allowed between two results once both are stored as `dtype`."""
    _expect(dtype in ELEMENTS)
    return 2 * stored(value, allowed, dtype) - allowed


def _by_formula(op: str, arguments: list[Any]) -> Answer:
    """The answer for an op whose results are sums of what it is given."""
    call = in_the_bindings()[op][0]
    for number, (was, one) in enumerate(zip(call.arguments, arguments, strict=True)):
        if isinstance(was, np.ndarray):
            _expect(isinstance(one, np.ndarray) and one.dtype in (was.dtype, *ELEMENTS))
            if number not in call.results:
                _finite(one)
    for one in arguments:
        _moderate(*(x for x in (one if isinstance(one, tuple) else [one]) if isinstance(x, float)))
    records = [
        type(was)(*one) if isinstance(was, tuple) else one
        for was, one in zip(call.arguments, arguments, strict=True)
    ]
    found: Answer = {}
    for number, (array, exact) in zip(call.results, by_formula(op, records), strict=True):
        _of(exact.value.shape, array)
        due = exact.value.astype(array.dtype)
        found[number] = (due, _near(due, exact))
    return found


def _augment(
    x: Any, mean: Any, corners: Any, flips: Any, shifts: Any, y: Any, *numbers: Any
) -> Answer:
    (height, width), (block, top, _, left, _), scale, pixel = numbers
    _small(height, width, block, top, left)
    rows, columns = (length * block for length in y.shape[1:3])
    result = _reference().augment(
        *(x, mean),
        corners=corners,
        flips=flips,
        shifts=shifts,
        size=(height, width),
        scale=float(np.float32(scale)),
        mean_at_pixel=pixel,
        block=block,
        pad=(top, rows - top - height, left, columns - left - width),
        dtype=y.dtype,
    )
    _of(y.shape, result)
    return {5: (result, None)}


def _images_to_depth(x: Any, y: Any, blocks: Any) -> Answer:
    block, top, _, left, _ = blocks
    _small(block)
    rows, columns = (side * block for side in y.shape[1:3])
    pad = (top, rows - top - x.shape[1], left, columns - left - x.shape[2])
    result = _reference().images_to_depth(x, block=block, pad=pad, dtype=y.dtype)
    _of(y.shape, result)
    return {1: (result, None)}


def _to_depth(w: Any, deep: Any, block: int) -> Answer:
    _small(block)
    return {1: (_reference().filters_to_depth(w, block=block), None)}


def _from_depth(ddeep: Any, dw: Any, block: int) -> Answer:
    _small(block)
    return {1: (_reference().filters_from_depth(ddeep, w_shape=dw.shape, block=block), None)}


def _geometry(x: Any, w: Any, y: Any, geometry: tuple[int, ...]) -> dict[str, Any]:
    """Strides, pads and groups; the least padding below and to the right that gives y its size."""
    _small(*geometry)
    stride_h, stride_w, top, _, left, _, groups = geometry
    bottom = max(0, (y.shape[1] - 1) * stride_h + w.shape[1] - x.shape[1] - top)
    right = max(0, (y.shape[2] - 1) * stride_w + w.shape[2] - x.shape[2] - left)
    pad = top, bottom, left, right
    return {"stride": (stride_h, stride_w), "pad": pad, "groups": groups}


def _conv_fprop(x: Any, w: Any, b: Any, y: Any, *settings: Any) -> Answer:
    geometry, unit, towers, activation, dropout = settings
    _factors(unit, x, w)
    _whole(b)  # an addend, which is never split in planes
    how = _geometry(x, w, y, geometry) | _finish(towers, activation, dropout, y)
    result = _reference().conv_fprop(x, w, b, **how)
    _of(y.shape, result)
    return {3: (result, _after(activation, result))}


def _finish(towers: int, activation: str | None, dropout: Any, y: Any) -> dict[str, Any]:
    """The further arguments of fprop, from those of the bindings."""
    mask = None if dropout is None else Mask(*dropout)
    if mask is not None:
        _whole(np.asarray(mask.factor))
        _expect(mask.total is not None and mask.total * len(y) < 2**63)
    return {"towers": towers, "activation": activation, "dropout": mask, "dtype": y.dtype}


def _conv_dgrad(dy: Any, w: Any, gate: Any, dx: Any, *settings: Any) -> Answer:
    geometry, unit, factor = settings
    _factors(unit, dy, w)
    _whole(np.asarray(factor))
    _finite(w)  # for pixels that no window reads, the kernels add zeros times w, others add nothing
    how = _geometry(dx, w, dy, geometry) | {"gate": gate, "factor": factor}
    return {3: (_reference().conv_dgrad(dy, w, x_shape=dx.shape, **how), None)}


def _conv_wgrad(x: Any, dy: Any, dw: Any, db: Any, geometry: Any, unit: str) -> Answer:
    _factors(unit, x, dy)
    how = _geometry(x, dw, dy, geometry)
    dw_due, db_due = _reference().conv_wgrad(x, dy, w_shape=dw.shape, **how)
    _of(db.shape, db_due)
    return {2: (dw_due, None), 3: (db_due, None)}


def _conv_wgrad_sgd(x: Any, dy: Any, *arguments: Any) -> Answer:
    *learned, geometry, unit, w_rule, b_rule = arguments
    _factors(unit, x, dy)
    w, b = _learned(learned, w_rule, b_rule)
    how = _geometry(x, w.w, dy, geometry)
    before = place(_reference(), [w, b])
    _reference().conv_wgrad_sgd(x, dy, w, b, **how)
    return _as_learned(before, [w, b], oracle.conv_wgrad(x, dy, w_shape=w.w.shape, **how))


def _learned(arrays: list[Any], w_rule: Any, b_rule: Any) -> tuple[Learned, Learned]:
    """Weights and biases of small numbers."""
    w, low, v, b, bv = arrays
    _finite(w, v, b, bv)
    return Learned(w, v, *_rates(w_rule), low), Learned(b, bv, *_rates(b_rule))


def _rates(rule: tuple[float, float, float]) -> tuple[float, float, float]:
    _moderate(*rule)
    return rule


def _as_learned(
    before: list[Learned], after: list[Learned], gradients: tuple[Exact, Exact]
) -> Answer:
    """Weights and biases after their update; the errors allowed are those of exact gradients.

    For weights in halves the upper halves are compared, each the nearest to a number within that
    error.
    """
    answer: Answer = {}
    for old, new, gradient, places in zip(before, after, gradients, ((2, 4), (5, 6)), strict=True):
        rule = {name: getattr(old, name) for name in ("lr", "momentum", "weight_decay")}
        whole = old.w if old.low is None else _reference().join_weights(old.w, old.low)
        exact = oracle.sgd_update(whole, old.v, gradient, **rule)
        for at, value, due in zip(places, (new.w, new.v), exact, strict=True):
            answer[at] = (value, _rounded(due.value, _apart(due), value.dtype))
    return answer


def _linear_fprop(x: Any, w: Any, b: Any, y: Any, unit: str, *settings: Any) -> Answer:
    towers, activation, dropout = settings
    _factors(unit, x, w)
    _whole(b)  # an addend, which is never split in planes
    result = _reference().linear_fprop(x, w, b, **_finish(towers, activation, dropout, y))
    _of(y.shape, result)
    return {3: (result, _after(activation, result))}


def _linear_dgrad(dy: Any, w: Any, gate: Any, dx: Any, unit: str, factor: float) -> Answer:
    _factors(unit, dy, w)
    _whole(np.asarray(factor))
    result = _reference().linear_dgrad(dy, w, gate=gate, factor=factor)
    _of(dx.shape, result)
    return {3: (result, None)}


def _linear_wgrad(x: Any, dy: Any, dw: Any, db: Any, unit: str) -> Answer:
    _factors(unit, x, dy)
    dw_due, db_due = _reference().linear_wgrad(x, dy)
    _of(dw.shape, dw_due)
    return {2: (dw_due, None), 3: (db_due, None)}


def _linear_wgrad_sgd(x: Any, dy: Any, *arguments: Any) -> Answer:
    *learned, unit, w_rule, b_rule = arguments
    _factors(unit, x, dy)
    w, b = _learned(learned, w_rule, b_rule)
    before = place(_reference(), [w, b])
    _reference().linear_wgrad_sgd(x, dy, w, b)
    return _as_learned(before, [w, b], oracle.linear_wgrad(x, dy))


def _relu_fprop(x: Any, y: Any) -> Answer:
    _of(x.shape, y)
    return {1: (_reference().relu_fprop(x), None)}


def _relu_dgrad(y: Any, dy: Any, dx: Any) -> Answer:
    _of(y.shape, dx)
    return {2: (_reference().relu_dgrad(y, dy), None)}


def _tanh_fprop(x: Any, y: Any) -> Answer:
    _of(x.shape, y)
    due = _reference().tanh_fprop(x)
    return {1: (due, _after("tanh", due))}


def _tanh_dgrad(y: Any, dy: Any, dx: Any) -> Answer:
    _of(y.shape, dx)
    _whole(y, dy)
    return {2: (_reference().tanh_dgrad(y, dy), None)}


def _scale(x: Any, y: Any, factor: float) -> Answer:
    _of(x.shape, y)
    _moderate(factor)
    return {1: (_reference().scale(x, factor=float(np.float32(factor))), None)}


def _norm(norm: tuple[Any, ...], grouped: bool = True) -> dict[str, Any]:
    size, alpha, beta, k, groups = norm
    _small(size)
    _moderate(alpha, beta, k)
    _expect(k >= 0.1 and beta >= 0)
    how = {"size": size, "alpha": alpha, "beta": beta, "k": k}
    return how | {"groups": groups} if grouped else how


def _lrn_fprop(x: Any, y: Any, norm: Any) -> Answer:
    _of(x.shape, y)
    _finite(x)
    how = _norm(norm)
    due = _reference().lrn_fprop(x, **how)
    return {1: (due, _near(due, oracle.lrn_fprop(x, **how), norm_units(how["beta"])))}


def _lrn_dgrad(x: Any, dy: Any, dx: Any, norm: Any) -> Answer:
    _of(x.shape, dx)
    _finite(x, dy)
    how = _norm(norm)
    due = _reference().lrn_dgrad(x, dy, **how)
    return {2: (due, _near(due, oracle.lrn_dgrad(x, dy, **how), norm_units(how["beta"])))}


def _rnorm_fprop(x: Any, y: Any, norm: Any) -> Answer:
    _of(x.shape, y)
    _finite(x)
    how = _norm(norm, grouped=False)
    due = _reference().rnorm_fprop(x, **how)
    return {1: (due, _near(due, oracle.rnorm_fprop(x, **how), norm_units(how["beta"])))}


def _rnorm_dgrad(x: Any, dy: Any, dx: Any, norm: Any) -> Answer:
    _of(x.shape, dx)
    _finite(x, dy)
    how = _norm(norm, grouped=False)
    due = _reference().rnorm_dgrad(x, dy, **how)
    return {2: (due, _near(due, oracle.rnorm_dgrad(x, dy, **how), norm_units(how["beta"])))}


def _pool(x: Any, y: Any, pool: tuple[int, int, bool]) -> dict[str, Any]:
    """Size, stride and the rounding mode that gives y from x."""
    size, stride, _ = pool
    _small(size, stride)
    _expect(size >= 1 and stride >= 1)
    for ceil in (True, False):
        if oracle.pool_out_shape(x.shape, size, stride, ceil) == y.shape:
            return {"size": size, "stride": stride, "ceil": ceil}
    raise ValueError("not to be compared")


def _maxpool_fprop(x: Any, y: Any, where: Any, pool: Any) -> Answer:
    due, place = _reference().maxpool_fprop(x, **_pool(x, y, pool))
    return {1: (due, None), 2: (place, None)}


def _maxpool_dgrad(dy: Any, where: Any, gate: Any, dx: Any, pool: Any) -> Answer:
    _whole(dy)
    _inside(where, dx, pool)
    how = _pool(dx, dy, pool) | {"gate": gate}
    return {3: (_reference().maxpool_dgrad(dy, where, x_shape=dx.shape, **how), None)}


def _inside(where: Any, dx: Any, pool: tuple[int, int, bool]) -> None:
    """Require codes that name pixels: only these have a defined result."""
    size, stride, _ = pool
    _small(size, stride)
    _expect(where.dtype.kind == "u")
    codes = np.divmod(where.astype(int), max(size, 1))
    rows, columns = np.indices(where.shape)[1:3] * stride + codes
    _expect((where < size * size).all())
    _expect((rows < dx.shape[1]).all() and (columns < dx.shape[2]).all())


def _lrn_maxpool_fprop(x: Any, y: Any, where: Any, norm: Any, pool: Any, relu: bool) -> Answer:
    """Places are not compared: if two values are closer than their rounding, either is right."""
    _finite(x)
    how = _norm_and_pool(x, y, norm, pool)
    due, _ = _reference().lrn_maxpool_fprop(x, **how, relu=relu)
    exact, _ = oracle.lrn_maxpool_fprop(x, **how)
    return {1: (due, _near(due, exact, norm_units(how["beta"])))}


def _lrn_maxpool_dgrad(x: Any, y: Any, dy: Any, where: Any, dx: Any, *settings: Any) -> Answer:
    norm, pool, gated = settings
    _of(x.shape, dx)
    _finite(x, dy)
    _inside(where, dx, pool)
    how = _norm_and_pool(x, dy, norm, pool) | {"y": y, "gated": gated}
    due = _reference().lrn_maxpool_dgrad(x, dy, where, **how)
    exact = oracle.lrn_maxpool_dgrad(x, dy, where, **how)
    return {4: (due, _near(due, exact, norm_units(how["beta"]) + SUM))}


def _norm_and_pool(x: Any, y: Any, norm: Any, pool: Any) -> dict[str, Any]:
    how = _pool(x, y, pool)
    names = {"pool_size": how["size"], "pool_stride": how["stride"], "ceil": how["ceil"]}
    return _norm(norm) | names


def _avgpool_fprop(x: Any, y: Any, pool: Any) -> Answer:
    _finite(x)
    how = _pool(x, y, pool)
    due = _reference().avgpool_fprop(x, **how)
    return {1: (due, _near(due, oracle.avgpool_fprop(x, **how)))}


def _avgpool_dgrad(dy: Any, dx: Any, pool: Any) -> Answer:
    _finite(dy)
    how = _pool(dx, dy, pool) | {"x_shape": dx.shape}
    due = _reference().avgpool_dgrad(dy, **how)
    return {1: (due, _near(due, oracle.avgpool_dgrad(dy, **how)))}


def _dropout(x: Any, y: Any, mask: Any) -> Answer:
    keep, seed, step, layer, offset, total, factor, first = mask
    _expect(factor == 1)
    _of(x.shape, y)
    draw = {"keep": keep, "seed": seed, "step": step, "layer": layer, "first": first}
    _expect(total * (first + len(x)) < 2**63)
    return {1: (_reference().dropout_fprop(x, **draw, offset=offset, total=total), None)}


def _softmax(logits: Any, labels: Any, loss: Any, dlogits: Any, top1: Any, top5: Any) -> Answer:
    _finite(logits)
    results = _reference().softmax_cross_entropy(logits, labels, dtype=dlogits.dtype)
    exact_loss, exact_dlogits = oracle.softmax_cross_entropy(logits, labels)
    one = Exact(np.ones(()), np.ones(()))
    allowed = (
        *(_apart(exact_loss, SOFTMAX), _near(results[1], exact_dlogits, SOFTMAX)),
        *(_apart(one), _apart(one)),
    )
    return dict(zip((2, 3, 4, 5), zip(results, allowed, strict=True), strict=True))


def _sgd(w: Any, low: Any, v: Any, dw: Any, rule: Any) -> Answer:
    """For weights in halves the upper halves are compared."""
    lr, momentum, weight_decay = rule
    _finite(w, v, dw, np.asarray(lr))
    _moderate(momentum, weight_decay)
    rates = {"lr": float(lr), "momentum": momentum, "weight_decay": weight_decay}
    whole = w if low is None else _reference().join_weights(w, low)
    exact_w, exact_v = oracle.sgd_update(whole, v, dw, **rates)
    _reference().sgd_update(
        *(w, v, dw), lr=lr, momentum=momentum, weight_decay=weight_decay, low=low
    )
    return {0: (w, _near(w, exact_w)), 2: (v, _apart(exact_v))}


def _split(w: Any, high: Any, low: Any) -> Answer:
    _of(w.shape, high, low)
    due = _reference().split_weights(w)
    return {1: (due[0], None), 2: (due[1], None)}


def _join(high: Any, low: Any, w: Any) -> Answer:
    _of(high.shape, low, w)
    return {2: (_reference().join_weights(high, low), None)}


def _gather(parts: list[Any], whole: Any) -> Answer:
    due = _reference().exchange_gather(parts)
    _of(whole.shape, due)
    return {1: (due, None)}


def _scatter_add(dwholes: list[Any], dpart: Any, start: int) -> Answer:
    _whole(*dwholes)
    due = _reference().exchange_scatter_add(dwholes, start=start, channels=dpart.shape[-1])
    _of(dpart.shape, due)
    return {1: (due, None)}


def _sum(parts: list[Any], y: Any) -> Answer:
    _whole(*parts)
    due = _reference().sum_parts(parts)
    _of(y.shape, due)
    return {1: (due, None)}


_ANSWERS: dict[str, Callable[..., Answer]] = {
    "augment": _augment,
    "conv_fprop": _conv_fprop,
    "conv_dgrad": _conv_dgrad,
    "conv_wgrad": _conv_wgrad,
    "conv_wgrad_sgd": _conv_wgrad_sgd,
    "images_to_depth": _images_to_depth,
    "filters_to_depth": _to_depth,
    "filters_from_depth": _from_depth,
    "linear_fprop": _linear_fprop,
    "linear_dgrad": _linear_dgrad,
    "linear_wgrad": _linear_wgrad,
    "linear_wgrad_sgd": _linear_wgrad_sgd,
    "relu_fprop": _relu_fprop,
    "relu_dgrad": _relu_dgrad,
    "tanh_fprop": _tanh_fprop,
    "tanh_dgrad": _tanh_dgrad,
    "scale": _scale,
    "lrn_fprop": _lrn_fprop,
    "lrn_dgrad": _lrn_dgrad,
    "rnorm_fprop": _rnorm_fprop,
    "rnorm_dgrad": _rnorm_dgrad,
    "maxpool_fprop": _maxpool_fprop,
    "maxpool_dgrad": _maxpool_dgrad,
    "avgpool_fprop": _avgpool_fprop,
    "avgpool_dgrad": _avgpool_dgrad,
    "lrn_maxpool_fprop": _lrn_maxpool_fprop,
    "lrn_maxpool_dgrad": _lrn_maxpool_dgrad,
    "dropout_fprop": _dropout,
    "dropout_dgrad": _dropout,
    "softmax_cross_entropy": _softmax,
    "sgd_update": _sgd,
    "split_weights": _split,
    "join_weights": _join,
    "exchange_gather": _gather,
    "exchange_scatter_add": _scatter_add,
    "sum_parts": _sum,
}

_CHANGED: dict[str, tuple[int, ...]] = {
    "conv_wgrad_sgd": (2, 3, 4, 5, 6),
    "linear_wgrad_sgd": (2, 3, 4, 5, 6),
    "sgd_update": (0, 1, 2),
}
"""Which arguments an op writes that works in place."""


def results(op: str) -> tuple[int, ...]:
    """The arguments that an op of the bindings may write; none of another function."""
    calls = in_the_bindings().get(op)
    return _CHANGED[op] if op in _CHANGED else calls[0].results if calls else ()
