"""BVLC's reference AlexNet: `bvlc_alexnet.caffemodel` and `imagenet_mean.binaryproto`.

Caffe's networks read BGR pixels from 0 to 255, less a mean. The messages are those fields of
`src/caffe/proto/caffe.proto` that hold the parameters, in its present form (`layer`) and in that of
before 2015 (`layers`).

Of all modules only this one imports protobuf.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet import nets
from pyalexnet.backends.base import Shape
from pyalexnet.data.dataset import shown
from pyalexnet.errors import CheckpointError, PyalexnetError
from pyalexnet.foreign import weights
from pyalexnet.foreign.weights import Floats, Found
from pyalexnet.install import pip_install
from pyalexnet.net import NetSpec

NET_ARGS: dict[str, Any] = {"preset": "caffe"}
"""What `nets.alexnet` makes the network of, beside the number of classes."""

# (name, number, type, repeated) of each field; a type in capitals is a message.
_MESSAGES = {
    "BlobShape": (("dim", 1, "int64", True),),
    "BlobProto": (
        ("num", 1, "int64", False),
        ("channels", 2, "int64", False),
        ("height", 3, "int64", False),
        ("width", 4, "int64", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
    ),
    "LayerParameter": (
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("blobs", 7, "BlobProto", True),
    ),
    "V1LayerParameter": (
        ("name", 4, "string", False),
        ("type", 5, "int64", False),
        ("blobs", 6, "BlobProto", True),
    ),
    "NetParameter": (
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ),
}

# V1LayerParameter.LayerType's LRN and POOLING, and LayerParameter's types.
_NORMS, _POOLS = (15, "LRN"), (17, "Pooling")

_CHANNEL_MEANS = (123.0, 117.0, 104.0)
"""Of ILSVRC 2012, RGB, as Caffe's models are used without the mean image."""

_ORDER_UNKNOWN = (
    "The file does not tell the order of its layers, and bvlc_alexnet's is assumed; CaffeNet, "
    "whose parameters have the same shapes, would give wrong results."
)


def read(path: Path, mean: Path | None) -> Found:
    """The network in a .caffemodel.

    Args:
        path: of the file.
        mean: a .binaryproto of the mean image; None: a number for each channel.

    Raises:
        CheckpointError: a file is damaged, or holds something else; CaffeNet, for one.
        PyalexnetError: protobuf is missing.
    """
    messages = message_classes()
    net = _parsed(path, messages["NetParameter"])
    layers = list(net.layer) or list(net.layers)
    notes = [] if _norms_come_first(path, layers) else [_ORDER_UNKNOWN]
    blobs = _blobs(path, layers)
    spec = _spec(_classes(path, blobs))
    names = {name: name for name in weights.foreign_shapes(spec)}
    shapes = {
        name: _as_expected(_shape(blobs[name]), shape)
        for name, shape in weights.foreign_shapes(spec).items()
        if name in blobs
    }
    weights.check(path, shapes, spec, names)
    params = {name: _array(path, name, blobs[name], shapes[name]) for name in names}
    params["conv1.w"] = params["conv1.w"][:, ::-1]  # BGR
    if mean is None:
        notes.append("Without --mean the mean is one number a channel: 123, 117, 104.")
    return Found(
        spec,
        dict(NET_ARGS),
        weights.ours(path, spec, params),
        _mean(mean, spec, messages["BlobProto"]),
        tuple(notes),
    )


def message_classes() -> dict[str, Any]:
    """Classes of the messages above, by name.

    Raises:
        PyalexnetError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise PyalexnetError(
            f"A .caffemodel needs protobuf ({error}): " + pip_install("'pyalexnet[caffe]'")
        ) from error
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    field_class = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field = message.field.add(
                name=field_name,
                number=number,
                label=field_class.LABEL_REPEATED if repeated else field_class.LABEL_OPTIONAL,
            )
            if kind in _MESSAGES:
                field.type, field.type_name = field_class.TYPE_MESSAGE, f".caffe.{kind}"
                continue
            field.type = getattr(field_class, f"TYPE_{kind.upper()}")
            field.options.packed = repeated
    pool = descriptor_pool.DescriptorPool()  # its own: a program may have Caffe's messages, too
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in _MESSAGES
    }


def _spec(classes: int) -> NetSpec:
    return nets.alexnet(classes=classes, **NET_ARGS)


def _parsed(path: Path, message: Any) -> Any:
    from google.protobuf.message import DecodeError

    raw = weights.read(path)
    try:
        return message.FromString(raw)
    except DecodeError as error:
        raise CheckpointError(f"{shown(path)}: is no sound protobuf ({error}).") from error


def _norms_come_first(path: Path, layers: list[Any]) -> bool:
    """Whether the first norm is known to stand before the first pool; refused if behind."""
    kinds = [layer.type for layer in layers]
    norms = [place for place, kind in enumerate(kinds) if kind in _NORMS]
    pools = [place for place, kind in enumerate(kinds) if kind in _POOLS]
    if not norms or not pools:
        return False
    if norms[0] > pools[0]:
        raise CheckpointError(
            f"{shown(path)}: pools before it normalises, as CaffeNet does; bvlc_alexnet was "
            "expected, which normalises first."
        )
    return True


def _blobs(path: Path, layers: list[Any]) -> dict[str, Any]:
    """The blobs by our names of parameters."""
    found: dict[str, Any] = {}
    for layer in layers:
        for kind, blob in zip("wb", layer.blobs, strict=False):
            if f"{layer.name}.{kind}" in found:
                raise CheckpointError(f"{shown(path)}: has two layers {layer.name!r}.")
            found[f"{layer.name}.{kind}"] = blob
    return found


def _classes(path: Path, blobs: dict[str, Any]) -> int:
    shape = _shape(blobs["fc8.b"]) if "fc8.b" in blobs else ()
    if not shape or shape[-1] < 1 or math.prod(shape) != shape[-1]:
        raise CheckpointError(
            f"{shown(path)}: has no biases of a layer fc8; bvlc_alexnet was expected."
        )
    return shape[-1]


def _shape(blob: Any) -> Shape:
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    return (blob.num, blob.channels, blob.height, blob.width)


def _as_expected(shape: Shape, expected: Shape) -> Shape:
    """Without the leading ones that a blob of four axes has before 2015."""
    surplus = len(shape) - len(expected)
    return shape[surplus:] if surplus > 0 and set(shape[:surplus]) == {1} else shape


def _array(path: Path, name: str, blob: Any, shape: Shape) -> Floats:
    if len(blob.data) != math.prod(shape):
        raise CheckpointError(
            f"{shown(path)}: {name} has {len(blob.data)} numbers; {math.prod(shape)} were expected "
            f"of its shape {shape}."
        )
    return np.fromiter(blob.data, np.float32, len(blob.data)).reshape(shape)


def _mean(path: Path | None, spec: NetSpec, message: Any) -> Floats:
    """The mean image (Hs, Ws, 3), RGB."""
    augment = spec.recipe.augment
    assert augment is not None
    side = augment.stored
    if path is None:
        return np.tile(np.array(_CHANNEL_MEANS, np.float32), (side, side, 1))
    blob = _parsed(path, message)
    shape = _as_expected(_shape(blob), (3, side, side))
    if shape != (3, side, side):
        raise CheckpointError(
            f"{shown(path)}: the mean has shape {shape}; (3, {side}, {side}) was expected."
        )
    mean = _array(path, "the mean", blob, shape)
    if not np.isfinite(mean).all():
        raise CheckpointError(f"{shown(path)}: the mean is not finite everywhere.")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))
