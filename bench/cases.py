"""What is timed, as data: every operation of a network's training step, with its sizes.

`of` has the operations layer by layer, `fused` those of the fusion plan that fuse layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.elements import BFLOAT16, FLOAT32
from pyalexnet.backends.learned import Learned
from pyalexnet.backends.masks import Mask
from pyalexnet.nets.layers import LRN, AvgPool, Conv, Dropout, Layer, Linear, MaxPool, Relu, RNorm
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step import plan
from pyalexnet.step.calls import Call, Draw, Operand, PerImage, Plan, name_of
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
    "where": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
}
# Arrays without the batch's axis.
_SHARED = ("w", "b", "v", "low", "dw", "db", "loss", "top1", "top5")


@dataclass(frozen=True)
class Case:
    """One call of a backend's operation.

    op: the method's name. inputs: shapes of its arrays, by argument; "w.v" and "w.low" belong to
    the `Learned` w. settings: its other arguments. outputs: shapes of its results, in order; inputs
    among them are changed in place. flops: of its products; 0 if it is bound by memory traffic.
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
        return _DTYPES.get(name, plan.element(self.precision))

    def arguments(self, arrays: Arrays) -> dict[str, Any]:
        """What the operation is called with; arrays may be those of any backend."""
        learned = [name.removesuffix(".v") for name in arrays if name.endswith(".v")]
        given: dict[str, Any] = {
            n: a for n, a in arrays.items() if "." not in n and n not in learned
        }
        for name in learned:
            low = arrays.get(f"{name}.low")
            given[name] = Learned(w=arrays[name], v=arrays[f"{name}.v"], low=low, **RULE)
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
        if name not in self.per_image:
            return source.standard_normal(shape, np.float32).astype(dtype)
        few = source.standard_normal((min(shape[0], _DIFFERENT_IMAGES), *shape[1:]), np.float32)
        return np.resize((few * np.float32(self._scale(name))).astype(dtype), shape)

    def _pooled(self, drawn: Arrays) -> Arrays:
        """What the gradient needs from the forward pass: maxima, and their places."""
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


def of(spec: NetSpec, batch: int, precision: Precision = "fp32") -> Iterator[Case]:
    """The operations of a training step of `batch` images, layer by layer."""
    weights_seen = False
    for layer, in_shape, out_shape in spec.walk():
        x, y = (batch, *in_shape), (batch, *out_shape)
        for case in _layer(layer, x, y, spec.name):
            # Below the first layer with weights no gradient is needed.
            if weights_seen or not case.op.endswith("_dgrad"):
                yield dataclasses.replace(case, precision=precision)
        weights_seen = weights_seen or bool(layer.param_shapes(in_shape))
    yield _softmax(spec, batch, precision)
    yield _update(spec, batch, precision)


def fused(spec: NetSpec, batch: int, precision: Precision) -> Iterator[Case]:
    """The operations of the fused step that `of` lacks, as the fusion plan calls them."""
    made = plan.make(spec, goal="update", precision=precision, source="images")
    for call in made.calls:
        if name := _fused_name(call):
            yield _planned(made, call, name, spec.name, batch, precision)


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


_RESULTS = {"fprop": ("y", "where"), "dgrad": ("dx",), "wgrad": ("dw", "db")}


def _planned(made: Plan, call: Call, name: str, net: str, batch: int, precision: Precision) -> Case:
    def shape(operand: Operand) -> Shape:
        own = made.shape(operand)
        return (batch, *own) if made.arrays[name_of(operand)].per_image else own

    inputs = {argument: shape(operand) for argument, operand in call.reads.items()}
    outputs: dict[str, Shape] = {}
    for argument, parameter in call.learns.items():
        suffixes = [array.removeprefix(parameter) for array in made.learned(parameter)]
        inputs |= {f"{argument}{suffix}": made.arrays[parameter].shape for suffix in suffixes}
        outputs |= {f"{argument}{suffix}": made.arrays[parameter].shape for suffix in ("", ".v")}
    if not call.learns:
        results = _RESULTS[call.op.split("_")[-1]]
        outputs = {n: shape(o) for n, o in zip(results, call.writes, strict=False)}
    settings = {key: _setting(value, batch) for key, value in call.settings.items()}
    work = made.flops(call, batch)
    return Case(name, net, batch, call.op, inputs, settings, outputs, work, precision)


def _setting(value: Any, batch: int) -> Any:
    if isinstance(value, PerImage):
        return (batch, *value.shape)
    if isinstance(value, Draw):
        return Mask(keep=value.keep, factor=value.factor, **_DRAW)
    return value


def _layer(layer: Layer, x: Shape, y: Shape, net: str) -> Iterator[Case]:
    if isinstance(layer, Conv):
        yield from _conv(layer, x, y, net)
    elif isinstance(layer, Linear):
        yield from _linear(layer, x, y, net)
    elif isinstance(layer, LRN):
        settings = {"groups": layer.groups, **_norm(layer)}
        yield from _norms(layer.name, "lrn", x, settings, net)
    elif isinstance(layer, RNorm):
        yield from _norms(layer.name, "rnorm", x, _norm(layer), net)
    elif isinstance(layer, MaxPool | AvgPool):
        yield from _pools(layer, x, y, net)
    elif isinstance(layer, Relu):
        yield Case(f"{layer.name} fprop", net, x[0], "relu_fprop", {"x": x}, {}, {"y": y})
        given = {"y": y, "dy": y}
        yield Case(f"{layer.name} dgrad", net, x[0], "relu_dgrad", given, {}, {"dx": x})
    elif isinstance(layer, Dropout):
        draw = {"keep": layer.keep, **_DRAW}
        yield Case(layer.name, net, x[0], "dropout_fprop", {"x": x}, draw, {"y": y})


def _conv(layer: Conv, x: Shape, y: Shape, net: str) -> Iterator[Case]:
    w = layer.param_shapes(x[1:])[layer.w]
    b = (layer.filters,)
    geometry = {"stride": layer.stride, "pad": layer.pad, "groups": layer.groups}
    flops = 2.0 * x[0] * layer.macs(x[1:])
    forward = {**geometry, "activation": layer.activation}
    given = {"x": x, "w": w, "b": b}
    name, batch = layer.name, x[0]
    yield Case(f"{name} fprop", net, batch, "conv_fprop", given, forward, {"y": y}, flops)
    given, settings = {"dy": y, "w": w}, {"x_shape": x, **geometry}
    yield Case(f"{name} dgrad", net, batch, "conv_dgrad", given, settings, {"dx": x}, flops)
    given, settings = {"x": x, "dy": y}, {"w_shape": w, **geometry}
    out = {"dw": w, "db": b}
    yield Case(f"{name} wgrad", net, batch, "conv_wgrad", given, settings, out, flops)


def _linear(layer: Linear, x: Shape, y: Shape, net: str) -> Iterator[Case]:
    flops = 2.0 * x[0] * layer.macs(x[1:])
    batch, rows = x[0], (x[0], math.prod(x[1:]))
    w, b, name = (layer.outputs, rows[1]), (layer.outputs,), layer.name
    given, settings = {"x": rows, "w": w, "b": b}, {"activation": layer.activation}
    yield Case(f"{name} fprop", net, batch, "linear_fprop", given, settings, {"y": y}, flops)
    given = {"dy": y, "w": w}
    yield Case(f"{name} dgrad", net, batch, "linear_dgrad", given, {}, {"dx": rows}, flops)
    given, out = {"x": rows, "dy": y}, {"dw": w, "db": b}
    yield Case(f"{name} wgrad", net, batch, "linear_wgrad", given, {}, out, flops)


def _norm(layer: LRN | RNorm) -> dict[str, Any]:
    return {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "k": layer.k}


def _norms(name: str, kind: str, x: Shape, settings: dict[str, Any], net: str) -> Iterator[Case]:
    yield Case(f"{name} fprop", net, x[0], f"{kind}_fprop", {"x": x}, settings, {"y": x})
    given = {"x": x, "dy": x}
    yield Case(f"{name} dgrad", net, x[0], f"{kind}_dgrad", given, settings, {"dx": x})


def _pools(layer: MaxPool | AvgPool, x: Shape, y: Shape, net: str) -> Iterator[Case]:
    window = {"size": layer.size, "stride": layer.stride, "ceil": layer.ceil}
    places = {"where": y} if isinstance(layer, MaxPool) else {}
    kind = "maxpool" if isinstance(layer, MaxPool) else "avgpool"
    name, batch = layer.name, x[0]
    yield Case(f"{name} fprop", net, batch, f"{kind}_fprop", {"x": x}, window, {"y": y, **places})
    settings = {"x_shape": x, **window}
    given = {"dy": y, **places}
    yield Case(f"{name} dgrad", net, batch, f"{kind}_dgrad", given, settings, {"dx": x})


def _softmax(spec: NetSpec, batch: int, precision: Precision) -> Case:
    logits = (batch, spec.classes)
    out: dict[str, Shape] = {"loss": (), "dlogits": logits, "top1": (), "top5": ()}
    given = {"logits": logits, "labels": (batch,)}
    settings = {"dtype": BFLOAT16} if precision == "bf16" else {}
    op = "softmax_cross_entropy"
    return Case("softmax, loss", spec.name, batch, op, given, settings, out, 0.0, precision)


def _update(spec: NetSpec, batch: int, precision: Precision) -> Case:
    """The update of the largest parameter, which takes most of the update's time by far."""
    shapes = [s for layer, i, _ in spec.walk() for s in layer.param_shapes(i).items()]
    name, shape = max(shapes, key=lambda one: math.prod(one[1]))
    given, out = {"w": shape, "v": shape, "dw": shape}, {"w": shape, "v": shape}
    if precision == "bf16":
        given["low"] = shape
    about = (f"update {name}", spec.name, batch, "sgd_update")
    return Case(*about, given, dict(RULE), out, 0.0, precision)


def _places(shape: Shape, settings: dict[str, Any], source: np.random.Generator) -> NDArray[Any]:
    """Places r * size + s inside their windows, for maps (N, P, Q, C)."""
    _, h, w, _ = settings["x_shape"]
    size, stride = settings["size"], settings["stride"]
    down = np.minimum(size, h - stride * np.arange(shape[1])).reshape(1, -1, 1, 1)
    right = np.minimum(size, w - stride * np.arange(shape[2])).reshape(1, 1, -1, 1)
    few = (min(shape[0], _DIFFERENT_IMAGES), *shape[1:])
    places = source.integers(0, down, few) * size + source.integers(0, right, few)
    return np.resize(places.astype(np.uint8), shape)
