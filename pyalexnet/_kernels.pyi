"""The extension modules: what `_cpu`, `_sim`, `_simcheck` and `_cuda` offer besides the operations.

There is no module of this name. `tests/test_bindings.py` holds these classes to the built modules.
The operations, which `KernelBackend._run` calls by name, are in bindings/*.cpp;
`help(pyalexnet._cpu)` lists them with their arguments.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from pyalexnet.ops.elements import Array, Shape
from pyalexnet.ops.records import ConvGeometry

class Recording:
    """Calls that were checked once: an op that gets one in place of a stream is added to it."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def set_aside(self, aside: bool) -> None: ...
    def run(self, stream: int, beside: int) -> None: ...

Place: TypeAlias = tuple[int, int | Recording, Callable[[int], Array | None]]
"""Every operation's last argument: the device; the stream or a recording; what returns scratch of
at least so many bytes."""

class Kernels(Protocol):
    """Every module."""

    KernelError: type[RuntimeError]
    Recording: type[Recording]

    def has_hopper(self, device: int) -> bool: ...
    def choice(
        self,
        pass_name: str,
        x: Shape,
        w: Shape,
        geometry: ConvGeometry,
        unit: str,
        towers: int,
        half: bool,
        device: int,
    ) -> tuple[str, int, int, int]: ...

class CpuKernels(Kernels, Protocol):
    """`_cpu` and its siblings for other instruction sets."""

    def levels(self) -> list[tuple[str, str]]: ...
    def workers(self) -> int: ...
    def set_workers(self, count: int) -> bool: ...
    def use_workers(self, count: int) -> None: ...

class SimKernels(Kernels, Protocol):
    """`_sim`."""

    def empty(self, shape: Shape, dtype: np.dtype[Any], device: int) -> Array: ...
    def device_of(self, array: Array) -> int: ...
    def enable_peers(self, device: int, peer: int) -> None: ...
    def set_schedule(self, seed: int, cuts: bool = False) -> None: ...
    def launch_count(self) -> int: ...

class SimcheckKernels(SimKernels, Protocol):
    """`_simcheck`."""

    def barriers_met(self) -> list[str]: ...
    def leave_out_barrier(self, file_and_line: str) -> None: ...
    def shorten_buffer(self, name: str) -> None: ...
    def begin_lint(self) -> None: ...
    def end_lint(self) -> list[tuple[Any, ...]]: ...

class CudaKernels(Kernels, Protocol):
    """`_cuda`."""

    def device_count(self) -> int: ...
    def peer_access_possible(self, device: int, peer: int) -> bool: ...
    def enable_peers(self, device: int, peer: int) -> None: ...
