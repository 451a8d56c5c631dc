"""Caffe's AlexNets: a .caffemodel such as `bvlc_alexnet.caffemodel`, and its .binaryproto mean.

Caffe's networks read BGR pixels from 0 to 255, less a mean, times a scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet import nets
from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable, refused
from pyalexnet.foreign import caffe_layers, weights
from pyalexnet.foreign.caffe_layers import decimal
from pyalexnet.foreign.caffe_messages import message_classes, parsed
from pyalexnet.foreign.weights import Floats, ForeignNet, Tensor
from pyalexnet.nets.imported import tables
from pyalexnet.nets.layers import Conv, Layer, Linear, Scale
from pyalexnet.nets.spec import NetSpec

_PRESET: dict[str, Any] = {"preset": "caffe"}

# Means of ILSVRC 2012, BGR, with which Caffe's models are used without the mean image.
_CHANNEL_MEANS = (104.0, 117.0, 123.0)

# Side of the images that Caffe's ImageNet scripts crop inputs from.
_STORED = 256

# NVIDIA's Type: DOUBLE, FLOAT, FLOAT16.
_RAW_TYPES: dict[int, str] = {0: "<f8", 1: "<f4", 2: "<f2"}


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """A file's statements on its pixels; None for those it does not make.

    shape: (C, H, W) of the input. crop: side of the crop. scale: the factor of the pixels. mean:
    numbers that are subtracted, BGR. mean_file: path of the mean image. bare: whether a data layer
    subtracts nothing.
    """

    shape: tuple[int, int, int] | None = None
    crop: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    mean_file: str = ""
    bare: bool = False


def read(path: Path, mean: Path | None) -> ForeignNet:
    """The network in a .caffemodel, by its layers, whether bvlc_alexnet or another.

    mean: a .binaryproto of the mean image; None: as in the file, or one number per channel. A
    CheckpointError names the layer or option that has no counterpart here.
    """
    messages, image = message_classes(), None
    if mean is not None:
        with weights.opened(mean) as raw:
            image = _mean_image(parsed(raw, messages["BlobProto"]))
    with weights.opened(path) as raw:
        return _found(parsed(raw, messages["NetParameter"]), image)


def _found(net: Any, image: Floats | None) -> ForeignNet:
    if any(layer.HasField("layer") for layer in net.layers):
        raise CheckpointError(
            "has the format used before 2014; a newer one was expected, as Caffe's "
            "upgrade_net_proto_binary makes it."
        )
    layers, weighted, sources = caffe_layers.told(net)
    if not weighted:
        raise CheckpointError("has no layers with weights; a trained .caffemodel was expected.")
    pixels = _pixels(net, sources)
    if image is not None and pixels.mean:
        said = ", ".join(f"{value:g}" for value in pixels.mean)
        raise ArgumentError(
            f"import: mean is given; none was expected, as the .caffemodel says mean_value {said}."
        )
    spec, net_args = _network(layers, _input_shape(weighted[0], pixels), pixels.scale)
    notes = _differences(spec)
    spec, mean, more = _stored(spec, pixels, image)
    return ForeignNet(spec, net_args, _params(spec, weighted), mean, (*notes, *more))


# ---------------------------------------------------------------------- the network


def _network(
    layers: list[Layer], shape: tuple[int, int, int], scale: float
) -> tuple[NetSpec, dict[str, Any]]:
    """bvlc_alexnet by its preset, if it is that; any other with its layers written out."""
    last = layers[-1]
    if not isinstance(last, Linear) or last.activation is not None:
        raise CheckpointError(
            f"ends in {last.name}; an InnerProduct layer that gives a logit for each class was "
            "expected."
        )
    first = [] if scale == 1 else [Scale("scale", scale)]
    args: dict[str, Any] = {"crop": shape[0], "layers": tables((*first, *layers))}
    misfit = f"its layers do not fit its input {shape} or each other"
    with refused(CheckpointError, misfit, ArgumentError):
        usual = nets.alexnet(classes=last.outputs, **_PRESET)
        if args["layers"] == _told(usual) and shape == usual.input_shape:
            return usual, dict(_PRESET)
        return nets.imported(last.outputs, shape, **args), args


def _told(spec: NetSpec) -> list[dict[str, Any]]:
    """The layers as a file tells them: without their initialisation."""
    drawn = ("std", "bias")
    every = tables(spec.layers)
    return [{name: own[name] for name in own if name not in drawn} for own in every]


def _differences(spec: NetSpec) -> tuple[str, ...]:
    """A note on a network's differences from bvlc_alexnet, layer by layer."""
    usual = nets.alexnet(classes=spec.classes, **_PRESET)
    ours, expected = _told(spec), {layer["name"]: layer for layer in _told(usual)}
    says = []
    if spec.input_shape != usual.input_shape:
        says.append(f"input {spec.input_shape}, not {usual.input_shape}")
    order = [layer["name"] for layer in ours if layer["name"] in expected]
    if order != [name for name in expected if name in order]:
        says.append(f"the order {', '.join(order)}")
    for layer in ours:
        other = expected.pop(layer["name"], None)
        if other is None:
            says.append(f"{layer['name']} more")
            continue
        says += [
            f"{layer['name']} {name} {_said(layer, name)}, not {_said(other, name)}"
            for name in sorted(layer.keys() | other.keys())
            if layer.get(name) != other.get(name)
        ]
    says += [f"no {name}" for name in expected]
    note = f"The network is not bvlc_alexnet, and is imported as it is: {'; '.join(says)}."
    return (note,) if says else ()


def _said(layer: Mapping[str, Any], name: str) -> str:
    value = layer.get(name, "as usual")
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------- parameters


def _params(spec: NetSpec, weighted: list[tuple[Conv | Linear, Any]]) -> weights.Arrays:
    expected = weights.foreign_shapes(spec)
    names: dict[str, str] = {}
    found: dict[str, Tensor] = {}
    for own, layer in weighted:
        options, name = caffe_layers.options_of(layer), printable(layer.name)
        most = 1 + options.bias_term
        if len(layer.blobs) > most:
            raise CheckpointError(
                f"layer {name!r} has {len(layer.blobs)} blobs; {most} were expected."
            )
        w, b = f"{name}.w", f"{name}.b"
        names |= {own.w: w, own.b: b}
        turned = isinstance(own, Linear) and options.transpose
        bgr = own is weighted[0][0] and spec.input_shape[2] == 3
        for blob in layer.blobs[:1]:
            found[w] = _tensor(w, blob, len(expected[own.w]), turned, bgr)
        for blob in layer.blobs[1:]:
            found[b] = _tensor(b, blob, 1)
        if not options.bias_term:
            found[b] = Tensor(expected[own.b], "", partial(np.zeros, expected[own.b], np.float32))
    return weights.ours(spec, found, names)


def _tensor(name: str, blob: Any, axes: int, turned: bool = False, bgr: bool = False) -> Tensor:
    """A blob in the axis order of a layer that is not transposed, RGB."""
    shape = _shape(blob, axes)

    def numbers() -> npt.NDArray[Any]:
        array = _array(name, blob, shape)
        array = array.T if turned else array
        return array[:, ::-1] if bgr else array

    return Tensor(shape[::-1] if turned else shape, "", numbers)


def _shape(blob: Any, axes: int) -> Shape:
    """A blob's shape, without the leading ones of those from before 2015, which have four axes."""
    shape: Shape = tuple(blob.shape.dim)
    # Caffe's rule: a blob with any of the four old numbers uses those.
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    surplus = len(shape) - axes
    return shape[surplus:] if surplus > 0 and set(shape[:surplus]) == {1} else shape


def _array(name: str, blob: Any, shape: Shape) -> npt.NDArray[Any]:
    """A blob's numbers, from whichever of its three fields holds them."""
    held = [field for field in ("data", "double_data", "raw_data") if len(getattr(blob, field))]
    if len(held) > 1:
        raise CheckpointError(f"{name} has numbers in {' and in '.join(held)}; one was expected.")
    numbers: npt.NDArray[Any]
    if held == ["raw_data"]:
        dtype = np.dtype(_RAW_TYPES.get(blob.raw_data_type, "V1"))
        if dtype.kind == "V" or len(blob.raw_data) % dtype.itemsize:
            raise CheckpointError(
                f"{name} has {len(blob.raw_data)} bytes of raw_data_type {blob.raw_data_type}; 0 "
                "(double), 1 (float) or 2 (half) was expected."
            )
        numbers = np.frombuffer(blob.raw_data, dtype)
    elif held == ["double_data"]:
        numbers = np.fromiter(blob.double_data, np.float64, len(blob.double_data))
    else:
        numbers = np.fromiter(blob.data, np.float32, len(blob.data))
    if len(numbers) != math.prod(shape):
        raise CheckpointError(
            f"{name} has {len(numbers)} numbers; {math.prod(shape)} were expected for its shape "
            f"{shape}."
        )
    return numbers.reshape(shape)


# ---------------------------------------------------------------------- pixels


def _pixels(net: Any, sources: list[Any]) -> _Pixels:
    """Pixels according to the data layers or the net's inputs; layers of all phases must agree."""
    found = _Pixels()
    shapes = [tuple(shape.dim) for shape in net.input_shape]
    shapes += [tuple(net.input_dim[:4])] if net.input_dim else []
    for layer in sources:
        one = _of_source(layer)
        if found != _Pixels() and one != found:
            expected = "that of the data layer before it"
            caffe_layers.refuse(layer, "prepares images in another way", expected)
        found = one
        given = getattr(layer, "input_param", None)  # absent before 2015
        shapes += [tuple(shape.dim) for shape in given.shape[:1]] if given else []
        memory = layer.memory_data_param
        shapes += [(1, memory.channels, memory.height, memory.width)] if memory.height else []
    for shape in shapes[:1]:
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise CheckpointError(f"its input has shape {shape}; (N, C, H, W) was expected.")
        found = dataclasses.replace(found, shape=(shape[1], shape[2], shape[3]))
    return found


def _of_source(layer: Any) -> _Pixels:
    new = layer.transform_param
    caffe_layers.refuse_unknown(layer, new, "transform_param")
    kind = caffe_layers.type_of(layer)
    others = {"ImageData": layer.image_data_param, "WindowData": layer.window_data_param}
    old = others.get(kind, layer.data_param)
    scale = decimal(new.scale) if new.scale != 1 else decimal(old.scale)
    mean, mean_file = tuple(map(decimal, new.mean_value)), new.mean_file or old.mean_file
    if mean and mean_file:
        caffe_layers.refuse(layer, "has mean_file and mean_value", "one of the two")
    for value in mean:
        if not math.isfinite(value):
            caffe_layers.refuse(layer, f"has mean_value {value}", "a finite number")
    bare = not mean and not mean_file and kind in ("Data", *others)
    return _Pixels(None, new.crop_size or old.crop_size or None, scale, mean, mean_file, bare)


def _input_shape(first: tuple[Conv | Linear, Any], pixels: _Pixels) -> tuple[int, int, int]:
    """(H, W, C) of the input, by its first layer; bvlc_alexnet's size if the file gives none."""
    own, layer = first
    if not isinstance(own, Conv) or own.groups != 1:
        name = printable(layer.name)
        raise CheckpointError(f"{name} reads the pixels; a Convolution in one group was expected.")
    blob = _shape(layer.blobs[0], 4) if layer.blobs else ()
    side = pixels.crop or nets.alexnet(**_PRESET).input_shape[0]
    shape = pixels.shape or (blob[1] if len(blob) == 4 else 3, side, side)
    if shape[1] != shape[2] or shape[0] not in (1, 3):
        raise CheckpointError(
            f"its input (C, H, W) is {shape}; square images of 1 or 3 channels were expected."
        )
    return shape[1], shape[2], shape[0]


def _mean_image(blob: Any) -> Floats:
    """(C, side, side), BGR."""
    shape = _shape(blob, 3)
    if len(shape) != 3 or shape[0] not in (1, 3) or not shape[1] == shape[2] > 0:
        raise CheckpointError(f"the mean has shape {shape}; (3, side, side) was expected.")
    mean = _array("the mean", blob, shape).astype(np.float32)
    if not np.isfinite(mean).all():
        raise CheckpointError("the mean is not finite everywhere.")
    return mean


def _stored(
    spec: NetSpec, pixels: _Pixels, image: Floats | None
) -> tuple[NetSpec, Floats, list[str]]:
    """The network with the size of its stored images; their mean (Hs, Ws, C), RGB; and notes."""
    side, _, channels = spec.input_shape
    notes: list[str] = []
    if image is not None:
        stored = image.shape[1]
        if image.shape[0] != channels or stored < side:
            raise CheckpointError(
                f"the mean has shape {image.shape}; {channels} channels of at least {side} x "
                f"{side} were expected."
            )
        mean = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    else:
        cropped = pixels.crop or 224 <= side <= _STORED
        stored = max(side, _STORED) if cropped else side
        if cropped and side not in range(224, 228):
            sees = f"{side} x {side}"
            notes = [f"Images of {stored} x {stored} are assumed; it sees {sees} of them."]
        colours, more = _colours(pixels, channels)
        mean, notes = np.tile(colours, (stored, stored, 1)), [*notes, *more]
    augment = spec.recipe.augment
    assert augment is not None
    recipe = dataclasses.replace(spec.recipe, augment=dataclasses.replace(augment, stored=stored))
    return dataclasses.replace(spec, recipe=recipe), mean, notes


def _colours(pixels: _Pixels, channels: int) -> tuple[Floats, list[str]]:
    """The mean of each channel (C,), RGB, without a mean image, and notes on its source."""
    numbers: tuple[float, ...] = pixels.mean or (0.0,) * channels
    notes: list[str] = []
    if len(numbers) not in (1, channels):
        raise CheckpointError(
            f"has {len(numbers)} numbers in mean_value; 1 or {channels} were expected."
        )
    if not pixels.mean and pixels.bare:
        notes = ["Its data layer subtracts no mean, and none is subtracted here."]
    elif not pixels.mean and channels == 3:
        numbers = _CHANNEL_MEANS
        there = f"; it was trained with {printable(pixels.mean_file)}" if pixels.mean_file else ""
        notes = [f"Without --mean the mean is one number a channel: 123, 117, 104{there}."]
    elif not pixels.mean:
        notes = ["Without --mean none is subtracted."]
    return np.broadcast_to(np.array(numbers[::-1], np.float32), (channels,)), notes
