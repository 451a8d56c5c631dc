"""The extension modules: what `_cpu`, `_sim`, `_simcheck` and `_cuda` offer (bindings/*.cpp).

There is no module of this name. `tests/test_bindings.py` holds these classes to the built modules.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from pyalexnet.ops.elements import Array, Shape
from pyalexnet.ops.records import BlockGeometry, ConvGeometry, Mask, Norm, PoolGeometry

class Recording:
    """Calls that were checked once: an op that gets one in place of a stream is added to it."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def set_aside(self, aside: bool) -> None: ...
    def run(self, stream: int, beside: int) -> None: ...

Rule: TypeAlias = tuple[Any, float, float]
"""Learning rate (a number, or a 0-d array of the device), momentum, weight decay."""

Place: TypeAlias = tuple[int, int | Recording, Callable[[int], Array | None]]
"""The device; the stream or a recording; what returns scratch of at least so many bytes."""

class Kernels(Protocol):
    """Every module."""

    KernelError: type[RuntimeError]
    Recording: type[Recording]

    def has_hopper(self, device: int) -> bool: ...
    def augment(
        self,
        x: Array,
        mean: Array,
        corners: Array,
        flips: Array,
        shifts: Array,
        y: Array,
        size: tuple[int, int],
        blocks: BlockGeometry,
        scale: float,
        mean_at_pixel: bool,
        place: Place,
    ) -> None: ...
    def avgpool_dgrad(self, dy: Array, dx: Array, pool: PoolGeometry, place: Place) -> None: ...
    def avgpool_fprop(self, x: Array, y: Array, pool: PoolGeometry, place: Place) -> None: ...
    def conv_dgrad(
        self,
        dy: Array,
        w: Array,
        gate: Array | None,
        dx: Array,
        geometry: ConvGeometry,
        unit: str,
        factor: float,
        place: Place,
    ) -> None: ...
    def conv_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        y: Array,
        geometry: ConvGeometry,
        unit: str,
        towers: int,
        activation: str | None,
        dropout: Mask | None,
        place: Place,
    ) -> None: ...
    def conv_wgrad(
        self,
        x: Array,
        dy: Array,
        dw: Array,
        db: Array,
        geometry: ConvGeometry,
        unit: str,
        place: Place,
    ) -> None: ...
    def conv_wgrad_sgd(
        self,
        x: Array,
        dy: Array,
        w: Array,
        low: Array | None,
        v: Array,
        b: Array,
        bv: Array,
        geometry: ConvGeometry,
        unit: str,
        w_rule: Rule,
        b_rule: Rule,
        place: Place,
    ) -> None: ...
    def dropout(self, x: Array, y: Array, mask: Mask, place: Place) -> None: ...
    def exchange_gather(self, parts: Sequence[Array], whole: Array, place: Place) -> None: ...
    def exchange_scatter_add(
        self, dwholes: Sequence[Array], dpart: Array, start: int, place: Place
    ) -> None: ...
    def filters_from_depth(self, ddeep: Array, dw: Array, block: int, place: Place) -> None: ...
    def filters_to_depth(self, w: Array, deep: Array, block: int, place: Place) -> None: ...
    def images_to_depth(self, x: Array, y: Array, blocks: BlockGeometry, place: Place) -> None: ...
    def join_weights(self, high: Array, low: Array, w: Array, place: Place) -> None: ...
    def linear_dgrad(
        self,
        dy: Array,
        w: Array,
        gate: Array | None,
        dx: Array,
        unit: str,
        factor: float,
        place: Place,
    ) -> None: ...
    def linear_fprop(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        y: Array,
        unit: str,
        towers: int,
        activation: str | None,
        dropout: Mask | None,
        place: Place,
    ) -> None: ...
    def linear_wgrad(
        self, x: Array, dy: Array, dw: Array, db: Array, unit: str, place: Place
    ) -> None: ...
    def linear_wgrad_sgd(
        self,
        x: Array,
        dy: Array,
        w: Array,
        low: Array | None,
        v: Array,
        b: Array,
        bv: Array,
        unit: str,
        w_rule: Rule,
        b_rule: Rule,
        place: Place,
    ) -> None: ...
    def lrn_dgrad(self, x: Array, dy: Array, dx: Array, norm: Norm, place: Place) -> None: ...
    def lrn_fprop(self, x: Array, y: Array, norm: Norm, place: Place) -> None: ...
    def lrn_maxpool_dgrad(
        self,
        x: Array,
        y: Array | None,
        dy: Array,
        where: Array,
        dx: Array,
        norm: Norm,
        pool: PoolGeometry,
        gated: bool,
        place: Place,
    ) -> None: ...
    def lrn_maxpool_fprop(
        self,
        x: Array,
        y: Array,
        where: Array,
        norm: Norm,
        pool: PoolGeometry,
        relu: bool,
        place: Place,
    ) -> None: ...
    def maxpool_dgrad(
        self,
        dy: Array,
        where: Array,
        gate: Array | None,
        dx: Array,
        pool: PoolGeometry,
        place: Place,
    ) -> None: ...
    def maxpool_fprop(
        self, x: Array, y: Array, where: Array, pool: PoolGeometry, place: Place
    ) -> None: ...
    def relu_dgrad(self, y: Array, dy: Array, dx: Array, place: Place) -> None: ...
    def relu_fprop(self, x: Array, y: Array, place: Place) -> None: ...
    def rnorm_dgrad(self, x: Array, dy: Array, dx: Array, norm: Norm, place: Place) -> None: ...
    def rnorm_fprop(self, x: Array, y: Array, norm: Norm, place: Place) -> None: ...
    def scale(self, x: Array, y: Array, factor: float, place: Place) -> None: ...
    def sgd_update(
        self, w: Array, low: Array | None, v: Array, dw: Array, rule: Rule, place: Place
    ) -> None: ...
    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Array,
        loss: Array,
        dlogits: Array,
        top1: Array,
        top5: Array,
        place: Place,
    ) -> None: ...
    def split_weights(self, w: Array, high: Array, low: Array, place: Place) -> None: ...
    def tanh_dgrad(self, y: Array, dy: Array, dx: Array, place: Place) -> None: ...
    def tanh_fprop(self, x: Array, y: Array, place: Place) -> None: ...

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
    def set_schedule(self, seed: int) -> None: ...
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
