"""From the layers of a .caffemodel to ours, or to a refusal.

A snapshot holds the layers of the net that was trained, with every option that its author set; for
others `caffe.proto`'s default applies. Data, loss and accuracy layers do not change what the
network computes; everything else either has a counterpart here or is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from pyalexnet.errors import CheckpointError
from pyalexnet.files import printable
from pyalexnet.foreign import caffe_messages
from pyalexnet.nets import layers
from pyalexnet.nets.layers import Conv, Layer, Linear

# V1LayerParameter.LayerType in its order, by today's names of the types.
_V1_TYPES = (
    *("None", "Accuracy", "BNLL", "Concat", "Convolution", "Data", "Dropout", "EuclideanLoss"),
    *("Flatten", "HDF5Data", "HDF5Output", "Im2col", "ImageData", "InfogainLoss"),
    *("InnerProduct", "LRN", "MultinomialLogisticLoss", "Pooling", "ReLU", "Sigmoid"),
    *("Softmax", "SoftmaxWithLoss", "Split", "TanH", "WindowData", "Eltwise", "Power"),
    *("SigmoidCrossEntropyLoss", "HingeLoss", "MemoryData", "ArgMax", "Threshold", "DummyData"),
    *("Slice", "MVN", "AbsVal", "Silence", "ContrastiveLoss", "Exp", "Deconvolution"),
)

_SOURCES = ("Data", "ImageData", "WindowData", "HDF5Data", "MemoryData", "DummyData", "Input")

# Layers that read the logits without changing them.
_ENDS = ("Softmax", "SoftmaxWithLoss", "MultinomialLogisticLoss", "Accuracy", "ArgMax", "Silence")

# Field numbers of LayerParameter from here on are parameters of layers.
_PARAMETERS_FROM = 100


def type_of(layer: Any) -> str:
    """A layer's type by today's name."""
    if isinstance(layer.type, int):
        known = 0 <= layer.type < len(_V1_TYPES)
        return _V1_TYPES[layer.type] if known else f"number {layer.type}"
    return printable(layer.type)


def told(net: Any) -> tuple[list[Layer], list[tuple[Conv | Linear, Any]], list[Any]]:
    """The network that a NetParameter describes; anything without a counterpart here is refused.

    Our layers, from the pixels to the logits; those with weights, each with its layer in the file;
    and the file's layers that supply images.
    """
    if len(net.layer) and len(net.layers):
        raise CheckpointError(
            f"has {len(net.layer)} layers of the present format and {len(net.layers)} of the one "
            "before; one format was expected."
        )
    every = list(net.layer) or list(net.layers)
    chain = list(_chain(list(net.input), every))
    found = _ours(chain)
    own = [layer for layer in found if isinstance(layer, Conv | Linear)]
    theirs = [layer for layer in chain if type_of(layer) in ("Convolution", "InnerProduct")]
    names = [printable(layer.name) for layer in theirs]
    for name in names:
        if names.count(name) > 1:
            raise CheckpointError(f"has two layers {name!r}; one was expected.")
    read = chain[0].bottom[:1] if chain else []
    sources = [one for one in every if _is_source(one) and (not one.top or {*read} <= {*one.top})]
    return found, list(zip(own, theirs, strict=True)), sources


def decimal(value: float) -> float:
    """A float32 as its author wrote it: 1e-4, not 9.99999974738e-05."""
    return float(str(np.float32(value)))


def refuse(layer: Any, what: str, expected: str) -> NoReturn:
    """Raise an error that names the layer, its type, and what was expected."""
    name = printable(layer.name)  # protobuf leaves it as bytes if it is not UTF-8
    raise CheckpointError(f"layer {name!r} ({type_of(layer)}) {what}; {expected} was expected.")


def refuse_unknown(layer: Any, options: Any, what: str, low: int = 0) -> None:
    """Refuse a message's options that caffe.proto does not have: their effect is unknown."""
    for number in caffe_messages.unknown(options):
        if number >= low:
            refuse(layer, f"has a field {number} in {what}", "none but BVLC's")


# ---------------------------------------------------------------------- order


def _is_source(layer: Any) -> bool:
    kind = type_of(layer)
    return kind in _SOURCES or (bool(layer.top) and not layer.bottom and kind not in _KNOWN)


def _chain(inputs: list[str], every: list[Any]) -> Iterator[Any]:
    """The layers between images and logits; each must read the output of the one before.

    In files without names of blobs, layers are taken in order.
    """
    graph = any(layer.bottom or layer.top for layer in every)
    here, ended, begun = set(inputs[:1]), set[str](), False
    for layer in every:
        kind = type_of(layer)
        if _is_source(layer):
            here |= set() if begun else set(layer.top[:1])
        elif kind == "Split":
            here |= set(layer.top) if here & set(layer.bottom) else set()
        elif kind in _ENDS:
            read = set(layer.bottom[:1])
            if graph and not read & (here | ended):
                refuse(layer, f"reads {_listed(read)}", f"the logits {_listed(here)}")
            ended |= set(layer.top) or {layer.name}
        else:
            if kind not in _KNOWN:
                refuse(layer, "has no counterpart here", f"one of {', '.join(_KNOWN)}")
            if ended:
                refuse(layer, "comes after the loss", "no layer there")
            if graph:
                _check_place(layer, here)
            here, begun = set(layer.top), True
            yield layer


def _check_place(layer: Any, here: set[str]) -> None:
    if len(layer.bottom) != 1 or len(layer.top) != 1:
        what = f"reads {len(layer.bottom)} blobs and writes {len(layer.top)}"
        refuse(layer, what, "one of each, as networks here are chains of layers,")
    if here and layer.bottom[0] not in here:
        expected = f"{_listed(here)} of the layer before, as networks here are chains of layers,"
        refuse(layer, f"reads {layer.bottom[0][:100]!r}", expected)


def _listed(names: set[str]) -> str:
    return " or ".join(sorted(repr(name[:100]) for name in names)[:4]) or "nothing"


# ---------------------------------------------------------------------- counterparts


def _ours(chain: Iterable[Any]) -> list[Layer]:
    """Our layers; a neuron belongs to the weighted layer directly before it, if there is one.

    They are called by what they do and the number of the last layer with weights, as in AlexNet:
    conv1, norm1, pool1, conv2, ..., fc6, drop6.
    """
    found: list[Layer] = []
    times, stage = Counter[str](), 0
    for layer in chain:
        made: Any = _counterpart(layer)
        weighted = isinstance(made, Conv | Linear)
        if not weighted and len(layer.blobs):
            refuse(layer, f"has {len(layer.blobs)} blobs", "none")
        before: Any = found[-1] if found else None
        bare = isinstance(before, Conv | Linear) and before.activation is None
        if bare and isinstance(made, layers.Relu | layers.Tanh):
            found[-1] = dataclasses.replace(before, activation=made.name)
        elif made is not None:
            stage += weighted
            name = f"{made.name}{stage}"
            times[name] += 1
            more = f"_{times[name]}" if times[name] > 1 else ""
            found.append(dataclasses.replace(made, name=name + more))
    return found


def _counterpart(layer: Any) -> Layer | None:
    """Our layer, its name without a number; None if it changes no number."""
    field, fixed, make = _KNOWN[type_of(layer)]
    options = options_of(layer)
    if options is not None:
        refuse_unknown(layer, options, field)
        for name, expected in fixed.items():
            _expect(layer, options, name, expected)
    refuse_unknown(layer, layer, "the layer", _PARAMETERS_FROM)
    return make(layer, options)


def options_of(layer: Any) -> Any:
    """A layer's options; None if there are none."""
    return getattr(layer, _KNOWN[type_of(layer)][0], None)  # Flatten had none before 2015


def _expect(layer: Any, options: Any, name: str, expected: Any) -> None:
    value = getattr(options, name)
    came = decimal(value) if isinstance(value, float) else value
    if came != expected:
        refuse(layer, f"has {name} {came}", f"{expected}")


def _pair(layer: Any, options: Any, name: str, usual: int) -> tuple[int, ...]:
    """An option for both directions, (vertical, horizontal), in any of its three spellings."""
    prefix, given = name.removesuffix("_size"), getattr(options, name)
    both = tuple(given) if not isinstance(given, int) else (given,)
    if options.HasField(f"{prefix}_h") or options.HasField(f"{prefix}_w"):
        if options.HasField(name) if isinstance(given, int) else both:
            refuse(layer, f"has {name} and {prefix}_h, {prefix}_w", "one of the two")
        return getattr(options, f"{prefix}_h"), getattr(options, f"{prefix}_w")
    both = both or (usual,)
    if len(both) > 2:
        refuse(layer, f"has {len(both)} numbers in {name}", "1 or 2")
    return both[0], both[-1]


def _square(layer: Any, options: Any, name: str, usual: int) -> int:
    vertical, horizontal = _pair(layer, options, name, usual)
    if vertical != horizontal:
        refuse(layer, f"has {name} {vertical} x {horizontal}", "the same in both ways")
    return vertical


def _convolution(layer: Any, options: Any) -> Layer:
    for one in options.dilation:
        if one != 1:
            refuse(layer, f"has dilation {one}", "1")
    down, across = _pair(layer, options, "stride", 1)
    top, left = _pair(layer, options, "pad", 0)
    size = _square(layer, options, "kernel_size", 0)
    stride: Any = down if down == across else (down, across)
    pad: Any = top if top == left else (top, top, left, left)
    return Conv("conv", options.num_output, size, stride, pad, options.group)


def _norm(layer: Any, options: Any) -> Layer:
    size, alpha, beta = options.local_size, decimal(options.alpha), decimal(options.beta)
    if size % 2 == 0:
        refuse(layer, f"has local_size {size}", "an odd one, as Caffe's are,")
    if options.norm_region == 0:
        return layers.LRN("norm", size, alpha / size, beta, decimal(options.k))
    _expect(layer, options, "norm_region", 1)
    return layers.RNorm("rnorm", size, alpha / size**2, beta, 1.0)  # Caffe ignores k there


def _pool(layer: Any, options: Any) -> Layer:
    if options.pool not in (0, 1):
        refuse(layer, f"has pool {options.pool}", "0 (MAX) or 1 (AVE)")
    if pad := _square(layer, options, "pad", 0):
        refuse(layer, f"has pad {pad}", "0")
    size = _square(layer, options, "kernel_size", 0)
    stride = _square(layer, options, "stride", 1)
    if stride > size:
        refuse(layer, f"has stride {stride}", f"at most its kernel_size {size}")
    kind = layers.AvgPool if options.pool else layers.MaxPool
    return kind("pool", size, stride, ceil=options.round_mode == 0)


def _dropout(layer: Any, options: Any) -> Layer | None:
    ratio = decimal(options.dropout_ratio)
    return layers.Dropout("drop", 1 - ratio, inverted=True) if ratio else None


def _power(layer: Any, options: Any) -> Layer:
    return layers.Scale("scale", decimal(options.scale))


# The layers that have a counterpart here: the field with the options of each, the options of which
# only one value is supported, and what makes the counterpart.
_KNOWN: Mapping[str, tuple[str, Mapping[str, Any], Callable[[Any, Any], Layer | None]]] = {
    "Convolution": ("convolution_param", {"axis": 1}, _convolution),
    "InnerProduct": ("inner_product_param", {"axis": 1}, lambda _, o: Linear("fc", o.num_output)),
    "LRN": ("lrn_param", {}, _norm),
    "Pooling": ("pooling_param", {"global_pooling": False}, _pool),
    "Dropout": ("dropout_param", {}, _dropout),
    "ReLU": ("relu_param", {"negative_slope": 0.0}, lambda *_: layers.Relu("relu")),
    "TanH": ("tanh_param", {}, lambda *_: layers.Tanh("tanh")),
    "Power": ("power_param", {"power": 1.0, "shift": 0.0}, _power),
    "Flatten": ("flatten_param", {"axis": 1, "end_axis": -1}, lambda *_: None),
}
