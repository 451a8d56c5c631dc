"""Caffe's AlexNets: a .caffemodel such as `bvlc_alexnet.caffemodel`, and its .binaryproto mean.

Caffe's networks read BGR pixels from 0 to 255, less a mean, times a scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet import nets
from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable, shown
from pyalexnet.foreign import caffe_layers, weights
from pyalexnet.foreign.caffe_layers import Told, decimal
from pyalexnet.foreign.caffe_messages import message_classes, parsed
from pyalexnet.foreign.weights import Floats, Found
from pyalexnet.nets.imported import tables
from pyalexnet.nets.layers import Conv, Layer, Linear, Scale
from pyalexnet.step.net import NetSpec

_PRESET: dict[str, Any] = {"preset": "caffe"}

_CHANNEL_MEANS = (104.0, 117.0, 123.0)
"""Means of ILSVRC 2012, BGR, with which Caffe's models are used without the mean image."""

_STORED = 256
"""Side of the images that Caffe's ImageNet scripts crop inputs from."""

_RAW_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f8"),
    1: np.dtype("<f4"),
    2: np.dtype("<f2"),
}
"""NVIDIA's Type: DOUBLE, FLOAT, FLOAT16."""


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """A file's statements on its pixels; None for those it does not make.

    shape: (C, H, W) of the input. crop: side of the crop. scale: the factor of the pixels. mean:
    numbers that are subtracted, BGR. mean_file: path of the mean image. bare: whether there is a
    layer of data that subtracts nothing.
    """

    shape: tuple[int, int, int] | None = None
    crop: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    mean_file: str = ""
    bare: bool = False


def read(path: Path, mean: Path | None) -> Found:
    """The network in a .caffemodel, by its layers, whether bvlc_alexnet or another.

    Args:
        path: of the file.
        mean: a .binaryproto of the mean image; None: as in the file, or one number per channel.

    Raises:
        CheckpointError: a file is damaged, holds something else, or a network with layers or
            options that have no counterpart here; the sentence names the layer.
        ArgumentError: `mean` contradicts the file.
        PyalexnetError: protobuf is missing.
    """
    messages = message_classes()
    net = parsed(path, messages["NetParameter"])
    told = _told(path, net)
    pixels = _pixels(path, net, told)
    if mean is not None and pixels.mean:
        raise ArgumentError(
            f"import: mean is {shown(mean)}; none was expected, as {shown(path)} says "
            f"mean_value {', '.join(f'{value:g}' for value in pixels.mean)}."
        )
    image = None if mean is None else _mean_image(mean, messages["BlobProto"])
    shape = _input_shape(path, told, pixels)
    spec, net_args = _network(path, told, pixels, shape)
    spec, notes = _stored(spec, pixels, image)
    params = weights.ours(path, spec, _params(path, spec, told))
    told_mean, more = _mean(path, spec, pixels, image)
    differs = _differences(spec)
    return Found(spec, net_args, params, told_mean, (*differs, *notes, *more))


def _told(path: Path, net: Any) -> Told:
    if any(layer.HasField("layer") for layer in net.layers):
        raise CheckpointError(
            f"{shown(path)}: is of the format of before 2014; a newer one was expected, as Caffe's "
            "upgrade_net_proto_binary makes it."
        )
    told = caffe_layers.told(path, net)
    if not told.weights:
        raise CheckpointError(
            f"{shown(path)}: has no layers with weights; a trained .caffemodel was expected."
        )
    return told


# ---------------------------------------------------------------------- the network


def _network(
    path: Path, told: Told, pixels: _Pixels, shape: tuple[int, int, int]
) -> tuple[NetSpec, dict[str, Any]]:
    """bvlc_alexnet by its preset, if it is that; any other with its layers written out."""
    last = told.layers[-1]
    if not isinstance(last, Linear) or last.activation is not None:
        raise CheckpointError(
            f"{shown(path)}: ends in {last.name}; an InnerProduct layer that gives a logit for "
            "each class was expected."
        )
    first = [] if pixels.scale == 1 else [Scale("scale", pixels.scale)]
    layers = (*first, *told.layers)
    args: dict[str, Any] = {"crop": shape[0], "layers": tables(layers)}
    try:
        usual = nets.alexnet(classes=last.outputs, **_PRESET)
        if layers == _undrawn(usual) and shape == usual.input_shape:
            return usual, dict(_PRESET)
        return nets.imported(last.outputs, shape, **args), args
    except ArgumentError as error:
        raise CheckpointError(
            f"{shown(path)}: its layers do not fit its input {shape} or each other ({error})"
        ) from error


def _undrawn(spec: NetSpec) -> tuple[Layer, ...]:
    """The layers as in a file: without their initialisation."""
    return tuple(
        dataclasses.replace(layer, std=0.01, bias=0.0)
        if isinstance(layer, Conv | Linear)
        else layer
        for layer in spec.layers
    )


def _differences(spec: NetSpec) -> tuple[str, ...]:
    """Notes on a network's differences from bvlc_alexnet, layer by layer."""
    usual = nets.alexnet(classes=spec.classes, **_PRESET)
    ours, theirs = tables(_undrawn(spec)), tables(_undrawn(usual))
    if ours == theirs and spec.input_shape == usual.input_shape:
        return ()
    says = []
    if spec.input_shape != usual.input_shape:
        says.append(f"input {spec.input_shape}, not {usual.input_shape}")
    expected = {layer["name"]: layer for layer in theirs}
    order = [layer["name"] for layer in ours if layer["name"] in expected]
    if order != [name for name in expected if name in order]:
        says.append(f"the order {', '.join(order)}")
    for layer in ours:
        other = expected.pop(layer["name"], None)
        if other is None:
            says.append(f"{layer['name']} more")
            continue
        for name in sorted(layer.keys() | other.keys()):
            if layer.get(name) != other.get(name):
                says.append(
                    f"{layer['name']} {name} {_said(layer, name)}, not {_said(other, name)}"
                )
    says += [f"no {name}" for name in expected]
    return (f"The network is not bvlc_alexnet, and is imported as it is: {'; '.join(says)}.",)


def _said(layer: Mapping[str, Any], name: str) -> str:
    value = layer.get(name, "as usual")
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------- parameters


def _params(path: Path, spec: NetSpec, told: Told) -> dict[str, npt.NDArray[Any]]:
    """Parameters by our names in Caffe's axis order, except that BGR becomes RGB."""
    expected = weights.foreign_shapes(spec)
    names: dict[str, str] = {}
    blobs: dict[str, Any] = {}
    shapes: dict[str, Shape] = {}
    for one in told.weights:
        w, b = one.ours.w, one.ours.b
        names |= {w: f"{one.name}.w", b: f"{one.name}.b"}
        if len(one.blobs) > 1 + one.biased:
            raise CheckpointError(
                f"{shown(path)}: layer {one.name!r} has {len(one.blobs)} blobs; "
                f"{1 + one.biased} were expected."
            )
        blobs |= dict(zip((w, b), one.blobs, strict=False))
        if not one.biased:
            shapes[names[b]] = expected[b]
    turned = {one.ours.w for one in told.weights if one.transposed}
    for name, blob in blobs.items():
        shape = _as_expected(_shape(blob), len(expected[name]))
        shapes[names[name]] = shape[::-1] if name in turned else shape
    weights.check(path, shapes, spec, names)
    params: dict[str, npt.NDArray[Any]] = {}
    for name, shape in expected.items():
        if name not in blobs:
            params[name] = np.zeros(shape, np.float32)
        elif name in turned:
            params[name] = _array(path, names[name], blobs[name], shape[::-1]).T
        else:
            params[name] = _array(path, names[name], blobs[name], shape)
    first = told.weights[0].ours
    if spec.input_shape[2] == 3:  # BGR
        params[first.w] = params[first.w][:, ::-1]
    return params


def _shape(blob: Any) -> Shape:
    # Caffe's rule: a blob with any of the four old numbers uses those.
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return (blob.num, blob.channels, blob.height, blob.width)
    return tuple(blob.shape.dim)


def _as_expected(shape: Shape, axes: int) -> Shape:
    """The shape without the leading ones of blobs from before 2015, which have four axes."""
    surplus = len(shape) - axes
    return shape[surplus:] if surplus > 0 and set(shape[:surplus]) == {1} else shape


def _array(path: Path, name: str, blob: Any, shape: Shape) -> npt.NDArray[Any]:
    """A blob's numbers, from whichever of its four fields holds them."""
    held = [name for name in ("data", "double_data", "raw_data") if len(getattr(blob, name))]
    if len(held) > 1:
        raise CheckpointError(
            f"{shown(path)}: {name} has numbers in {' and in '.join(held)}; one of them was "
            "expected."
        )
    numbers: npt.NDArray[Any]
    if held == ["raw_data"]:
        numbers = _raw(path, name, blob)
    elif held == ["double_data"]:
        numbers = np.fromiter(blob.double_data, np.float64, len(blob.double_data))
    else:
        numbers = np.fromiter(blob.data, np.float32, len(blob.data))
    if len(numbers) != math.prod(shape):
        raise CheckpointError(
            f"{shown(path)}: {name} has {len(numbers)} numbers; {math.prod(shape)} were expected "
            f"of its shape {shape}."
        )
    return numbers.reshape(shape)


def _raw(path: Path, name: str, blob: Any) -> npt.NDArray[Any]:
    dtype = _RAW_TYPES.get(blob.raw_data_type)
    if dtype is None or len(blob.raw_data) % dtype.itemsize:
        raise CheckpointError(
            f"{shown(path)}: {name} has {len(blob.raw_data)} bytes of raw_data_type "
            f"{blob.raw_data_type}; 0 (double), 1 (float) or 2 (half) was expected."
        )
    numbers: npt.NDArray[Any] = np.frombuffer(blob.raw_data, dtype)
    return numbers


# ---------------------------------------------------------------------- pixels


def _pixels(path: Path, net: Any, told: Told) -> _Pixels:
    """Pixels according to the data layers or the net's inputs; layers of all phases must agree."""
    found = _Pixels()
    shapes = [tuple(shape.dim) for shape in net.input_shape]
    shapes += [tuple(net.input_dim[:4])] if net.input_dim else []
    for layer in told.sources:
        one = _of_source(path, layer)
        if found != _Pixels() and one != found:
            caffe_layers.refuse(
                path, layer, "prepares images in another way", "that of the data layer before it"
            )
        found = one
        given = getattr(layer, "input_param", None)  # absent before 2015
        shapes += [tuple(shape.dim) for shape in given.shape[:1]] if given else []
        memory = layer.memory_data_param
        shapes += [(1, memory.channels, memory.height, memory.width)] if memory.height else []
    for shape in shapes[:1]:
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise CheckpointError(
                f"{shown(path)}: its input has shape {shape}; (N, C, H, W) was expected."
            )
        found = dataclasses.replace(found, shape=(shape[1], shape[2], shape[3]))
    return found


def _of_source(path: Path, layer: Any) -> _Pixels:
    new = layer.transform_param
    caffe_layers.refuse_unknown(path, layer, new, "transform_param")
    kind = caffe_layers.type_of(layer)
    old = {"ImageData": layer.image_data_param, "WindowData": layer.window_data_param}.get(
        kind, layer.data_param
    )
    scale = decimal(new.scale) if new.scale != 1 else decimal(old.scale)
    mean, mean_file = tuple(map(decimal, new.mean_value)), new.mean_file or old.mean_file
    if mean and mean_file:
        caffe_layers.refuse(path, layer, "has mean_file and mean_value", "one of the two")
    for value in mean:
        if not math.isfinite(value):
            caffe_layers.refuse(path, layer, f"has mean_value {value}", "a finite number")
    bare = not mean and not mean_file and kind in ("Data", "ImageData", "WindowData")
    return _Pixels(None, new.crop_size or old.crop_size or None, scale, mean, mean_file, bare)


def _input_shape(path: Path, told: Told, pixels: _Pixels) -> tuple[int, int, int]:
    """(H, W, C) of the input; bvlc_alexnet's size if the file gives none."""
    first = told.weights[0]
    if not isinstance(first.ours, Conv) or (first.ours.groups != 1):
        raise CheckpointError(
            f"{shown(path)}: {first.name} reads the pixels; a Convolution of one group was "
            "expected."
        )
    blob = _as_expected(_shape(first.blobs[0]), 4) if first.blobs else (0, 3)
    channels = blob[1] if len(blob) == 4 else 3
    side = pixels.crop or nets.alexnet(**_PRESET).input_shape[0]
    shape = pixels.shape or (channels, side, side)
    if shape[1] != shape[2] or shape[0] not in (1, 3):
        raise CheckpointError(
            f"{shown(path)}: its input (C, H, W) is {shape}; square images of 1 or 3 channels were "
            "expected."
        )
    return shape[1], shape[2], shape[0]


def _stored(
    spec: NetSpec, pixels: _Pixels, image: Floats | None
) -> tuple[NetSpec, tuple[str, ...]]:
    """The network with the size of the images that its input is cropped from."""
    augment = spec.recipe.augment
    assert augment is not None
    side = spec.input_shape[0]
    notes: tuple[str, ...] = ()
    if image is not None:
        stored = image.shape[1]
    elif pixels.crop or 224 <= side <= _STORED:
        stored = max(side, _STORED)
        if side not in range(224, 228):
            notes = (
                f"Images of {stored} x {stored} are assumed, of which it sees {side} x {side}.",
            )
    else:
        stored = side
    recipe = dataclasses.replace(spec.recipe, augment=dataclasses.replace(augment, stored=stored))
    return dataclasses.replace(spec, recipe=recipe), notes


def _mean_image(path: Path, message: Any) -> Floats:
    """(C, side, side), BGR."""
    blob = parsed(path, message)
    shape = _as_expected(_shape(blob), 3)
    if len(shape) != 3 or shape[0] not in (1, 3) or not shape[1] == shape[2] > 0:
        raise CheckpointError(
            f"{shown(path)}: the mean has shape {shape}; (3, side, side) was expected."
        )
    mean = _array(path, "the mean", blob, shape).astype(np.float32)
    if not np.isfinite(mean).all():
        raise CheckpointError(f"{shown(path)}: the mean is not finite everywhere.")
    return mean


def _mean(
    path: Path, spec: NetSpec, pixels: _Pixels, image: Floats | None
) -> tuple[Floats, tuple[str, ...]]:
    """The mean image (Hs, Ws, C), RGB, and notes on its source."""
    augment = spec.recipe.augment
    assert augment is not None
    side, channels = augment.stored, spec.input_shape[2]
    notes: tuple[str, ...] = ()
    if image is not None:
        if image.shape[0] != channels or side < spec.input_shape[0]:
            raise CheckpointError(
                f"{shown(path)}: the mean has shape {image.shape}; {channels} channels of at least "
                f"{spec.input_shape[0]} x {spec.input_shape[0]} were expected."
            )
        return np.ascontiguousarray(image[::-1].transpose(1, 2, 0)), ()
    numbers: tuple[float, ...] = pixels.mean or (0.0,) * channels
    if not pixels.mean and pixels.bare:
        notes = ("Its data layer subtracts no mean, and none is subtracted here.",)
    elif not pixels.mean and channels == 3:
        numbers = _CHANNEL_MEANS
        there = f"; it was trained with {printable(pixels.mean_file)}" if pixels.mean_file else ""
        notes = (f"Without --mean the mean is one number a channel: 123, 117, 104{there}.",)
    elif not pixels.mean:
        notes = ("Without --mean none is subtracted.",)
    if len(numbers) not in (1, channels):
        raise CheckpointError(
            f"{shown(path)}: has {len(numbers)} numbers in mean_value; 1 or {channels} were "
            "expected."
        )
    colours = np.broadcast_to(np.array(numbers[::-1], np.float32), (channels,))
    return np.tile(colours, (side, side, 1)), notes
