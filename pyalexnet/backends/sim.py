"""The CUDA kernels without a GPU: each of their threads is run on the CPU, in a chosen order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyalexnet.backends.base import Array, Shape
from pyalexnet.backends.host import HostBackend
from pyalexnet.backends.kernels import KernelBackend, extension

if TYPE_CHECKING:
    from pyalexnet._kernels import SimcheckKernels, SimKernels


class SimBackend(KernelBackend, HostBackend):
    """An emulated GPU. Its arrays are NumPy arrays in the memory of that device.

    Unlike on a GPU, operations also take NumPy arrays in host memory, and are complete when they
    return.
    """

    name = "sim"
    _ext: SimKernels
    _extension: ClassVar[tuple[str, str]] = (
        "_sim",
        "`make test` builds it, and so does pip install pyalexnet",
    )

    def __init__(self, device: int = 0) -> None:
        KernelBackend.__init__(self, extension(*self._extension))
        HostBackend.__init__(self, device)

    def set_schedule(self, seed: int, cuts: bool = False) -> None:
        """Set the order in which blocks and threads run, for every instance of this backend.

        Args:
            seed: 0 for the natural order; any other permutes the blocks, the threads of each, and
                which thread goes first after a barrier. Results must not depend on it.
            cuts: whether tensor cores align products and truncate their sums, as a GPU's do, or
                round each sum to nearest.
        """
        self._ext.set_schedule(seed, cuts)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        x = super().asarray(x, dtype)
        return x if self._ext.device_of(x) == self.device else self.copy(x)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.array(x)

    def empty(self, shape: Shape, dtype: Any = np.float32) -> Array:
        return self._ext.empty(shape, np.dtype(dtype), self.device)

    def _stream(self) -> int:
        return 0

    @contextmanager
    def _readable(self, arrays: Sequence[Array]) -> Iterator[list[Array]]:
        for peer in {self._ext.device_of(array) for array in arrays} - {self.device, _HOST}:
            self._ask("enable_peers", self.device, peer)
        yield list(arrays)


class SimcheckBackend(SimBackend):
    """The emulation under a checker of races, bounds and uninitialised reads; ten times slower."""

    name = "simcheck"
    _ext: SimcheckKernels
    _extension = ("_simcheck", "build pyalexnet from source with -DPYALEXNET_SIMCHECK=ON")

    @contextmanager
    def lint(self) -> Iterator[list[tuple[Any, ...]]]:
        """Count the cost on a GPU of the memory accesses of all calls inside; twice as slow.

        Yields:
            A list that is filled at the end: the fields of a `bench.lint.LineCost` for each line.
        """
        rows: list[tuple[Any, ...]] = []
        self._ext.begin_lint()
        try:
            yield rows
        finally:
            rows += self._ext.end_lint()


_HOST = -1  # the extension module's device number for memory that no device allocated
