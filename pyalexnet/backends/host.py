"""Arrays of the host, on which the backends without a GPU compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from pyalexnet.backends.base import Array, Backend, Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer

DEVICES = 2
"""Number of devices of a host, for two towers; the emulation's is the same (`simt::kDevices`)."""


class HostBackend(Backend):
    """A backend whose arrays are NumPy's. It has `DEVICES` devices, which share the processor."""

    array_type: ClassVar[type[Any]] = np.ndarray

    def __init__(self, device: int = 0) -> None:
        self.device = integer(self.name, "device", device)
        if self.device >= DEVICES:
            raise ArgumentError(
                f"{self.name}: device is {self.device}; 0 or 1 was expected, as it has {DEVICES} "
                "devices on this machine's processor, one for each of two towers."
            )

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
            try:
                x = np.from_dlpack(x, device="cpu")
            except (BufferError, RuntimeError, TypeError, ValueError) as error:
                raise ArgumentError(
                    f"asarray: x of type {type(x).__name__} cannot be read on the host ({error}); "
                    "an array that DLPack can bring there was expected."
                ) from error
        array = np.asarray(x, dtype=dtype, order="C")
        if array.dtype.hasobject:  # NumPy's result for anything it cannot read
            raise ArgumentError(
                f"asarray: x of type {type(x).__name__} holds no numbers that the host can read; "
                "an array of the host, or one that DLPack can bring there, was expected."
            )
        return array

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: Shape, dtype: Any = np.float32) -> Array:
        x = self.empty(shape, dtype)
        x[...] = 0
        return x

    def copy(self, x: Array) -> Array:
        own = self.empty(x.shape, x.dtype)
        own[...] = x
        return own

    def synchronize(self) -> None:
        """Nothing to wait for: an operation has ended when it returns."""

    def begin(self, work: Callable[[], None]) -> Callable[[], None]:
        return self._beside_thread.submit(work).result

    @cached_property
    def _beside_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    def _readable(self, arrays: Sequence[Array]) -> AbstractContextManager[Sequence[Array]]:
        return nullcontext(arrays)

    def _address(self, x: Array) -> int:
        return int(x.__array_interface__["data"][0])
