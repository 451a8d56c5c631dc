"""pyalexnet._cuda with `_sim`'s kernels: checked when called, run when their stream gets there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyalexnet import _sim
from stand_in.arrays import Library, blocks_of, ndarray
from stand_in.machine import Machine, Run
from stand_in.memory import Block
from stand_in.streams import Event, wait_for

# What `_sim` has besides the operations, for tests of the emulation.
_EMULATION = {
    *("empty", "device_of", "set_schedule", "launch_count", "barriers_met", "leave_out_barrier"),
    *("shorten_buffer", "begin_lint", "end_lint"),
}


class Recording:
    """Calls that were checked once; it keeps their arrays alive."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        self._calls: list[tuple[int, bool, str, Run, list[ndarray]]] = []
        self._aside = False

    def set_aside(self, aside: bool) -> None:
        self._aside = aside

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, device: int, name: str, run: Run, arrays: list[ndarray]) -> None:
        self._calls.append((device, self._aside, name, run, arrays))

    def run(self, stream: int, beside: int) -> None:
        """As in bindings/array.cpp: calls set aside run concurrently with those after them."""
        parted = False
        for device, aside, name, run, arrays in self._calls:
            if aside and beside != stream:
                parted = True
                self._extension.order(device, stream, beside)
                self._extension.launch(device, beside, name, run, arrays)
            else:
                self._extension.launch(device, stream, name, run, arrays)
        if parted:
            self._extension.order(self._calls[0][0], beside, stream)


class Extension:
    """The module pyalexnet._cuda."""

    def __init__(self, machine: Machine, library: Library, event: type[Event]) -> None:
        self._machine, self._library, self._event = machine, library, event
        self._peers: set[tuple[int, int]] = set()
        self.KernelError = _sim.KernelError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _EMULATION or not hasattr(_sim, name):
            raise AttributeError(f"module 'pyalexnet._cuda' has no attribute {name!r}")
        return self._op(name)

    def Recording(self) -> Recording:  # noqa: N802 (a class of the module's)
        return Recording(self)

    def has_hopper(self, device: int) -> bool:
        return self._machine.hopper

    def device_count(self) -> int:
        return self._machine.gpus

    def peer_access_possible(self, device: int, peer: int) -> bool:
        return self._machine.peers

    def enable_peers(self, device: int, peer: int) -> None:
        self._machine.device = device
        self._peers.add((device, peer))
        _sim.enable_peers(device, peer)

    def _op(self, name: str) -> Callable[..., None]:
        def op(*arguments: Any) -> None:
            *operands, (device, target, workspace) = arguments
            arrays: list[ndarray] = []

            def scratch(nbytes: int) -> Any:
                return self._inside(name, workspace(nbytes), arrays)

            inside = [self._inside(name, one, arrays) for one in operands]
            checked = _sim.Recording()
            getattr(_sim, name)(*inside, (device, checked, scratch))
            for array in arrays:
                self._refuse_out_of_reach(name, device, array)
            run = lambda: checked.run(0, 0)  # noqa: E731
            if isinstance(target, Recording):
                target.add(device, name, run, arrays)
            elif type(target) is int:
                self.launch(device, target, name, run, arrays)
            else:
                raise TypeError(f"{name}: stream is {target!r}; an address was expected")

        return op

    def launch(self, device: int, stream: int, name: str, run: Run, arrays: list[ndarray]) -> None:
        self._machine.device = device  # the module's runtime leaves this device current
        touches: list[Block] = blocks_of(arrays)
        self._machine.enqueue(self._machine.line(stream, device), name, run, touches)

    def order(self, device: int, first: int, second: int) -> None:
        """Later work on stream `second` waits for all work so far on `first`."""
        self._machine.device = device
        event = self._event(disable_timing=True)
        event.record_on(self._machine.line(first, device))
        wait_for(self._machine, self._machine.line(second, device), event)

    def _inside(self, name: str, one: Any, arrays: list[ndarray]) -> Any:
        """An argument in the form that `_sim` takes; its arrays are appended to `arrays`."""
        if isinstance(one, (tuple, list)):
            inside = [self._inside(name, part, arrays) for part in one]
            return inside if isinstance(one, list) else tuple(inside)
        if hasattr(one, "__cuda_array_interface__"):
            array = one if isinstance(one, ndarray) else self._library.asarray(one)
            arrays.append(array)
            return array.inside
        if isinstance(one, np.ndarray):
            raise ValueError(f"{name}: x is {type(one)}; an array on a CUDA device was expected")
        return one

    def _refuse_out_of_reach(self, name: str, device: int, array: ndarray) -> None:
        """Kernels read another GPU's memory only if allowed, and only where peer access applies."""
        memory, peer = array.data.mem, array.data.device_id
        if memory is None or peer == device:
            return
        if (device, peer) not in self._peers or memory.identity != "Memory":
            raise self.KernelError(f"{name}: an illegal memory access was encountered")
