"""The layers that networks are built from; `forward` and `backward` write a backend's calls.

Maps are NHWC, filters KRSC (C = channels per group), weights of linear layers (out, in).
"""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Activation, Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Operand, Step, View
from pyalexnet.nets.layer import Layer as Layer
from pyalexnet.nets.layer import check_groups, maps_of
from pyalexnet.ops.checks import integer, positive, real
from pyalexnet.ops.elements import FLOAT32
from pyalexnet.ops.records import ConvGeometry, Pad, PoolGeometry, Stride

# Initial weights: the standard deviation of a normal distribution; initial biases: their value.
# "fan_in" draws either uniformly from +-1 / sqrt(inputs of a unit), PyTorch's default.
Start: TypeAlias = float | Literal["fan_in"]


@dataclass(frozen=True)
class Product:
    """A layer with weights as an operation sees it."""

    kind: str  # "conv" or "linear"
    x: Operand
    w: Operand
    y: Shape | None  # of its output, if not the layer's
    where: dict[str, Any]  # stride, pad and groups of a convolution

    def output(self, y: str) -> Operand:
        """The layer's output, or its gradient, as the operation sees it."""
        return y if self.y is None else View(y, self.y)


class _Weighted(Layer):
    """Common to layers with weights: parameters, initial values, and the activation after them."""

    activation: Activation
    std: Start
    bias: Start
    groups: int

    @property
    def w(self) -> str:
        return f"{self.name}.w"

    @property
    def b(self) -> str:
        return f"{self.name}.b"

    def initial(self, in_shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
        shapes = self.param_shapes(in_shape)
        w, b = shapes[self.w], shapes[self.b]
        bound = np.float32(1 / math.sqrt(math.prod(w[1:])))

        def uniform(name: str) -> NDArray[np.float32]:
            return (_generator(seed, name).random(shapes[name], np.float32) * 2 - 1) * bound

        def normal() -> NDArray[np.float32]:
            return _generator(seed, self.w).standard_normal(w, np.float32) * np.float32(self.std)

        return {
            self.w: uniform(self.w) if self.std == "fan_in" else normal(),
            self.b: uniform(self.b) if self.bias == "fan_in" else np.full(b, self.bias, np.float32),
        }

    @property
    def reads_all(self) -> bool:
        return self.groups == 1

    def _shared(self, towers: int, what: str, outputs: int) -> tuple[int, int]:
        """Outputs and groups of each of `towers`."""
        if outputs % towers:
            said = f"{self.name}: {outputs} {what} do not divide among {towers} towers"
            raise ArgumentError(f"{said}; a multiple was expected.")
        if self.groups > 1 and self.groups % towers:
            said = f"{self.name}: {self.groups} groups do not divide among {towers} towers"
            raise ArgumentError(f"{said}; 1 or a multiple was expected.")
        return outputs // towers, max(1, self.groups // towers)

    @abstractmethod
    def _product(self, step: Step, x: str) -> Product:
        """The layer as an operation on the array `x`."""

    def _filters(self, step: Step, product: Product) -> Operand:
        """The weights that the forward product reads."""
        return product.w

    def forward(self, step: Step, x: str, drop: Dropout | None = None) -> str:
        """As in every layer; with `drop`, the output of that layer, computed in the same call."""
        product, out = self._product(step, x), self.out_shape(step.shape(x))
        dtype = FLOAT32 if self.name == step.logits else step.element
        y = step.array((drop or self).name, out, dtype)
        settings: dict[str, Any] = {"activation": self.activation}
        if dtype != step.element:
            settings["dtype"] = dtype
        if step.towers > 1:
            settings["towers"] = step.towers
        factor = 1.0
        if drop:
            factor = drop.factor(train=True)
            settings["dropout"] = step.mask(drop.name, drop.keep, out[-1], factor)
        if self.activation == "relu":
            step.rectified(y, factor)
        reads = {"x": product.x, "w": self._filters(step, product), "b": step.here(self.b)}
        target = product.output(y)
        step.call(f"{product.kind}_fprop", reads, target, **product.where, **settings)
        return y

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        product = self._product(step, x)
        dz = product.output(self._behind_activation(step, y, dy))
        is_conv = product.kind == "conv"
        step.grad(
            x,
            f"{product.kind}_dgrad",
            {"dy": dz, "w": product.w},
            seen=product.x,
            gates=isinstance(product.x, str) or not is_conv,
            scales=True,
            **product.where,
            **({"x_shape": step.shape(product.x)} if is_conv else {}),
        )
        self._wgrad(step, product, dz)

    def _wgrad(self, step: Step, product: Product, dz: Operand) -> None:
        reads = {"x": product.x, "dy": dz}
        op, b = f"{product.kind}_wgrad", step.here(self.b)
        step.weights(op, reads, product.w, b, **product.where)

    def _behind_activation(self, step: Step, y: str, dy: str) -> str:
        """Propagate the gradient back through the activation, in place; returns its name."""
        if self.activation == "tanh":
            step.call("tanh_dgrad", {"y": y, "dy": dy}, dy)
        elif (factor := step.ungated(y)) is not None:
            step.call("relu_dgrad", {"y": y, "dy": dy}, dy)
            _scale(step, dy, factor)
        return dy

    def _check_start(self) -> None:
        if self.activation not in (None, "relu", "tanh"):
            said = f"{self.name}: activation is {self.activation!r}"
            raise ArgumentError(f"{said}; None, 'relu' or 'tanh' was expected.")
        if self.std != "fan_in":
            real(self.name, "std", self.std, low=0)
        if self.bias != "fan_in":
            real(self.name, "bias", self.bias)


@dataclass(frozen=True)
class Conv(_Weighted):
    """Convolution with bias and activation in one op. Parameters (K, R, S, C / groups) and (K,).

    size: of the square filters. stride: a number or (vertical, horizontal). pad: a number or
    (top, bottom, left, right). groups: separate parts of filters and channels, as on the paper's
    two devices.
    """

    name: str
    filters: int
    size: int
    stride: Stride = 1
    pad: Pad = 0
    groups: int = 1
    activation: Activation = None
    std: Start = 0.01
    bias: Start = 0.0

    def out_shape(self, in_shape: Shape) -> Shape:
        self._check_start()
        h, w, c = maps_of(self.name, in_shape)
        filters = integer(self.name, "filters", self.filters, low=1)
        size = integer(self.name, "size", self.size, low=1)
        geometry = ConvGeometry.of(self.name, self.stride, self.pad, self.groups)
        check_groups(self.name, self.groups, "filters", filters)
        check_groups(self.name, self.groups, "input channels", c)
        return (*geometry.out_size(self.name, h, w, size, size), filters)

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        channels = in_shape[2] // self.groups
        return {self.w: (self.filters, self.size, self.size, channels), self.b: (self.filters,)}

    def share(self, towers: int) -> Layer:
        filters, groups = self._shared(towers, "filters", self.filters)
        return replace(self, filters=filters, groups=groups)

    def _product(self, step: Step, x: str) -> Product:
        where = {"stride": self.stride, "pad": self.pad, "groups": self.groups}
        return Product("conv", x, step.here(self.w), None, where)


@dataclass(frozen=True)
class Linear(_Weighted):
    """Fully connected layer with bias and activation in one op.

    Parameters (out, in / groups) and (out,). Maps are flattened, in the order H, W, C. groups:
    separate parts of outputs and channels, as if the paper's two devices did not exchange; a row of
    weights then flattens (H, W, C / groups), the channels of its own group.
    """

    name: str
    outputs: int
    activation: Activation = None
    std: Start = 0.01
    bias: Start = 0.0
    groups: int = 1

    def out_shape(self, in_shape: Shape) -> Shape:
        self._check_start()
        outputs = integer(self.name, "outputs", self.outputs, low=1)
        check_groups(self.name, self.groups, "outputs", outputs)
        check_groups(self.name, self.groups, "input channels", in_shape[-1])
        return (outputs,)

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        return {self.w: (self.outputs, math.prod(in_shape) // self.groups), self.b: (self.outputs,)}

    def share(self, towers: int) -> Layer:
        outputs, groups = self._shared(towers, "outputs", self.outputs)
        return replace(self, outputs=outputs, groups=groups)

    def _product(self, step: Step, x: str) -> Product:
        """With groups, a convolution whose filters are as large as the maps, or one pixel."""
        shape, w = step.shape(x), step.here(self.w)
        if self.groups == 1:
            return Product("linear", View(x, (math.prod(shape),)), w, None, {})
        maps = shape if len(shape) == 3 else (1, 1, *shape)
        filters = (self.outputs, *maps[:2], maps[2] // self.groups)
        where = {"stride": 1, "pad": 0, "groups": self.groups}
        return Product("conv", View(x, maps), View(w, filters), (1, 1, self.outputs), where)


@dataclass(frozen=True)
class Scale(Layer):
    """factor * x: for networks that were made for pixels of another scale."""

    name: str
    factor: float

    def out_shape(self, in_shape: Shape) -> Shape:
        real(self.name, "factor", self.factor)
        return in_shape

    def forward(self, step: Step, x: str) -> str:
        return step.output(self.name, step.shape(x), "scale", {"x": x}, **self.settings)

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        step.grads[x] = dy
        step.call("scale", {"x": dy}, dy, **self.settings)


@dataclass(frozen=True)
class Relu(Layer):
    """max(x, 0), for where it does not directly follow weights (paper, section 3.1)."""

    name: str

    def forward(self, step: Step, x: str) -> str:
        y = step.output(self.name, step.shape(x), "relu_fprop", {"x": x})
        step.rectified(y)
        return y

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        step.grads[x] = dy
        if step.ungated(y) is not None:
            step.call("relu_dgrad", {"y": y, "dy": dy}, dy)


@dataclass(frozen=True)
class Tanh(Layer):
    """scale_out * tanh(scale_in * x), cuda-convnet's `tanh[a,b]`."""

    name: str
    scale_out: float = 1.0
    scale_in: float = 1.0

    def out_shape(self, in_shape: Shape) -> Shape:
        real(self.name, "scale_out", self.scale_out)
        real(self.name, "scale_in", self.scale_in)
        return in_shape

    def forward(self, step: Step, x: str) -> str:
        shape = step.shape(x)
        inner = step.output(f"{self.name}.inner", shape, "scale", {"x": x}, factor=self.scale_in)
        step.call("tanh_fprop", {"x": inner}, inner)
        return step.output(self.name, shape, "scale", {"x": inner}, factor=self.scale_out)

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        step.grads[x] = dy
        step.call("tanh_dgrad", {"y": step.here(f"{self.name}.inner"), "dy": dy}, dy)
        step.call("scale", {"x": dy}, dy, factor=self.scale_out * self.scale_in)


@dataclass(frozen=True)
class _Norm(Layer):
    """A response normalisation y = x (k + alpha sum x^2)^-beta; alpha weighs each square."""

    name: str
    size: int
    alpha: float
    beta: float
    k: float
    _kind: ClassVar[str]

    def out_shape(self, in_shape: Shape) -> Shape:
        maps_of(self.name, in_shape)
        integer(self.name, "size", self.size, low=1)
        real(self.name, "alpha", self.alpha, low=0)
        real(self.name, "beta", self.beta)
        positive(self.name, "k", self.k)
        return in_shape

    def forward(self, step: Step, x: str) -> str:
        shape = step.shape(x)
        return step.output(self.name, shape, f"{self._kind}_fprop", {"x": x}, **self.settings)

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        step.grad(x, f"{self._kind}_dgrad", {"x": x, "dy": dy}, **self.settings)


@dataclass(frozen=True)
class LRN(_Norm):
    """Local response normalisation over `size` neighbouring channels (paper, section 3.3).

    groups: separate parts of the channels, as on the paper's two devices.
    """

    groups: int = 1
    _kind: ClassVar[str] = "lrn"

    def out_shape(self, in_shape: Shape) -> Shape:
        _, _, c = super().out_shape(in_shape)
        check_groups(self.name, self.groups, "input channels", c)
        return in_shape

    def share(self, towers: int) -> Layer:
        if self.groups % towers:
            said = f"a window sees channels of more than one tower (groups is {self.groups})"
            expected = f"a multiple of {towers} groups was expected"
            raise ArgumentError(f"{self.name}: {said}; {expected}.")
        return replace(self, groups=self.groups // towers)


@dataclass(frozen=True)
class RNorm(_Norm):
    """Response normalisation over size x size pixels of the same map (cuda-convnet's `rnorm`)."""

    _kind: ClassVar[str] = "rnorm"


@dataclass(frozen=True)
class _Pool(Layer):
    """Pooling over windows that overlap where stride < size; `ceil` keeps those the border cuts."""

    name: str
    size: int
    stride: int
    ceil: bool = True

    @property
    def geometry(self) -> PoolGeometry:
        """The windows, checked."""
        return PoolGeometry.of(self.name, self.size, self.stride, self.ceil)

    def out_shape(self, in_shape: Shape) -> Shape:
        h, w, c = maps_of(self.name, in_shape)
        return (*self.geometry.out_size(self.name, h, w), c)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest value of each window (paper, section 3.4)."""

    def where(self, step: Step, shape: Shape) -> str:
        """A new array for the places of the maxima; returns its name."""
        return step.array(f"{self.name}.where", shape, np.dtype(self.geometry.where_dtype))

    def forward(self, step: Step, x: str) -> str:
        shape = self.out_shape(step.shape(x))
        y = step.array(self.name, shape)
        step.call("maxpool_fprop", {"x": x}, y, self.where(step, shape), **self.settings)
        return y

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        reads = {"dy": dy, "where": step.here(f"{self.name}.where")}
        shape = step.shape(x)
        step.grad(x, "maxpool_dgrad", reads, gates=True, x_shape=shape, **self.settings)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of the pixels of each window that lie inside the image (cuda-convnet's rule)."""

    def forward(self, step: Step, x: str) -> str:
        shape = self.out_shape(step.shape(x))
        return step.output(self.name, shape, "avgpool_fprop", {"x": x}, **self.settings)

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        shape = step.shape(x)
        step.grad(x, "avgpool_dgrad", {"dy": dy}, x_shape=shape, **self.settings)


@dataclass(frozen=True)
class Dropout(Layer):
    """Zeroes each element with probability 1 - keep in training (paper, section 4.2).

    The 2012 rule leaves the rest as it is and multiplies by keep in evaluation. `inverted` divides
    by keep in training instead, and leaves evaluation alone.
    """

    name: str
    keep: float
    inverted: bool = False

    def out_shape(self, in_shape: Shape) -> Shape:
        positive(self.name, "keep", self.keep)
        real(self.name, "keep", self.keep, high=1)
        return in_shape

    def factor(self, *, train: bool) -> float:
        """The factor of the elements; in training, of those that are kept."""
        if train != self.inverted:
            return 1.0
        return 1 / self.keep if train else self.keep

    def forward(self, step: Step, x: str) -> str:
        factor = self.factor(train=step.train)
        if not step.train and factor == 1:
            return x
        y = step.array(self.name, step.shape(x))
        if step.train:
            self._drop(step, "dropout_fprop", "x", x, y)
        _scale(step, y, factor, of=y if step.train else x)
        return y

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        step.grads[x] = dy
        if step.train:
            self._drop(step, "dropout_dgrad", "dy", dy, dy)
        _scale(step, dy, self.factor(train=step.train))

    def _drop(self, step: Step, op: str, argument: str, source: str, target: str) -> None:
        """`source` times the mask, which is its own adjoint.

        In the whole layer a tower's channels of one pixel are contiguous, but its pixels are not,
        so each pixel is masked as an image of its own.
        """
        *pixels, channels = step.shape(source)
        operands: list[Operand] = [source, target]
        if step.towers > 1:
            rows = math.prod(pixels)
            operands = [View(name, (channels,), rows) for name in (source, target)]
        mask = step.mask(self.name, self.keep, channels)
        step.call(op, {argument: operands[0]}, operands[1], mask=mask)


def _scale(step: Step, y: str, factor: float, of: str | None = None) -> None:
    """Multiply `y` by a factor other than 1, or write `of` times the factor into `y`."""
    if factor != 1:
        step.call("scale", {"x": of or y}, y, factor=factor)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a parameter's name only."""
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
