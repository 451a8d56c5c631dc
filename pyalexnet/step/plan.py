"""The fusion plan: which operations make up a step of a network, as data.

A plan is a list of calls of a backend's operations on named arrays. It follows from the network
alone: `FUSED` lists the runs of layers that one operation computes, and `_Planner` writes the calls
of each layer or run, forward and backward. Nothing is computed here; `program.py` runs a plan.

Arrays are named after what they hold: "conv1" is the output of that layer, "pool1.where" what its
backward pass needs, "conv1.grad" the gradient of the loss by "conv1", "conv1.w" a parameter.
Shapes leave out the batch where an array has one.

Fusing saves reads and writes of maps. Memory time saved on an H100 (paper's network, bfloat16,
batch 256, computed): bias and ReLU after a product and before its gradient 876 us, LRN with
pooling 570, the update after a linear layer's gradient 156.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.backends.base import Shape
from pyalexnet.backends.elements import BFLOAT16, FLOAT32
from pyalexnet.backends.geometry import (
    BlockGeometry,
    ConvGeometry,
    Pad,
    PoolGeometry,
    lrn_maxpool_fits,
)
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)
from pyalexnet.step.net import NetSpec

Precision: TypeAlias = Literal["fp32", "fp32x3", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp32x3", "bf16")
"""float32 throughout; the same with products on tensor cores, each number as the sum of three
bfloat16; and maps and products in bfloat16."""

Goal: TypeAlias = Literal["logits", "gradients", "update"]
"""How far a plan goes: forward; also backward; also the update of the parameters."""

Source: TypeAlias = Literal["pixels", "images"]
"""Images of the network's input shape, or as `converted` describes them."""

FUSED: tuple[tuple[tuple[type[Layer], ...], ...], ...] = (
    ((LRN,), (MaxPool,), (Relu,)),
    ((LRN,), (MaxPool,)),
    ((Conv, Linear), (Dropout,)),
)
"""Runs of layers that one operation computes, the longest first."""


@dataclass(frozen=True)
class Layout:
    """Shape (without the batch, where `per_image`) and type of an array."""

    shape: Shape
    dtype: np.dtype[Any] = FLOAT32
    per_image: bool = True

    def nbytes(self, images: int) -> int:
        """Size for a batch."""
        return math.prod(self.shape) * self.dtype.itemsize * (images if self.per_image else 1)


@dataclass(frozen=True)
class View:
    """An array seen in another shape; without the batch, where it has one."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class PerImage:
    """A setting that is a shape whose first axis is the batch, left out here."""

    shape: Shape


@dataclass(frozen=True)
class Draw:
    """A dropout mask: the fields of `backends.masks.Mask` that the network determines."""

    keep: float
    layer: int
    factor: float = 1.0


Operand: TypeAlias = str | View


@dataclass(frozen=True)
class Call:
    """One operation: the method `op` of a backend.

    reads: arrays by argument. writes: arrays for `out`, in the order in which they are returned.
    learns: parameters by argument, which it reads and changes, momentum included. settings: the
    other arguments; a `Draw` becomes a mask, a `PerImage` gets the batch. aside: whether it may run
    concurrently with all later calls: they neither touch what it writes nor write what it reads.
    """

    op: str
    reads: Mapping[str, Operand]
    writes: tuple[Operand, ...] = ()
    learns: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    aside: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """Every array that it touches, except parameters."""
        return (*self.reads.values(), *self.writes)


@dataclass(frozen=True)
class Plan:
    """Calls in their order, and the arrays that they name.

    source: the array of the images. outputs: of the layers or fused runs, in order; the last are
    the logits.
    """

    calls: tuple[Call, ...]
    arrays: Mapping[str, Layout]
    source: Source
    outputs: tuple[str, ...]

    @property
    def logits(self) -> str:
        """The array of the network's output."""
        return self.outputs[-1]

    def moved(self, call: Call, images: int) -> int:
        """Bytes of a call's arrays, each read or written once; what it learns counts twice."""
        own = sum(self.arrays[name_of(each)].nbytes(images) for each in call.operands())
        changed = sum(
            2 * self.arrays[name].nbytes(images)
            for parameter in call.learns.values()
            for name in self.learned(parameter)
        )
        return own + changed

    def flops(self, call: Call, images: int) -> float:
        """Floating-point operations of a product: two for every weight at each pixel of its output.

        Products with zeros count, around an image and in filters in blocks. Other operations: 0.
        """
        if not is_product(call.op):
            return 0.0
        y = call.writes[0] if call.op.endswith("_fprop") else call.reads["dy"]
        w = call.reads.get("w") or call.learns.get("w") or call.writes[0]
        return 2.0 * images * math.prod(self.shape(y)[:-1]) * math.prod(self.shape(w))

    def shape(self, operand: Operand) -> Shape:
        """Shape of the array as the call sees it, without the batch."""
        return operand.shape if isinstance(operand, View) else self.arrays[operand].shape

    def learned(self, parameter: str) -> tuple[str, ...]:
        """The arrays that an update changes: the parameter, its lower half in bf16, momentum."""
        names = (parameter, f"{parameter}.low", f"{parameter}.v")
        return tuple(name for name in names if name in self.arrays)


def is_product(op: str) -> bool:
    """Whether an operation belongs to a convolution or a linear layer."""
    return op.startswith(("conv_", "linear_"))


def name_of(operand: Operand) -> str:
    """The array of an operand."""
    return operand.name if isinstance(operand, View) else operand


def check_precision(who: str, precision: str) -> None:
    """Refuse an unknown precision; `who` opens the sentence."""
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"{who}: precision is {precision!r}; one of {', '.join(PRECISIONS)} was expected."
        )


def element(precision: Precision) -> np.dtype[Any]:
    """The type of maps and of the weights that products read."""
    return BFLOAT16 if precision == "bf16" else FLOAT32


def make(
    spec: NetSpec,
    *,
    goal: Goal,
    precision: Precision = "fp32",
    fused: bool = True,
    train: bool = True,
    source: Source = "pixels",
) -> Plan:
    """The plan of a network.

    Args:
        spec: the network.
        goal: how far it goes.
        precision: of maps and products; sums, parameters and momentum are float32 in any.
        fused: False makes every layer a separate operation.
        train: whether dropout drops.
        source: whether images have the network's input shape, or are converted: see `converted`.

    Raises:
        ArgumentError: the network has no plan in this precision.
    """
    check_precision("plan", precision)
    planner = _Planner(spec, goal, precision, fused, train)
    planner.forward(source)
    if goal != "logits":
        planner.backward()
    return planner.plan(source)


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


def runs(layers: tuple[Layer, ...], fused: bool, train: bool) -> list[tuple[Layer, ...]]:
    """Layers in order, grouped where one operation computes them."""
    found: list[tuple[Layer, ...]] = []
    at = 0
    while at < len(layers):
        length = next(
            (
                len(pattern)
                for pattern in FUSED
                if fused and _matches(layers[at : at + len(pattern)], pattern, train)
            ),
            1,
        )
        found.append(layers[at : at + length])
        at += length
    return found


def _matches(
    layers: tuple[Layer, ...], pattern: tuple[tuple[type[Layer], ...], ...], train: bool
) -> bool:
    if len(layers) != len(pattern):
        return False
    if not all(isinstance(each, kinds) for each, kinds in zip(layers, pattern, strict=True)):
        return False
    if isinstance(layers[-1], Dropout):
        # Only a ReLU followed by a mask has a gradient of one test, and only in training. A grouped
        # linear layer runs as images of one pixel, whose features are not contiguous.
        first = layers[0]
        grouped = isinstance(first, Linear) and first.groups > 1
        return train and getattr(first, "activation", None) == "relu" and not grouped
    return True


@dataclass(frozen=True)
class _Run:
    """Layers that one operation computes, with their arrays and shapes."""

    layers: tuple[Layer, ...]
    in_shape: Shape
    out_shape: Shape
    x: str
    y: str


class _Planner:
    """Writes down the calls of a network, forward and then backward."""

    def __init__(
        self, spec: NetSpec, goal: Goal, precision: Precision, fused: bool, train: bool
    ) -> None:
        self._spec, self._goal, self._fused, self._train = spec, goal, fused, train
        self._element = element(precision)
        self._seen = converted(spec, fused)
        self._products = {"tensor": True} if precision == "fp32x3" else {}
        self._calls: list[Call] = []
        self._arrays: dict[str, Layout] = {}
        self._runs: list[_Run] = []
        # By array: its gradient's array; for a ReLU's output, the factor of the gradient where the
        # output is above 0; whether that has been applied.
        self._grads: dict[str, str] = {}
        self._rectified: dict[str, float] = {}
        self._gated: set[str] = set()
        self._masks = spec.masks
        for name, shape in spec.param_shapes().items():
            self._parameter(name, shape)

    def plan(self, source: Source) -> Plan:
        """The plan of the calls written down."""
        outputs = tuple(run.y for run in self._runs)
        return Plan(tuple(self._calls), self._arrays, source, outputs)

    # Writing down

    def _parameter(self, name: str, shape: Shape) -> None:
        split = self._element == BFLOAT16 and name.endswith(".w")
        self._arrays[name] = Layout(shape, BFLOAT16 if split else FLOAT32, False)
        if split:
            self._arrays[f"{name}.low"] = Layout(shape, np.dtype(np.uint16), False)
        if self._goal == "update":
            self._arrays[f"{name}.v"] = Layout(shape, FLOAT32, False)
            self._arrays[f"{name}.lr"] = Layout((), FLOAT32, False)

    def _call(
        self,
        op: str,
        reads: Mapping[str, Operand],
        writes: Operand | tuple[Operand, ...],
        **settings: Any,
    ) -> None:
        outputs = writes if isinstance(writes, tuple) else (writes,)
        settings |= self._products if is_product(op) else {}
        self._calls.append(Call(op, reads, outputs, settings=settings))

    def _learn(
        self, op: str, reads: Mapping[str, Operand], learns: Mapping[str, str], **settings: Any
    ) -> None:
        """Write down a call that changes parameters.

        The update of a linear layer is bound by memory, the convolutions after it by arithmetic, so
        it may run beside them.
        """
        aside = op == "linear_wgrad_sgd"
        settings |= self._products if is_product(op) else {}
        self._calls.append(Call(op, reads, learns=learns, settings=settings, aside=aside))

    def _new(
        self, name: str, shape: Shape, dtype: np.dtype[Any] | None = None, batch: bool = True
    ) -> str:
        self._arrays[name] = Layout(shape, dtype or self._element, batch)
        return name

    def _new_grad(self, of: str, shape: Shape) -> str:
        self._grads[of] = self._new(f"{of}.grad", shape)
        return self._grads[of]

    # Forward

    def forward(self, source: Source) -> None:
        """The calls that lead from the images to the logits."""
        x = self._images(source)
        shape: Shape = self._spec.input_shape
        for run in runs(self._spec.layers, self._fused, self._train):
            for layers in self._fitting(run, shape):
                out: Shape = shape
                for layer in layers:
                    out = layer.out_shape(out)
                y = self._forward(layers, shape, out, x)
                self._runs.append(_Run(layers, shape, out, x, y))
                x, shape = y, out

    def _fitting(self, run: tuple[Layer, ...], shape: Shape) -> list[tuple[Layer, ...]]:
        """The run, or its layers one by one where no operation takes this norm with this pool."""
        if isinstance(run[0], LRN) and len(run) > 1:
            norm, pool, *_ = run
            assert isinstance(norm, LRN) and isinstance(pool, MaxPool)
            if not lrn_maxpool_fits(shape[-1], self._element, **_norm(norm), **_pool_of(pool)):
                return [(each,) for each in run]
        return [run]

    def _images(self, source: Source) -> str:
        seen = self._seen
        if source == "images":
            return self._new("images", seen.shape)
        pixels = self._new("pixels", self._spec.input_shape, FLOAT32)
        if self._element == FLOAT32 and seen.block == 1:
            return pixels
        images = self._new("images", seen.shape)
        self._call(
            "images_to_depth",
            {"x": pixels},
            images,
            block=seen.block,
            pad=seen.pad,
            dtype=self._element,
        )
        return images

    def _forward(self, layers: tuple[Layer, ...], shape: Shape, out: Shape, x: str) -> str:
        first = layers[0]
        if isinstance(first, Conv | Linear):
            return self._weighted_forward(first, layers[1:], shape, out, x)
        if isinstance(first, LRN) and len(layers) > 1:
            return self._lrn_pool_forward(layers, out, x)
        return self._single_forward(first, out, x)

    def _weighted_forward(
        self, layer: Conv | Linear, behind: tuple[Layer, ...], shape: Shape, out: Shape, x: str
    ) -> str:
        logits = layer is self._spec.layers[-1]
        y = self._new((behind or (layer,))[-1].name, out, FLOAT32 if logits else None)
        settings: dict[str, Any] = {"activation": layer.activation}
        if logits and self._element != FLOAT32:
            settings["dtype"] = FLOAT32
        factor = 1.0
        if behind:
            drop = behind[0]
            assert isinstance(drop, Dropout)
            factor = 1 / drop.keep if drop.inverted else 1.0
            settings["dropout"] = Draw(drop.keep, self._masks[drop.name], factor)
        if layer.activation == "relu":
            self._rectified[y] = factor
        b = layer.b
        if isinstance(layer, Linear) and layer.groups == 1:
            flat = View(x, (math.prod(shape),))
            self._call("linear_fprop", {"x": flat, "w": layer.w, "b": b}, y, **settings)
            return y
        maps, filters, where = self._as_conv(layer, shape, x)
        read = self._filters(layer, filters)
        target: Operand = y if isinstance(layer, Conv) else View(y, (1, 1, *out))
        self._call("conv_fprop", {"x": maps, "w": read, "b": b}, target, **where, **settings)
        return y

    def _as_conv(
        self, layer: Conv | Linear, shape: Shape, x: str
    ) -> tuple[Operand, Operand, dict[str, Any]]:
        """Maps, filters and geometry; a grouped linear layer has filters that cover the maps."""
        if isinstance(layer, Linear):
            maps = shape if len(shape) == 3 else (1, 1, *shape)
            filters = (layer.outputs, *maps[:2], maps[2] // layer.groups)
            where = {"stride": 1, "pad": 0, "groups": layer.groups}
            return View(x, maps), View(layer.w, filters), where
        if self._deep(layer):
            return x, layer.w, {"stride": 1, "pad": 0, "groups": 1}
        return x, layer.w, {"stride": layer.stride, "pad": layer.pad, "groups": layer.groups}

    def _deep(self, layer: Conv | Linear) -> bool:
        """Whether it is the convolution that reads pixels in blocks."""
        first = next(each for each in self._spec.layers if not isinstance(each, Scale))
        return layer is first and self._seen.block > 1

    def _deep_filters(self, layer: Conv) -> tuple[int, Shape]:
        """The block, and the shape of the filters that suit it."""
        block = self._seen.block
        size = -(-layer.size // block)
        return block, (layer.filters, size, size, self._seen.shape[2])

    def _filters(self, layer: Conv | Linear, filters: Operand) -> Operand:
        """The filters that the product reads."""
        if not (isinstance(layer, Conv) and self._deep(layer)):
            return filters
        block, shape = self._deep_filters(layer)
        deep = self._new(f"{layer.w}.deep", shape, batch=False)
        self._call("filters_to_depth", {"w": filters}, deep, block=block)
        return deep

    def _lrn_pool_forward(self, layers: tuple[Layer, ...], out: Shape, x: str) -> str:
        norm, pool, *relu = layers
        assert isinstance(norm, LRN) and isinstance(pool, MaxPool)
        y = self._new(layers[-1].name, out)
        where = self._where(pool, out)
        self._call(
            "lrn_maxpool_fprop",
            {"x": x},
            (y, where),
            **_norm(norm),
            **_pool_of(pool),
            relu=bool(relu),
        )
        if relu:
            self._rectified[y] = 1.0
        return y

    def _where(self, pool: MaxPool, out: Shape) -> str:
        geometry = PoolGeometry.of(pool.name, pool.size, pool.stride, pool.ceil)
        return self._new(f"{pool.name}.where", out, np.dtype(geometry.where_dtype))

    def _single_forward(self, layer: Layer, out: Shape, x: str) -> str:
        if isinstance(layer, Dropout):
            return self._dropout_forward(layer, out, x)
        if isinstance(layer, Scale):
            # Of x's shape, since images may be in blocks.
            y = self._new(layer.name, self._arrays[x].shape)
            self._call("scale", {"x": x}, y, factor=layer.factor)
            return y
        y = self._new(layer.name, out)
        if isinstance(layer, Relu):
            self._rectified[y] = 1.0
            self._call("relu_fprop", {"x": x}, y)
        elif isinstance(layer, Tanh):
            inner = self._new(f"{layer.name}.inner", out)
            self._call("scale", {"x": x}, inner, factor=layer.scale_in)
            self._call("tanh_fprop", {"x": inner}, inner)
            self._call("scale", {"x": inner}, y, factor=layer.scale_out)
        elif isinstance(layer, LRN):
            self._call("lrn_fprop", {"x": x}, y, **_norm(layer))
        elif isinstance(layer, RNorm):
            self._call("rnorm_fprop", {"x": x}, y, **_norm(layer))
        elif isinstance(layer, MaxPool):
            self._call("maxpool_fprop", {"x": x}, (y, self._where(layer, out)), **_pool(layer))
        elif isinstance(layer, AvgPool):
            self._call("avgpool_fprop", {"x": x}, y, **_pool(layer))
        else:
            raise ArgumentError(f"plan: nothing is known of the layer {layer!r}.")
        return y

    def _dropout_forward(self, layer: Dropout, out: Shape, x: str) -> str:
        factor = _dropout_factor(layer, self._train)
        if not self._train and factor == 1:
            return x
        y = self._new(layer.name, out)
        if self._train:
            self._call("dropout_fprop", {"x": x}, y, mask=self._draw(layer))
            x = y
        if factor != 1:
            self._call("scale", {"x": x}, y, factor=factor)
        return y

    def _draw(self, layer: Dropout) -> Draw:
        return Draw(layer.keep, self._masks[layer.name])

    # Backward

    def backward(self) -> None:
        """The calls that lead from the logits to the gradients, and on to the update."""
        last = self._runs[-1]
        self._new("labels", (), np.dtype(np.int64))
        for name in ("loss", "top1_error", "top5_error"):
            self._new(name, (), FLOAT32, batch=False)
        self._call(
            "softmax_cross_entropy",
            {"logits": last.y, "labels": "labels"},
            ("loss", self._new_grad(last.y, last.out_shape), "top1_error", "top5_error"),
            **({} if self._element == FLOAT32 else {"dtype": self._element}),
        )
        first = next(
            (i for i, run in enumerate(self._runs) if isinstance(run.layers[0], Conv | Linear)),
            len(self._runs),
        )
        for index in range(len(self._runs) - 1, first - 1, -1):
            self._backward(self._runs[index], need_dx=index > first)
        if self._goal == "update":
            self._update_rest()

    def _backward(self, run: _Run, need_dx: bool) -> None:
        first = run.layers[0]
        if isinstance(first, Conv | Linear):
            self._weighted_backward(first, run, need_dx)
        elif isinstance(first, LRN) and len(run.layers) > 1:
            self._lrn_pool_backward(run)
        else:
            self._single_backward(first, run)

    def _gate(self, x: str) -> dict[str, Operand]:
        """The argument that propagates the gradient of `x` back through the ReLU that made it."""
        if not (self._fused and x in self._rectified):
            return {}
        self._gated.add(x)
        return {"gate": x}

    def _behind_activation(self, layer: Conv | Linear, run: _Run) -> str:
        """The gradient before the activation, in place of the output's."""
        grad = self._grads[run.y]
        if layer.activation == "relu" and run.y not in self._gated:
            self._call("relu_dgrad", {"y": run.y, "dy": grad}, grad)
            if self._rectified[run.y] != 1:
                self._call("scale", {"x": grad}, grad, factor=self._rectified[run.y])
        elif layer.activation == "tanh":
            self._call("tanh_dgrad", {"y": run.y, "dy": grad}, grad)
        return grad

    def _weighted_backward(self, layer: Conv | Linear, run: _Run, need_dx: bool) -> None:
        dz = self._behind_activation(layer, run)
        if isinstance(layer, Linear) and layer.groups == 1:
            if need_dx:
                self._linear_dgrad(layer, run, dz)
            flat = View(run.x, (math.prod(run.in_shape),))
            self._wgrad(layer, "linear_wgrad", {"x": flat, "dy": dz}, {})
            return
        maps, filters, where = self._as_conv(layer, run.in_shape, run.x)
        dy: Operand = dz if isinstance(layer, Conv) else View(dz, (1, 1, *run.out_shape))
        if need_dx:
            dx = self._new_grad(run.x, run.in_shape)
            target: Operand = dx if isinstance(maps, str) else View(dx, maps.shape)
            shape = self._arrays[maps].shape if isinstance(maps, str) else maps.shape
            gate = self._gate(run.x) if isinstance(maps, str) else {}
            self._call(
                "conv_dgrad",
                {"dy": dy, "w": filters} | gate,
                target,
                x_shape=PerImage(shape),
                **where,
                **self._factor(gate),
            )
        if isinstance(layer, Conv) and self._deep(layer):
            self._wgrad_deep(layer, run.x, dy)
        elif isinstance(filters, View):
            self._wgrad_of_view(layer, filters, {"x": maps, "dy": dy}, where)
        else:
            self._wgrad(layer, "conv_wgrad", {"x": maps, "dy": dy}, where)

    def _linear_dgrad(self, layer: Linear, run: _Run, dz: str) -> None:
        features = (math.prod(run.in_shape),)
        gate = self._gate(run.x)
        reads: dict[str, Operand] = {"dy": dz, "w": layer.w}
        reads |= {name: View(name_of(each), features) for name, each in gate.items()}
        dx = View(self._new_grad(run.x, run.in_shape), features)
        self._call("linear_dgrad", reads, dx, **self._factor(gate))

    def _factor(self, gate: Mapping[str, Operand]) -> dict[str, float]:
        factor = self._rectified[name_of(gate["gate"])] if gate else 1.0
        return {} if factor == 1 else {"factor": factor}

    def _wgrad(
        self, layer: Conv | Linear, op: str, reads: Mapping[str, Operand], where: dict[str, Any]
    ) -> None:
        """The gradients of a layer's parameters, or the update of the parameters in one call."""
        if self._fused and self._goal == "update":
            self._learn(f"{op}_sgd", reads, {"w": layer.w, "b": layer.b}, **where)
            return
        shape = {"w_shape": self._arrays[layer.w].shape} if op == "conv_wgrad" else {}
        self._call(op, reads, self._param_grads(layer), **where, **shape)

    def _wgrad_of_view(
        self,
        layer: Conv | Linear,
        filters: View,
        reads: Mapping[str, Operand],
        where: dict[str, Any],
    ) -> None:
        dw, db = self._param_grads(layer)
        seen = View(dw, filters.shape)
        self._call("conv_wgrad", reads, (seen, db), **where, w_shape=filters.shape)

    def _wgrad_deep(self, layer: Conv, x: str, dy: Operand) -> None:
        block, shape = self._deep_filters(layer)
        dw, db = self._param_grads(layer)
        deep = self._new(f"{layer.w}.deep.grad", shape, FLOAT32, batch=False)
        self._call(
            "conv_wgrad",
            {"x": x, "dy": dy},
            (deep, db),
            stride=1,
            pad=0,
            groups=1,
            w_shape=shape,
        )
        w_shape = self._arrays[layer.w].shape
        self._call("filters_from_depth", {"ddeep": deep}, dw, block=block, w_shape=w_shape)

    def _param_grads(self, layer: Conv | Linear) -> tuple[str, str]:
        for name in (layer.w, layer.b):
            self._new(f"{name}.grad", self._arrays[name].shape, FLOAT32, batch=False)
        return f"{layer.w}.grad", f"{layer.b}.grad"

    def _update_rest(self) -> None:
        """The updates of the parameters whose gradients were written."""
        for name in self._spec.param_shapes():
            if f"{name}.grad" in self._arrays:
                self._learn("sgd_update", {"dw": f"{name}.grad"}, {"": name})

    def _lrn_pool_backward(self, run: _Run) -> None:
        norm, pool, *_ = run.layers
        assert isinstance(norm, LRN) and isinstance(pool, MaxPool)
        dy = self._grads[run.y]
        behind: dict[str, Operand] = {}
        if run.y in self._rectified and run.y not in self._gated:
            behind = {"y": run.y}
        gated = self._rectified.get(run.x) == 1 and bool(self._gate(run.x))
        self._call(
            "lrn_maxpool_dgrad",
            {"x": run.x, "dy": dy, "where": f"{pool.name}.where"} | behind,
            self._new_grad(run.x, run.in_shape),
            **_norm(norm),
            **_pool_of(pool),
            gated=gated,
        )

    def _single_backward(self, layer: Layer, run: _Run) -> None:
        if run.x == run.y:  # a layer that changes nothing
            return
        dy = self._grads[run.y]
        if isinstance(layer, LRN | RNorm):
            op = "lrn_dgrad" if isinstance(layer, LRN) else "rnorm_dgrad"
            dx = self._new_grad(run.x, run.in_shape)
            self._call(op, {"x": run.x, "dy": dy}, dx, **_norm(layer))
        elif isinstance(layer, MaxPool):
            gate = self._gate(run.x) if self._rectified.get(run.x) == 1 else {}
            dx = self._new_grad(run.x, run.in_shape)
            reads = {"dy": dy, "where": f"{layer.name}.where"} | gate
            self._call("maxpool_dgrad", reads, dx, x_shape=PerImage(run.in_shape), **_pool(layer))
        elif isinstance(layer, AvgPool):
            dx = self._new_grad(run.x, run.in_shape)
            shape = PerImage(run.in_shape)
            self._call("avgpool_dgrad", {"dy": dy}, dx, x_shape=shape, **_pool(layer))
        else:
            self._grads[run.x] = dy
            self._backward_in_place(layer, run.y, dy)

    def _backward_in_place(self, layer: Layer, y: str, dy: str) -> None:
        if isinstance(layer, Scale):
            self._call("scale", {"x": dy}, dy, factor=layer.factor)
        elif isinstance(layer, Relu) and y not in self._gated:
            self._call("relu_dgrad", {"y": y, "dy": dy}, dy)
        elif isinstance(layer, Tanh):
            self._call("tanh_dgrad", {"y": f"{layer.name}.inner", "dy": dy}, dy)
            self._call("scale", {"x": dy}, dy, factor=layer.scale_out * layer.scale_in)
        elif isinstance(layer, Dropout):
            if self._train:
                self._call("dropout_dgrad", {"dy": dy}, dy, mask=self._draw(layer))
            factor = _dropout_factor(layer, self._train)
            if factor != 1:
                self._call("scale", {"x": dy}, dy, factor=factor)


def _dropout_factor(layer: Dropout, train: bool) -> float:
    if train:
        return 1 / layer.keep if layer.inverted else 1.0
    return 1.0 if layer.inverted else layer.keep


def _norm(layer: LRN | RNorm) -> dict[str, Any]:
    groups = {"groups": layer.groups} if isinstance(layer, LRN) else {}
    return {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "k": layer.k} | groups


def _pool(layer: MaxPool | AvgPool) -> dict[str, Any]:
    return {"size": layer.size, "stride": layer.stride, "ceil": layer.ceil}


def _pool_of(layer: MaxPool) -> dict[str, Any]:
    """As `_pool`, with the argument names used beside a norm's settings."""
    return {"pool_size": layer.size, "pool_stride": layer.stride, "ceil": layer.ceil}
