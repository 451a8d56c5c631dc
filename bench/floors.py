"""The least time a training step can take on a card: computed from shapes, nothing is run.

Every operation takes the longer of its arithmetic and its traffic, and no two overlap. Useful
multiplications only; caches are ignored, so that a small batch can be faster than its floor.

unfused: one kernel an operation, each input read once and each output written once; bias and
activation each a kernel; response norms keep their denominators; one byte for each pooled index and
dropped element; in bf16 a pass that casts the weights; 20 bytes a parameter for the update.

fused: bias, activation and dropout in the product's epilogue; norm and pool in one kernel each way,
which recomputes the denominators; the gradient of ReLU in the pool's kernel, or one read in the
epilogue of the next layer's dgrad; pixels read as bytes; the update in the epilogue of wgrad, 16
bytes a parameter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from pyalexnet.nets import layers
from pyalexnet.nets.spec import NetSpec

from .cards import Card


@dataclass(frozen=True)
class Work:
    """One operation of a step: its arithmetic, and its bytes in each plan."""

    name: str
    flops: float
    unfused: float
    fused: float


@dataclass(frozen=True)
class Floor:
    """A step's least time on a card, in seconds.

    overlapped: if all arithmetic of the fused plan overlapped all its traffic.
    """

    net: str
    card: str
    precision: str
    batch: int
    flops: float
    unfused_bytes: float
    fused_bytes: float
    unfused: float
    fused: float
    overlapped: float


def floor(spec: NetSpec, batch: int, precision: str, card: Card) -> Floor:
    """The least time of a training step of `batch` images."""
    works = list(step(spec, batch, 2 if precision == "bf16" else 4))
    flops = sum(work.flops for work in works)
    fused_bytes = sum(work.fused for work in works)
    return Floor(
        spec.name,
        card.name,
        precision,
        batch,
        flops,
        sum(work.unfused for work in works),
        fused_bytes,
        sum(card.seconds(precision, work.flops, work.unfused) for work in works),
        sum(card.seconds(precision, work.flops, work.fused) for work in works),
        card.seconds(precision, flops, fused_bytes),
    )


def named(one: Floor, name: str) -> Floor:
    """The same floor under another name of the network."""
    return dataclasses.replace(one, net=name)


def step(spec: NetSpec, batch: int, width: int) -> Iterator[Work]:
    """The operations of a training step; `width`: bytes of a map's element."""
    rows = list(spec.walk())
    pixels = batch * math.prod(spec.input_shape)
    yield Work("input", 0, pixels * (1 + width), 0)
    first = next(i for i, (layer, shape, _) in enumerate(rows) if layer.param_shapes(shape))
    for index, (layer, in_shape, out_shape) in enumerate(rows):
        x, y = batch * math.prod(in_shape), batch * math.prod(out_shape)
        following = [later for later, _, _ in rows[index + 1 :]]
        if isinstance(layer, layers.Conv | layers.Linear):
            read = x if index == first and isinstance(layer, layers.Conv) else x * width
            yield from _weighted(layer, in_shape, batch, x, y, width, read, index > first)
            yield from _neurons(layer, y, width, _pooled(following))
        else:
            behind_norm = index > 0 and isinstance(rows[index - 1][0], layers.LRN | layers.RNorm)
            yield from _weightless(layer, x, y, width, behind_norm)
    logits = batch * spec.classes
    yield Work("softmax", 0, 6 * logits * width, 2 * logits * width)


def _weighted(
    layer: layers.Conv | layers.Linear,
    in_shape: tuple[int, ...],
    batch: int,
    x: int,
    y: int,
    width: int,
    read: int,
    needs_dx: bool,
) -> Iterator[Work]:
    """The products of a layer and its update; `read`: bytes of x in the fused plan."""
    flops = 2.0 * batch * layer.macs(in_shape)
    parameters = sum(math.prod(shape) for shape in layer.param_shapes(in_shape).values())
    w = math.prod(layer.param_shapes(in_shape)[layer.w])
    maps = (x + y) * width
    yield Work(f"{layer.name} fprop", flops, maps + w * width, read + (y + w) * width)
    if needs_dx:
        yield Work(f"{layer.name} dgrad", flops, maps + w * width, maps + w * width)
    yield Work(f"{layer.name} wgrad", flops, maps + 4 * w, read + y * width)
    cast = 6 if width == 2 else 0
    yield Work(f"{layer.name} update", 0, (20 + cast) * parameters, 16 * parameters)


def _neurons(
    layer: layers.Conv | layers.Linear, y: int, width: int, pooled: bool
) -> Iterator[Work]:
    """Bias and activation after the products, forward and backward."""
    active = layer.activation is not None
    yield Work(f"{layer.name} bias", 0, (4 if active else 2) * y * width, 0)
    yield Work(f"{layer.name} bias gradient", 0, y * width, 0)
    if active:
        yield Work(
            f"{layer.name} activation gradient", 0, 3 * y * width, 0 if pooled else y * width
        )


def _pooled(following: list[layers.Layer]) -> bool:
    """Whether a pool comes next, perhaps after norms: its kernel computes the ReLU's gradient."""
    others = (layer for layer in following if not isinstance(layer, layers.LRN | layers.RNorm))
    return isinstance(next(others, None), layers.MaxPool | layers.AvgPool)


def _weightless(
    layer: layers.Layer, x: int, y: int, width: int, behind_norm: bool
) -> Iterator[Work]:
    """A layer without weights; a pool after a norm has its input in the norm's kernel."""
    fprop, dgrad = f"{layer.name} fprop", f"{layer.name} dgrad"
    if isinstance(layer, layers.LRN | layers.RNorm):
        yield Work(fprop, 0, 3 * x * width, x * width)
        yield Work(dgrad, 0, 5 * x * width, x * width)
    elif isinstance(layer, layers.MaxPool | layers.AvgPool):
        index = y if isinstance(layer, layers.MaxPool) else 0
        both = (x + y) * width + index
        yield Work(fprop, 0, both, y * width + index if behind_norm else both)
        yield Work(dgrad, 0, both, both)
    elif isinstance(layer, layers.Dropout):
        yield Work(fprop, 0, x * (2 * width + 1), 0)
        yield Work(dgrad, 0, x * (2 * width + 1), 0)
    elif isinstance(layer, layers.Relu | layers.Tanh):
        yield Work(fprop, 0, 2 * x * width, 0)
        yield Work(dgrad, 0, 3 * x * width, 0)
