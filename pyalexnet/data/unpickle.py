"""Reading a pickle of plain values and NumPy arrays without running any of its calls.

A pickle names functions and calls them. `ArrayUnpickler` accepts only the few names with which
NumPy's arrays are written and refuses all others; and even those do not reach NumPy, whose own
functions trust their arguments (a crafted dtype can make bytes pass for object pointers). They
reach the stand-ins below, which check their arguments and read the bytes of the elements.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

DTYPES = ("u1", "i4", "i8")  # the element types accepted, little-endian


def loads(raw: bytes) -> Any:
    """The pickled value, arrays as `StandIn`s, Python 2's strings as bytes; raises anything."""
    for opcode, argument, _ in pickletools.genops(raw):
        # The unpickler allocates a memo table as large as its largest key.
        if "PUT" in opcode.name and int(argument or 0) > len(raw):
            raise pickle.UnpicklingError(f"it keeps a value under the number {argument}")
    return ArrayUnpickler(io.BytesIO(raw), encoding="bytes").load()


class ArrayUnpickler(pickle.Unpickler):
    """Accepts dict, list, tuple, bytes, str, numbers and the names below."""

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("numpy.core", "numpy._core"), name:
            case "numpy._core.multiarray", "_reconstruct":
                return StandIn
            case "numpy._core.numeric", "_frombuffer":
                return from_buffer
            case "numpy", "dtype":
                return ElementType
            case "numpy", "ndarray":
                return "numpy.ndarray"  # used only as an argument of _reconstruct
        raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r}")


class ElementType:
    """Stands for a dtype: made from its code, then given the byte order."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in DTYPES:
            raise pickle.UnpicklingError(f"an array has elements {text!r}")
        self.dtype: np.dtype[Any] = np.dtype(f"<{text}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order = state[1]
        if byte_order not in ("<", "|", b"<", b"|"):
            raise pickle.UnpicklingError(f"an array has byte order {byte_order!r}")


class StandIn:
    """Stands for an array: made empty, then given (version, shape, dtype, Fortran order, data)."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray[Any, np.dtype[Any]] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, element, fortran, data = state
        self.value = _array(data, element, shape, "F" if fortran else "C")


def from_buffer(data: object, element: object, shape: object, order: object) -> StandIn:
    """The function that protocol 5 calls instead."""
    array = StandIn()
    array.value = _array(data, element, shape, order)
    return array


def _array(
    data: object, element: object, shape: object, order: object
) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(data, bytes | bytearray) or not isinstance(element, ElementType):
        raise pickle.UnpicklingError("an array is not made of bytes")
    if (
        not isinstance(shape, tuple)
        or not all(type(side) is int and side >= 0 for side in shape)
        or math.prod(shape) * element.dtype.itemsize != len(data)
    ):
        raise pickle.UnpicklingError(f"an array of {len(data)} bytes has shape {shape!r}")
    return np.frombuffer(data, element.dtype).reshape(shape, order="F" if order == "F" else "C")
