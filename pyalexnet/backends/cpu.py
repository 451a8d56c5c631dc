"""The CPU, with its own kernels: the widest vectors it has, and Winograd's convolutions."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from pyalexnet.backends.base import Array, Shape
from pyalexnet.backends.cores import usable_cores
from pyalexnet.backends.host import HostBackend
from pyalexnet.backends.kernels import KernelBackend, extension
from pyalexnet.errors import ArgumentError, BackendUnavailable

if TYPE_CHECKING:
    from pyalexnet._kernels import CpuKernels

ISA = "PYALEXNET_ISA"
"""The environment variable that names the instruction set to use."""

_REMEDY = "install pyalexnet with its extension modules: pip install pyalexnet"
_CACHE_LINE = 64


class CpuBackend(KernelBackend, HostBackend):
    """The CPU device. Operations are complete when they return.

    Args:
        exact: whether every convolution multiplies and adds as the formula says. Otherwise
            convolutions that it makes faster use Winograd's algorithm (Lavin and Gray 2016), which
            has its own error bound.

    Attributes:
        isa: the instruction set that its kernels were compiled for.
    """

    name = "cpu"
    _ext: CpuKernels

    def __init__(self, device: int = 0, *, exact: bool = False) -> None:
        self.isa = chosen_set()
        KernelBackend.__init__(self, extension(instruction_sets()[self.isa], _REMEDY))
        HostBackend.__init__(self, device)
        self.exact = exact
        self._ext.set_workers(usable_cores().count)

    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        memory = np.empty(nbytes + _CACHE_LINE, np.uint8)
        skip = -memory.ctypes.data % _CACHE_LINE
        return memory[skip : skip + nbytes].view(kind).reshape(shape)

    def _stream(self) -> int:
        return 0

    def _unit(self, dtype: np.dtype[Any], tensor: bool) -> str:
        return "fma" if self.exact else "winograd"


def instruction_sets() -> dict[str, str]:
    """Instruction sets that this processor has and modules were compiled for, lowest first.

    Returns:
        The module of each.

    Raises:
        BackendUnavailable: there is no module that this processor can run.
    """
    first = extension("_cpu", _REMEDY)
    try:
        modules = {isa: f"_cpu{suffix}" for suffix, isa in first.levels()}
    except RuntimeError as error:
        raise BackendUnavailable(
            f"The extension module pyalexnet._cpu cannot be used here: {error}; install pyalexnet "
            "anew on this machine."
        ) from error
    return {isa: name for isa, name in modules.items() if find_spec(f"pyalexnet.{name}")}


def chosen_set() -> str:
    """The highest available instruction set, or the one that PYALEXNET_ISA names.

    Raises:
        ArgumentError: it names none of those available.
    """
    there = instruction_sets()
    named = os.environ.get(ISA) or list(there)[-1]
    if named not in there:
        raise ArgumentError(
            f"{ISA} is {named!r}; one of {', '.join(there)} was expected, which this processor has."
        )
    return named
