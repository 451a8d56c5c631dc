"""The timed operations as data: all of a network's training step, with their sizes.

`of` returns the operations layer by layer, `fused` those of the fusion plan that fuse layers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.nets.calls import Call, Draw, Operand, Plan, is_product, name_of
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ops.records import Learned, Mask
from pyalexnet.step import plan
from pyalexnet.step.plan import Precision

from .reference import ReferenceBackend

Arrays: TypeAlias = dict[str, NDArray[Any]]
Shape: TypeAlias = tuple[int, ...]

# Random images before they repeat. A prime: a kernel that confuses one image with a neighbour, or
# with one a power of two away, then reads different numbers.
_DIFFERENT_IMAGES = 31


RULE = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
"""The paper's, for every update."""

_DRAW = {"seed": 1, "step": 2, "layer": 3}
# Types that no precision changes; all other arrays have the type of the maps.
_DTYPES: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(("b", "db", "dw", "v", "w.v", "b.v", "logits", "loss"), FLOAT32),
    **dict.fromkeys(("top1", "top5"), FLOAT32),
    **dict.fromkeys(("low", "w.low"), np.dtype(np.uint16)),
    **dict.fromkeys(("mean", "ddeep"), FLOAT32),
    "high": BFLOAT16,
    "where": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
}
# Arrays without the batch's axis.
_SHARED = (
    *("w", "b", "v", "low", "high", "dw", "db", "loss", "top1", "top5"),
    *("mean", "deep", "ddeep", "parts", "whole", "dwholes", "dpart", "total"),
)


@dataclass(frozen=True)
class Case:
    """One call of a backend's operation.

    op: the method's name. inputs: shapes of its arrays, by argument; "w.v" and "w.low" belong to
    the `Learned` w, "parts.0" is the first of a list. settings: its other arguments. outputs:
    shapes of its results, in order; inputs among them are changed in place. flops: of its products;
    0 if it is bound by memory traffic.
    """

    name: str
    net: str
    batch: int
    op: str
    inputs: dict[str, Shape]
    settings: dict[str, Any]
    outputs: dict[str, Shape]
    flops: float = 0.0
    precision: Precision = "fp32"

    @property
    def per_image(self) -> tuple[str, ...]:
        """Inputs and outputs whose first axis is the batch."""
        names = (*self.inputs, *self.outputs)
        return tuple(name for name in names if name.partition(".")[0] not in _SHARED)

    @property
    def sums_images(self) -> bool:
        """Whether an output adds up over the batch."""
        return "_wgrad" in self.op

    @property
    def drops(self) -> bool:
        """Whether a mask is applied, which depends on an image's place in the batch."""
        return bool({"dropout", "keep"} & set(self.settings))

    @property
    def in_place(self) -> bool:
        """Whether it changes inputs, and returns nothing."""
        return all(name in self.inputs for name in self.outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of each input and output, once; an array changed in place counts as both."""
        arrays = [*self.inputs.items(), *self.outputs.items()]
        halves = [(n, s) for n, s in self.inputs.items() if self.in_place and n.endswith("low")]
        return sum(
            math.prod(shape) * self.dtype(name).itemsize for name, shape in (*arrays, *halves)
        )

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of an input or output."""
        if self.op == "augment" and name == "x":
            return np.dtype(np.uint8)
        return _DTYPES.get(name, plan.element(self.precision))

    def arguments(self, arrays: Arrays) -> dict[str, Any]:
        """The operation's arguments; arrays may be those of any backend."""
        learned = [name.removesuffix(".v") for name in arrays if name.endswith(".v")]
        given: dict[str, Any] = {
            n: a for n, a in arrays.items() if "." not in n and n not in learned
        }
        for name in learned:
            low = arrays.get(f"{name}.low")
            given[name] = Learned(w=arrays[name], v=arrays[f"{name}.v"], low=low, **RULE)
        for name, array in arrays.items():
            of_list, _, number = name.partition(".")
            if number.isdigit():
                given.setdefault(of_list, []).append(array)
        return given | self.settings

    def arrays(self, seed: int = 0) -> Arrays:
        """Random inputs: standard normal numbers, labels, places in pooling windows."""
        source = np.random.Generator(np.random.Philox(key=[seed, len(self.name)]))
        drawn = {name: self._array(name, shape, source) for name, shape in self.inputs.items()}
        if self.op == "lrn_maxpool_dgrad":
            drawn |= self._pooled(drawn)
        return drawn

    def _array(self, name: str, shape: Shape, source: np.random.Generator) -> NDArray[Any]:
        if name == "labels":
            return source.integers(0, self.inputs["logits"][1], shape)
        if name == "where":
            if self.op == "lrn_maxpool_dgrad":  # where the maxima of x lie: see `_pooled`
                return np.zeros(shape, np.uint8)
            return _places(shape, self.settings, source)
        if name.endswith("low"):
            return source.integers(0, 2**16, shape, np.uint16)
        dtype = self.dtype(name)
        if dtype == np.uint8:
            return source.integers(0, 256, shape, np.uint8)
        if name not in self.per_image:
            return source.standard_normal(shape, np.float32).astype(dtype)
        few = source.standard_normal((min(shape[0], _DIFFERENT_IMAGES), *shape[1:]), np.float32)
        return np.resize((few * np.float32(self._scale(name))).astype(dtype), shape)

    def _pooled(self, drawn: Arrays) -> Arrays:
        """Results of the forward pass that the gradient needs: maxima, and their places."""
        few = min(self.batch, _DIFFERENT_IMAGES)
        forward = {n: v for n, v in self.settings.items() if n != "gated"}
        x = drawn["x"][:few].astype(np.float32)
        made = ReferenceBackend().lrn_maxpool_fprop(x, **forward, relu="y" in self.inputs)
        return {
            name: np.resize(array.astype(self.dtype(name)), self.inputs[name])
            for name, array in zip(("y", "where"), made, strict=True)
            if name in self.inputs
        }

    def _scale(self, name: str) -> float:
        """Standard deviation of an input: for norms, such that the squares count as much as `k`.

        At 1 the paper's alpha would make a norm nearly the identity, and any window would pass.
        """
        if name != "x" or "alpha" not in self.settings:
            return 1.0
        units = self.settings["size"] ** (2 if self.op.startswith("rnorm") else 1)
        return math.sqrt(self.settings["k"] / (self.settings["alpha"] * units))


def of(spec: NetSpec, batch: int, precision: Precision = "fp32") -> list[Case]:
    """The operations of a training step of `batch` images, layer by layer.

    Only the largest update is included, which takes by far the most time.
    """
    made = plan.make(spec, goal="update", precision=precision, fused=False)
    largest = max(spec.param_shapes().items(), key=lambda one: math.prod(one[1]))[0]
    by_layer: dict[str, list[Case]] = {layer.name: [] for layer in spec.layers}
    forward: dict[str, list[str]] = {}
    ends = []
    for call in made.calls:
        pass_of, about = call.op.split("_")[-1], (spec.name, batch, precision)
        if call.op == "softmax_cross_entropy":
            ends.append(_planned(made, call, "softmax, loss", *about))
        elif call.learns == {"": largest}:
            ends.append(_planned(made, call, f"update {largest}", *about))
        elif (layer := _layer(call, forward)) is not None:
            by_layer[layer].append(_planned(made, call, f"{layer} {pass_of}", *about))
    return [*itertools.chain.from_iterable(by_layer.values()), *ends]


def _layer(call: Call, forward: dict[str, list[str]]) -> str | None:
    """The layer whose pass an operation is; None for the rest of a step: casts, scaling,
    small updates, and gradients through the activation of a product.

    forward: by kind, the layers that still have their backward pass before them; changed.
    """
    kind, _, pass_of = call.op.rpartition("_")
    if pass_of not in ("fprop", "dgrad", "wgrad"):
        return None
    if is_product(call.op):
        return name_of(call.writes[0] if pass_of == "wgrad" else call.reads["w"]).partition(".")[0]
    waiting = forward.setdefault(kind, [])
    if pass_of == "fprop":
        waiting.append(name_of(call.writes[0]))
    elif kind == "relu" and name_of(call.reads["y"]) not in waiting:
        return None
    return waiting[-1] if pass_of == "fprop" else waiting.pop()


def fused(spec: NetSpec, batch: int, precision: Precision) -> list[Case]:
    """The operations of the fused step that `of` lacks, as the fusion plan calls them."""
    made = plan.make(spec, goal="update", precision=precision, source="images")
    return [
        _planned(made, call, name, spec.name, batch, precision)
        for call in made.calls
        if (name := _fused_name(call))
    ]


def _fused_name(call: Call) -> str | None:
    """The layer, and what is fused with it; None for an operation of a single layer."""
    pass_of = call.op.split("_")[-1]
    if call.op.startswith("lrn_maxpool_"):
        pool = next(n for n in map(name_of, call.operands()) if n.endswith(".where"))
        return f"norm + {pool.removesuffix('.where')} {pass_of}"
    if call.op.endswith("_sgd"):
        return f"{call.learns['w'].removesuffix('.w')} wgrad + update"
    if "gate" in call.reads:
        layer = name_of(call.reads.get("w") or call.reads["where"]).partition(".")[0]
        return f"{layer} dgrad + relu"
    if "dropout" in call.settings:
        return f"{name_of(call.reads['w']).removesuffix('.w')} fprop + dropout"
    blocks = [n for n in map(name_of, call.operands()) if ".w.deep" in n]
    if blocks and call.op.startswith("conv_"):
        return f"{blocks[0].partition('.')[0]} {pass_of} in blocks"
    return None


_RESULTS = {
    "fprop": ("y", "where"),
    "dgrad": ("dx",),
    "wgrad": ("dw", "db"),
    "entropy": ("loss", "dlogits", "top1", "top5"),
}


def _planned(made: Plan, call: Call, name: str, net: str, batch: int, precision: Precision) -> Case:
    def shape(operand: Operand) -> Shape:
        own = made.shape(operand)
        return (batch, *own) if made.arrays[name_of(operand)].per_image else own

    inputs = {argument: shape(operand) for argument, operand in call.reads.items()}
    settings: dict[str, Any] = {}
    for key, value in call.settings.items():
        settings |= _setting(key, value, batch)
    outputs: dict[str, Shape] = {}
    for argument, parameter in call.learns.items():
        own = made.arrays[parameter].shape
        for array in made.learned(parameter):
            suffix = array.removeprefix(parameter)
            # An update alone has its own arguments, the products have a `Learned`.
            learned = f"{argument}{suffix}" if argument else suffix.removeprefix(".") or "w"
            inputs[learned] = own
            if not suffix.endswith("low"):
                outputs[learned] = own
        if not argument:
            settings |= RULE
    if not call.learns:
        results = _RESULTS[call.op.split("_")[-1]]
        outputs = {n: shape(o) for n, o in zip(results, call.writes, strict=False)}
    work = made.flops(call, batch)
    return Case(name, net, batch, call.op, inputs, settings, outputs, work, precision)


def _setting(key: str, value: Any, batch: int) -> dict[str, Any]:
    """A setting of a planned call as an argument of the operation."""
    if key == "x_shape":
        return {key: (batch, *value)}
    if isinstance(value, Draw):
        drawn = Mask(keep=value.keep, factor=value.factor, **_DRAW)
        return {"keep": value.keep, **_DRAW} if key == "mask" else {key: drawn}
    return {key: value}


def _places(shape: Shape, settings: dict[str, Any], source: np.random.Generator) -> NDArray[Any]:
    """Places r * size + s inside their windows, for maps (N, P, Q, C)."""
    _, h, w, _ = settings["x_shape"]
    size, stride = settings["size"], settings["stride"]
    down = np.minimum(size, h - stride * np.arange(shape[1])).reshape(1, -1, 1, 1)
    right = np.minimum(size, w - stride * np.arange(shape[2])).reshape(1, 1, -1, 1)
    few = (min(shape[0], _DIFFERENT_IMAGES), *shape[1:])
    places = source.integers(0, down, few) * size + source.integers(0, right, few)
    return np.resize(places.astype(np.uint8), shape)
