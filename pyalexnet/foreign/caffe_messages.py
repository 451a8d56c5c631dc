"""Reading protobuf messages of Caffe, as `caffe.proto` beside this file describes them.

This is the only module that imports protobuf.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pyalexnet.errors import CheckpointError, PyalexnetError
from pyalexnet.install import pip_install

_MESSAGE = re.compile(r"message (\w+) \{(.*?)\}", re.DOTALL)
_FIELD = re.compile(r"(optional|repeated) (\w+) (\w+) = (\d+)(?: \[default = (\S+)\])?;")


def message_classes() -> dict[str, Any]:
    """Classes of the messages in `caffe.proto`, by name; a PyalexnetError without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise PyalexnetError(
            f"A .caffemodel needs protobuf ({error}): " + pip_install("'pyalexnet[caffe]'")
        ) from error
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", syntax="proto2")
    said = descriptor_pb2.FieldDescriptorProto
    schema = Path(__file__).with_name("caffe.proto").read_text(encoding="ascii")
    for message, body in _MESSAGE.findall(schema):
        fields = file.message_type.add(name=message).field
        for label, kind, name, number, default in _FIELD.findall(body):
            field = fields.add(name=name, number=int(number))
            field.label = getattr(said, f"LABEL_{label.upper()}")
            if kind[0].isupper():
                field.type, field.type_name = said.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = getattr(said, f"TYPE_{kind.upper()}")
            if default:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()  # separate: a program may have Caffe's messages, too
    pool.Add(file)
    classes: dict[str, Any] = message_factory.GetMessageClassesForFiles(["caffe.proto"], pool)
    return classes


def parsed(raw: bytes, message: Any) -> Any:
    """The message in these bytes; a CheckpointError if they hold none."""
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(raw)
    except DecodeError as error:
        raise CheckpointError(f"is no sound protobuf ({error}).") from error


def unknown(message: Any) -> tuple[int, ...]:
    """Numbers of a message's fields that `caffe.proto` here does not have."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    return tuple(field.field_number for field in UnknownFieldSet(message))
