"""One small call of every op, for tests of properties that all ops share.

test_examples.py checks that no op is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bench import oracle
from pyalexnet.backends.elements import BFLOAT16, FLOAT32
from pyalexnet.backends.learned import Learned
from pyalexnet.backends.masks import Mask
from samples import classes, few_values, generator, normal, pixels
from shapes import CONVS, LRN_POOLS, LRNS, POOLS, RNORMS

CONV, LRN, RNORM, POOL = CONVS[1], LRNS[1], RNORMS[0], POOLS[1]
IN_BFLOAT16 = {
    f"{op}_{which}"
    for op in ("relu", "tanh", "dropout", "lrn", "rnorm", "maxpool", "avgpool", "lrn_maxpool")
    for which in ("fprop", "dgrad")
} | {"scale"}
"""The ops that take maps of either type."""
RATES: dict[str, Any] = {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.5}
DRAW: dict[str, Any] = {"keep": 0.3, "seed": 11, "step": 7, "layer": 2}


@dataclass(frozen=True)
class Example:
    """A call `op(*inputs, **parameters)`; inputs are NumPy arrays, lists of them, or Learned."""

    op: str
    inputs: dict[str, Any]
    parameters: dict[str, Any]

    def __str__(self) -> str:
        return self.op

    def keywords(self, be: Any) -> dict[str, Any]:
        """The parameters, with a ReLU's outputs placed on the device."""
        return {
            name: be.asarray(value) if name in ("gate", "y") else value
            for name, value in self.parameters.items()
        }

    @property
    def in_bfloat16(self) -> Example:
        """The same call with its maps, if any, in bfloat16."""

        def rounded(values: dict[str, Any]) -> dict[str, Any]:
            maps = ("x", "y", "dy", "gate")
            return {
                name: value.astype(BFLOAT16) if name in maps else value
                for name, value in values.items()
            }

        return Example(self.op, rounded(self.inputs), rounded(self.parameters))


def _images() -> list[Example]:
    """Mirrored and not; all arrays but images and mean are parameters and may be on the host."""
    x, mean = pixels(3, 7, 6, 3), normal(7, 6, 3)
    where = {
        "corners": np.array([[0, 2], [1, 0], [2, 1]], np.int32),
        "flips": np.array([0, 1, 1], np.uint8),
        "shifts": normal(3, 3),
        "size": (5, 4),
        "scale": 0.3,
    }
    return [Example("augment", {"x": x, "mean": mean}, where)]


def _filters() -> list[Example]:
    w, ddeep = normal(4, 5, 3, 2), normal(4, 3, 2, 8)
    back = {"w_shape": w.shape, "block": 2}
    return [
        Example("images_to_depth", {"x": normal(3, 5, 4, 2)}, {"block": 2, "pad": 1}),
        Example("filters_to_depth", {"w": w}, {"block": 2}),
        Example("filters_from_depth", {"ddeep": ddeep}, back),
    ]


def _convolutions() -> list[Example]:
    x, w, b, dy = normal(*CONV.x), normal(*CONV.w), normal(CONV.w[0]), normal(*CONV.y)
    return [
        Example("conv_fprop", {"x": x, "w": w, "b": b}, CONV.geometry),
        Example("conv_dgrad", {"dy": dy, "w": w}, {"x_shape": CONV.x, **CONV.geometry}),
        Example("conv_wgrad", {"x": x, "dy": dy}, {"w_shape": CONV.w, **CONV.geometry}),
        Example("conv_wgrad_sgd", {"x": x, "dy": dy, **_learned(CONV.w)}, CONV.geometry),
    ]


def _linears() -> list[Example]:
    x, w, b, dy = normal(3, 7), normal(5, 7), normal(5), normal(3, 5)
    return [
        Example("linear_fprop", {"x": x, "w": w, "b": b}, {}),
        Example("linear_dgrad", {"dy": dy, "w": w}, {}),
        Example("linear_wgrad", {"x": x, "dy": dy}, {}),
        Example("linear_wgrad_sgd", {"x": x, "dy": dy, **_learned(w.shape)}, {}),
    ]


def _learned(shape: tuple[int, ...]) -> dict[str, Learned]:
    """Weights of a shape, and one bias per index of the first axis."""
    return {
        name: Learned(normal(*own, seed=8), normal(*own, seed=9), **RATES)
        for name, own in (("w", shape), ("b", shape[:1]))
    }


def _neurons() -> list[Example]:
    x, dy = normal(3, 5, 2), normal(3, 5, 2, seed=1)
    return [
        Example("relu_fprop", {"x": x}, {}),
        Example("relu_dgrad", {"y": x, "dy": dy}, {}),
        Example("scale", {"x": x}, {"factor": 0.3}),
        Example("tanh_fprop", {"x": x}, {}),
        Example("tanh_dgrad", {"y": np.tanh(x), "dy": dy}, {}),
        Example("dropout_fprop", {"x": normal(3, 4, 3)}, DRAW),
        Example("dropout_dgrad", {"dy": normal(3, 4, 3)}, DRAW),
    ]


def _norms() -> list[Example]:
    return [
        example
        for name, case in (("lrn", LRN), ("rnorm", RNORM))
        for example in (
            Example(f"{name}_fprop", {"x": normal(*case.x)}, case.constants),
            Example(
                f"{name}_dgrad",
                {"x": normal(*case.x), "dy": normal(*case.x, seed=1)},
                case.constants,
            ),
        )
    ]


def _pools() -> list[Example]:
    x, dy = few_values(*POOL.x), normal(*POOL.y)
    back = {**POOL.geometry, "x_shape": POOL.x}
    where = oracle.maxpool_fprop(x, **POOL.geometry)[1].astype(np.uint8)
    return [
        Example("maxpool_fprop", {"x": x}, POOL.geometry),
        Example("maxpool_dgrad", {"dy": dy, "where": where}, back),
        Example("avgpool_fprop", {"x": x}, POOL.geometry),
        Example("avgpool_dgrad", {"dy": dy}, back),
    ]


def _norms_with_pools() -> list[Example]:
    case = LRN_POOLS[0]
    x, dy = normal(*case.x), normal(*case.y, seed=1)
    where: Any = oracle.lrn_maxpool_fprop(x, **case.constants)[1].astype(case.where_dtype)
    back = {"x": x, "dy": dy, "where": where}
    return [
        Example("lrn_maxpool_fprop", {"x": x}, case.constants),
        Example("lrn_maxpool_dgrad", back, case.constants),
    ]


def _rest() -> list[Example]:
    wholes = [normal(2, 3, 8, seed=seed) for seed in (1, 2, 3)]
    w, v, dw = (normal(4, 3, seed=seed) for seed in (1, 2, 3))
    high, low = w.astype(BFLOAT16), generator(0).integers(0, 2**16, w.shape, np.uint16)
    return [
        Example("softmax_cross_entropy", {"logits": normal(4, 9), "labels": classes(4, 9)}, {}),
        Example("sgd_update", {"w": w, "v": v, "dw": dw}, RATES),
        Example("split_weights", {"w": w}, {}),
        Example("join_weights", {"high": high, "low": low}, {}),
        Example("exchange_gather", {"parts": wholes}, {}),
        Example("exchange_scatter_add", {"dwholes": wholes}, {"start": 4, "channels": 4}),
    ]


EXAMPLES = {
    example.op: example
    for group in (
        _images,
        _filters,
        _convolutions,
        _linears,
        _neurons,
        _norms,
        _pools,
        _norms_with_pools,
        _rest,
    )
    for example in group()
}
# All but the updates, which work in place and return nothing.
RETURNING = [example for op, example in EXAMPLES.items() if not op.endswith(("_sgd", "_update"))]


def _fused() -> list[Any]:
    """The operations fused into conv and linear, on either type."""
    examples: list[Any] = []
    for dtype in (FLOAT32, BFLOAT16):
        x, w, dy = (normal(*shape).astype(dtype) for shape in (CONV.x, CONV.w, CONV.y))
        after = {"activation": "relu", "dropout": Mask(**DRAW, factor=0.5)}
        back = {"x_shape": CONV.x, "gate": x, "factor": 0.5}
        inputs, outputs, weights = (
            normal(*shape).astype(dtype) for shape in ((3, 8), (3, 16), (16, 8))
        )
        calls = [
            Example("conv_fprop", {"x": x, "w": w, "b": normal(len(w))}, CONV.geometry | after),
            Example("conv_dgrad", {"dy": dy, "w": w}, CONV.geometry | back),
            Example("conv_wgrad", {"x": x, "dy": dy}, {"w_shape": CONV.w, **CONV.geometry}),
            Example("linear_fprop", {"x": inputs, "w": weights, "b": normal(16)}, after),
            Example("linear_dgrad", {"dy": outputs, "w": weights}, {"gate": inputs}),
            Example("linear_wgrad", {"x": inputs, "dy": outputs}, {}),
        ]
        examples += [pytest.param(call, id=f"{call}-fused-{dtype}") for call in calls]
    return examples


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


# The same calls, in bfloat16 too where the op takes it, and the fused ones.
OF_EACH_ELEMENT = [
    *_fused(),
    *_through_relus(),
    *(
        pytest.param(example, id=f"{example}{suffix}")
        for original in RETURNING
        for example, suffix in (
            [(original, ""), (original.in_bfloat16, "-bfloat16")]
            if original.op in IN_BFLOAT16
            else [(original, "")]
        )
    ),
]
