"""The operations by the kernels of an extension module: CUDA's, their emulation, or the CPU's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from pyalexnet.backends.base import Activation, Array, Backend
from pyalexnet.backends.elements import BFLOAT16
from pyalexnet.backends.geometry import BlockGeometry, ConvGeometry, PoolGeometry
from pyalexnet.backends.learned import Learned
from pyalexnet.backends.masks import Mask
from pyalexnet.errors import ArgumentError, BackendUnavailable, KernelError


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
    """A backend whose raw operations are the kernels; a subclass says where its arrays lie."""

    def __init__(self, ext: Any) -> None:
        self._ext = ext
        self._hopper = False
        self._recording: Any = None  # if set, operations go to it and not to the stream
        self._aside = False  # whether what is recorded is set aside
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

        One for each stream, and one more for what is set aside there, so that neither waits.
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

    @abstractmethod
    def _readable(self, arrays: Sequence[Array]) -> AbstractContextManager[list[Array]]:
        """`arrays` of any devices, or copies, that kernels of this device may read.

        Once the context has been left, later operations on their own devices may write them again.
        """

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
        """Address of the stream for what was recorded aside; `_stream` unless overridden."""
        return self._stream()

    def _replay(self, recording: Any) -> None:
        """Enqueue all operations of a recording.

        Raises:
            KernelError: a kernel could not be launched, or broke a rule.
        """
        try:
            recording.run(self._stream(), self._beside())
        except self._ext.KernelError as error:
            raise KernelError(str(error)) from error

    def _run(self, op: str, *arguments: Any) -> None:
        """Enqueue an operation of the extension module, or record it.

        Raises:
            ArgumentError: the kernels have a limit that other backends do not have.
            KernelError: a kernel could not be launched, or broke a rule.
        """
        target = self._stream() if self._recording is None else self._recording
        self._ask(op, *arguments, self.device, target)

    def _scratch(self, op: str, *sizes: Any) -> Array | None:
        """The workspace that an operation needs for arrays of these sizes.

        Raises:
            ArgumentError: the kernels have a limit that other backends do not have.
        """
        return self.workspace(self._ask(f"{op}_workspace", *sizes))

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of the extension module, and translate its errors.

        Raises:
            ArgumentError: the kernels have a limit that other backends do not have.
            KernelError: the device failed to do it, or it broke a rule.
        """
        try:
            return getattr(self._ext, function)(*arguments)
        except ValueError as error:
            raise ArgumentError(f"{error}.") from error
        except self._ext.KernelError as error:
            raise KernelError(f"{function}: {error}") from error

    def _augment(
        self,
        x: Array,
        mean: Array,
        corners: Array,
        flips: Array,
        shifts: Array,
        y: Array,
        size: tuple[int, int],
        g: BlockGeometry,
        scale: float,
        mean_at_pixel: bool,
    ) -> None:
        places = (g.block, g.pad_top, g.pad_left)
        arrays = (x, mean, corners, flips, shifts, y)
        self._run("augment", *arrays, *size, *places, scale, mean_at_pixel)

    def _images_to_depth(self, x: Array, y: Array, g: BlockGeometry) -> None:
        self._run("images_to_depth", x, y, g.block, g.pad_top, g.pad_left)

    def _filters_to_depth(self, w: Array, deep: Array, block: int) -> None:
        self._run("filters_to_depth", w, deep, block)

    def _filters_from_depth(self, ddeep: Array, dw: Array, block: int) -> None:
        self._run("filters_from_depth", ddeep, dw, block)

    def _conv_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        y: Array,
        g: ConvGeometry,
        activation: Activation,
        towers: int,
        mask: Mask | None,
        tensor: bool,
    ) -> None:
        unit = self._unit(x, tensor)
        sizes = (x.shape, w.shape, y.shape, *_corner(g), towers, _is_bfloat16(x), unit)
        scratch = self._scratch("conv_fprop", *sizes)
        after = (activation, _drawn(mask))
        self._run("conv_fprop", x, w, b, y, scratch, *_corner(g), unit, towers, *after)

    def _conv_dgrad(
        self,
        dy: Array,
        w: Array,
        gate: Array | None,
        factor: float,
        dx: Array,
        g: ConvGeometry,
        tensor: bool,
    ) -> None:
        unit = self._unit(dy, tensor)
        scratch = self._conv_scratch("conv_dgrad", dx, w, dy, g, unit)
        self._run("conv_dgrad", dy, w, gate, dx, scratch, *_corner(g), unit, factor)

    def _conv_wgrad(
        self, x: Array, dy: Array, dw: Array, db: Array, g: ConvGeometry, tensor: bool
    ) -> None:
        unit = self._unit(x, tensor)
        scratch = self._conv_scratch("conv_wgrad", x, dw, dy, g, unit)
        self._run("conv_wgrad", x, dy, dw, db, scratch, *_corner(g), unit)

    def _conv_wgrad_sgd(
        self, x: Array, dy: Array, w: Learned, b: Learned, g: ConvGeometry, tensor: bool
    ) -> None:
        unit = self._unit(x, tensor)
        scratch = self._conv_scratch("conv_wgrad", x, w.w, dy, g, unit)
        arrays = (x, dy, w.w, w.low, w.v, b.w, b.v, scratch)
        self._run("conv_wgrad_sgd", *arrays, *_corner(g), unit, _rule(w), _rule(b))

    def _conv_scratch(
        self, op: str, x: Array, w: Array, y: Array, g: ConvGeometry, unit: str
    ) -> Array | None:
        sizes = (x.shape, w.shape, y.shape, *_corner(g), _is_bfloat16(x), unit)
        return self._scratch(op, *sizes)

    def _linear_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        y: Array,
        activation: Activation,
        towers: int,
        mask: Mask | None,
        tensor: bool,
    ) -> None:
        unit = self._unit(x, tensor)
        sizes = (*x.shape, y.shape[1], towers, _is_bfloat16(x), unit)
        scratch = self._scratch("linear_fprop", *sizes)
        self._run("linear_fprop", x, w, b, y, scratch, unit, towers, activation, _drawn(mask))

    def _linear_dgrad(
        self, dy: Array, w: Array, gate: Array | None, factor: float, dx: Array, tensor: bool
    ) -> None:
        unit = self._unit(dy, tensor)
        scratch = self._linear_scratch("linear_dgrad", dx, dy, unit)
        self._run("linear_dgrad", dy, w, gate, dx, scratch, unit, factor)

    def _linear_wgrad(self, x: Array, dy: Array, dw: Array, db: Array, tensor: bool) -> None:
        unit = self._unit(x, tensor)
        scratch = self._linear_scratch("linear_wgrad", x, dy, unit)
        self._run("linear_wgrad", x, dy, dw, db, scratch, unit)

    def _linear_wgrad_sgd(self, x: Array, dy: Array, w: Learned, b: Learned, tensor: bool) -> None:
        unit = self._unit(x, tensor)
        scratch = self._linear_scratch("linear_wgrad", x, dy, unit)
        arrays = (x, dy, w.w, w.low, w.v, b.w, b.v, scratch)
        self._run("linear_wgrad_sgd", *arrays, unit, _rule(w), _rule(b))

    def _linear_scratch(self, op: str, x: Array, y: Array, unit: str) -> Array | None:
        return self._scratch(op, *x.shape, y.shape[1], _is_bfloat16(x), unit)

    def _unit(self, x: Array, tensor: bool) -> str:
        """The unit that multiplies where `x` is an operand, as named in `kernels/ops.h`."""
        if _is_bfloat16(x):
            return "wgmma" if self._hopper else "mma"
        return "mma" if tensor else "fma"

    def _relu_fprop(self, x: Array, y: Array) -> None:
        self._run("relu_fprop", x, y)

    def _relu_dgrad(self, y: Array, dy: Array, dx: Array) -> None:
        self._run("relu_dgrad", y, dy, dx)

    def _tanh_fprop(self, x: Array, y: Array) -> None:
        self._run("tanh_fprop", x, y)

    def _tanh_dgrad(self, y: Array, dy: Array, dx: Array) -> None:
        self._run("tanh_dgrad", y, dy, dx)

    def _scale(self, x: Array, y: Array, factor: float) -> None:
        self._run("scale", x, y, factor)

    def _lrn_fprop(
        self, x: Array, y: Array, size: int, alpha: float, beta: float, k: float, groups: int
    ) -> None:
        self._run("lrn_fprop", x, y, size, alpha, beta, k, groups)

    def _lrn_dgrad(
        self,
        x: Array,
        dy: Array,
        dx: Array,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
    ) -> None:
        self._run("lrn_dgrad", x, dy, dx, size, alpha, beta, k, groups)

    def _rnorm_fprop(
        self, x: Array, y: Array, size: int, alpha: float, beta: float, k: float
    ) -> None:
        self._run("rnorm_fprop", x, y, size, alpha, beta, k)

    def _rnorm_dgrad(
        self, x: Array, dy: Array, dx: Array, size: int, alpha: float, beta: float, k: float
    ) -> None:
        scratch = self._scratch("rnorm_dgrad", *x.shape)
        self._run("rnorm_dgrad", x, dy, dx, scratch, size, alpha, beta, k)

    def _maxpool_fprop(self, x: Array, y: Array, where: Array, g: PoolGeometry) -> None:
        self._run("maxpool_fprop", x, y, where, g.size, g.stride)

    def _maxpool_dgrad(
        self, dy: Array, where: Array, gate: Array | None, dx: Array, g: PoolGeometry
    ) -> None:
        self._run("maxpool_dgrad", dy, where, gate, dx, g.size, g.stride)

    def _avgpool_fprop(self, x: Array, y: Array, g: PoolGeometry) -> None:
        self._run("avgpool_fprop", x, y, g.size, g.stride)

    def _avgpool_dgrad(self, dy: Array, dx: Array, g: PoolGeometry) -> None:
        self._run("avgpool_dgrad", dy, dx, g.size, g.stride)

    def _lrn_maxpool_fprop(
        self,
        x: Array,
        y: Array,
        where: Array,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
        g: PoolGeometry,
        relu: bool,
    ) -> None:
        norm = (size, alpha, beta, k, groups)
        self._run("lrn_maxpool_fprop", x, y, where, *norm, g.size, g.stride, relu)

    def _lrn_maxpool_dgrad(
        self,
        x: Array,
        y: Array | None,
        dy: Array,
        where: Array,
        dx: Array,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
        g: PoolGeometry,
        gated: bool,
    ) -> None:
        norm = (size, alpha, beta, k, groups)
        self._run("lrn_maxpool_dgrad", x, y, dy, where, dx, *norm, g.size, g.stride, gated)

    def _dropout(self, x: Array, y: Array, mask: Mask) -> None:
        self._run("dropout", x, y, *_draw(mask))

    def _softmax_cross_entropy(
        self, logits: Array, labels: Array, loss: Array, dlogits: Array, top1: Array, top5: Array
    ) -> None:
        scratch = self._scratch("softmax_cross_entropy", len(logits))
        self._run("softmax_cross_entropy", logits, labels, loss, dlogits, top1, top5, scratch)

    def _sgd_update(
        self,
        w: Array,
        low: Array | None,
        v: Array,
        dw: Array,
        lr: float | Array,
        momentum: float,
        weight_decay: float,
    ) -> None:
        self._run("sgd_update", w, low, v, dw, lr, momentum, weight_decay)

    def _split_weights(self, w: Array, high: Array, low: Array) -> None:
        self._run("split_weights", w, high, low)

    def _join_weights(self, high: Array, low: Array, w: Array) -> None:
        self._run("join_weights", high, low, w)

    def _exchange_gather(self, parts: Sequence[Array], whole: Array) -> None:
        with self._readable(parts) as near:
            self._run("exchange_gather", near, whole)

    def _exchange_scatter_add(self, dwholes: Sequence[Array], dpart: Array, start: int) -> None:
        with self._readable(dwholes) as near:
            self._run("exchange_scatter_add", near, dpart, start)


def _corner(g: ConvGeometry) -> tuple[int, int, int, int, int]:
    """A geometry as kernels take it; padding below and on the right follows from the shapes."""
    return g.stride_h, g.stride_w, g.pad_top, g.pad_left, g.groups


def _draw(mask: Mask) -> tuple[Any, ...]:
    """A mask as kernels take it, without the factor."""
    return mask.keep, mask.seed, mask.step, mask.layer, mask.offset, mask.total


def _drawn(mask: Mask | None) -> tuple[Any, ...] | None:
    """The dropout of an operation that may have none."""
    return None if mask is None else (*_draw(mask), mask.factor)


def _rule(learned: Learned) -> tuple[Any, ...]:
    """How parameters are updated."""
    return learned.lr, learned.momentum, learned.weight_decay


def _is_bfloat16(x: Array) -> bool:
    """Whether an operation takes its bfloat16 form, whose scratch differs."""
    return bool(x.dtype == BFLOAT16)
