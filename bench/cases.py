"""What is timed, as data: every operation of a network's training step, with its sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.layers import LRN, AvgPool, Conv, Dropout, Layer, Linear, MaxPool, Relu, RNorm
from pyalexnet.net import NetSpec

Arrays: TypeAlias = dict[str, NDArray[Any]]
Shape: TypeAlias = tuple[int, ...]

# Random images before they repeat. A prime: a kernel that confuses one image with a neighbour, or
# with one that lies a power of two away, meets other numbers.
_DIFFERENT_IMAGES = 31


@dataclass(frozen=True)
class Case:
    """One call of a backend's operation.

    op: the method's name. inputs: shapes of its arrays, in order. settings: its other arguments.
    outputs: shapes of what it gives. flops: of its products; 0 where traffic bounds it.
    """

    name: str
    net: str
    batch: int
    op: str
    inputs: dict[str, Shape]
    settings: dict[str, Any]
    outputs: dict[str, Shape]
    flops: float = 0.0

    @property
    def per_image(self) -> tuple[str, ...]:
        """Inputs and outputs whose first axis is the batch."""
        shared = ("w", "b", "v", "dw", "db", "loss", "top1", "top5")
        return tuple(name for name in (*self.inputs, *self.outputs) if name not in shared)

    @property
    def sums_images(self) -> bool:
        """Whether an output adds up over the batch."""
        return self.op.endswith("_wgrad")

    @property
    def nbytes(self) -> int:
        """Bytes of each input and output, once."""
        arrays = [*self.inputs.items(), *self.outputs.items()]
        return sum(math.prod(shape) * _itemsize(name) for name, shape in arrays)

    def arrays(self, seed: int = 0) -> Arrays:
        """Random inputs: standard normal numbers, labels, places in pooling windows."""
        source = np.random.Generator(np.random.Philox(key=[seed, len(self.name)]))
        return {name: self._array(name, shape, source) for name, shape in self.inputs.items()}

    def _array(self, name: str, shape: Shape, source: np.random.Generator) -> NDArray[Any]:
        if name == "labels":
            return source.integers(0, self.inputs["logits"][1], shape)
        if name == "where":
            return _places(shape, self.settings, source)
        if name not in self.per_image:
            return source.standard_normal(shape, np.float32)
        few = source.standard_normal((min(shape[0], _DIFFERENT_IMAGES), *shape[1:]), np.float32)
        return np.resize(few * np.float32(self._scale(name)), shape)

    def _scale(self, name: str) -> float:
        """Deviation of an input: in a norm, such that the squares weigh as much as the constant.

        At 1 the paper's alpha would make it nearly the identity, and any window would do.
        """
        if name != "x" or "alpha" not in self.settings:
            return 1.0
        units = self.settings["size"] ** (2 if self.op.startswith("rnorm") else 1)
        return math.sqrt(self.settings["k"] / (self.settings["alpha"] * units))


def of(spec: NetSpec, batch: int) -> Iterator[Case]:
    """The operations of a training step of `batch` images, layer by layer."""
    weights_seen = False
    for layer, in_shape, out_shape in spec.walk():
        x, y = (batch, *in_shape), (batch, *out_shape)
        for case in _layer(layer, x, y, spec.name):
            # Below the first layer with weights nobody asks for a gradient.
            if weights_seen or not case.op.endswith("_dgrad"):
                yield case
        weights_seen = weights_seen or bool(layer.param_shapes(in_shape))
    yield _softmax(spec, batch)
    yield _update(spec, batch)


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
        draw = {"keep": layer.keep, "seed": 1, "step": 2, "layer": 3}
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


def _softmax(spec: NetSpec, batch: int) -> Case:
    logits = (batch, spec.classes)
    out: dict[str, Shape] = {"loss": (), "dlogits": logits, "top1": (), "top5": ()}
    given = {"logits": logits, "labels": (batch,)}
    return Case("softmax, loss", spec.name, batch, "softmax_cross_entropy", given, {}, out)


def _update(spec: NetSpec, batch: int) -> Case:
    """The update of the largest parameter, by far most of the update's time."""
    shapes = [s for layer, i, _ in spec.walk() for s in layer.param_shapes(i).items()]
    name, shape = max(shapes, key=lambda one: math.prod(one[1]))
    rates = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    given, out = {"w": shape, "v": shape, "dw": shape}, {"w": shape, "v": shape}
    return Case(f"update {name}", spec.name, batch, "sgd_update", given, rates, out)


def _itemsize(name: str) -> int:
    return {"where": 1, "labels": 8}.get(name, 4)


def _places(shape: Shape, settings: dict[str, Any], source: np.random.Generator) -> NDArray[Any]:
    """Places r * size + s inside their windows, for maps (N, P, Q, C)."""
    _, h, w, _ = settings["x_shape"]
    size, stride = settings["size"], settings["stride"]
    down = np.minimum(size, h - stride * np.arange(shape[1])).reshape(1, -1, 1, 1)
    right = np.minimum(size, w - stride * np.arange(shape[2])).reshape(1, 1, -1, 1)
    few = (min(shape[0], _DIFFERENT_IMAGES), *shape[1:])
    places = source.integers(0, down, few) * size + source.integers(0, right, few)
    return np.resize(places.astype(np.uint8), shape)
