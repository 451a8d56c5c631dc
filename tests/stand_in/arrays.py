"""cupy.ndarray over the memory of `_sim`'s devices: the parts that pyalexnet, bench and tests use.

Every method that reads or writes elements enqueues work on the current stream, and returns at once.
Work keeps no array alive: the memory returns to the pool when its last user is gone, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyalexnet import _sim
from pyalexnet.ops.elements import BFLOAT16
from stand_in.machine import CUDARuntimeError, Machine, Run
from stand_in.memory import (
    BaseMemory,
    Block,
    MemoryPointer,
    PinnedPool,
    PooledMemory,
    Pools,
    UnownedMemory,
    address,
    at,
)
from stand_in.streams import Device, Stream


class Flags(NamedTuple):
    c_contiguous: bool
    f_contiguous: bool


class ndarray:  # noqa: N801 (CuPy's name)
    """Like cupy.ndarray.

    `inside` is the same memory as a NumPy array, for the emulated kernels only.
    """

    __slots__ = ("__weakref__", "base", "data", "inside")

    machine: ClassVar[Machine]
    pools: ClassVar[Pools]
    pinned: ClassVar[PinnedPool]
    device_type: ClassVar[type[Device]]

    data: MemoryPointer
    base: ndarray | None
    inside: NDArray[Any]

    def __init__(self, shape: int | Sequence[int], dtype: Any = float, order: str = "C") -> None:
        element = element_of(dtype)
        extents = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        nbytes = int(np.prod(extents, dtype=np.int64)) * element.itemsize
        self.base = None
        if nbytes == 0:
            self.data = MemoryPointer(None, 0, self.machine.device)
            self.inside = np.empty(extents, element)
            return
        self.data = self.pools.allocator(nbytes)
        bytes_ = at(self.data.ptr, nbytes)
        block = block_of(self.data.mem)
        if block is not None:  # keeps the emulated device's memory alive
            bytes_ = block.bytes[:nbytes]
        self.inside = bytes_.view(element).reshape(extents, order="F" if order == "F" else "C")

    def _part(self, inside: NDArray[Any]) -> ndarray:
        """An array on the same memory."""
        part = type(self).__new__(type(self))
        part.inside, part.base = inside, self if self.base is None else self.base
        place = address(inside) if inside.size else 0
        part.data = MemoryPointer(self.data.mem, place, self.data.device_id)
        return part

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inside.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inside.dtype

    @property
    def ndim(self) -> int:
        return self.inside.ndim

    @property
    def size(self) -> int:
        return self.inside.size

    @property
    def itemsize(self) -> int:
        return self.inside.itemsize

    @property
    def nbytes(self) -> int:
        return self.inside.nbytes

    @property
    def device(self) -> Device:
        return self.device_type(self.data.device_id)

    @property
    def flags(self) -> Flags:
        flags = self.inside.flags
        return Flags(flags.c_contiguous, flags.f_contiguous)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": self.machine.current_address(self.machine.device) or 1,
            "version": 3,
            "strides": None if self.flags.c_contiguous else self.inside.strides,
            "data": (self.data.ptr, False),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.data.device_id

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> ndarray:
        return self  # in place of a capsule

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc is not np.matmul or method != "__call__" or set(options) != {"out"}:
            return NotImplemented
        arrays = [*inputs, *options["out"]]
        a, b, c = (one.inside for one in arrays)
        self.kernel("matmul", arrays, lambda: np.matmul(a, b, out=c))
        return arrays[-1]

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, places: Any) -> ndarray:
        whole = places if isinstance(places, tuple) else (places,)
        return self._part(self.inside[whole if Ellipsis in whole else (*whole, ...)])

    def __setitem__(self, places: Any, values: Any) -> None:
        part = self.inside[places]
        if isinstance(values, ndarray):
            source = np.broadcast_to(values.inside, part.shape)
            run = partial(np.copyto, part, source, "unsafe")
            self.kernel("an assignment", [self, values], run)
            return
        if isinstance(values, np.ndarray) and values.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self.kernel("a fill", [self], partial(part.fill, values))

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        extents = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        inside = self.inside.reshape(extents)
        if self.size and not np.shares_memory(inside, self.inside):
            return self.astype(self.dtype).reshape(extents)
        return self._part(inside)

    def view(self, dtype: Any = None, array_class: Any = None) -> ndarray:
        return self._part(self.inside.view(dtype))

    def astype(
        self,
        dtype: Any,
        order: str = "K",
        casting: Any = None,
        subok: Any = None,
        copy: bool | None = True,
    ) -> ndarray:
        """A copy, also from another device; or the array itself, if allowed and suitable."""
        element = element_of(dtype)
        here = self.data.device_id == self.machine.device
        straight = order != "C" or self.flags.c_contiguous
        if not copy and here and straight and element == self.dtype:
            return self
        own = type(self)(self.shape, element)
        run = partial(np.copyto, own.inside, self.inside, "unsafe")
        self.kernel("a copy", [self, own] if here else [own], run, blocks_of([self]))
        return own

    def fill(self, value: Any) -> None:
        self.kernel("a fill", [self], partial(self.inside.fill, value))

    def set(self, arr: NDArray[Any], stream: Stream | None = None) -> None:
        """Copy an array from the host, which is read when the stream gets to it."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        block = self.pinned.block_of(arr)
        if block is None:
            self.machine.fault("memory of the host that is not page-locked is copied from later")
            return
        device = self.data.device_id
        ptr = self.machine.current_address(device) if stream is None else stream.ptr
        source = at(address(arr), arr.nbytes).view(arr.dtype).reshape(arr.shape)
        touches = [block, *blocks_of([self])]
        run = partial(np.copyto, self.inside, source)
        self.machine.enqueue(self.machine.line(ptr, device), "a copy to the GPU", run, touches)

    def get(self, stream: Stream | None = None) -> NDArray[Any]:
        """A copy on the host; waits for the stream."""
        device = self.data.device_id
        ptr = self.machine.current_address(device) if stream is None else stream.ptr
        line = self.machine.line(ptr, device)
        if line.capture is not None:
            raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")
        host = np.empty(self.shape, self.dtype)
        run = partial(np.copyto, host, self.inside)
        self.machine.enqueue(line, "a copy to the host", run, blocks_of([self]))
        self.machine.wait_for_line(line)
        return host

    def kernel(
        self, label: str, arrays: Sequence[ndarray], run: Run, touches: Sequence[Block] = ()
    ) -> None:
        """A kernel of CuPy's, on the current stream of the device of all these arrays."""
        machine = self.machine
        if any(one.data.device_id != machine.device for one in arrays):
            raise ValueError(f"{label}: an array lies on another device than the current one")
        line = machine.line(machine.current_address(machine.device))
        machine.enqueue(line, label, run, [*blocks_of(arrays), *touches])


def element_of(dtype: Any) -> np.dtype[Any]:
    element: np.dtype[Any] = np.dtype(dtype)
    if element.byteorder == ">":
        raise ValueError(f"Unsupported dtype {element} with big-endian byte-order")
    if element.kind not in "?biuf" and element != BFLOAT16:
        raise ValueError(f"Unsupported dtype {element}")
    return element


def block_of(memory: BaseMemory | None) -> Block | None:
    return memory.block if isinstance(memory, PooledMemory) else None


def blocks_of(arrays: Sequence[ndarray]) -> list[Block]:
    """The memory of CuPy's pools that holds these arrays."""
    return [block for one in arrays if (block := block_of(one.data.mem)) is not None]


class Library:
    """The functions of the module cupy."""

    def __init__(self, array_type: type[ndarray]) -> None:
        self.ndarray = array_type
        self._machine = array_type.machine

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        return self.ndarray(shape, dtype, order)

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        made = self.ndarray(shape, dtype, order)
        if made.size:
            made.fill(0)
        return made

    def array(
        self,
        obj: Any,
        dtype: Any = None,
        copy: bool | None = True,
        order: str = "K",
        subok: bool = False,
        ndmin: int = 0,
        *,
        blocking: bool = False,
    ) -> ndarray:
        if not isinstance(obj, ndarray) and hasattr(obj, "__cuda_array_interface__"):
            obj = self._shown(obj.__cuda_array_interface__, obj)
        if isinstance(obj, ndarray):
            return obj.astype(obj.dtype if dtype is None else dtype, order, copy=copy)
        host = np.array(obj, dtype=dtype)  # CuPy's own is page-locked, and watched
        if host.dtype.byteorder == ">":
            host = host.astype(host.dtype.newbyteorder("<"))
        made = self.ndarray(host.shape, host.dtype)
        line = self._machine.line(self._machine.current_address(self._machine.device))
        if line.capture is not None:
            raise CUDARuntimeError(907, "cudaErrorCapturedEvent")
        if made.size:
            made.kernel("a copy to the GPU", [made], partial(np.copyto, made.inside, host))
        return made

    def asarray(
        self,
        a: Any,
        dtype: Any = None,
        order: str | None = None,
        *,
        copy: bool | None = None,
        blocking: bool = False,
    ) -> ndarray:
        return self.array(a, dtype, copy, order or "K", blocking=blocking)

    def ascontiguousarray(self, a: ndarray, dtype: Any = None) -> ndarray:
        straight = a.astype(a.dtype if dtype is None else dtype, "C", copy=None)
        return straight if straight.ndim else straight.reshape(1)

    def asnumpy(
        self,
        a: Any,
        stream: Stream | None = None,
        order: str = "C",
        out: Any = None,
        *,
        blocking: bool = True,
    ) -> NDArray[Any]:
        return a.get(stream) if isinstance(a, ndarray) else np.asarray(a)

    def from_dlpack(self, array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
        kind, _ = array.__dlpack_device__()
        if kind != 2:
            raise TypeError(f"Unsupported array type: {kind}")
        shown: ndarray = array.__dlpack__(stream=1, max_version=(1, 1), copy=copy)
        return shown[...]

    def _shown(self, shown: dict[str, Any], owner: object) -> ndarray:
        """The array that `__cuda_array_interface__` describes."""
        element, shape = np.dtype(shown["typestr"]), shown["shape"]
        strides = shown["strides"]
        if strides is None:
            nbytes = int(np.prod(shape, dtype=np.int64)) * element.itemsize
        else:
            reach = zip(shape, strides, strict=True)
            nbytes = sum((n - 1) * step for n, step in reach) + element.itemsize
        ptr = shown["data"][0]
        bytes_ = at(ptr, nbytes)
        made = self.ndarray.__new__(self.ndarray)
        made.inside = np.lib.stride_tricks.as_strided(bytes_.view(element), shape, strides)
        made.base = None
        device = int(_sim.device_of(bytes_))
        made.data = MemoryPointer(UnownedMemory(ptr, nbytes, owner, device), ptr, device)
        if shown["stream"] is not None:
            self._machine.wait_for_line(self._machine.line(shown["stream"], device))
        return made
