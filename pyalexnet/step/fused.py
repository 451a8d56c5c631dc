"""Layers that one operation computes together, as layers that write its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyalexnet.backends.base import Shape
from pyalexnet.nets.calls import Operand, Step, name_of
from pyalexnet.nets.layers import LRN, Conv, Dropout, Layer, Linear, MaxPool, Product, Relu, Scale
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import FLOAT32
from pyalexnet.ops.records import BlockGeometry, ConvGeometry, Pad, lrn_maxpool_fits


def together(layers: Sequence[Layer], step: Step, in_shape: Shape) -> tuple[Layer, int]:
    """The first layer, combined with those that the same operation computes; and their number.

    in_shape: of the first layer's input.
    """
    match list(layers[:3]):
        case [LRN() as norm, MaxPool() as pool, *after]:
            pooled = NormPool(pool.name, norm, pool)
            if lrn_maxpool_fits(in_shape[-1], step.element, pooled.settings):
                if after and isinstance(after[0], Relu):
                    return replace(pooled, name=after[0].name, relu=True), 3
                return pooled, 2
        # Only a ReLU followed by a mask has a gradient of one test, and only in training. A grouped
        # linear layer runs as images of one pixel, whose features are not contiguous.
        case [Conv() | Linear(groups=1) as layer, Dropout() as drop, *_] if step.train:
            if layer.activation == "relu":
                return Dropped(drop.name, layer, drop), 2
    return layers[0], 1


@dataclass(frozen=True)
class NormPool(Layer):
    """A norm, the max-pool after it and perhaps a ReLU: the norm's output is never stored."""

    name: str
    norm: LRN
    pool: MaxPool
    relu: bool = False

    def out_shape(self, in_shape: Shape) -> Shape:
        return self.pool.out_shape(in_shape)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the operations."""
        pool = self.pool
        own = {"pool_size": pool.size, "pool_stride": pool.stride, "ceil": pool.ceil}
        return self.norm.settings | own

    def forward(self, step: Step, x: str) -> str:
        shape = self.out_shape(step.shape(x))
        y, where = step.array(self.name, shape), self.pool.where(step, shape)
        step.call("lrn_maxpool_fprop", {"x": x}, y, where, **self.settings, relu=self.relu)
        if self.relu:
            step.rectified(y)
        return y

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        where = step.here(f"{self.pool.name}.where")
        reads: dict[str, Operand] = {"x": x, "dy": dy, "where": where}
        if step.ungated(y) is not None:
            reads["y"] = y
        gated = step.gate(x) is not None
        step.grad(x, "lrn_maxpool_dgrad", reads, **self.settings, gated=gated)


@dataclass(frozen=True)
class Dropped(Layer):
    """A layer with weights and the dropout after it."""

    name: str
    layer: Conv | Linear
    drop: Dropout

    def out_shape(self, in_shape: Shape) -> Shape:
        return self.layer.out_shape(in_shape)

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        return self.layer.param_shapes(in_shape)

    def forward(self, step: Step, x: str) -> str:
        return self.layer.forward(step, x, self.drop)

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        self.layer.backward(step, x, y, dy)


@dataclass(frozen=True)
class Converted:
    """How the first products read images: in blocks of `block` x `block` pixels.

    block, pad: as for `Backend.augment`; block 1 leaves pixels as they are. shape: (H, W, C) of
    the result.
    """

    block: int
    pad: Pad
    shape: tuple[int, int, int]


def converted(spec: NetSpec, fused: bool = True) -> Converted:
    """How a fused plan reads the images of a network.

    An 11 x 11 convolution of stride 4 over 3 channels is a 3 x 3 one of stride 1 over the 48
    channels of 4 x 4 pixels, with zeros where the 12 x 12 pixels exceed the original filter: the
    same sums, and rows that a tensor core can read.
    """
    plain = Converted(1, 0, spec.input_shape)
    first = next((each for each in spec.layers if not isinstance(each, Scale)), None)
    if not (fused and isinstance(first, Conv) and first.groups == 1):
        return plain
    g = ConvGeometry.of(first.name, first.stride, first.pad, first.groups)
    if g.stride_h != g.stride_w or g.stride_h == 1:
        return plain
    blocks = BlockGeometry.of(first.name, g.stride_h, first.pad)
    h, w, c = spec.input_shape
    rows, columns, channels = blocks.out_shape(h, w, c)
    reach = -(-first.size // blocks.block) - 1
    # If the last filter ends well before the border, blocks would give one output too many.
    if (rows - reach, columns - reach) != g.out_size(first.name, h, w, first.size, first.size):
        return plain
    return Converted(blocks.block, first.pad, (rows, columns, channels))


@dataclass(frozen=True)
class ConvInBlocks(Conv):
    """A convolution of images in blocks: `size`, `stride` and `pad` count blocks."""

    block: int = 1

    def _filters(self, step: Step, product: Product) -> Operand:
        shape = self.param_shapes(step.shape(product.x))[self.w]
        deep = step.array(f"{self.w}.deep", shape, batch=False)
        step.call("filters_to_depth", {"w": product.w}, deep, block=self.block)
        return deep

    def _wgrad(self, step: Step, product: Product, dz: Operand) -> None:
        w, b = name_of(product.w), step.here(self.b)
        dw, db = step.weight_grad(w), step.weight_grad(b)
        shape = self.param_shapes(step.shape(product.x))[self.w]
        deep = step.array(f"{self.w}.deep.grad", shape, FLOAT32, batch=False)
        reads = {"x": product.x, "dy": dz}
        step.call("conv_wgrad", reads, deep, db, **product.where, w_shape=shape)
        back: dict[str, Any] = {"block": self.block, "w_shape": step.shape(w)}
        step.call("filters_from_depth", {"ddeep": deep}, dw, **back)
