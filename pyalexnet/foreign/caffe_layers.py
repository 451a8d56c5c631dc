"""From the layers of a .caffemodel to ours, or to a refusal.

A snapshot holds the layers of the net that was trained, with every option that its author set; for
others `caffe.proto`'s default applies. Data, loss and accuracy layers do not change what the
network computes; everything else either has a counterpart here or is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pyalexnet.errors import CheckpointError
from pyalexnet.files import printable, shown
from pyalexnet.foreign import caffe_messages
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)

_V1_TYPES = (
    *("None", "Accuracy", "BNLL", "Concat", "Convolution", "Data", "Dropout", "EuclideanLoss"),
    *("Flatten", "HDF5Data", "HDF5Output", "Im2col", "ImageData", "InfogainLoss"),
    *("InnerProduct", "LRN", "MultinomialLogisticLoss", "Pooling", "ReLU", "Sigmoid"),
    *("Softmax", "SoftmaxWithLoss", "Split", "TanH", "WindowData", "Eltwise", "Power"),
    *("SigmoidCrossEntropyLoss", "HingeLoss", "MemoryData", "ArgMax", "Threshold", "DummyData"),
    *("Slice", "MVN", "AbsVal", "Silence", "ContrastiveLoss", "Exp", "Deconvolution"),
)
"""V1LayerParameter.LayerType in its order, by today's names of the types."""

_SOURCES = ("Data", "ImageData", "WindowData", "HDF5Data", "MemoryData", "DummyData", "Input")

_ENDS = ("Softmax", "SoftmaxWithLoss", "MultinomialLogisticLoss", "Accuracy", "ArgMax", "Silence")
"""Layers that read the logits without changing them."""

_TOLD = {
    "Convolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "LRN": "lrn_param",
    "Pooling": "pooling_param",
    "Dropout": "dropout_param",
    "ReLU": "relu_param",
    "TanH": "tanh_param",
    "Power": "power_param",
    "Flatten": "flatten_param",
}
"""The layers that have a counterpart here, and the field with the options of each."""

_PARAMETERS_FROM = 100
"""Field numbers of LayerParameter from here on are parameters of layers."""


@dataclass(frozen=True)
class Weights:
    """A layer of the file with weights.

    name: in the file. ours: the layer that it becomes. biased: whether the file has biases.
    transposed: whether its weights are (in, out). blobs: BlobProto.
    """

    name: str
    ours: Conv | Linear
    biased: bool
    transposed: bool
    blobs: Sequence[Any]


@dataclass(frozen=True)
class Told:
    """A file's description of its network.

    layers: ours, from the pixels to the logits. weights: where their parameters are. sources: the
    layers of the file that supply images.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Weights, ...]
    sources: tuple[Any, ...]


def type_of(layer: Any) -> str:
    """A layer's type by today's name."""
    if isinstance(layer.type, int):
        known = 0 <= layer.type < len(_V1_TYPES)
        return _V1_TYPES[layer.type] if known else f"number {layer.type}"
    return printable(layer.type)


def told(path: Path, net: Any) -> Told:
    """The network of a NetParameter.

    Raises:
        CheckpointError: a layer, an option or the order has no counterpart here.
    """
    if len(net.layer) and len(net.layers):
        raise CheckpointError(
            f"{shown(path)}: has {len(net.layer)} layers of the present format and "
            f"{len(net.layers)} of the one before; one format was expected."
        )
    every = list(net.layer) or list(net.layers)
    chain = list(_chain(path, list(net.input), every))
    reader = _Reader(path)
    for layer in chain:
        reader.take(layer)
    names = [one.name for one in reader.weights]
    for name in names:
        if names.count(name) > 1:
            raise CheckpointError(f"{shown(path)}: has two layers {name!r}; one was expected.")
    sources = [
        layer
        for layer in every
        if _is_source(layer) and not (chain and layer.top and chain[0].bottom[0] not in layer.top)
    ]
    return Told(tuple(reader.layers), tuple(reader.weights), tuple(sources))


def decimal(value: float) -> float:
    """A float32 as its author wrote it: 1e-4, not 9.99999974738e-05."""
    return float(str(np.float32(value)))


def refuse(path: Path, layer: Any, what: str, expected: str) -> NoReturn:
    """Raise an error that names the layer, its type, and what was expected."""
    name = printable(layer.name)  # protobuf leaves it as bytes if it is not UTF-8
    raise CheckpointError(
        f"{shown(path)}: layer {name!r} ({type_of(layer)}) {what}; {expected} was expected."
    )


def refuse_unknown(path: Path, layer: Any, options: Any, what: str, low: int = 0) -> None:
    """Refuse a message's options that caffe.proto does not have: their effect is unknown."""
    for number in caffe_messages.unknown(options):
        if number >= low:
            refuse(path, layer, f"has a field {number} in {what}", "none but BVLC's")


# ---------------------------------------------------------------------- order


def _is_source(layer: Any) -> bool:
    kind = type_of(layer)
    return kind in _SOURCES or (bool(layer.top) and not layer.bottom and kind not in _TOLD)


def _chain(path: Path, inputs: list[str], layers: list[Any]) -> Iterator[Any]:
    """The layers between images and logits; each must read the output of the one before.

    In files without names of blobs, layers are taken in order.
    """
    graph = any(layer.bottom or layer.top for layer in layers)
    here, ended, begun = set(inputs[:1]), set[str](), False
    for layer in layers:
        kind = type_of(layer)
        if _is_source(layer):
            here |= set() if begun else set(layer.top[:1])
        elif kind == "Split":
            here |= set(layer.top) if here & set(layer.bottom) else set()
        elif kind in _ENDS:
            read = set(layer.bottom[:1])
            if graph and not read & (here | ended):
                refuse(path, layer, f"reads {_listed(read)}", f"the logits {_listed(here)}")
            ended |= set(layer.top) or {layer.name}
        else:
            if kind not in _TOLD:
                refuse(path, layer, "has no counterpart here", f"one of {', '.join(_TOLD)}")
            if ended:
                refuse(path, layer, "stands behind the loss", "no layer there")
            if graph:
                _check_place(path, layer, here)
            here, begun = set(layer.top), True
            yield layer


def _check_place(path: Path, layer: Any, here: set[str]) -> None:
    if len(layer.bottom) != 1 or len(layer.top) != 1:
        refuse(
            path,
            layer,
            f"reads {len(layer.bottom)} blobs and writes {len(layer.top)}",
            "one of each, as networks here are chains of layers,",
        )
    if here and layer.bottom[0] not in here:
        refuse(
            path,
            layer,
            f"reads {layer.bottom[0][:100]!r}",
            f"{_listed(here)} of the layer before, as networks here are chains of layers,",
        )


def _listed(names: set[str]) -> str:
    return " or ".join(sorted(repr(name[:100]) for name in names)[:4]) or "nothing"


# ---------------------------------------------------------------------- options


class _Reader:
    """Converts Caffe's layers to ours, in order.

    Ours are named by what they do and the number of the last layer with weights, as in AlexNet:
    conv1, norm1, pool1, conv2, ..., fc6, drop6.
    """

    def __init__(self, path: Path) -> None:
        self.layers: list[Layer] = []
        self.weights: list[Weights] = []
        self._path = path
        self._names: set[str] = set()

    def take(self, layer: Any) -> None:
        """Append a layer's counterpart; nothing if it changes no number."""
        kind = type_of(layer)
        options = getattr(layer, _TOLD[kind], None)  # Flatten had no options before 2015
        if options is not None:
            refuse_unknown(self._path, layer, options, _TOLD[kind])
        refuse_unknown(self._path, layer, layer, "the layer", _PARAMETERS_FROM)
        taken = getattr(self, f"_{kind.lower()}")(layer, options)
        if not isinstance(taken, Conv | Linear) and len(layer.blobs):
            refuse(self._path, layer, f"has {len(layer.blobs)} blobs", "none")
        if taken is not None:
            self.layers.append(taken)

    def _name(self, what: str, *, weights: bool = False) -> str:
        stage = len(self.weights) + weights
        name, count = f"{what}{stage}", 1
        while name in self._names:
            count += 1
            name = f"{what}{stage}_{count}"
        self._names.add(name)
        return name

    def _expect(self, layer: Any, option: str, came: Any, expected: Any) -> None:
        if came != expected:
            refuse(self._path, layer, f"has {option} {came}", f"{expected}")

    def _pair(
        self, layer: Any, options: Any, name: str, prefix: str, usual: int
    ) -> tuple[int, ...]:
        """An option for both directions, (vertical, horizontal), in any of its three spellings."""
        given = getattr(options, name)
        both = tuple(given) if not isinstance(given, int) else (given,)
        if options.HasField(f"{prefix}_h") or options.HasField(f"{prefix}_w"):
            if options.HasField(name) if isinstance(given, int) else both:
                refuse(
                    self._path, layer, f"has {name} and {prefix}_h, {prefix}_w", "one of the two"
                )
            return getattr(options, f"{prefix}_h"), getattr(options, f"{prefix}_w")
        both = both or (usual,)
        if len(both) > 2:
            refuse(self._path, layer, f"has {len(both)} numbers in {name}", "1 or 2")
        return both[0], both[-1]

    def _square(self, layer: Any, options: Any, name: str, prefix: str, usual: int) -> int:
        vertical, horizontal = self._pair(layer, options, name, prefix, usual)
        if vertical != horizontal:
            refuse(
                self._path, layer, f"has {name} {vertical} x {horizontal}", "the same in both ways"
            )
        return vertical

    def _with_weights(self, layer: Any, ours: Conv | Linear, options: Any, turned: bool) -> Layer:
        self._expect(layer, "axis", options.axis, 1)
        name = printable(layer.name)
        self.weights.append(Weights(name, ours, options.bias_term, turned, layer.blobs))
        return ours

    def _convolution(self, layer: Any, options: Any) -> Layer:
        for one in options.dilation:
            self._expect(layer, "dilation", one, 1)
        stride = self._pair(layer, options, "stride", "stride", 1)
        top, left = self._pair(layer, options, "pad", "pad", 0)
        conv = Conv(
            self._name("conv", weights=True),
            options.num_output,
            self._square(layer, options, "kernel_size", "kernel", 0),
            stride=stride[0] if stride[0] == stride[1] else (stride[0], stride[1]),
            pad=top if top == left else (top, top, left, left),
            groups=options.group,
        )
        return self._with_weights(layer, conv, options, False)

    def _innerproduct(self, layer: Any, options: Any) -> Layer:
        linear = Linear(self._name("fc", weights=True), options.num_output)
        return self._with_weights(layer, linear, options, options.transpose)

    def _lrn(self, layer: Any, options: Any) -> Layer:
        size, beta = options.local_size, decimal(options.beta)
        if size % 2 == 0:
            refuse(self._path, layer, f"has local_size {size}", "an odd one, as Caffe's are,")
        alpha = decimal(options.alpha)
        if options.norm_region == 0:
            return LRN(self._name("norm"), size, alpha / size, beta, decimal(options.k))
        self._expect(layer, "norm_region", options.norm_region, 1)
        return RNorm(self._name("rnorm"), size, alpha / size**2, beta, 1.0)  # Caffe ignores k there

    def _pooling(self, layer: Any, options: Any) -> Layer:
        if options.pool not in (0, 1):
            refuse(self._path, layer, f"has pool {options.pool}", "0 (MAX) or 1 (AVE)")
        self._expect(layer, "global_pooling", options.global_pooling, False)
        self._expect(layer, "pad", self._square(layer, options, "pad", "pad", 0), 0)
        size = self._square(layer, options, "kernel_size", "kernel", 0)
        stride = self._square(layer, options, "stride", "stride", 1)
        if stride > size:
            refuse(self._path, layer, f"has stride {stride}", f"at most its kernel_size {size}")
        kind = MaxPool if options.pool == 0 else AvgPool
        return kind(self._name("pool"), size, stride, ceil=options.round_mode == 0)

    def _dropout(self, layer: Any, options: Any) -> Layer | None:
        ratio = decimal(options.dropout_ratio)
        return Dropout(self._name("drop"), 1 - ratio, inverted=True) if ratio else None

    def _relu(self, layer: Any, options: Any) -> Layer | None:
        self._expect(layer, "negative_slope", decimal(options.negative_slope), 0.0)
        return self._neuron("relu", Relu)

    def _tanh(self, layer: Any, options: Any) -> Layer | None:
        return self._neuron("tanh", Tanh)

    def _neuron(self, activation: Any, kind: Any) -> Layer | None:
        """Add a neuron to the weighted layer directly before it, else as a separate layer."""
        before = self.layers[-1] if self.layers else None
        if not isinstance(before, Conv | Linear) or before.activation is not None:
            return kind(self._name(activation))  # type: ignore[no-any-return]
        with_it = dataclasses.replace(before, activation=activation)
        self.layers[-1] = with_it
        self.weights[-1] = dataclasses.replace(self.weights[-1], ours=with_it)
        return None

    def _power(self, layer: Any, options: Any) -> Layer:
        self._expect(layer, "power", decimal(options.power), 1.0)
        self._expect(layer, "shift", decimal(options.shift), 0.0)
        return Scale(self._name("scale"), decimal(options.scale))

    def _flatten(self, layer: Any, options: Any) -> None:
        if options is not None:
            self._expect(layer, "axis", options.axis, 1)
            self._expect(layer, "end_axis", options.end_axis, -1)
