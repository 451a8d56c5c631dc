"""The messages of Caffe's `caffe.proto` that describe a network, by name, number and default.

Both forms of a layer: the current one (`layer`), and that from before 2015 (`layers`). `raw_data`
is from NVIDIA's Caffe, which keeps half floats in it.

This is the only module that imports protobuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyalexnet.errors import CheckpointError, PyalexnetError
from pyalexnet.files import shown
from pyalexnet.foreign import weights
from pyalexnet.install import pip_install

# For each field: name, number, type, and its default or None. A capitalised type is a message; one
# in brackets is repeated.
_MESSAGES: dict[str, tuple[tuple[str, int, str, str | None], ...]] = {
    "BlobShape": (("dim", 1, "[int64]", None),),
    "BlobProto": (
        ("num", 1, "int64", None),
        ("channels", 2, "int64", None),
        ("height", 3, "int64", None),
        ("width", 4, "int64", None),
        ("data", 5, "[float]", None),
        ("shape", 7, "BlobShape", None),
        ("double_data", 8, "[double]", None),
        ("raw_data_type", 10, "int64", "0"),
        ("raw_data", 12, "bytes", None),
    ),
    "TransformationParameter": (
        ("scale", 1, "float", "1"),
        ("mirror", 2, "bool", None),
        ("crop_size", 3, "uint32", "0"),
        ("mean_file", 4, "string", None),
        ("mean_value", 5, "[float]", None),
        ("force_color", 6, "bool", None),
        ("force_gray", 7, "bool", None),
    ),
    "ConvolutionParameter": (
        ("num_output", 1, "uint32", None),
        ("bias_term", 2, "bool", "true"),
        ("pad", 3, "[uint32]", None),
        ("kernel_size", 4, "[uint32]", None),
        ("group", 5, "uint32", "1"),
        ("stride", 6, "[uint32]", None),
        ("weight_filler", 7, "bytes", None),
        ("bias_filler", 8, "bytes", None),
        ("pad_h", 9, "uint32", "0"),
        ("pad_w", 10, "uint32", "0"),
        ("kernel_h", 11, "uint32", None),
        ("kernel_w", 12, "uint32", None),
        ("stride_h", 13, "uint32", None),
        ("stride_w", 14, "uint32", None),
        ("engine", 15, "int64", None),
        ("axis", 16, "int32", "1"),
        ("force_nd_im2col", 17, "bool", None),
        ("dilation", 18, "[uint32]", None),
    ),
    "InnerProductParameter": (
        ("num_output", 1, "uint32", None),
        ("bias_term", 2, "bool", "true"),
        ("weight_filler", 3, "bytes", None),
        ("bias_filler", 4, "bytes", None),
        ("axis", 5, "int32", "1"),
        ("transpose", 6, "bool", None),
    ),
    "LRNParameter": (
        ("local_size", 1, "uint32", "5"),
        ("alpha", 2, "float", "1"),
        ("beta", 3, "float", "0.75"),
        ("norm_region", 4, "int64", "0"),
        ("k", 5, "float", "1"),
        ("engine", 6, "int64", None),
    ),
    "PoolingParameter": (
        ("pool", 1, "int64", "0"),
        ("kernel_size", 2, "uint32", None),
        ("stride", 3, "uint32", "1"),
        ("pad", 4, "uint32", "0"),
        ("kernel_h", 5, "uint32", None),
        ("kernel_w", 6, "uint32", None),
        ("stride_h", 7, "uint32", None),
        ("stride_w", 8, "uint32", None),
        ("pad_h", 9, "uint32", "0"),
        ("pad_w", 10, "uint32", "0"),
        ("engine", 11, "int64", None),
        ("global_pooling", 12, "bool", None),
        ("round_mode", 13, "int64", "0"),
    ),
    "DropoutParameter": (("dropout_ratio", 1, "float", "0.5"),),
    "ReLUParameter": (("negative_slope", 1, "float", "0"), ("engine", 2, "int64", None)),
    "TanHParameter": (("engine", 1, "int64", None),),
    "PowerParameter": (
        ("power", 1, "float", "1"),
        ("scale", 2, "float", "1"),
        ("shift", 3, "float", "0"),
    ),
    "FlattenParameter": (("axis", 1, "int32", "1"), ("end_axis", 2, "int32", "-1")),
    "InputParameter": (("shape", 1, "[BlobShape]", None),),
    # Before 2014 the options of the transformation were among those of the data, as they are here.
    "DataParameter": (
        ("scale", 2, "float", "1"),
        ("mean_file", 3, "string", None),
        ("crop_size", 5, "uint32", "0"),
    ),
    "MemoryDataParameter": (
        ("channels", 2, "uint32", None),
        ("height", 3, "uint32", None),
        ("width", 4, "uint32", None),
    ),
    "LayerParameter": (
        ("name", 1, "string", None),
        ("type", 2, "string", None),
        ("bottom", 3, "[string]", None),
        ("top", 4, "[string]", None),
        ("blobs", 7, "[BlobProto]", None),
        ("transform_param", 100, "TransformationParameter", None),
        ("loss_param", 101, "bytes", None),
        ("convolution_param", 106, "ConvolutionParameter", None),
        ("data_param", 107, "DataParameter", None),
        ("dropout_param", 108, "DropoutParameter", None),
        ("image_data_param", 115, "DataParameter", None),
        ("inner_product_param", 117, "InnerProductParameter", None),
        ("lrn_param", 118, "LRNParameter", None),
        ("memory_data_param", 119, "MemoryDataParameter", None),
        ("pooling_param", 121, "PoolingParameter", None),
        ("power_param", 122, "PowerParameter", None),
        ("relu_param", 123, "ReLUParameter", None),
        ("tanh_param", 127, "TanHParameter", None),
        ("window_data_param", 129, "DataParameter", None),
        ("flatten_param", 135, "FlattenParameter", None),
        ("input_param", 143, "InputParameter", None),
    ),
    "V1LayerParameter": (
        ("layer", 1, "bytes", None),  # from before 2014
        ("bottom", 2, "[string]", None),
        ("top", 3, "[string]", None),
        ("name", 4, "string", None),
        ("type", 5, "int64", "0"),
        ("blobs", 6, "[BlobProto]", None),
        ("convolution_param", 10, "ConvolutionParameter", None),
        ("data_param", 11, "DataParameter", None),
        ("dropout_param", 12, "DropoutParameter", None),
        ("image_data_param", 15, "DataParameter", None),
        ("inner_product_param", 17, "InnerProductParameter", None),
        ("lrn_param", 18, "LRNParameter", None),
        ("pooling_param", 19, "PoolingParameter", None),
        ("window_data_param", 20, "DataParameter", None),
        ("power_param", 21, "PowerParameter", None),
        ("memory_data_param", 22, "MemoryDataParameter", None),
        ("relu_param", 30, "ReLUParameter", None),
        ("transform_param", 36, "TransformationParameter", None),
        ("tanh_param", 37, "TanHParameter", None),
        ("param", 1001, "[string]", None),
        ("blob_share_mode", 1002, "[int64]", None),
    ),
    "NetParameter": (
        ("name", 1, "string", None),
        ("layers", 2, "[V1LayerParameter]", None),
        ("input", 3, "[string]", None),
        ("input_dim", 4, "[int64]", None),
        ("input_shape", 8, "[BlobShape]", None),
        ("layer", 100, "[LayerParameter]", None),
    ),
}


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
        for field_name, number, written, default in fields:
            kind = written.strip("[]")
            repeated = kind != written
            field = message.field.add(
                name=field_name,
                number=number,
                label=field_class.LABEL_REPEATED if repeated else field_class.LABEL_OPTIONAL,
            )
            if kind in _MESSAGES:
                field.type, field.type_name = field_class.TYPE_MESSAGE, f".caffe.{kind}"
                continue
            field.type = getattr(field_class, f"TYPE_{kind.upper()}")
            field.options.packed = repeated and kind != "string"
            if default is not None:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()  # separate: a program may have Caffe's messages, too
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in _MESSAGES
    }


def parsed(path: Path, message: Any) -> Any:
    """The message that a file holds.

    Raises:
        CheckpointError: it cannot be read, or does not hold such a message.
    """
    from google.protobuf.message import DecodeError

    raw = weights.read(path)
    try:
        return message.FromString(raw)
    except DecodeError as error:
        raise CheckpointError(f"{shown(path)}: is no sound protobuf ({error}).") from error


def unknown(message: Any) -> tuple[int, ...]:
    """Numbers of a message's fields that are not defined above."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    return tuple(field.field_number for field in UnknownFieldSet(message))
