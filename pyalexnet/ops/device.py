"""The base of every operation: a device's arrays, its kernels, how batches get to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer
from pyalexnet.ops.elements import ELEMENTS, Array, Shape


class Device(ABC):
    """One device's arrays and kernels.

    Attributes:
        name: its name for `pyalexnet.backend`.
        device: the device's number.
        array_type: class of the arrays it computes on.
    """

    name: ClassVar[str]
    array_type: ClassVar[type[Any]]
    device: int

    # Arrays

    @abstractmethod
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """`x` as a C-contiguous array of this device; copied only if necessary.

        Args:
            x: numbers, an array of the host or of another device (DLPack,
                __cuda_array_interface__).
            dtype: type to convert to; None keeps the type of `x`.
        """

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` on the host; waits for the device."""

    @abstractmethod
    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of unspecified contents."""

    @abstractmethod
    def zeros(self, shape: Shape, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of zeros."""

    @abstractmethod
    def copy(self, x: Array) -> Array:
        """A new C-contiguous copy of `x`, an array of this device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all work enqueued so far."""

    def assign(self, x: Array, values: Any) -> None:
        """Write `values`, of the host or any device, into `x`, an array of this device.

        They have the shape of `x`; their type is converted. Values on the host have been read when
        this returns, and may then be changed.
        """
        x[...] = self.asarray(values, x.dtype)

    def same_memory(self, x: Array, other: Array) -> bool:
        """Whether two C-contiguous arrays of this device agree in type, shape and address."""
        alike = x.dtype == other.dtype and x.shape == other.shape
        return alike and self._address(x) == self._address(other)

    def record(self, work: Callable[[], None], *, graph: bool = True) -> Callable[[], None]:
        """Make `work`, which calls operations, ready to be run again and again on the same arrays.

        Args:
            work: called once here, or at every run; it must do nothing but call operations of this
                backend, always the same ones.
            graph: whether a GPU may run them all as one CUDA graph.

        Returns:
            A function that runs it on the stream current at the call. All recordings of a backend
            share scratch, so they may not run on two streams at a time.
        """
        return work

    def aside(self) -> AbstractContextManager[None]:
        """A context, inside `record`, for operations that may run beside all later ones.

        No later operation may touch what those inside write, or write what they read.
        """
        return nullcontext()

    @abstractmethod
    def begin(self, work: Callable[[], None]) -> Callable[[], None]:
        """Begin `work`, which may run beside later operations, but after work begun before.

        Returns:
            A function to be called before anything touches what the work writes, or writes what it
            reads.
        """

    def lane(self, shape: Shape, dtype: Any = np.uint8) -> Lane:
        """A reusable path from the host to this device for arrays of at most `shape`."""
        return Lane(self.asarray, shape, dtype)

    # The kernels

    @abstractmethod
    def _run(self, op: str, *arguments: Any) -> None:
        """Compute `op` from arrays, outputs included, followed by checked numbers and records.

        Raises:
            ArgumentError: an array does not fit the operation, or is too large for the kernels.
            KernelError: a kernel could not be launched, or broke a rule.
        """

    @abstractmethod
    def _unit(self, dtype: np.dtype[Any], tensor: bool) -> str:
        """The unit that multiplies operands of this type, as named in `kernels/ops.h`."""

    @abstractmethod
    def _readable(self, arrays: Sequence[Array]) -> AbstractContextManager[Sequence[Array]]:
        """`arrays` of any devices, or copies, that kernels of this device may read.

        Once the context has been left, later operations on their own devices may write them again.
        """

    @abstractmethod
    def _address(self, x: Array) -> int:
        """Address of the first byte of `x`."""

    # Common to operations. They check what determines the results' shapes; the bindings check the
    # rest of every array: type, shape, device, overlap (bindings/array.cpp).

    def _shape(
        self,
        who: str,
        name: str,
        x: Array,
        axes: Sequence[str] | None = None,
        dtypes: Sequence[Any] = ELEMENTS,
    ) -> Shape:
        """Shape of an array; `axes` names its dimensions (any number of them where None)."""
        if not isinstance(x, self.array_type):
            raise ArgumentError(
                f"{who}: {name} is of type {type(x).__name__}; an array of type "
                f"{self.array_type.__module__}.{self.array_type.__name__} was expected."
            )
        if x.dtype not in dtypes:
            expected = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
            raise ArgumentError(f"{who}: {name} is {x.dtype}; {expected} was expected.")
        shape: Shape = x.shape
        if axes is not None and len(shape) != len(axes):
            raise ArgumentError(
                f"{who}: {name} has shape {shape}; {len(axes)} dimensions ({', '.join(axes)}) were "
                "expected."
            )
        if 0 in shape:
            place = shape.index(0)
            axis = axes[place] if axes else f"dimension {place}"
            raise ArgumentError(
                f"{who}: {name} has shape {shape}, so {axis} is 0; at least 1 was expected."
            )
        return shape

    def _mapped(self, who: str, out: Array | None, *records: Any, **inputs: Array) -> Array:
        """Compute an operation whose result has the shape and type of the first of its inputs."""
        name, x = next(iter(inputs.items()))
        y = self._result(who, out, self._shape(who, name, x), x.dtype)
        self._run(who, *inputs.values(), y, *records)
        return y

    def _result(
        self, who: str, out: Any, shape: Shape, dtype: Any = np.float32, name: str = "out"
    ) -> Array:
        """The array to write: `out`, if given, or a new one."""
        if out is None:
            return self.empty(shape, dtype)
        if getattr(out, "shape", shape) != shape:
            raise ArgumentError(f"{who}: {name} has shape {out.shape}; {shape} was expected.")
        return out

    def _results(self, who: str, out: Any, **layouts: tuple[Shape, Any]) -> tuple[Array, ...]:
        """The arrays to write: those of `out`, if given, or new ones of these shapes and types."""
        given = (None,) * len(layouts) if out is None else out
        if not isinstance(given, (tuple, list)) or len(given) != len(layouts):
            raise ArgumentError(
                f"{who}: out is of type {type(out).__name__}; ({', '.join(layouts)}) was expected."
            )
        return tuple(
            self._result(who, one, *layout, f"out ({name})")
            for one, (name, layout) in zip(given, layouts.items(), strict=True)
        )


def with_sizes(who: str, name: str, shape: Shape, axes: str) -> Shape:
    """Check a shape given as an argument; `axes` names its dimensions."""
    if not isinstance(shape, (tuple, list)) or len(shape) != len(axes):
        raise ArgumentError(f"{who}: {name} is {shape!r}; ({', '.join(axes)}) was expected.")
    pairs = zip(axes, shape, strict=True)
    return tuple(integer(who, f"{name}'s {axis}", length, low=1) for axis, length in pairs)


class Lane:
    """Host memory that is filled, sent to the device and filled again.

    A lane's turn: `wait`, fill `host`, `send`, enqueue what reads the device's array, `sent`.
    """

    host: np.ndarray[Any, Any]

    def __init__(self, asarray: Callable[[Any], Array], shape: Shape, dtype: Any) -> None:
        self._asarray = asarray  # copies an array of the host to the device
        self.host = np.empty(shape, dtype)

    def wait(self) -> None:
        """Wait until `host` may be written again."""

    def send(self, count: int) -> Array:
        """The first `count` items of `host` on the device; valid until `sent` and the next turn."""
        return self._asarray(self.host[:count])

    def sent(self) -> None:
        """Call this when all that reads the array from `send` has been enqueued."""
