"""Calls of the bindings with odd arguments: a refusal, or what float64 says; on simcheck and cpu.

A case starts as a valid call of a random op with random sizes; then some of its arguments are
replaced. A refusal must leave every array unchanged. An accepted call must pass the checker, leave
the inputs unchanged, and equal the float64 reference on the same arguments, if the reference
accepts them. Both modules get the call, each with its own memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from answers import answer, results
from cases import Bound, in_the_bindings
from fuzzing import campaign
from pyalexnet.backends.cpu import chosen_set, instruction_sets
from pyalexnet.ops.elements import BFLOAT16
from samples import generator
from tolerance import same_bits

OUTCOMES = {"refused", "accepted", "right"}
SAMPLE = 200

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """An array.

    Attributes:
        shape, dtype: its own.
        fill: "whole" numbers of -4 to 4 (0 to 4 in unsigned types), whose sums are exact in any
            order; "wide": up to a type's largest; "holes": whole ones, some NaN or infinite.
        seed: draws the numbers.
        layout: in memory: see `made`.
    """

    shape: Shape
    dtype: str = "float32"
    fill: str = "whole"
    seed: int = 0
    layout: str = "device"


@dataclass(frozen=True)
class Same:
    """Another argument's own memory, from byte `skip` on."""

    index: int
    skip: int = 0


@dataclass(frozen=True)
class Case:
    """A call of the extension module; `sensible`: it must not be refused."""

    op: str
    arguments: list[Any]
    sensible: bool


# ---------------------------------------------------------------------- calls that make sense


def cases() -> SearchStrategy[Case]:
    return st.one_of(sensible(), odd(), odd(), wild())


@st.composite
def sensible(draw: st.DrawFn) -> Case:
    op = draw(st.sampled_from(sorted(CALLS)))
    device = draw(st.integers(0, 1))
    arguments = [*CALLS[op](draw), device, 0, "fits"]
    return Case(op, [_on(device, one) for one in arguments], True)


@st.composite
def odd(draw: st.DrawFn) -> Case:
    """A sensible call with one to three arguments replaced, or one too many or too few."""
    case = draw(sensible())
    arguments = list(case.arguments)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(arguments) - 1))
        arguments[at] = draw(_instead(arguments[at], len(arguments)))
    if draw(st.integers(0, 19)) == 0:
        arguments = draw(st.sampled_from((arguments[:-1], [*arguments, None])))
    return Case(case.op, arguments, False)


@st.composite
def wild(draw: st.DrawFn) -> Case:
    """Any function with anything."""
    op = draw(st.sampled_from([*sorted(CALLS), *OTHERS]))
    return Case(op, draw(st.lists(_anything(), max_size=8)), False)


def _on(device: int, argument: Any) -> Any:
    """The argument with its arrays on the op's device."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(_on(device, one) for one in argument)
    if isinstance(argument, Block) and argument.layout == "device":
        return replace(argument, layout=f"device {device}")
    return argument


def _extent(most: int = 5) -> SearchStrategy[int]:
    return st.integers(1, most)


ELEMENT = st.sampled_from(("float32", "bfloat16"))
FIRST = st.sampled_from((0, 1, 3))  # of a batch's images
UNIT = st.sampled_from(("fma", "mma", "wgmma"))


WHOLE = ("whole",)
WITH_HOLES = ("whole", "holes")


def _fills(dtype: str, unit: str) -> tuple[str, ...]:
    """Fills for a product's operands: float32 in planes turns infinities into NaN."""
    return WHOLE if dtype == "float32" and unit != "fma" else WITH_HOLES


def _floats(
    shape: Shape,
    draw: st.DrawFn,
    fills: tuple[str, ...] = WITH_HOLES,
    dtype: str = "float32",
) -> Block:
    return Block(shape, dtype, draw(st.sampled_from(fills)), draw(st.integers(0, 99)))


def _result(shape: Shape, dtype: str = "float32") -> Block:
    return Block(shape, dtype, "garbage")


def on_cpu(argument: Any) -> Any:
    """The unit that multiplies on cpu, in place of one of a GPU."""
    tensor_cores = isinstance(argument, str) and argument in ("mma", "wgmma")
    return "winograd" if tensor_cores else argument


def _sizes(draw: st.DrawFn, count: int, most: int = 5) -> Shape:
    return tuple(draw(_extent(most)) for _ in range(count))


def _augment(draw: st.DrawFn) -> list[Any]:
    n, h, w, c, down, right = _sizes(draw, 6)
    stored = h + down - 1, w + right - 1
    block = draw(_extent(4))
    top, bottom, left, after = (draw(st.integers(0, 2)) for _ in range(4))
    rows, columns = -(-(top + h + bottom) // block), -(-(left + w + after) // block)
    corners = Block((n, 2), "int32", "zeros") if draw(st.booleans()) else Block((n, 2), "int32")
    return [
        Block((n, *stored, c), "uint8", "wide", draw(st.integers(0, 9))),
        _floats((*stored, c), draw),
        corners,
        Block((n,), "uint8", "whole", draw(st.integers(0, 9))),
        _floats((n, c), draw),
        _result((n, rows, columns, block**2 * c), draw(ELEMENT)),
        (h, w),
        (block, top, bottom, left, after),
        draw(st.sampled_from((1.0, 0.5, 0.3))),
        draw(st.booleans()),
    ]


def _images_to_depth(draw: st.DrawFn) -> list[Any]:
    n, h, w, c = _sizes(draw, 4)
    block = draw(_extent(4))
    top, bottom, left, after = (draw(st.integers(0, 2)) for _ in range(4))
    rows, columns = -(-(top + h + bottom) // block), -(-(left + w + after) // block)
    y = _result((n, rows, columns, block**2 * c), draw(ELEMENT))
    return [_floats((n, h, w, c), draw), y, (block, top, bottom, left, after)]


def _to_depth(draw: st.DrawFn) -> list[Any]:
    w, deep, block = _filters(draw)
    dtype = draw(ELEMENT)
    return [_floats(w, draw, dtype=dtype), _result(deep, dtype), block]


def _from_depth(draw: st.DrawFn) -> list[Any]:
    w, deep, block = _filters(draw)
    return [_floats(deep, draw), _result(w), block]


def _filters(draw: st.DrawFn) -> tuple[Shape, Shape, int]:
    """Shapes of filters, plain and deep, and the block."""
    k, r, s, c = w = _sizes(draw, 4)
    block = draw(_extent(4))
    return w, (k, -(-r // block), -(-s // block), block**2 * c), block


def _conv(draw: st.DrawFn) -> tuple[Shape, Shape, Shape, Shape]:
    """Shapes of x, w and y; the geometry's numbers."""
    groups = draw(_extent(2))
    n, r, s, sh, sw, per, each = _sizes(draw, 7, 3)
    top, bottom, left, right = (draw(st.integers(0, 2)) for _ in range(4))
    h = draw(st.integers(max(1, r - top - bottom), 6))
    w = draw(st.integers(max(1, s - left - right), 6))
    p, q = (h + top + bottom - r) // sh + 1, (w + left + right - s) // sw + 1
    k = groups * each
    geometry = (sh, sw, top, bottom, left, right, groups)
    return (n, h, w, groups * per), (k, r, s, per), (n, p, q, k), geometry


def _conv_fprop(draw: st.DrawFn) -> list[Any]:
    x, w, y, numbers = _conv(draw)
    towers, dtype, unit = draw(_extent(3)), draw(ELEMENT), draw(UNIT)
    b = _floats((w[0],), draw) if draw(st.booleans()) else None
    ends = [_result(y, draw(st.sampled_from((dtype, "float32")))), numbers, unit]
    inputs = [_floats(shape, draw, _fills(dtype, unit), dtype) for shape in (x, w)]
    return [*inputs, b, *ends, towers, *_finish(draw, prod(y[1:]))]


def _finish(draw: st.DrawFn, features: int) -> list[Any]:
    """An activation, and a dropout over this many features."""
    name = draw(st.sampled_from((None, "relu", "tanh")))
    if draw(st.booleans()):
        return [name, None]
    keep, seed = draw(st.sampled_from((0.0, 0.5, 1.0))), draw(st.sampled_from((3, 2**64 - 1)))
    step, layer = draw(st.sampled_from((0, 2**32 - 1))), draw(st.integers(0, 9))
    offset = draw(st.integers(0, 7))
    total = offset + features + draw(st.integers(0, 5))
    factor, first = draw(st.sampled_from((1.0, 2.0, -3.0))), draw(FIRST)
    return [name, (keep, seed, step, layer, offset, total, factor, first)]


def _gate(shape: Shape, draw: st.DrawFn, dtype: str) -> Block | None:
    return _floats(shape, draw, dtype=dtype) if draw(st.booleans()) else None


def _factor(draw: st.DrawFn) -> Any:
    return draw(st.sampled_from((1.0, 2.0, -3.0)))


def _learned(w: Shape, draw: st.DrawFn, dtype: str) -> list[Any]:
    """Weights, the halves that bfloat16 lacks, their momentum; and biases with theirs."""
    low = Block(w, "uint16", "lower") if dtype == "bfloat16" else None
    weights = [_floats(w, draw, WHOLE, dtype), low, _floats(w, draw, WHOLE)]
    return [*weights, *(_floats(w[:1], draw, WHOLE) for _ in range(2))]


def _rules(draw: st.DrawFn) -> list[Any]:
    """A learning rate, momentum and weight decay for each."""
    return [(draw(st.sampled_from((0.0, 0.25, 1))), 0.5, 0.25) for _ in range(2)]


def _conv_dgrad(draw: st.DrawFn) -> list[Any]:
    x, w, y, numbers = _conv(draw)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(y, draw, _fills(dtype, unit), dtype), _floats(w, draw, WHOLE, dtype)]
    ends = [_result(x, dtype), numbers, unit, _factor(draw)]
    return [*inputs, _gate(x, draw, dtype), *ends]


def _conv_wgrad(draw: st.DrawFn) -> list[Any]:
    x, w, y, numbers = _conv(draw)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(shape, draw, _fills(dtype, unit), dtype) for shape in (x, y)]
    return [*inputs, _result(w), _result(w[:1]), numbers, unit]


def _conv_wgrad_sgd(draw: st.DrawFn) -> list[Any]:
    x, w, y, numbers = _conv(draw)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(shape, draw, WHOLE, dtype) for shape in (x, y)]
    ends = [numbers, unit, *_rules(draw)]
    return [*inputs, *_learned(w, draw, dtype), *ends]


def _linear_fprop(draw: st.DrawFn) -> list[Any]:
    n, i, o = _sizes(draw, 3, 9)
    towers, dtype, unit = draw(_extent(3)), draw(ELEMENT), draw(UNIT)
    b = _floats((o,), draw) if draw(st.booleans()) else None
    y = _result((n, o), draw(st.sampled_from((dtype, "float32"))))
    inputs = [_floats(shape, draw, _fills(dtype, unit), dtype) for shape in ((n, i), (o, i))]
    return [*inputs, b, y, unit, towers, *_finish(draw, o)]


def _linear_dgrad(draw: st.DrawFn) -> list[Any]:
    n, i, o = _sizes(draw, 3, 9)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(shape, draw, _fills(dtype, unit), dtype) for shape in ((n, o), (o, i))]
    ends = [_result((n, i), dtype), unit, _factor(draw)]
    return [*inputs, _gate((n, i), draw, dtype), *ends]


def _linear_wgrad(draw: st.DrawFn) -> list[Any]:
    n, i, o = _sizes(draw, 3, 9)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(shape, draw, _fills(dtype, unit), dtype) for shape in ((n, i), (n, o))]
    return [*inputs, _result((o, i)), _result((o,)), unit]


def _linear_wgrad_sgd(draw: st.DrawFn) -> list[Any]:
    n, i, o = _sizes(draw, 3, 9)
    dtype, unit = draw(ELEMENT), draw(UNIT)
    inputs = [_floats(shape, draw, WHOLE, dtype) for shape in ((n, i), (n, o))]
    return [*inputs, *_learned((o, i), draw, dtype), unit, *_rules(draw)]


def _any_shape(draw: st.DrawFn, least: int = 0) -> Shape:
    return _sizes(draw, draw(st.integers(least, 4)))


def _unary(draw: st.DrawFn) -> list[Any]:
    shape, dtype = _any_shape(draw), draw(ELEMENT)
    y = draw(st.sampled_from((_result(shape, dtype), Same(0))))
    return [_floats(shape, draw, dtype=dtype), y]


def _binary(draw: st.DrawFn) -> list[Any]:
    shape, dtype = _any_shape(draw), draw(ELEMENT)
    inputs = [_floats(shape, draw, dtype=dtype), _floats(shape, draw, dtype=dtype)]
    return [*inputs, draw(st.sampled_from((_result(shape, dtype), Same(0), Same(1))))]


def _scale(draw: st.DrawFn) -> list[Any]:
    return [*_unary(draw), draw(st.sampled_from((0.0, 0.3, -2.0)))]


def _norm(draw: st.DrawFn, groups: int = 1) -> tuple[Any, ...]:
    rest = draw(st.sampled_from(((1.0, 0.75, 2.0), (0.3, 1.25, 0.5))))
    return (draw(_extent(6)), *rest, groups)


def _lrn_fprop(draw: st.DrawFn) -> list[Any]:
    groups = draw(_extent(3))
    shape, dtype = (*_sizes(draw, 3, 3), groups * draw(_extent())), draw(ELEMENT)
    x = _floats(shape, draw, WHOLE, dtype)
    return [x, _result(shape, dtype), _norm(draw, groups)]


def _lrn_dgrad(draw: st.DrawFn) -> list[Any]:
    x, y, norm = _lrn_fprop(draw)
    return [x, replace(x, seed=x.seed + 1), y, norm]


def _rnorm_fprop(draw: st.DrawFn) -> list[Any]:
    shape, dtype = _sizes(draw, 4), draw(ELEMENT)
    return [_floats(shape, draw, WHOLE, dtype), _result(shape, dtype), _norm(draw)]


def _rnorm_dgrad(draw: st.DrawFn) -> list[Any]:
    x, y, norm = _rnorm_fprop(draw)
    return [x, replace(x, seed=x.seed + 1), y, norm]


def _pool(draw: st.DrawFn) -> tuple[Shape, Shape, tuple[int, int, bool]]:
    """Shapes of x and y; size, stride and whether clipped windows count."""
    n, c, size, stride = _sizes(draw, 4, 4)
    h, w = (draw(st.integers(size, 8)) for _ in range(2))
    p, q = (min(-(-(side - size) // stride) + 1, -(-side // stride)) for side in (h, w))
    return (n, h, w, c), (n, p, q, c), (size, stride, True)


def _maxpool_fprop(draw: st.DrawFn) -> list[Any]:
    (x, y, numbers), dtype = _pool(draw), draw(ELEMENT)
    return [_floats(x, draw, dtype=dtype), _result(y, dtype), _result(y, "uint8"), numbers]


def _maxpool_dgrad(draw: st.DrawFn) -> list[Any]:
    (x, y, numbers), dtype = _pool(draw), draw(ELEMENT)
    gate = _gate(x, draw, dtype)
    return [_floats(y, draw, dtype=dtype), _where(y, draw), gate, _result(x, dtype), numbers]


def _where(y: Shape, draw: st.DrawFn) -> Block:
    return Block(y, "uint8", draw(st.sampled_from(("zeros", "wide"))))


def _avgpool_fprop(draw: st.DrawFn) -> list[Any]:
    (x, y, numbers), dtype = _pool(draw), draw(ELEMENT)
    return [_floats(x, draw, WHOLE, dtype), _result(y, dtype), numbers]


def _avgpool_dgrad(draw: st.DrawFn) -> list[Any]:
    (x, y, numbers), dtype = _pool(draw), draw(ELEMENT)
    return [_floats(y, draw, WHOLE, dtype), _result(x, dtype), numbers]


def _lrn_maxpool_fprop(draw: st.DrawFn) -> list[Any]:
    x, y, dtype, numbers = _norm_and_pool(draw)
    outputs = [_result(y, dtype), _result(y, "uint8")]
    return [_floats(x, draw, WHOLE, dtype), *outputs, *numbers, draw(st.booleans())]


def _lrn_maxpool_dgrad(draw: st.DrawFn) -> list[Any]:
    x, y, dtype, numbers = _norm_and_pool(draw)
    maps = [_floats(x, draw, WHOLE, dtype), _gate(y, draw, dtype)]
    gradients = [_floats(y, draw, WHOLE, dtype), _where(y, draw), _result(x, dtype)]
    return [*maps, *gradients, *numbers, draw(st.booleans())]


def _norm_and_pool(draw: st.DrawFn) -> tuple[Shape, Shape, str, list[Any]]:
    """Shapes of x and y, their type; the numbers of the norm and of the pool.

    In the form that the networks use.
    """
    (*x, _), (*y, _), pool = _pool(draw)
    groups, own = draw(_extent(3)), draw(st.sampled_from((8, 16)))
    alpha, k = draw(st.sampled_from((1.0, 0.3))), draw(st.sampled_from((2.0, 0.5)))
    norm = (5, alpha, 0.75, k, groups)
    shapes = ((*x, groups * own), (*y, groups * own))
    return *shapes, draw(ELEMENT), [norm, pool]


def _dropout(draw: st.DrawFn) -> list[Any]:
    shape, dtype = _any_shape(draw, 1), draw(ELEMENT)
    features = prod(shape[1:])
    offset = draw(st.integers(0, 7))
    y = draw(st.sampled_from((_result(shape, dtype), Same(0))))
    step = draw(st.sampled_from((0, 2**32 - 1, Block((), "uint32", "wide"))))
    keep, seed = draw(st.sampled_from((0.0, 0.5, 1.0))), draw(st.sampled_from((3, 2**64 - 1)))
    total = offset + features + draw(st.integers(0, 5))
    x = _floats(shape, draw, dtype=dtype)
    return [x, y, (keep, seed, step, draw(st.integers(0, 9)), offset, total, 1.0, draw(FIRST))]


def _softmax(draw: st.DrawFn) -> list[Any]:
    n, classes = _sizes(draw, 2, 12)
    labels = Block((n,), "int64", draw(st.sampled_from(("zeros", "whole"))))
    scalar = _result(())
    logits = _floats((n, classes), draw, WHOLE)
    dlogits = _result((n, classes), draw(ELEMENT))
    return [logits, labels, scalar, dlogits, scalar, scalar]


def _sgd(draw: st.DrawFn) -> list[Any]:
    shape, dtype = _any_shape(draw), draw(ELEMENT)
    lr = draw(st.sampled_from((0.0, 0.25, 1, Block(()))))
    low = Block(shape, "uint16", "lower") if dtype == "bfloat16" else None
    w, v, dw = (_floats(shape, draw, ("whole",), of) for of in (dtype, "float32", "float32"))
    return [w, low, v, dw, (lr, 0.5, 0.25)]


def _split(draw: st.DrawFn) -> list[Any]:
    shape = _any_shape(draw)
    return [_floats(shape, draw), _result(shape, "bfloat16"), _result(shape, "uint16")]


def _join(draw: st.DrawFn) -> list[Any]:
    shape = _any_shape(draw)
    high = _floats(shape, draw, dtype="bfloat16")
    return [high, Block(shape, "uint16", "wide"), _result(shape)]


def _gather(draw: st.DrawFn) -> list[Any]:
    lead = _sizes(draw, draw(st.integers(0, 3)), 4)
    channels = _sizes(draw, draw(_extent(8)), 4)
    parts = [_peer((*lead, own), draw) for own in channels]
    return [parts, _result((*lead, sum(channels)))]


def _scatter_add(draw: st.DrawFn) -> list[Any]:
    lead, whole = _sizes(draw, draw(st.integers(0, 3)), 4), draw(_extent(9))
    start = draw(st.integers(0, whole - 1))
    own = draw(st.integers(1, whole - start))
    wholes = [_peer((*lead, whole), draw) for _ in range(draw(_extent(8)))]
    return [wholes, _result((*lead, own)), start]


def _sum(draw: st.DrawFn) -> list[Any]:
    shape = _any_shape(draw)
    return [[_peer(shape, draw) for _ in range(draw(_extent(9)))], _result(shape, draw(ELEMENT))]


def _peer(shape: Shape, draw: st.DrawFn) -> Block:
    block = _floats(shape, draw)
    return replace(block, layout=draw(st.sampled_from(("device", "device 0", "device 1", "host"))))


DRAWN: dict[str, Callable[[st.DrawFn], list[Any]]] = {
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
    "relu_fprop": _unary,
    "relu_dgrad": _binary,
    "tanh_fprop": _unary,
    "tanh_dgrad": _binary,
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
"""What draws the arguments of an op, in sizes, types and settings of its own."""


def _in_the_table(calls: list[Bound]) -> Callable[[st.DrawFn], list[Any]]:
    """Draws the arguments of one of these calls, in arrays of other numbers."""

    def drawn(draw: st.DrawFn) -> list[Any]:
        call = draw(st.sampled_from(calls))
        seed = draw(st.integers(0, 99))
        return [
            _like(one, "garbage" if number in call.results else "whole", seed + number)
            for number, one in enumerate(call.arguments)
        ]

    return drawn


def _like(one: Any, fill: str, seed: int) -> Any:
    if isinstance(one, np.ndarray):
        return Block(one.shape, str(one.dtype), fill, seed)
    if isinstance(one, (list, tuple)):  # a record too becomes a plain tuple
        plain = [_like(each, fill, seed + number) for number, each in enumerate(one)]
        return plain if isinstance(one, list) else tuple(plain)
    return one


CALLS = {op: _in_the_table(calls) for op, calls in in_the_bindings().items()} | DRAWN
"""The ops of the extension module, and what draws their arguments but where it runs."""

OTHERS = (*("empty", "device_of", "enable_peers", "set_schedule", "launch_count", "barriers_met"),)
"""Its other functions, except those that make the checker lie for a test."""

# ---------------------------------------------------------------------- odd arguments

NUMBERS = (
    *(-1, 0, 1, 2, 3, 7, 16, 17, 255, 256, 257, 2**15, 2**16),
    *(2**31 - 1, 2**31, 2**31 - 1024, 2**32 - 1, 2**32, 2**40),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, -(2**31), -(2**31) - 1, -(2**63)),
)
LAYOUTS = (
    *("device 0", "device 1", "host", "read-only", "strided", "reversed", "misaligned"),
    *("fortran", "other byte order", "broadcast", "inside"),
)
SCRATCH = ("fits", "short", "misaligned", "strided", "read-only", "float32", "None", "an input")
"""What an op is given when it asks for scratch."""
DTYPES = (
    *("float32", "float64", "float16", "int8", "uint8", "int32", "uint32", "int64", "uint64"),
    *("bool", "complex64", "object", "S4", "U1", "V4", "datetime64[s]", "uint16", "longdouble"),
    "bfloat16",
)


def _numbers() -> SearchStrategy[Any]:
    return st.sampled_from(NUMBERS) | st.integers(-4, 40)


def _floating() -> SearchStrategy[Any]:
    odd_ones = (float("nan"), float("inf"), -float("inf"), 1e300, -1.0, 0.0, 1e-45, 0.5)
    return st.sampled_from(odd_ones)


def _blocks() -> SearchStrategy[Any]:
    return st.builds(
        Block,
        st.lists(st.integers(0, 6), max_size=6).map(tuple),
        st.sampled_from(DTYPES),
        st.sampled_from(("whole", "wide", "holes", "zeros")),
        st.integers(0, 9),
        st.sampled_from(LAYOUTS),
    )


def _anything() -> SearchStrategy[Any]:
    """Values of every kind; a tuple is a shape."""
    return st.one_of(
        _numbers(),
        _floating(),
        _blocks(),
        st.lists(_blocks(), max_size=9),
        st.none(),
        st.booleans(),
        st.sampled_from(("", "relu", "\udcff", "float32", b"relu", "x" * 100, "object", "V0")),
        st.lists(_numbers() | _floating(), max_size=7).map(tuple),
        st.builds(Same, st.integers(0, 7), st.integers(0, 8)),
    )


def _instead(argument: Any, arguments: int) -> SearchStrategy[Any]:
    """Possible replacements for an argument."""
    same = st.builds(Same, st.integers(0, arguments - 1), st.sampled_from((0, 0, 1, 4, 8, 16)))
    if isinstance(argument, Block):
        near = [
            _near(argument),
            st.sampled_from(LAYOUTS).map(lambda layout: replace(argument, layout=layout)),
            st.sampled_from(DTYPES).map(lambda dtype: replace(argument, dtype=dtype)),
            st.sampled_from(("wide", "holes")).map(lambda fill: replace(argument, fill=fill)),
        ]
        return st.one_of(*near, same, _anything())
    if isinstance(argument, list) and argument:
        return st.one_of(
            st.permutations(argument),
            st.integers(0, len(argument)).map(lambda stop: argument[:stop]),
            st.integers(1, 9).map(lambda times: argument * times),
            _instead(argument[0], arguments).map(lambda one: [one, *argument[1:]]),
            _anything(),
        )
    if isinstance(argument, tuple) and argument:
        return st.one_of(_record(argument, arguments), _record(argument, arguments), _anything())
    if argument in SCRATCH:
        return st.one_of(st.sampled_from(SCRATCH), _anything())
    if isinstance(argument, int):
        return st.one_of(_numbers(), _numbers(), _anything())
    if isinstance(argument, float):
        return st.one_of(_floating(), _numbers(), _anything())
    return _anything()


def _record(record: tuple[Any, ...], arguments: int) -> SearchStrategy[Any]:
    """Records with another value in one field, or with one field too few."""

    def with_another(at: int) -> SearchStrategy[Any]:
        others = _instead(record[at], arguments)
        return others.map(lambda other: (*record[:at], other, *record[at + 1 :]))

    return st.one_of(*map(with_another, range(len(record))), st.just(record[:-1]))


def _near(block: Block) -> SearchStrategy[Block]:
    """Blocks of a shape that differs in one axis, or has one more or fewer."""
    shapes = [(1, *block.shape), (*block.shape, 1), block.shape[1:], block.shape[::-1]]
    for axis, length in enumerate(block.shape):
        for other in (0, max(length - 1, 0), length + 1, 2 * length):
            shapes.append((*block.shape[:axis], other, *block.shape[axis + 1 :]))
    return st.sampled_from(shapes).map(lambda shape: replace(block, shape=shape))


# ---------------------------------------------------------------------- arrays


def build(case: Case) -> list[Any]:
    """The arguments of a call."""
    values = [_built(argument) for argument in case.arguments]
    for at, argument in enumerate(values):
        if isinstance(argument, Same):
            values[at] = _shared(values, argument)
        elif isinstance(argument, tuple):
            values[at] = tuple(
                _shared(values, one) if isinstance(one, Same) else one for one in argument
            )
    return values


def _built(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return type(argument)(_built(one) for one in argument)
    return made(argument) if isinstance(argument, Block) else argument


def scratch(kind: Any, arguments: list[Any]) -> Any:
    """What hands out scratch of one of the kinds of SCRATCH."""
    if not isinstance(kind, str) or kind not in SCRATCH:
        return kind

    def hand_out(nbytes: int) -> Any:
        if kind == "None":
            return None
        if kind == "an input":
            found = next((one for one in arrays(arguments) if one.flags.c_contiguous), None)
            return None if found is None else found.reshape(-1)
        block = Block((nbytes - (kind == "short"),), "uint8", "garbage", layout=kind)
        return made(replace(block, dtype=kind) if kind == "float32" else block)

    return hand_out


def _shared(values: list[Any], same: Same) -> Any:
    array = values[same.index % len(values)]
    if not isinstance(array, np.ndarray) or same.skip == 0 or not array.flags.c_contiguous:
        return array if isinstance(array, np.ndarray) else None
    return array.reshape(-1)[-(-same.skip // array.itemsize) :]


def made(block: Block) -> Any:
    """An array with a block's contents and layout."""
    values = np.array(contents(block))
    module, shape = extension(), values.shape
    match block.layout:
        case "device" | "device 0" | "device 1" if not values.dtype.hasobject:
            array = module.empty(shape, values.dtype, int(block.layout[7:] or 0))
            array[...] = values
            return array
        case "read-only":
            values.flags.writeable = False
        case "strided" if values.ndim:
            return np.repeat(values, 2, axis=-1)[..., ::2]
        case "reversed":
            return np.ascontiguousarray(values[::-1])[::-1] if values.ndim else values
        case "misaligned" if not values.dtype.hasobject:
            room = np.empty(values.nbytes + 1, np.uint8)[1:]
            array = room.view(values.dtype).reshape(shape) if values.nbytes else values
            array[...] = values
            return array
        case "fortran":
            return np.asfortranarray(values)
        case "other byte order":
            return values.astype(values.dtype.newbyteorder())
        case "broadcast" if values.ndim:
            return np.broadcast_to(values[..., :1], shape) if shape[-1] else values
        case "inside":  # of a larger array, at a multiple of its elements
            room = np.empty(values.size + 3, values.dtype)
            array = room[1 : 1 + values.size].reshape(shape)
            array[...] = values
            return array
    return values


def contents(block: Block) -> Any:
    """A new array on the host."""
    dtype = np.dtype(block.dtype)
    floating = dtype.kind == "f" or dtype == BFLOAT16
    rng = generator(block.seed, *block.shape)
    if not (floating or dtype.kind in "iu") or block.fill == "zeros":
        return np.zeros(block.shape, dtype)
    if block.fill == "garbage":
        return np.full(block.shape, np.nan if floating else np.iinfo(dtype).max, dtype)
    if block.fill == "wide" and not floating:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, block.shape, dtype, endpoint=True)
    if block.fill == "lower":  # half of a weight; with 2^15 or more the upper half 0 makes a NaN
        return rng.integers(0, 2**15, block.shape).astype(dtype)
    values = rng.integers(0 if dtype.kind == "u" else -4, 5, block.shape).astype(dtype)
    if floating and block.fill == "wide":
        return values * dtype.type(2.0**100 if dtype.itemsize > 2 else 2.0**10)
    if floating and block.fill == "holes":
        odd_ones = np.array([np.nan, np.inf, -np.inf], dtype)
        return np.where(rng.integers(0, 9, block.shape) == 0, rng.choice(odd_ones), values)
    return values


# ---------------------------------------------------------------------- what must come of it


TAKEN_AS_THEY_COME = (
    "augment",
    "softmax_cross_entropy",
    "maxpool_dgrad",
    "lrn_maxpool_dgrad",
)
"""Ops with places or labels in arrays, which backends check but kernels do not."""


def check(case: Case) -> str:
    with np.errstate(all="ignore"):
        happened = _check(case, extension(), build(case))
        if hasattr(cpu(), case.op):
            _check(case, cpu(), [on_cpu(argument) for argument in build(case)])
    return happened


def _check(case: Case, module: Any, arguments: list[Any]) -> str:
    before = [array.copy() for array in arrays(arguments)]
    expected = answer(case.op, arguments[:-3])  # the last ones say where it runs
    refusal = refused(module, case, arguments)
    if isinstance(refusal, MemoryError):
        return "refused"
    if refusal is not None:
        assert not case.sensible, refusal
        assert str(refusal)
        for array, old in zip(arrays(arguments), before, strict=True):
            assert same_contents(array, old), f"refused ({refusal}), and changed an array"
        return "refused"
    written = [*arrays([arguments[at] for at in results(case.op) if at < len(arguments)])]
    for array, old in zip(arrays(arguments), before, strict=True):
        among = any(np.may_share_memory(array, result) for result in written)
        assert among or same_contents(array, old), "changed an input"
    if expected is None:
        assert not case.sensible or case.op in TAKEN_AS_THEY_COME, "the reference refuses it"
        return "accepted"
    for at, (value, allowed) in expected.items():
        hold_equal(arguments[at], value, allowed)
    return "right"


def refused(module: Any, case: Case, arguments: list[Any]) -> Exception | None:
    """Call the module's op and return the refusal, if any."""
    try:
        if case.op in CALLS:
            *others, device, stream, kind = arguments
            arguments = [*others, (device, stream, scratch(kind, others))]
        getattr(module, case.op)(*arguments)
    except (ValueError, TypeError) as error:
        return error
    except MemoryError as error:
        if case.op != "empty":
            raise
        return error
    return None


def hold_equal(array: Any, value: Any, allowed: Any) -> None:
    """Check that a result is the value expected, up to the error allowed in each element."""
    if BFLOAT16 in (array.dtype, value.dtype):  # NumPy does not recognise its NaN
        array, value = array.astype(np.float32), value.astype(np.float32)
    if allowed is None:
        np.testing.assert_array_equal(array, value)
        return
    near = abs(array.astype(np.float64) - value) <= allowed
    alike = (array == value) | (np.isnan(array) & np.isnan(value))
    assert (near | alike).all(), (array, value, allowed)


def same_contents(array: Any, old: Any) -> bool:
    """Equal in every bit, whatever the two memory layouts."""
    return array.dtype.hasobject or same_bits(
        np.ascontiguousarray(array), np.ascontiguousarray(old)
    )


def arrays(arguments: list[Any]) -> Iterator[Any]:
    """Every array among the arguments, including those in lists and records."""
    for argument in arguments:
        for one in argument if isinstance(argument, (list, tuple)) else [argument]:
            if isinstance(one, np.ndarray):
                yield one


@functools.cache
def extension() -> Any:
    """The module, with its first two devices able to read each other's memory."""
    module = import_module("pyalexnet._simcheck")
    module.enable_peers(0, 1)
    module.enable_peers(1, 0)
    return module


@functools.cache
def cpu() -> Any:
    """The module for this processor."""
    return import_module(f"pyalexnet.{instruction_sets()[chosen_set()]}")


if __name__ == "__main__":  # in this process, without a memory limit, as sanitizers need
    campaign(check, cases())
