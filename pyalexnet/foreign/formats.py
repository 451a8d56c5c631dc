"""The format of a file of weights, by its first bytes; names say little (`model_best.pth.tar`)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pyalexnet.errors import CheckpointError

Format: TypeAlias = Literal["safetensors", "torch", "caffe"]

# Bytes of other common formats, their offsets, and what was expected instead.
_OTHERS = (
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras and some Caffe write; its weights in another format"),
    (0, b"\x1f\x8b", "compressed by gzip; what is in it"),
    (0, b"BZh", "compressed by bzip2; what is in it"),
    (0, b"\xfd7zXZ", "compressed by xz; what is in it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd; what is in it"),
    (0, b"7z\xbc\xaf", "a 7z archive; the file in it"),
    (257, b"ustar", "a tar archive; the file in it"),
    (0, b"\x93NUMPY", "a NumPy array; all of a network's"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; the file it points to (git lfs pull)"),
)

# First byte of an ONNX model (tag of ir_version), and of a mean image with the old `num`.
_ONNX = b"\x08"

# Other first bytes of a BlobProto: tags of data and shape.
_BLOB = b"\x2a\x3a"

# Tags of a NetParameter's fields.
_NET = b"\x0a\x12\x1a\x20\x22\x28\x32\x38\x42\xa2"


def of(raw: bytes) -> Format:
    """The format of a file of these bytes; a CheckpointError says what it is if it is another."""
    head = raw[:512]
    for place, mark, what in _OTHERS:
        if head[place:].startswith(mark):
            raise CheckpointError(f"is {what} was expected.")
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "torch"
    text = head.decode("utf-8", "ignore")  # the end may split a character
    whole = len(text.encode()) > len(head) - 4
    if whole and all(letter.isprintable() or letter in "\t\r\n" for letter in text):
        what = "a web page" if head.lstrip()[:1] == b"<" else "a text"
        begins = " ".join(text.split())[:40]
        raise CheckpointError(f"is {what} that begins {begins!r}; a file of weights was expected.")
    if head[:1] in _NET:
        return "caffe"
    if head.startswith(_ONNX) or head[:1] in _BLOB:
        raise CheckpointError(
            "begins as an ONNX model, or as a mean image of Caffe (--mean) does; a .safetensors, "
            ".pth or .caffemodel was expected."
        )
    raise CheckpointError(
        f"begins with the bytes {head[:8].hex(' ')}, as no .safetensors, .pth or .caffemodel does; "
        "one of them was expected."
    )
