"""The layers that networks are built from; their `forward` and `backward` call a backend's ops.

A layer is a frozen description. It computes shapes, refuses those that do not fit, and runs on the
objects it is given. A `Memory` holds what it keeps from one batch to the next and from forward to
backward; a `Pass` holds what all layers of one pass share.

Shapes leave out the batch: (H, W, C) for maps, (features,) for vectors. Maps are NHWC, filters KRSC
(C = channels per group), weights of linear layers (out, in).
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Activation, Array, Backend, Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.checks import integer, positive, real
from pyalexnet.ops.records import ConvGeometry, Pad, PoolGeometry, Stride

# Initial weights: the standard deviation of a normal distribution; initial biases: their value.
# "fan_in" draws either uniformly from +-1 / sqrt(inputs of a unit), PyTorch's default.
Start: TypeAlias = float | Literal["fan_in"]


@dataclass
class Memory:
    """What one layer keeps for one batch size: its buffers, and forward's input for backward.

    A buffer is None until the first op that fills it has allocated it, and is reused from then on.
    """

    x: Array = None
    y: Array | None = None
    where: Array | None = None
    dx: Array | None = None


@dataclass
class Pass:
    """What the layers share while one batch goes through.

    grads: backward writes a parameter's gradient here, into an existing array or a new one.
    train: whether dropout drops. seed, step, masks: what its masks depend on; `masks` numbers the
    dropout layers by name. towers: parts that the outputs of layers are divided into, each on a
    device of its own; tower: the part that this pass computes.
    """

    backend: Backend
    params: Mapping[str, Array]
    grads: dict[str, Array]
    train: bool
    seed: int
    step: int | Array
    masks: Mapping[str, int]
    tower: int = 0
    towers: int = 1


class Layer(ABC):
    """One layer; `name` is unique in its network and begins the names of the parameters."""

    name: str

    @abstractmethod
    def out_shape(self, in_shape: Shape) -> Shape:
        """Shape of the output for an input of `in_shape`.

        Raises:
            ArgumentError: the shape, or a value of the layer itself, is impossible.
        """

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        """Shapes of the parameters by full name; most layers have none."""
        return {}

    def initial(self, in_shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
        """Initial values of the parameters; each depends on `seed` and its own name only."""
        return {}

    def macs(self, in_shape: Shape) -> int:
        """Multiply-accumulates of `forward` for one image, those with padding included."""
        return 0

    def neurons(self, in_shape: Shape) -> int:
        """Outputs for one image, counted as in the paper: those of layers with weights."""
        return 0

    @property
    def reads_all(self) -> bool:
        """Whether an output depends on all input channels, including those of other towers."""
        return False

    def share(self, towers: int) -> Layer:
        """This layer as each of `towers` runs it: on its own outputs.

        Raises:
            ArgumentError: it cannot be divided into so many.
        """
        return self

    @abstractmethod
    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        """Output for the batch `x`: an array of `memory`, or `x` itself."""

    @abstractmethod
    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        """Gradient of the input, after `forward`; may overwrite `dy`. None unless `need_dx`."""


class _Weighted(Layer):
    """Common to layers with weights: parameters, initial values, and the activation after them."""

    activation: Activation
    std: Start
    bias: Start
    groups: int

    @property
    def w(self) -> str:
        """Name of the weights."""
        return f"{self.name}.w"

    @property
    def b(self) -> str:
        """Name of the biases."""
        return f"{self.name}.b"

    def initial(self, in_shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
        shapes = self.param_shapes(in_shape)
        bound = 1 / math.sqrt(math.prod(shapes[self.w][1:]))
        weights, biases = _generator(seed, self.w), _generator(seed, self.b)
        return {
            self.w: _uniform(weights, shapes[self.w], bound)
            if self.std == "fan_in"
            else weights.standard_normal(shapes[self.w], np.float32) * np.float32(self.std),
            self.b: _uniform(biases, shapes[self.b], bound)
            if self.bias == "fan_in"
            else np.full(shapes[self.b], self.bias, np.float32),
        }

    def neurons(self, in_shape: Shape) -> int:
        return math.prod(self.out_shape(in_shape))

    @property
    def reads_all(self) -> bool:
        return self.groups == 1

    def _shared(self, towers: int, what: str, outputs: int) -> tuple[int, int]:
        """Outputs and groups of each of `towers`."""
        if outputs % towers:
            raise ArgumentError(
                f"{self.name}: {outputs} {what} do not divide among {towers} towers; a multiple "
                "was expected."
            )
        if self.groups > 1 and self.groups % towers:
            raise ArgumentError(
                f"{self.name}: {self.groups} groups do not divide among {towers} towers; 1 or a "
                "multiple was expected."
            )
        return outputs // towers, max(1, self.groups // towers)

    def _behind_activation(self, dy: Array, memory: Memory, run: Pass) -> Array:
        """Propagate the gradient back through the activation, in place."""
        if self.activation == "relu":
            return run.backend.relu_dgrad(memory.y, dy, out=dy)
        if self.activation == "tanh":
            return run.backend.tanh_dgrad(memory.y, dy, out=dy)
        return dy

    def _found(self, run: Pass) -> tuple[Array, Array] | None:
        """The caller's arrays for the gradients, if any."""
        return (run.grads[self.w], run.grads[self.b]) if self.w in run.grads else None

    def _check_start(self) -> None:
        if self.activation not in (None, "relu", "tanh"):
            raise ArgumentError(
                f"{self.name}: activation is {self.activation!r}; None, 'relu' or 'tanh' was "
                "expected."
            )
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
        h, w, c = _maps(self.name, in_shape)
        filters = integer(self.name, "filters", self.filters, low=1)
        size = integer(self.name, "size", self.size, low=1)
        geometry = ConvGeometry.of(self.name, self.stride, self.pad, self.groups)
        _check_groups(self.name, self.groups, "filters", filters)
        _check_groups(self.name, self.groups, "input channels", c)
        return (*geometry.out_size(self.name, h, w, size, size), filters)

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        channels = in_shape[2] // self.groups
        return {self.w: (self.filters, self.size, self.size, channels), self.b: (self.filters,)}

    def macs(self, in_shape: Shape) -> int:
        return self.neurons(in_shape) * math.prod(self.param_shapes(in_shape)[self.w][1:])

    def share(self, towers: int) -> Layer:
        filters, groups = self._shared(towers, "filters", self.filters)
        return dataclasses.replace(self, filters=filters, groups=groups)

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "pad": self.pad, "groups": self.groups}

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        w, b = run.params[self.w], run.params[self.b]
        memory.x = x
        memory.y = run.backend.conv_fprop(
            x,
            w,
            b,
            towers=run.towers,
            activation=self.activation,
            out=memory.y,
            **self._geometry,
        )
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        x, w = memory.x, run.params[self.w]
        dz = self._behind_activation(dy, memory, run)
        run.grads[self.w], run.grads[self.b] = run.backend.conv_wgrad(
            x, dz, w_shape=w.shape, out=self._found(run), **self._geometry
        )
        if not need_dx:
            return None
        memory.dx = run.backend.conv_dgrad(dz, w, x_shape=x.shape, out=memory.dx, **self._geometry)
        return memory.dx


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
        _check_groups(self.name, self.groups, "outputs", outputs)
        _check_groups(self.name, self.groups, "input channels", in_shape[-1])
        return (outputs,)

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        return {self.w: (self.outputs, math.prod(in_shape) // self.groups), self.b: (self.outputs,)}

    def macs(self, in_shape: Shape) -> int:
        return self.outputs * math.prod(in_shape) // self.groups

    def share(self, towers: int) -> Layer:
        outputs, groups = self._shared(towers, "outputs", self.outputs)
        return dataclasses.replace(self, outputs=outputs, groups=groups)

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        if self.groups > 1:
            return self._forward_in_groups(x, memory, run)
        w, b = run.params[self.w], run.params[self.b]
        memory.x = x
        memory.y = run.backend.linear_fprop(
            _flat(x), w, b, towers=run.towers, activation=self.activation, out=memory.y
        )
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if self.groups > 1:
            return self._backward_in_groups(dy, memory, run, need_dx)
        x = memory.x
        dz = self._behind_activation(dy, memory, run)
        run.grads[self.w], run.grads[self.b] = run.backend.linear_wgrad(
            _flat(x), dz, out=self._found(run)
        )
        if not need_dx:
            return None
        memory.dx = run.backend.linear_dgrad(dz, run.params[self.w], out=memory.dx)
        return memory.dx.reshape(x.shape)

    # With groups it is a convolution whose filters are as large as the maps; a vector is one pixel.

    def _forward_in_groups(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.x, maps = x, _pixels(x)
        y = run.backend.conv_fprop(
            maps,
            self._filters(run.params[self.w], maps),
            run.params[self.b],
            towers=run.towers,
            activation=self.activation,
            out=None if memory.y is None else _pixels(memory.y),
            **self._geometry,
        )
        memory.y = _flat(y)
        return memory.y

    def _backward_in_groups(
        self, dy: Array, memory: Memory, run: Pass, need_dx: bool
    ) -> Array | None:
        maps, w = _pixels(memory.x), run.params[self.w]
        filters = self._filters(w, maps)
        dz = _pixels(self._behind_activation(dy, memory, run))
        found = self._found(run)
        dw, run.grads[self.b] = run.backend.conv_wgrad(
            maps,
            dz,
            w_shape=filters.shape,
            out=None if found is None else (self._filters(found[0], maps), found[1]),
            **self._geometry,
        )
        run.grads[self.w] = dw.reshape(w.shape) if found is None else found[0]
        if not need_dx:
            return None
        memory.dx = run.backend.conv_dgrad(
            dz, filters, x_shape=maps.shape, out=memory.dx, **self._geometry
        )
        return memory.dx.reshape(memory.x.shape)

    @property
    def _geometry(self) -> dict[str, Any]:
        return {"stride": 1, "pad": 0, "groups": self.groups}

    def _filters(self, w: Array, maps: Array) -> Array:
        """Weights (out, in / groups) seen as filters (K, R, S, C / groups)."""
        return w.reshape(len(w), *maps.shape[1:3], -1)


class _SameShape(Layer):
    """A layer whose output has its input's shape."""

    def out_shape(self, in_shape: Shape) -> Shape:
        return in_shape


@dataclass(frozen=True)
class Scale(_SameShape):
    """factor * x: for networks that were made for pixels of another scale."""

    name: str
    factor: float

    def out_shape(self, in_shape: Shape) -> Shape:
        real(self.name, "factor", self.factor)
        return in_shape

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.y = run.backend.scale(x, factor=self.factor, out=memory.y)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        return run.backend.scale(dy, factor=self.factor, out=dy) if need_dx else None


@dataclass(frozen=True)
class Relu(_SameShape):
    """max(x, 0), for where it does not directly follow weights (paper, section 3.1)."""

    name: str

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.y = run.backend.relu_fprop(x, out=memory.y)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        return run.backend.relu_dgrad(memory.y, dy, out=dy) if need_dx else None


@dataclass(frozen=True)
class Tanh(_SameShape):
    """scale_out * tanh(scale_in * x), cuda-convnet's `tanh[a,b]`."""

    name: str
    scale_out: float = 1.0
    scale_in: float = 1.0

    def out_shape(self, in_shape: Shape) -> Shape:
        real(self.name, "scale_out", self.scale_out)
        real(self.name, "scale_in", self.scale_in)
        return in_shape

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.x = run.backend.scale(x, factor=self.scale_in, out=memory.x)
        run.backend.tanh_fprop(memory.x, out=memory.x)
        memory.y = run.backend.scale(memory.x, factor=self.scale_out, out=memory.y)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = run.backend.tanh_dgrad(memory.x, dy, out=dy)
        return run.backend.scale(dx, factor=self.scale_out * self.scale_in, out=dx)


@dataclass(frozen=True)
class _Norm(_SameShape):
    """A response normalisation y = x (k + alpha sum x^2)^-beta; alpha weighs each square."""

    name: str
    size: int
    alpha: float
    beta: float
    k: float

    def out_shape(self, in_shape: Shape) -> Shape:
        _maps(self.name, in_shape)
        integer(self.name, "size", self.size, low=1)
        real(self.name, "alpha", self.alpha, low=0)
        real(self.name, "beta", self.beta)
        positive(self.name, "k", self.k)
        return in_shape

    @property
    def _settings(self) -> dict[str, Any]:
        return {"size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}


@dataclass(frozen=True)
class LRN(_Norm):
    """Local response normalisation over `size` neighbouring channels (paper, section 3.3).

    groups: separate parts of the channels, as on the paper's two devices.
    """

    groups: int = 1

    def out_shape(self, in_shape: Shape) -> Shape:
        _, _, c = super().out_shape(in_shape)
        _check_groups(self.name, self.groups, "input channels", c)
        return in_shape

    def share(self, towers: int) -> Layer:
        if self.groups % towers:
            raise ArgumentError(
                f"{self.name}: a window sees channels of more than one tower (groups is "
                f"{self.groups}); a multiple of {towers} groups was expected."
            )
        return dataclasses.replace(self, groups=self.groups // towers)

    @property
    def _settings(self) -> dict[str, Any]:
        return {**super()._settings, "groups": self.groups}

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.x = x
        memory.y = run.backend.lrn_fprop(x, out=memory.y, **self._settings)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        memory.dx = run.backend.lrn_dgrad(memory.x, dy, out=memory.dx, **self._settings)
        return memory.dx


@dataclass(frozen=True)
class RNorm(_Norm):
    """Response normalisation over size x size pixels of the same map (cuda-convnet's `rnorm`)."""

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.x = x
        memory.y = run.backend.rnorm_fprop(x, out=memory.y, **self._settings)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        memory.dx = run.backend.rnorm_dgrad(memory.x, dy, out=memory.dx, **self._settings)
        return memory.dx


@dataclass(frozen=True)
class _Pool(Layer):
    """Pooling over windows that overlap where stride < size; `ceil` keeps those the border cuts."""

    name: str
    size: int
    stride: int
    ceil: bool = True

    def out_shape(self, in_shape: Shape) -> Shape:
        h, w, c = _maps(self.name, in_shape)
        geometry = PoolGeometry.of(self.name, self.size, self.stride, self.ceil)
        return (*geometry.out_size(self.name, h, w), c)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"size": self.size, "stride": self.stride, "ceil": self.ceil}


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest value of each window (paper, section 3.4)."""

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        out = None if memory.y is None else (memory.y, memory.where)
        memory.x = x
        memory.y, memory.where = run.backend.maxpool_fprop(x, out=out, **self._settings)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        shape = memory.x.shape
        memory.dx = run.backend.maxpool_dgrad(
            dy, memory.where, x_shape=shape, out=memory.dx, **self._settings
        )
        return memory.dx


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of the pixels of each window that lie inside the image (cuda-convnet's rule)."""

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        memory.x = x
        memory.y = run.backend.avgpool_fprop(x, out=memory.y, **self._settings)
        return memory.y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        shape = memory.x.shape
        memory.dx = run.backend.avgpool_dgrad(dy, x_shape=shape, out=memory.dx, **self._settings)
        return memory.dx


@dataclass(frozen=True)
class Dropout(_SameShape):
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

    def forward(self, x: Array, memory: Memory, run: Pass) -> Array:
        y, factor = x, self._factor(run)
        if run.train:
            y = memory.y = self._dropped(x, memory.y, run)
        if factor != 1:
            y = memory.y = run.backend.scale(y, factor=factor, out=memory.y)
        return y

    def backward(self, dy: Array, memory: Memory, run: Pass, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        factor = self._factor(run)
        if run.train:
            self._dropped(dy, dy, run)
        return dy if factor == 1 else run.backend.scale(dy, factor=factor, out=dy)

    def _factor(self, run: Pass) -> float:
        if run.train:
            return 1 / self.keep if self.inverted else 1.0
        return 1.0 if self.inverted else self.keep

    def _dropped(self, x: Array, out: Array | None, run: Pass) -> Array:
        """`x` times the mask, which is its own adjoint.

        In the whole layer a tower's channels of one pixel are contiguous, but its pixels are not,
        so each pixel is masked as an image of its own.
        """
        rows, where = x.shape, {}
        if run.towers > 1:
            c = x.shape[-1]
            rows, where = (-1, c), {"offset": run.tower * c, "total": run.towers * c}
        y = run.backend.dropout_fprop(
            x.reshape(rows),
            keep=self.keep,
            seed=run.seed,
            step=run.step,
            layer=run.masks[self.name],
            out=None if out is None else out.reshape(rows),
            **where,
        )
        return y.reshape(x.shape)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a parameter's name only."""
    key = np.array([seed, zlib.crc32(name.encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _uniform(source: np.random.Generator, shape: Shape, bound: float) -> NDArray[np.float32]:
    return (source.random(shape, np.float32) * 2 - 1) * np.float32(bound)


def _flat(x: Array) -> Array:
    """(N, ...) seen as (N, features)."""
    return x.reshape(len(x), -1)


def _pixels(x: Array) -> Array:
    """(N, H, W, C) as it is, (N, features) seen as (N, 1, 1, features)."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)


def _maps(name: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ArgumentError(
            f"{name}: the input has shape {shape}; maps (height, width, channels) were expected."
        )
    return shape[0], shape[1], shape[2]


def _check_groups(name: str, groups: int, what: str, count: int) -> None:
    if count % integer(name, "groups", groups, low=1):
        raise ArgumentError(
            f"{name}: {count} {what} do not divide into {groups} groups; a multiple was expected."
        )
