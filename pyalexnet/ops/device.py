"""What every operation builds on: a device's arrays, its kernels, and the checks of arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer
from pyalexnet.ops.elements import ELEMENTS, Array, Shape
from pyalexnet.ops.lane import Lane


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
        """`x` as a C-contiguous array of this device; copied only where it has to be.

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

        They have its shape; their type is converted. Values on the host have been read when this
        returns, and may be changed.
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

    def lane(self, shape: Shape, dtype: Any = np.uint8) -> Lane:
        """A reusable path from the host to this device for arrays of at most `shape`."""
        return Lane(self.asarray, shape, dtype)

    # The kernels

    @abstractmethod
    def _run(self, op: str, *arguments: Any) -> None:
        """Compute `op` from arguments that are checked: arrays, outputs among them, then records.

        Raises:
            ArgumentError: the kernels have a limit that the operation does not state.
            KernelError: a kernel could not be launched, or broke a rule.
        """

    @abstractmethod
    def _unit(self, x: Array, tensor: bool) -> str:
        """The unit that multiplies where `x` is an operand, as named in `kernels/ops.h`."""

    @abstractmethod
    def _readable(self, arrays: Sequence[Array]) -> AbstractContextManager[Sequence[Array]]:
        """`arrays` of any devices, or copies, that kernels of this device may read.

        Once the context has been left, later operations on their own devices may write them again.
        """

    @abstractmethod
    def _address(self, x: Array) -> int:
        """Address of the first byte of `x`."""

    def _overlap(self, x: Array, other: Array) -> bool:
        """Whether two C-contiguous arrays have a byte in common."""
        first, start = self._address(x), self._address(other)
        return bool(first < start + other.nbytes and start < first + x.nbytes)

    @abstractmethod
    def _lies_here(self, x: Array) -> bool:
        """Whether `x` lies on this device."""

    @abstractmethod
    def _may_write(self, x: Array) -> bool:
        """Whether `x` may be written."""

    # Checks of arrays

    def _check_array(self, who: str, name: str, x: Any) -> None:
        if not isinstance(x, self.array_type):
            raise ArgumentError(
                f"{who}: {name} is of type {type(x).__name__}; an array of type "
                f"{self.array_type.__module__}.{self.array_type.__name__} was expected."
            )

    def _element(self, who: str, name: str, x: Array) -> np.dtype[Any]:
        """Type of the numbers in `x`, float32 or bfloat16.

        Pass it on as the `dtype` of all arrays of the call that share it.
        """
        self._check_array(who, name, x)
        if x.dtype not in ELEMENTS:
            raise ArgumentError(f"{who}: {name} is {x.dtype}; float32 or bfloat16 was expected.")
        element: np.dtype[Any] = x.dtype
        return element

    def _shape(
        self,
        who: str,
        name: str,
        x: Array,
        axes: Sequence[str] | None = None,
        dtype: Any = np.float32,
        *,
        anywhere: bool = False,
    ) -> Shape:
        """Shape of a usable array; `axes` names its dimensions (any number of them where None)."""
        self._check_array(who, name, x)
        if x.dtype != dtype:
            raise ArgumentError(f"{who}: {name} is {x.dtype}; {np.dtype(dtype)} was expected.")
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
        if not x.flags.c_contiguous:
            raise ArgumentError(f"{who}: {name} is strided; a C-contiguous array was expected.")
        if not (anywhere or self._lies_here(x)):
            raise ArgumentError(
                f"{who}: {name} lies on another device; device {self.device} was expected."
            )
        return shape

    def _typed(
        self, who: str, name: str, x: Array, axes: Sequence[str] | None = None
    ) -> tuple[Shape, np.dtype[Any]]:
        """Shape of a usable array of float32 or bfloat16, as in `_shape`, and which it is."""
        element = self._element(who, name, x)
        return self._shape(who, name, x, axes, element), element

    def _like(self, who: str, name: str, x: Array, shape: Shape, dtype: Any = np.float32) -> None:
        """Check an array whose shape is known."""
        if self._shape(who, name, x, dtype=dtype) != shape:
            raise ArgumentError(f"{who}: {name} has shape {x.shape}; {shape} was expected.")

    def _result(
        self,
        who: str,
        name: str,
        given: Array | None,
        shape: Shape,
        *inputs: Array | None,
        dtype: Any = np.float32,
        in_place: bool = False,
    ) -> Array:
        """The array to write: the one given, checked, or a new one."""
        if given is None:
            return self.empty(shape, dtype)
        self._like(who, name, given, shape, dtype)
        self._check_written(who, name, given, *inputs, in_place=in_place)
        return given

    def _check_written(
        self, who: str, name: str, x: Array, *others: Array | None, in_place: bool = False
    ) -> None:
        """Refuse to write `x` where that would spoil one of `others`."""
        if not self._may_write(x):
            raise ArgumentError(f"{who}: {name} is read-only; a writable array was expected.")
        for other in others:
            if other is None or not self._overlap(x, other):
                continue
            if not (in_place and (x is other or self._address(x) == self._address(other))):
                raise ArgumentError(
                    f"{who}: {name} overlaps another argument; memory of its own was expected."
                )


def with_sizes(who: str, name: str, shape: Shape, axes: str) -> Shape:
    """Check a shape given as an argument; `axes` names its dimensions."""
    if not isinstance(shape, (tuple, list)) or len(shape) != len(axes):
        raise ArgumentError(f"{who}: {name} is {shape!r}; ({', '.join(axes)}) was expected.")
    pairs = zip(axes, shape, strict=True)
    return tuple(integer(who, f"{name}'s {axis}", length, low=1) for axis, length in pairs)


def split_out(who: str, out: Any, form: str, *, count: int = 2) -> tuple[Any, ...]:
    """The parts of `out` of an operation that returns several arrays."""
    if out is None:
        return (None,) * count
    if not isinstance(out, (tuple, list)) or len(out) != count:
        raise ArgumentError(f"{who}: out is of type {type(out).__name__}; {form} was expected.")
    return tuple(out)
