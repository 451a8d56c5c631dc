"""Memory of the made-up GPUs: CuPy's pools, which reuse freed memory at once.

A pool belongs to a stream: the stream's earlier work is done before the next owner's work. Pending
work of other streams on the memory is a fault.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyalexnet import _sim
from stand_in.machine import Machine, Work

_UNIT = 512
_GARBAGE = 0xFF  # a NaN in float32 and bfloat16


class Block:
    """Bytes that have one owner at a time, and the work that touches them.

    turn: how many owners it has had, so that a graph can tell whether it still owns them.
    """

    def __init__(self, bytes_: NDArray[np.uint8]) -> None:
        self.bytes = bytes_
        self.users: list[Work] = []
        self.turn = 0

    @property
    def ptr(self) -> int:
        return address(self.bytes)

    def holds(self, ptr: int) -> bool:
        return self.ptr <= ptr < self.ptr + len(self.bytes)


class BaseMemory:
    """An array's `data.mem`; `identity` names its owner, as in cupy.cuda.memory.PooledMemory."""

    def __init__(self, ptr: int, size: int, device_id: int, identity: str) -> None:
        self.ptr, self.size, self.device_id, self.identity = ptr, size, device_id, identity


class PooledMemory(BaseMemory):
    """Memory of a pool, until the last array on it is gone."""

    def __init__(self, machine: Machine, pools: Pools, size: int, identity: str) -> None:
        device = machine.device
        key = (device, machine.current_address(device), identity)
        self.block = pools.take(key, size)
        super().__init__(self.block.ptr, size, device, identity)
        weakref.finalize(self, pools.give_back, key, self.block).atexit = False


class UnownedMemory(BaseMemory):
    """Memory owned by something else."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int) -> None:
        super().__init__(ptr, size, device_id, "UnownedMemory")
        self._owner = owner


class MemoryPointer:
    """A place in memory."""

    def __init__(self, mem: BaseMemory | None, ptr: int, device_id: int) -> None:
        self.mem, self.ptr, self.device_id = mem, ptr, device_id


Key = tuple[int, int, str]
Allocator = Callable[[int], MemoryPointer]


class Pools:
    """The pools of all devices and streams.

    Attributes:
        allocator: allocates the memory of arrays; `set_allocator` changes it.
        total: bytes obtained from the driver.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._free: dict[Key, list[Block]] = defaultdict(list)
        self._blocks: list[Block] = []
        self._reuses = True
        self.allocator: Allocator = self.malloc
        self.total = 0

    def malloc(self, size: int) -> MemoryPointer:
        """Memory of CuPy's own pool, which gets it from cudaMalloc."""
        return self.given(size, "Memory")

    def given(self, size: int, identity: str) -> MemoryPointer:
        memory = PooledMemory(self._machine, self, size, identity)
        return MemoryPointer(memory, memory.ptr, memory.device_id)

    def set_allocator(self, allocator: Allocator | None = None) -> None:
        """Like cupy.cuda.set_allocator: without one, the driver allocates and frees memory."""
        self._reuses = allocator is not None
        self.allocator = self.malloc if allocator is None else allocator

    def take(self, key: Key, size: int) -> Block:
        """The smallest suitable free block, or a new one; either way it holds garbage."""
        machine = self._machine
        device, stream, _ = key
        line = machine.line(stream, device)
        if machine.captures:
            machine.fault("memory is taken while a stream captures")
        fitting = [block for block in self._free[key] if len(block.bytes) >= size]
        if fitting:
            block = min(fitting, key=lambda one: len(one.bytes))
            self._free[key].remove(block)
            for user in block.users:
                if not machine.comes_before(user, line):
                    machine.fault(f"memory that {user.label} is still to use is handed out again")
        else:
            rounded = math.ceil(size / _UNIT) * _UNIT
            block = Block(_sim.empty((rounded,), np.dtype(np.uint8), device))
            self._blocks.append(block)
            self.total += rounded
        if not machine.captures:
            bytes_ = block.bytes
            machine.enqueue(line, "garbage", lambda: bytes_.fill(_GARBAGE), [block])
        return block

    def give_back(self, key: Key, block: Block) -> None:
        block.turn += 1
        if self._reuses:
            self._free[key].append(block)
            return
        self._free_block(block)

    def free_all(self) -> None:
        """Return blocks without an owner to the driver."""
        for blocks in self._free.values():
            for block in blocks:
                self._free_block(block)
            blocks.clear()

    def _free_block(self, block: Block) -> None:
        """The driver waits for work that still uses the block."""
        for user in block.users:
            user.complete()
        self._blocks.remove(block)
        self.total -= len(block.bytes)

    def block_at(self, ptr: int) -> Block | None:
        """The block that contains an address, if it belongs to a pool."""
        return next((one for one in self._blocks if one.holds(ptr)), None)


class MemoryPool:
    """The queries of CuPy's default pool."""

    pools: ClassVar[Pools]

    def free_all_blocks(self, stream: Any = None) -> None:
        self.pools.free_all()

    def total_bytes(self) -> int:
        return self.pools.total


class MemoryAsyncPool:
    """A stream-ordered pool of the driver, to which peer access does not apply."""

    pools: ClassVar[Pools]

    def malloc(self, size: int) -> MemoryPointer:
        return self.pools.given(size, "MemoryAsync")


class PinnedPool:
    """Page-locked memory, which is reused at once, even if it is still to be read."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._free: dict[int, list[Block]] = defaultdict(list)
        self._owned: list[Block] = []

    def alloc(self, size: int) -> Any:
        """Like cupy.cuda.alloc_pinned_memory: a buffer, kept until its last reference is gone."""
        rounded = max(_UNIT, 1 << (size - 1).bit_length())
        free = self._free[rounded]
        block = free.pop() if free else Block(np.empty(rounded, np.uint8))
        self._owned.append(block)
        # Not an ndarray: one on the same memory would not keep it alive.
        kind: Any = type("PinnedMemoryPointer", (ctypes.c_uint8 * rounded,), {})
        pinned = kind.from_buffer(block.bytes)
        weakref.finalize(pinned, self._give_back, block).atexit = False
        return pinned

    def _give_back(self, block: Block) -> None:
        for user in block.users:
            if not user.done:
                self._machine.fault(f"page-locked memory is given back before {user.label}")
        self._owned.remove(block)
        self._free[len(block.bytes)].append(block)

    def block_of(self, array: NDArray[Any]) -> Block | None:
        """The block that contains an array of the host, if it is page-locked."""
        return next((one for one in self._owned if one.holds(address(array))), None)


def address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def at(ptr: int, nbytes: int) -> NDArray[np.uint8]:
    """The bytes at an address, which this does not keep alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(ptr))
