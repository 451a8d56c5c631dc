"""The operations by the kernels of an extension module: CUDA's, their emulation, or the CPU's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from pyalexnet.backends.base import Array, Backend, Shape
from pyalexnet.errors import ArgumentError, BackendUnavailable, KernelError
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import ConvGeometry

if TYPE_CHECKING:
    from pyalexnet._kernels import Kernels, Recording


def extension(name: str, remedy: str) -> Any:
    """The extension module `pyalexnet.<name>`.

    Raises:
        BackendUnavailable: it cannot be imported; the text ends with `remedy`.
    """
    try:
        return import_module(f"pyalexnet.{name}")
    except ImportError as error:
        raise BackendUnavailable(
            f"The extension module pyalexnet.{name} cannot be loaded ({error}); {remedy}."
        ) from error


class KernelBackend(Backend):
    """A backend whose raw operations are the kernels; a subclass says where its arrays are."""

    def __init__(self, ext: Kernels) -> None:
        self._ext = ext
        self._hopper = False
        self._recording: Recording | None = None  # if set, operations are added to it
        self._aside = False  # whether recorded operations are set aside
        self._arenas: dict[tuple[int, bool], Array] = {}

    @property
    def hopper(self) -> bool:
        """Whether products of bfloat16 use Hopper's own main loop, wgmma, where operands allow it.

        Always False if the device is not a Hopper or the kernels were built without it. If False,
        products use mma, the loop for the tensor cores of any card. Existing recordings stay as
        they are.
        """
        return self._hopper

    @hopper.setter
    def hopper(self, on: bool) -> None:
        if on and not self._ask("has_hopper", self.device):
            raise ArgumentError(
                f"{self.name}: hopper is True; device {self.device} is no Hopper, or the kernels "
                "were built without sm_90a, so False was expected."
            )
        self._hopper = on

    @contextmanager
    def with_hopper(self, on: bool) -> Iterator[None]:
        """Set `hopper` inside, and restore it afterwards."""
        before, self.hopper = self.hopper, on
        try:
            yield
        finally:
            self.hopper = before

    def workspace(self, nbytes: int) -> Array | None:
        """Scratch of at least `nbytes` bytes (1-D uint8), the same for every caller; None for 0.

        One for each stream, and one more for operations set aside there, so that neither waits.
        """
        if nbytes == 0:
            return None
        place = (self._stream(), self._aside)
        arena = self._arenas.get(place)
        if arena is None or arena.size < nbytes:
            arena = self._arenas[place] = self.empty((nbytes,), np.uint8)
        return arena

    @abstractmethod
    def _stream(self) -> int:
        """Address of the CUDA stream that operations are put on; 0 is the default one."""

    def record(self, work: Callable[[], None], *, graph: bool = True) -> Callable[[], None]:
        recording = self._recording = self._ext.Recording()
        try:
            work()
        finally:
            self._recording = None
        return partial(self._replay, recording)

    @contextmanager
    def aside(self) -> Iterator[None]:
        if self._recording is None:
            yield
            return
        self._aside = True
        self._recording.set_aside(True)
        try:
            yield
        finally:
            self._recording.set_aside(False)
            self._aside = False

    def _beside(self) -> int:
        """Address of the stream for operations recorded aside; `_stream` unless overridden."""
        return self._stream()

    def _replay(self, recording: Recording) -> None:
        """Enqueue all operations of a recording.

        Raises:
            KernelError: a kernel could not be launched, or broke a rule.
        """
        try:
            recording.run(self._stream(), self._beside())
        except self._ext.KernelError as error:
            raise KernelError(str(error)) from error

    def _run(self, op: str, *arguments: Any) -> None:
        target = self._stream() if self._recording is None else self._recording
        self._ask(op, *arguments, (self.device, target, self.workspace))

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of the extension module, and translate its errors.

        Raises:
            ArgumentError: it refuses an argument.
            KernelError: the device failed to do it, or it broke a rule.
        """
        try:
            return getattr(self._ext, function)(*arguments)
        except ValueError as error:
            raise ArgumentError(f"{error}.") from error
        except self._ext.KernelError as error:
            raise KernelError(f"{function}: {error}") from error

    def _unit(self, dtype: np.dtype[Any], tensor: bool) -> str:
        if dtype == BFLOAT16:
            return "wgmma" if self._hopper else "mma"
        return "mma" if tensor else "fma"

    def choice(
        self, op: str, x: Shape, w: Shape, dtype: np.dtype[Any], settings: Mapping[str, Any]
    ) -> str:
        """How a product is computed if its arrays are aligned, such as "mma, tile 128 x 64".

        op: of a convolution or a linear layer. x, w: shapes of its maps and weights, or of their
        gradients. dtype: of the operands. settings: the other arguments.
        """
        unit = self._unit(dtype, settings.get("tensor", False))
        geometry = ConvGeometry.of(op, *(settings.get(*each) for each in _GEOMETRY))
        how = (geometry, unit, settings.get("towers", 1), dtype == BFLOAT16, self.device)
        loop, rows, columns, parts = self._ask("choice", op.split("_")[1], x, w, *how)
        tile = f", tile {rows} x {columns}" if rows else ""
        return f"{loop}{tile}" + (f", depth in {parts} parts" if parts > 1 else "")


_GEOMETRY = (("stride", 1), ("pad", 0), ("groups", 1))
