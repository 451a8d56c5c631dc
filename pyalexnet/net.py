"""A network: its description, and its parameters on a backend with forward and backward passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyalexnet.backends import backend as make_backend
from pyalexnet.backends.base import Array, Backend, Shape
from pyalexnet.backends.checks import integer
from pyalexnet.errors import ArgumentError
from pyalexnet.layers import Dropout, Layer, Memory, Pass
from pyalexnet.recipe import Recipe

# Batch sizes whose buffers are kept: those of training and evaluation, and the last, smaller batch
# of each.
_BATCH_SIZES = 4


@dataclass(frozen=True)
class LayerShape:
    """A row of a network's table: sizes of one layer, for one image."""

    name: str
    kind: str
    in_shape: Shape
    out_shape: Shape
    parameters: int
    macs: int
    neurons: int


@dataclass(frozen=True)
class NetSpec:
    """A network as its layers in order, with the recipe that trains it.

    input_shape: (H, W, C) of an image. The last layer's outputs are the logits of `classes`
    classes; the loss of every network is the cross-entropy of their softmax.

    Raises:
        ArgumentError: a layer does not fit the one before it, or two have the same name.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    layers: tuple[Layer, ...]
    recipe: Recipe

    def __post_init__(self) -> None:
        integer(self.name, "classes", self.classes, low=1)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ArgumentError(
                f"{self.name}: input_shape is {self.input_shape}; (height, width, channels) was "
                "expected."
            )
        if not self.layers:
            raise ArgumentError(f"{self.name}: there are no layers; at least one was expected.")
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ArgumentError(f"{self.name}: two layers are called {name!r}.")
        for name in self.recipe.rates:
            if name not in names:
                raise ArgumentError(
                    f"{self.name}: the recipe has a rate for {name!r}; one of {', '.join(names)} "
                    "was expected."
                )
        *_, (last, _, logits) = self.walk()
        if logits != (self.classes,):
            raise ArgumentError(
                f"{self.name}: the output of {last.name} has shape {logits}; ({self.classes},) was "
                "expected, a logit for each class."
            )

    def walk(self) -> Iterator[tuple[Layer, Shape, Shape]]:
        """Each layer with the shapes of its input and output for one image."""
        in_shape: Shape = self.input_shape
        for layer in self.layers:
            out_shape = layer.out_shape(in_shape)
            yield layer, in_shape, out_shape
            in_shape = out_shape

    def shapes(self) -> tuple[LayerShape, ...]:
        """The network as a table, a row for each layer."""
        return tuple(
            LayerShape(
                layer.name,
                type(layer).__name__,
                in_shape,
                out_shape,
                sum(math.prod(shape) for shape in layer.param_shapes(in_shape).values()),
                layer.macs(in_shape),
                layer.neurons(in_shape),
            )
            for layer, in_shape, out_shape in self.walk()
        )

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum(row.parameters for row in self.shapes())

    def macs(self) -> int:
        """Multiply-accumulates of a forward pass for one image, those with padding included."""
        return sum(row.macs for row in self.shapes())

    def neurons(self) -> int:
        """Outputs of the convolutions and linear layers for one image (paper, section 3.5)."""
        return sum(row.neurons for row in self.shapes())


class Net:
    """A network's parameters on one device, and what runs on them.

    Attributes:
        spec: the description.
        backend: where it runs.
        seed: of the initial weights and of the dropout masks.
        params: arrays of the device by name, in the order of the layers: "conv1.w", "conv1.b", ...
        last_errors: (top-1, top-5) of the last `loss_and_grads`, 0-d arrays of the device; NaN
            before the first.
    """

    spec: NetSpec
    backend: Backend
    seed: int
    params: dict[str, Array]
    last_errors: tuple[Array, Array]

    def __init__(
        self, spec: NetSpec, backend: str | Backend = "numpy", seed: int = 0, device: int = 0
    ) -> None:
        """Draw the initial parameters and bring them to the device.

        Args:
            spec: the network.
            backend: a name for `pyalexnet.backend`, or what it returned.
            seed: 0 to 2^64 - 1.
            device: number of the device, where `backend` is a name.
        """
        self.spec = spec
        self.backend = backend if isinstance(backend, Backend) else make_backend(backend, device)
        self.seed = integer("Net", "seed", seed, high=2**64 - 1)
        unknown = self.backend.asarray(np.array(np.nan, np.float32))
        self.last_errors = (unknown, unknown)
        self.params = {
            name: self.backend.asarray(value)
            for layer, in_shape, _ in spec.walk()
            for name, value in layer.initial(in_shape, self.seed).items()
        }
        dropouts = [layer.name for layer in spec.layers if isinstance(layer, Dropout)]
        self._masks = {name: number for number, name in enumerate(dropouts)}
        self._first_weights = next(
            (i for i, (layer, shape, _) in enumerate(spec.walk()) if layer.param_shapes(shape)), 0
        )
        self._memories: dict[int, tuple[Memory, ...]] = {}

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return self.spec.num_parameters

    def shapes(self) -> tuple[LayerShape, ...]:
        """The network as a table, a row for each layer."""
        return self.spec.shapes()

    def forward(self, images: Any) -> Array:
        """Logits (N, classes) in evaluation: dropout drops nothing.

        Args:
            images: (N, H, W, C) float32, of the host or the device; 0 to 255 minus the mean.
        """
        x = self._images(images)
        # A copy: the next pass may overwrite the buffer.
        return self._forward(x, self._pass({}, train=False, step=0)).copy()

    def loss_and_grads(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: dict[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Mean loss over a batch and its gradient by every parameter; nothing waits for the device.

        Args:
            images: (N, H, W, C) float32, of the host or the device; 0 to 255 minus the mean.
            labels: (N,) integers of any type, of the host or the device.
            train: whether dropout drops; its masks depend on the net's seed and `step`.
            step: number of the training step, or a 0-d uint32 array of the device.
            out: gradients of an earlier call, to be overwritten with the new ones.

        Returns:
            loss: 0-d; gradients by the names of `params`.
        """
        x = self._images(images)
        run = self._pass({} if out is None else out, train, step)
        logits = self._forward(x, run)
        loss, dlogits, *errors = self.backend.softmax_cross_entropy(logits, labels)
        self._backward(dlogits, run)
        self.last_errors = (errors[0], errors[1])
        return loss, {name: run.grads[name] for name in self.params}

    def load(self, params: Mapping[str, Any]) -> None:
        """Take copies of `params`, which has every parameter by name, of the host or any device."""
        self.params = copied(self.backend, params, self.params)

    def _pass(self, grads: dict[str, Array], train: bool, step: int | Array) -> Pass:
        return Pass(self.backend, self.params, grads, train, self.seed, step, self._masks)

    def _forward(self, x: Array, run: Pass) -> Array:
        for layer, memory in zip(self.spec.layers, self._memory(len(x)), strict=True):
            x = layer.forward(x, memory, run)
        return x

    def _backward(self, dlogits: Array, run: Pass) -> None:
        dy = dlogits
        layers = list(zip(self.spec.layers, self._memory(len(dlogits)), strict=True))
        # Below the first layer with parameters nobody asks for a gradient.
        for index in range(len(layers) - 1, self._first_weights - 1, -1):
            layer, memory = layers[index]
            dy = layer.backward(dy, memory, run, need_dx=index > self._first_weights)

    def _memory(self, images: int) -> tuple[Memory, ...]:
        """The layers' buffers for this batch size; the oldest make room."""
        if images not in self._memories:
            if len(self._memories) == _BATCH_SIZES:
                del self._memories[next(iter(self._memories))]
            self._memories[images] = tuple(Memory() for _ in self.spec.layers)
        return self._memories[images]

    def _images(self, images: Any) -> Array:
        """The images on the device, if they are of the network's shape."""
        x = self.backend.asarray(images)
        if x.dtype != np.float32:
            raise ArgumentError(
                f"{self.spec.name}: images are {x.dtype}; float32 was expected, 0 to 255 minus the "
                "mean."
            )
        if x.ndim != 4 or x.shape[1:] != self.spec.input_shape or len(x) == 0:
            h, w, c = self.spec.input_shape
            raise ArgumentError(
                f"{self.spec.name}: images has shape {x.shape}; (N, {h}, {w}, {c}) was expected."
            )
        return x


def copied(
    backend: Backend, values: Mapping[str, Any], like: Mapping[str, Array]
) -> dict[str, Array]:
    """Copies of `values` on the backend's device, of exactly the names and shapes of `like`."""
    for name in (*values, *like):
        if name not in values or name not in like:
            state = "is missing" if name in like else "is no parameter of this network"
            raise ArgumentError(f"{name} {state}; {', '.join(like)} were expected.")
    new = {}
    for name, old in like.items():
        value = backend.asarray(values[name], np.float32)
        if value.shape != old.shape:
            raise ArgumentError(f"{name} has shape {value.shape}; {old.shape} was expected.")
        new[name] = value.copy()
    return new
