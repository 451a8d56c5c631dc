"""Small calls of every op: the one table that all tests of ops in general read.

Each op has an example, and calls that go to the ends: they use the last element of every array,
and what may be a NumPy number lies on the device. test_examples.py names the ops that lack one.
A new op is added to a family of each: to `_elements` if its arrays may have any shape, with a call
in bfloat16 if it takes that. What the fuzzer draws for it, and the answer that is due, follow from
its calls and the oracle's function of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import oracle
from bench.reference import ReferenceBackend
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ops.records import Learned, Mask
from samples import classes, few_values, generator, normal, pixels
from shapes import CONVS, LRN_POOLS, LRNS, POOLS, RNORMS
from trial import place

CONV, LRN, RNORM, POOL = CONVS[1], LRNS[1], RNORMS[0], POOLS[1]
ALIGNED = ("lrn_maxpool_fprop", "lrn_maxpool_dgrad")
"""They load whole vectors only; so does a plan, whose arrays are aligned."""
RATES: dict[str, Any] = {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.5}
DRAW: dict[str, Any] = {"keep": 0.3, "seed": 11, "step": 7, "layer": 2}


@dataclass(frozen=True)
class Call:
    """A call `op(*inputs, **parameters)`.

    Attributes:
        op: of the backend.
        inputs: NumPy arrays, lists of them, or Learned.
        parameters: by keyword.
        ends: the results and the workspace, as the bindings name them (of a call to the ends).
        barriers: a kernel file all of whose barriers the call reaches and needs, and what the names
            of its kernels contain.
    """

    op: str
    inputs: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    ends: str = ""
    barriers: tuple[str, str] | None = None

    def __str__(self) -> str:
        return self.op

    @property
    def arrays(self) -> list[str]:
        """The names of all arrays in the bindings."""
        given = {**self.inputs, **self.parameters}
        return [name for key, one in given.items() for name in _names(key, one)] + self.ends.split()

    def keywords(self, be: Any) -> dict[str, Any]:
        """The parameters, with a ReLU's outputs placed on the device."""
        return {
            name: be.asarray(value) if name in ("gate", "y") else value
            for name, value in self.parameters.items()
        }

    def run(self, be: Any) -> None:
        """Make the call with everything on the device."""
        inputs = [_placed(be, one) for one in self.inputs.values()]
        parameters = {name: _placed(be, one) for name, one in self.parameters.items()}
        getattr(be, self.op)(*inputs, **parameters)

    @property
    def in_bfloat16(self) -> Call:
        """The same call with its maps, if any, in bfloat16."""

        def rounded(values: dict[str, Any]) -> dict[str, Any]:
            maps = ("x", "y", "dy", "gate")
            return {
                name: value.astype(BFLOAT16) if name in maps else value
                for name, value in values.items()
            }

        return Call(self.op, rounded(self.inputs), rounded(self.parameters))


def _names(key: str, one: Any) -> list[str]:
    if isinstance(one, list):
        return [f"{key}[{number}]" for number in range(len(one))]
    if isinstance(one, Learned):
        parts = {name: getattr(one, name) for name in ("w", "low", "v", "lr")}
        return [f"{key}.{name}" for name, part in parts.items() if hasattr(part, "dtype")]
    if isinstance(one, Mask):
        return ["step"] if isinstance(one.step, np.generic) else []
    return [key] if isinstance(one, (np.generic, np.ndarray)) else []


def _placed(be: Any, one: Any) -> Any:
    if isinstance(one, Learned):
        return place(be, one)._replace(lr=be.asarray(one.lr))
    if isinstance(one, Mask):
        return one._replace(step=be.asarray(one.step))
    return place(be, one) if isinstance(one, (np.generic, np.ndarray, list)) else one


# ---------------------------------------------------------------------- examples


def _images() -> Iterator[Call]:
    """Mirrored and not; all arrays but images and mean are parameters and may be on the host."""
    x, mean = pixels(3, 7, 6, 3), normal(7, 6, 3)
    where = {
        "corners": np.array([[0, 2], [1, 0], [2, 1]], np.int32),
        "flips": np.array([0, 1, 1], np.uint8),
        "shifts": normal(3, 3),
        "size": (5, 4),
        "scale": 0.3,
    }
    yield Call("augment", {"x": x, "mean": mean}, where)


def _filters() -> Iterator[Call]:
    w, ddeep = normal(4, 5, 3, 2), normal(4, 3, 2, 8)
    yield Call("images_to_depth", {"x": normal(3, 5, 4, 2)}, {"block": 2, "pad": 1})
    yield Call("filters_to_depth", {"w": w}, {"block": 2})
    yield Call("filters_from_depth", {"ddeep": ddeep}, {"w_shape": w.shape, "block": 2})


def _convolutions() -> Iterator[Call]:
    x, w, b, dy = normal(*CONV.x), normal(*CONV.w), normal(CONV.w[0]), normal(*CONV.y)
    yield Call("conv_fprop", {"x": x, "w": w, "b": b}, CONV.geometry)
    yield Call("conv_dgrad", {"dy": dy, "w": w}, {"x_shape": CONV.x, **CONV.geometry})
    yield Call("conv_wgrad", {"x": x, "dy": dy}, {"w_shape": CONV.w, **CONV.geometry})
    yield Call("conv_wgrad_sgd", {"x": x, "dy": dy, **_learned(CONV.w)}, CONV.geometry)


def _linears() -> Iterator[Call]:
    x, w, b, dy = normal(3, 7), normal(5, 7), normal(5), normal(3, 5)
    yield Call("linear_fprop", {"x": x, "w": w, "b": b})
    yield Call("linear_dgrad", {"dy": dy, "w": w})
    yield Call("linear_wgrad", {"x": x, "dy": dy})
    yield Call("linear_wgrad_sgd", {"x": x, "dy": dy, **_learned(w.shape)})


def _learned(shape: tuple[int, ...]) -> dict[str, Learned]:
    """Weights of a shape, and one bias per index of the first axis."""
    return {
        name: Learned(normal(*own, seed=8), normal(*own, seed=9), **RATES)
        for name, own in (("w", shape), ("b", shape[:1]))
    }


def _neurons() -> Iterator[Call]:
    x, dy = normal(3, 5, 2), normal(3, 5, 2, seed=1)
    yield Call("relu_fprop", {"x": x})
    yield Call("relu_dgrad", {"y": x, "dy": dy})
    yield Call("scale", {"x": x}, {"factor": 0.3})
    yield Call("tanh_fprop", {"x": x})
    yield Call("tanh_dgrad", {"y": np.tanh(x), "dy": dy})
    yield Call("dropout_fprop", {"x": normal(3, 4, 3)}, DRAW)
    yield Call("dropout_dgrad", {"dy": normal(3, 4, 3)}, DRAW)


def _norms() -> Iterator[Call]:
    for name, case in (("lrn", LRN), ("rnorm", RNORM)):
        x, dy = normal(*case.x), normal(*case.x, seed=1)
        yield Call(f"{name}_fprop", {"x": x}, case.constants)
        yield Call(f"{name}_dgrad", {"x": x, "dy": dy}, case.constants)


def _pools() -> Iterator[Call]:
    x, dy = few_values(*POOL.x), normal(*POOL.y)
    back = {**POOL.geometry, "x_shape": POOL.x}
    where = oracle.maxpool_fprop(x, **POOL.geometry)[1].astype(np.uint8)
    yield Call("maxpool_fprop", {"x": x}, POOL.geometry)
    yield Call("maxpool_dgrad", {"dy": dy, "where": where}, back)
    yield Call("avgpool_fprop", {"x": x}, POOL.geometry)
    yield Call("avgpool_dgrad", {"dy": dy}, back)


def _norms_with_pools() -> Iterator[Call]:
    case = LRN_POOLS[0]
    x, dy = normal(*case.x), normal(*case.y, seed=1)
    where: Any = oracle.lrn_maxpool_fprop(x, **case.constants)[1].astype(case.where_dtype)
    yield Call("lrn_maxpool_fprop", {"x": x}, case.constants)
    yield Call("lrn_maxpool_dgrad", {"x": x, "dy": dy, "where": where}, case.constants)


def _rest() -> Iterator[Call]:
    wholes = [normal(2, 3, 8, seed=seed) for seed in (1, 2, 3)]
    w, v, dw = (normal(4, 3, seed=seed) for seed in (1, 2, 3))
    high, low = w.astype(BFLOAT16), generator(0).integers(0, 2**16, w.shape, np.uint16)
    losses, barriers = {"logits": normal(4, 9), "labels": classes(4, 9)}, "softmax_means_kernel"
    yield Call("softmax_cross_entropy", losses, barriers=("softmax.cu", barriers))
    yield Call("sgd_update", {"w": w, "v": v, "dw": dw}, RATES)
    yield Call("split_weights", {"w": w})
    yield Call("join_weights", {"high": high, "low": low})
    yield Call("exchange_gather", {"parts": wholes})
    yield Call("exchange_scatter_add", {"dwholes": wholes}, {"start": 4, "channels": 4})
    yield Call("sum_parts", {"parts": wholes})


# ---------------------------------------------------------------------- up to the last elements

PLACED_RATES: dict[str, Any] = {"lr": np.float32(0.5), "momentum": 0.5, "weight_decay": 0.5}
PLACED_DRAW: dict[str, Any] = {"keep": 1.0, "seed": 1, "step": np.uint32(4), "layer": 3}
GROUPED = {"stride": 1, "pad": 1, "groups": 2}
SMALL = (2, 4, 5, 6), (4, 3, 3, 3), (2, 4, 5, 4)
IN_VECTORS = (2, 4, 5, 16), (16, 3, 3, 8), (2, 4, 5, 16)
"""Shapes of x, w and y; in vectors of eight the channels and filters of a group."""
POOLED, WIDELY = {"size": 3, "stride": 2}, {"size": 17, "stride": 1}
NORM = {"size": 3, "alpha": 1.0, "beta": 0.75, "k": 2.0}
DEEP = 530
"""So deep that partial sums go through the workspace. There a row has a multiple of four columns;
the calls have such a multiple too, so that the last element of the workspace is used."""
Make = Callable[..., Any]
EACH: dict[Any, Make] = {
    FLOAT32: normal,
    BFLOAT16: lambda *shape: normal(*shape).astype(BFLOAT16),
}
"""Numbers of each type."""


def _to_learn(of: Make, shape: tuple[int, ...]) -> dict[str, Learned]:
    """Weights of a type, and biases, with learning rates on the device."""
    w, low = of(*shape), np.zeros(shape, np.uint16)
    halves = low if w.dtype == BFLOAT16 else None
    b = Learned(normal(shape[0]), normal(shape[0]), **PLACED_RATES)
    return {"w": Learned(w, normal(*shape), **PLACED_RATES, low=halves), "b": b}


def _gated(x: Any) -> dict[str, Any]:
    """The parameters of a gradient through the ReLU that produced x."""
    return {"x_shape": x.shape, "gate": x, "factor": 2.0}


def _crops() -> Iterator[Call]:
    """The last crop ends where its image does."""
    images = {"x": np.zeros((2, 7, 8, 3), np.uint8), "mean": normal(7, 8, 3)}
    crops = {
        "corners": np.array([[0, 1], [2, 3]], np.int32),
        "flips": np.array([1, 0], np.uint8),
        "shifts": normal(2, 3),
        "mean_at_pixel": True,
        "size": (5, 5),
    }
    blocks = {"block": 3, "pad": (1, 0, 0, 1), "dtype": BFLOAT16}
    yield Call("augment", images, crops, "y")
    yield Call("augment", images, crops | blocks, "y")


def _depths() -> Iterator[Call]:
    yield Call("images_to_depth", {"x": normal(2, 4, 6, 3)}, {"block": 2}, "y")
    padded = {"pad": (0, 0, 2, 0), "dtype": BFLOAT16}
    yield Call("images_to_depth", {"x": normal(2, 5, 6, 3)}, padded, "y")
    for of in EACH.values():
        yield Call("filters_to_depth", {"w": of(2, 4, 6, 3)}, {"block": 2}, "deep")
    back = {"w_shape": (2, 4, 6, 3), "block": 2}
    yield Call("filters_from_depth", {"ddeep": normal(2, 2, 3, 12)}, back, "dw")


def _convolved() -> Iterator[Call]:
    half = EACH[BFLOAT16]
    for of, shapes in ((normal, SMALL), (half, SMALL), (half, IN_VECTORS)):
        (x, w, dy), b = (of(*shape) for shape in shapes), normal(shapes[1][0])
        mask, both = Mask(**PLACED_DRAW, factor=2.0), {"x": x, "dy": dy}
        yield Call("conv_fprop", {"x": x, "w": w, "b": b}, GROUPED, "y")
        yield Call("conv_fprop", {"x": x, "w": w, "b": b}, GROUPED | {"dropout": mask}, "y")
        yield Call("conv_dgrad", {"dy": dy, "w": w}, {"x_shape": x.shape, **GROUPED}, "dx")
        yield Call("conv_dgrad", {"dy": dy, "w": w}, GROUPED | _gated(x), "dx")
        yield Call("conv_wgrad", both, {"w_shape": w.shape, **GROUPED}, "dw db")
        yield Call("conv_wgrad_sgd", both | _to_learn(of, w.shape), GROUPED)
    x, w, _ = (half(*shape) for shape in SMALL)
    both_types = GROUPED | {"dtype": np.float32}
    yield Call("conv_fprop", {"x": x, "w": w, "b": normal(len(w))}, both_types, "y")
    in_patches = {"dy": half(1, 8, 32, 32), "w": half(32, 3, 3, 16)}
    how = {"stride": 1, "pad": 1, **_gated(half(1, 8, 32, 16))}
    yield Call("conv_dgrad", in_patches, how, "dx")


def _multiplied() -> Iterator[Call]:
    half = EACH[BFLOAT16]
    for of, n, i, o in ((normal, 3, 7, 5), (half, 3, 7, 5), (half, 3, 24, 16)):
        x, w, dy = of(n, i), of(o, i), of(n, o)
        yield Call("linear_fprop", {"x": x, "w": w, "b": normal(o)}, {}, "y")
        yield Call("linear_dgrad", {"dy": dy, "w": w}, {}, "dx")
        yield Call("linear_dgrad", {"dy": dy, "w": w}, {"gate": x}, "dx")
        yield Call("linear_wgrad", {"x": x, "dy": dy}, {}, "dw db")
        yield Call("linear_wgrad_sgd", {"x": x, "dy": dy} | _to_learn(of, (o, i)))
    for of in EACH.values():
        forward = {"x": of(3, DEEP), "w": of(8, DEEP), "b": normal(8)}
        both = {"x": of(DEEP, 7), "dy": of(DEEP, 5)}
        yield Call("linear_fprop", forward, {}, "y workspace")
        yield Call("linear_dgrad", {"dy": of(3, DEEP), "w": of(DEEP, 8)}, {}, "dx workspace")
        yield Call("linear_wgrad", both, {}, "dw db workspace")
        yield Call("linear_wgrad_sgd", both | _to_learn(of, (5, 7)), {}, "workspace")


def _maps() -> Iterator[Call]:
    """Norms and pools with channels singly, and in vectors."""
    for of in EACH.values():
        for c in (3, 16):
            x, dy, where = of(2, 5, 7, c), of(2, 2, 3, c), np.zeros((2, 2, 3, c), np.uint8)
            back = {"x_shape": x.shape, **POOLED}
            yield Call("lrn_fprop", {"x": x}, NORM, "y")
            yield Call("lrn_dgrad", {"x": x, "dy": x}, NORM, "dx")
            yield Call("rnorm_fprop", {"x": x}, NORM, "y")
            yield Call("rnorm_dgrad", {"x": x, "dy": x}, NORM, "dx workspace")
            yield Call("maxpool_fprop", {"x": x}, POOLED, "y where")
            yield Call("maxpool_dgrad", {"dy": dy, "where": where}, back, "dx")
            yield Call("maxpool_dgrad", {"dy": dy, "where": where}, back | {"gate": x}, "dx")
            yield Call("avgpool_fprop", {"x": x}, POOLED, "y")
            yield Call("avgpool_dgrad", {"dy": dy}, back, "dx")
        x, dy, where = of(2, 5, 7, 16), of(2, 2, 3, 16), np.zeros((2, 2, 3, 16), np.uint8)
        how = {**NORM, "size": 5, "pool_size": 3, "pool_stride": 2}
        back = {"x": x, "dy": dy, "where": where}
        yield Call("lrn_maxpool_fprop", {"x": x}, how, "y where")
        yield Call("lrn_maxpool_dgrad", back, how | {"y": abs(dy)}, "dx")
    wide, places = normal(1, 18, 17, 2), np.zeros((1, 2, 1, 2), np.uint16)
    back = {"x_shape": wide.shape, **WIDELY}
    yield Call("maxpool_fprop", {"x": wide}, WIDELY, "y where")
    yield Call("maxpool_dgrad", {"dy": normal(1, 2, 1, 2), "where": places}, back, "dx")


def _elements() -> Iterator[Call]:
    """16 bytes at a time, and with a remainder."""
    for n in (8, 11):
        for of in EACH.values():
            yield Call("relu_fprop", {"x": of(n)}, {}, "y")
            yield Call("relu_dgrad", {"y": of(n), "dy": of(n)}, {}, "dx")
            yield Call("scale", {"x": of(n)}, {"factor": 0.5}, "y")
            yield Call("tanh_fprop", {"x": of(n)}, {}, "y")
            yield Call("tanh_dgrad", {"y": of(n), "dy": of(n)}, {}, "dx")
            yield Call("dropout_fprop", {"x": of(2, n)}, PLACED_DRAW, "y")
            yield Call("dropout_dgrad", {"dy": of(2, n)}, PLACED_DRAW, "dx")
        w, half, low = normal(n), EACH[BFLOAT16](n), np.zeros(n, np.uint16)
        yield Call("sgd_update", {"w": w, "v": w, "dw": w}, PLACED_RATES)
        yield Call("sgd_update", {"w": half, "v": w, "dw": w}, PLACED_RATES | {"low": low})
        yield Call("split_weights", {"w": w}, {}, "high low")
        yield Call("join_weights", {"high": half, "low": low}, {}, "w")


def _exchanged() -> Iterator[Call]:
    """Channels, or elements, four at a time, and singly; and a loss."""
    for c in (4, 3):
        for of in EACH.values():
            parts = [of(3, c) for _ in range(3)]
            yield Call("sum_parts", {"parts": parts}, {}, "total")
        share = {"start": 8 - c, "channels": c}
        yield Call("exchange_gather", {"parts": [normal(3, 4), normal(3, c)]}, {}, "whole")
        yield Call("exchange_scatter_add", {"dwholes": [normal(3, 8)] * 2}, share, "dpart")
    of_rows = {"logits": normal(5, 9), "labels": classes(5, 9)}
    yield Call("softmax_cross_entropy", of_rows, {}, "loss dlogits top1 top5 workspace")


# ---------------------------------------------------------------------- the table

EXAMPLES = {
    call.op: call
    for group in (
        *(_images, _filters, _convolutions, _linears, _neurons, _norms, _pools),
        *(_norms_with_pools, _rest),
    )
    for call in group()
}
TO_THE_ENDS = [
    call
    for group in (_crops, _depths, _convolved, _multiplied, _maps, _elements, _exchanged)
    for call in group()
]
IN_BFLOAT16 = {
    call.op
    for call in TO_THE_ENDS
    if {*call.inputs} <= {"x", "y", "dy", "where"}
    and not call.op.startswith(("conv_", "linear_"))  # whose forms are in _fused
    and any(array.dtype == BFLOAT16 for array in call.inputs.values())
}
"""The ops that take maps of either type: those with a call to the ends in bfloat16."""
ELEMENTWISE = tuple(dict.fromkeys(call.op for call in _elements()))
"""The ops whose first array may have any shape; the others have to follow it."""
# All but the updates, which work in place and return nothing.
RETURNING = [example for op, example in EXAMPLES.items() if not op.endswith(("_sgd", "_update"))]


def _fused() -> list[Any]:
    """The operations fused into conv and linear, on either type."""
    found: list[Any] = []
    for dtype in (FLOAT32, BFLOAT16):
        x, w, dy = (normal(*shape).astype(dtype) for shape in (CONV.x, CONV.w, CONV.y))
        after = {"activation": "relu", "dropout": Mask(**DRAW, factor=0.5)}
        back = {"x_shape": CONV.x, "gate": x, "factor": 0.5}
        inputs, outputs, weights = (
            normal(*shape).astype(dtype) for shape in ((3, 8), (3, 16), (16, 8))
        )
        calls = [
            Call("conv_fprop", {"x": x, "w": w, "b": normal(len(w))}, CONV.geometry | after),
            Call("conv_dgrad", {"dy": dy, "w": w}, CONV.geometry | back),
            Call("conv_wgrad", {"x": x, "dy": dy}, {"w_shape": CONV.w, **CONV.geometry}),
            Call("linear_fprop", {"x": inputs, "w": weights, "b": normal(16)}, after),
            Call("linear_dgrad", {"dy": outputs, "w": weights}, {"gate": inputs}),
            Call("linear_wgrad", {"x": inputs, "dy": outputs}),
        ]
        found += [pytest.param(call, id=f"{call}-fused-{dtype}") for call in calls]
    return found


def _through_relus() -> list[Any]:
    """Pools between ReLUs, on maps of either type."""
    pool, norm, back = (
        EXAMPLES[op] for op in ("maxpool_dgrad", "lrn_maxpool_fprop", "lrn_maxpool_dgrad")
    )
    y = normal(*LRN_POOLS[0].y, seed=5)
    calls = [
        replace(pool, parameters=pool.parameters | {"gate": normal(*POOL.x, seed=5)}),
        replace(norm, parameters=norm.parameters | {"relu": True}),
        replace(back, parameters=back.parameters | {"gated": True, "y": y}),
    ]
    return [
        pytest.param(form, id=f"{call}-relus{suffix}")
        for call in calls
        for form, suffix in ((call, ""), (call.in_bfloat16, "-bfloat16"))
    ]


def _in_each_type() -> Iterator[Any]:
    """In bfloat16 too if the op takes it."""
    for call in RETURNING:
        yield pytest.param(call, id=call.op)
        if call.op in IN_BFLOAT16:
            yield pytest.param(call.in_bfloat16, id=f"{call}-bfloat16")


OF_EACH_ELEMENT = [*_fused(), *_through_relus(), *_in_each_type()]
"""The same calls on maps of either type, and the fused ones."""

# ---------------------------------------------------------------------- in the bindings


class _Recorder(ReferenceBackend):
    """Keeps the arguments of its last call of the bindings."""

    arguments: tuple[Any, ...]

    def _run(self, op: str, *arguments: Any) -> None:
        self.arguments = arguments


class Bound(NamedTuple):
    """The arguments of the bindings' function, but where it runs; the places of new arrays."""

    arguments: tuple[Any, ...]
    results: tuple[int, ...]


def bound(call: Call) -> Bound:
    """The call as the bindings get it."""
    recorder = _Recorder()
    inputs = [place(recorder, value) for value in call.inputs.values()]
    parameters = {name: _placed(recorder, one) for name, one in call.parameters.items()}
    getattr(recorder, call.op)(*inputs, **parameters)
    given = {id(one) for one in [*inputs, *parameters.values()]}
    results = [
        number
        for number, one in enumerate(recorder.arguments)
        if isinstance(one, np.ndarray) and id(one) not in given
    ]
    return Bound(recorder.arguments, tuple(results))


@cache
def in_the_bindings() -> dict[str, list[Bound]]:
    """Every call of the table, by its op."""
    found: dict[str, list[Bound]] = {}
    for call in (*EXAMPLES.values(), *TO_THE_ENDS):
        found.setdefault(call.op, []).append(bound(call))
    return found
