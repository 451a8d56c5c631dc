"""Made-up GPUs, and CuPy 14 for them, for tests of GPU code on machines without a GPU.

Arrays are in the memory of the emulated devices, `_sim`'s kernels compute, and `machine` runs work
that no stream or event orders at the worst possible time. Whatever CuPy lacks or would refuse is an
error here; so are mistakes that no GPU notices: memory freed before its last user is done, a graph
launched after its arrays are gone, host memory that is changed before it has been read.

machine: order, streams' work, captures. memory: pools. streams: devices, streams, events, graphs.
arrays: ndarray and the functions of cupy. kernels: pyalexnet._cuda. nccl: cupy.cuda.nccl.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pyalexnet
from pyalexnet import backends, ranks
from stand_in.arrays import Library, ndarray
from stand_in.kernels import Extension
from stand_in.machine import ORDERS, ORDERS_OF_TWO, CUDARuntimeError, Machine
from stand_in.memory import MemoryAsyncPool, MemoryPool, PinnedPool, Pools
from stand_in.nccl import Exchange, Nccl
from stand_in.streams import Device, Event, Graph, Stream, get_elapsed_time

__all__ = ["ORDERS", "ORDERS_OF_TWO", "CUDARuntimeError", "Machine", "installed"]

_BACKEND, _RANKS = "pyalexnet.backends.cuda", "pyalexnet.ranks.nccl"


@contextmanager
def installed(machine: Machine, exchange: Exchange | None = None) -> Iterator[Machine]:
    """Put CuPy for these GPUs, and their `_cuda`, where the backend cuda imports them from.

    exchange: what NCCL transfers arrays with; None where it is not installed.

    Raises:
        AssertionError: something was done inside that no GPU refuses but that is surely a mistake.
    """
    cupy = _cupy(machine, exchange)
    runtime = cupy.cuda.runtime
    names = {"cupy": cupy, "cupy.cuda": cupy.cuda, "cupy.cuda.runtime": runtime}
    names["cupy.cuda.nccl"] = cupy.cuda.nccl
    extension = Extension(machine, cupy.library, cupy.cuda.Event)
    modules: dict[str, Any] = {**names, "pyalexnet._cuda": extension}
    with (
        _replaced(vars(pyalexnet), {"_cuda": extension}),
        _replaced(vars(backends), {"cuda": None}),
        _replaced(vars(ranks), {"nccl": None}),
        _replaced(sys.modules, {**modules, _BACKEND: None, _RANKS: None}),
    ):
        yield machine
        machine.end()
    assert not machine.faults, "; ".join(machine.faults)


@contextmanager
def _replaced(names: dict[str, Any], others: dict[str, Any]) -> Iterator[None]:
    """Replace some names by others, or remove them (None), and restore them afterwards."""
    before = {name: names.get(name) for name in others}

    def put(values: dict[str, Any]) -> None:
        for name, value in values.items():
            names.pop(name, None)
            if value is not None:
                names[name] = value

    put(others)
    try:
        yield
    finally:
        put(before)


def _cupy(machine: Machine, exchange: Exchange | None) -> Any:
    """The module cupy for these GPUs."""
    pools, pinned = Pools(machine), PinnedPool(machine)

    def bound(kind: type, **known: Any) -> Any:
        return type(kind.__name__, (kind,), {"__slots__": (), "machine": machine, **known})

    device, stream = bound(Device), bound(Stream)
    null = stream.null = stream(null=True)
    array_type = bound(ndarray, pools=pools, pinned=pinned, device_type=device)
    library = Library(array_type)

    cupy: Any = ModuleType("cupy")
    cupy.library = library
    cupy.ndarray = array_type
    for name in ("empty", "zeros", "array", "asarray", "ascontiguousarray", "asnumpy"):
        setattr(cupy, name, getattr(library, name))
    cupy.from_dlpack = library.from_dlpack
    cupy.get_default_memory_pool = lambda: bound(MemoryPool, pools=pools)()
    cupy.cuda = ModuleType("cupy.cuda")
    cuda = cupy.cuda

    def get_current_stream(device_id: int = -1) -> Any:
        entered = machine.streams(machine.device if device_id == -1 else device_id)
        return entered[-1] if entered else null

    cuda.Device, cuda.Stream, cuda.Event, cuda.Graph = device, stream, bound(Event), Graph
    cuda.get_current_stream, cuda.get_elapsed_time = get_current_stream, get_elapsed_time
    cuda.set_allocator, cuda.alloc_pinned_memory = pools.set_allocator, pinned.alloc
    cuda.MemoryAsyncPool = bound(MemoryAsyncPool, pools=pools)
    cuda.runtime, cuda.nccl = _runtime(machine, pools), Nccl(machine, pools, exchange)
    return cupy


def _runtime(machine: Machine, pools: Pools) -> Any:
    """The module cupy.cuda.runtime."""

    def memcpyPeerAsync(  # noqa: N802 (CuPy's name)
        dst: int, dstDevice: int, src: int, srcDevice: int, size: int, stream: int
    ) -> None:
        blocks = [block for ptr in (dst, src) if (block := pools.block_at(ptr)) is not None]
        copy = partial(ctypes.memmove, dst, src, size)
        machine.enqueue(machine.line(stream), "a copy between GPUs", copy, blocks)

    runtime: Any = ModuleType("cupy.cuda.runtime")

    runtime.CUDARuntimeError = CUDARuntimeError
    runtime.getDeviceCount = lambda: machine.gpus
    runtime.driverGetVersion = lambda: 13000
    runtime.runtimeGetVersion = lambda: 13020
    runtime.getDeviceProperties = lambda device: {"name": b"a stand-in for a GPU"}
    runtime.memcpyPeerAsync = memcpyPeerAsync
    return runtime
