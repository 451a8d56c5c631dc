"""Caffe's files assembled byte by byte, with the numbers of `caffe.proto` written independently.

A layer is a dict of the fields that its text form would have; a list is a repeated field.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_BLOB = {"num": 1, "channels": 2, "height": 3, "width": 4, "data": 5, "double_data": 8}
_BLOB |= {"raw_data_type": 10, "raw_data": 12}

_OPTIONS = {
    "transform_param": {
        "scale": 1, "mirror": 2, "crop_size": 3, "mean_file": 4, "mean_value": 5, "novel": 77,
    },
    "convolution_param": {
        "num_output": 1, "bias_term": 2, "pad": 3, "kernel_size": 4, "group": 5, "stride": 6,
        "pad_h": 9, "pad_w": 10, "kernel_h": 11, "kernel_w": 12, "stride_h": 13, "stride_w": 14,
        "engine": 15, "axis": 16, "dilation": 18, "novel": 77,
    },
    "inner_product_param": {"num_output": 1, "bias_term": 2, "axis": 5, "transpose": 6},
    "lrn_param": {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5},
    "pooling_param": {
        "pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "kernel_h": 5, "kernel_w": 6,
        "global_pooling": 12, "round_mode": 13,
    },
    "dropout_param": {"dropout_ratio": 1},
    "relu_param": {"negative_slope": 1},
    "power_param": {"power": 1, "scale": 2, "shift": 3},
    "flatten_param": {"axis": 1},
    "data_param": {"source": 1, "scale": 2, "mean_file": 3, "batch_size": 4, "crop_size": 5},
}  # fmt: skip

_LAYER = {
    "name": 1, "type": 2, "bottom": 3, "top": 4, "blobs": 7, "transform_param": 100,
    "convolution_param": 106, "data_param": 107, "dropout_param": 108, "inner_product_param": 117,
    "lrn_param": 118, "pooling_param": 121, "power_param": 122, "relu_param": 123,
    "flatten_param": 135, "novel_param": 177,
}  # fmt: skip

_V1_LAYER = {
    "bottom": 2, "top": 3, "name": 4, "type": 5, "blobs": 6, "convolution_param": 10,
    "data_param": 11, "dropout_param": 12, "inner_product_param": 17, "lrn_param": 18,
    "pooling_param": 19, "power_param": 21, "relu_param": 30, "transform_param": 36,
}  # fmt: skip

_V1_TYPES = {
    "Accuracy": 1, "Convolution": 4, "Data": 5, "Dropout": 6, "Flatten": 8, "InnerProduct": 14,
    "LRN": 15, "Pooling": 17, "ReLU": 18, "SoftmaxWithLoss": 21, "TanH": 23, "Power": 26,
}  # fmt: skip


def varint(number: int) -> bytes:
    """A number, seven bits a byte."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: Any) -> bytes:
    """One field: an integer, a float32, text or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(fields: dict[str, Any], numbers: dict[str, int]) -> bytes:
    """The fields of a dict, with those of lists repeated and unpacked."""
    content = b""
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            inner = message(one, _OPTIONS[name]) if isinstance(one, dict) else one
            content += field(numbers[name], inner)
    return content


def layer(fields: dict[str, Any], *, v1: bool = False) -> bytes:
    """A field of the net: `layer`, or before 2015 `layers`."""
    if v1:
        fields = fields | {"type": _V1_TYPES[fields["type"]]}
    return field(2 if v1 else 100, message(fields, _V1_LAYER if v1 else _LAYER))


def blob(value: Any, *, v1: bool = False) -> bytes:
    """An array; before 2015 all had four axes, padded with ones in front."""
    floats = field(5, np.asarray(value, "<f4").tobytes())
    if v1:
        four = (1,) * (4 - value.ndim) + value.shape
        return (
            message(dict(zip(("num", "channels", "height", "width"), four, strict=True)), _BLOB)
            + floats
        )
    return shaped(value.shape) + floats


def shaped(shape: tuple[int, ...]) -> bytes:
    """A blob's shape, without numbers."""
    return field(7, field(1, b"".join(map(varint, (one % 2**64 for one in shape)))))


def snapshot(layers: list[dict[str, Any]], *, v1: bool = False, inputs: bytes = b"") -> bytes:
    """A .caffemodel."""
    return field(1, "AlexNet") + inputs + b"".join(layer(one, v1=v1) for one in layers)
