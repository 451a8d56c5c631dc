"""A network: its description, and its parameters on a backend with forward and backward passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends import backend as make_backend
from pyalexnet.backends.base import Array, Backend, Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Conv, Dropout, Layer, Memory, Pass
from pyalexnet.nets.recipe import Recipe
from pyalexnet.ops.checks import integer

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

    def param_shapes(self) -> dict[str, Shape]:
        """Shapes of the parameters by name, in the order of the layers."""
        return {
            name: shape
            for layer, in_shape, _ in self.walk()
            for name, shape in layer.param_shapes(in_shape).items()
        }

    @property
    def towers(self) -> int:
        """Number of parts that each have their own filters from the first convolution on.

        The first convolution reads the image, which all towers see; the second reads only its own
        tower's maps.
        """
        convolutions = [layer for layer in self.layers if isinstance(layer, Conv)]
        return convolutions[1].groups if len(convolutions) > 1 else 1

    @property
    def masks(self) -> dict[str, int]:
        """Numbers of the dropout layers by name, on which their masks depend."""
        dropouts = [layer.name for layer in self.layers if isinstance(layer, Dropout)]
        return {name: number for number, name in enumerate(dropouts)}

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

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """The initial parameters, on the host, by name in the order of the layers."""
        return {
            name: value
            for layer, in_shape, _ in self.walk()
            for name, value in layer.initial(in_shape, seed).items()
        }


@dataclass(frozen=True)
class Part:
    """The part of a network on one device: all of it, or a tower.

    backend: the device. params: its arrays by name, in the order of the layers; learning writes
    into them. low: the lower halves of weights that are kept in two halves (`split_weights`), by
    name.
    """

    backend: Backend
    params: dict[str, Array]
    low: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchanged:
    """Bytes that tower 0 and tower 1 fetched from each other in one pass, by layer.

    forward: outputs of the other tower, before a layer that reads both. backward: gradients of a
    tower's own outputs that the other tower computed.
    """

    forward: dict[str, tuple[int, int]] = field(default_factory=dict)
    backward: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes in both directions, forward and backward."""
        return sum(map(sum, (*self.forward.values(), *self.backward.values())))


class Net:
    """A network's parameters on one device, and what runs on them.

    Attributes:
        spec: the description.
        backend: where it runs.
        seed: of the initial weights and of the dropout masks.
        parts: the parameters by device; here there is one.
        last_errors: (top-1, top-5) of the last `gradients` or `loss_and_grads`, 0-d arrays of the
            device; NaN before the first.
        exchanged: traffic between devices in the last pass; none here.
    """

    spec: NetSpec
    backend: Backend
    seed: int
    parts: tuple[Part, ...]
    last_errors: tuple[Array, Array]
    exchanged: Exchanged

    def __init__(
        self,
        spec: NetSpec,
        backend: str | Backend = "cpu",
        seed: int = 0,
        device: int = 0,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Bring the initial parameters to the device.

        Args:
            spec: the network.
            backend: a name for `pyalexnet.backend`, or what it returned.
            seed: 0 to 2^64 - 1.
            device: number of the device, where `backend` is a name.
            params: the initial parameters, as `load` takes them; `spec.initial(seed)` if None.
        """
        own = backend if isinstance(backend, Backend) else make_backend(backend, device)
        self._begin(spec, own, seed)
        self.load(spec.initial(self.seed) if params is None else params)

    def _begin(self, spec: NetSpec, backend: Backend, seed: int) -> None:
        """Set the attributes that do not depend on where the parameters lie."""
        self.spec = spec
        self.backend = backend
        self.seed = integer("Net", "seed", seed, high=2**64 - 1)
        unknown = backend.asarray(np.array(np.nan, np.float32))
        self.last_errors = (unknown, unknown)
        self.exchanged = Exchanged()
        self._masks = spec.masks
        self._first_weights = next(
            (i for i, (layer, shape, _) in enumerate(spec.walk()) if layer.param_shapes(shape)), 0
        )
        self._memories: dict[int, Any] = {}

    @property
    def params(self) -> dict[str, Array]:
        """Arrays of the device by name, in the order of the layers: "conv1.w", "conv1.b", ..."""
        return self.parts[0].params

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return self.spec.num_parameters

    def shapes(self) -> tuple[LayerShape, ...]:
        """The network as a table, a row for each layer."""
        return self.spec.shapes()

    # Passes

    def forward(self, images: Any) -> Array:
        """Logits (N, classes) in evaluation: dropout drops nothing.

        Args:
            images: (N, H, W, C) float32, of the host or the device; 0 to 255 minus the mean.
        """
        x = self._images(images)
        # A copy: the next pass may overwrite the buffer.
        return self.backend.copy(self._forward(x, self._passes(train=False, step=0)))

    def activations(
        self, images: Any, *, train: bool = False, step: int = 0
    ) -> Iterator[tuple[str, Array]]:
        """Each layer's name and output for `images`, in order; with `train`, dropout drops.

        An output is the layer's own array, valid until the next one is requested.
        """
        x = self._images(images)
        (run,) = self._passes(train, step)
        for layer in self.spec.layers:
            x = layer.forward(x, Memory(), run)
            yield layer.name, x

    def gradients(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: Sequence[dict[str, Array]] | None = None,
    ) -> tuple[Array, tuple[dict[str, Array], ...]]:
        """As `loss_and_grads`, with the gradients beside the parameters: one dict per part.

        Args:
            out: gradients of an earlier call, to be overwritten with the new ones.
        """
        x = self._images(images)
        runs = self._passes(train, step, out)
        logits = self._forward(x, runs)
        loss, dlogits, *errors = self.backend.softmax_cross_entropy(logits, labels)
        self._backward(dlogits, runs)
        self.last_errors = (errors[0], errors[1])
        pairs = zip(self.parts, runs, strict=True)
        return loss, tuple({name: run.grads[name] for name in part.params} for part, run in pairs)

    def loss_and_grads(
        self,
        images: Any,
        labels: Any,
        train: bool = False,
        step: int | Array = 0,
        *,
        out: dict[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Mean loss over a batch, and its gradient by every parameter; no wait for the device.

        Args:
            images: (N, H, W, C) float32, of the host or the device; 0 to 255 minus the mean.
            labels: (N,) integers of any type, of the host or the device.
            train: whether dropout drops; its masks depend on the net's seed and `step`.
            step: number of the training step, or a 0-d uint32 array of the device.
            out: gradients of an earlier call, to be overwritten with the new ones.

        Returns:
            loss: 0-d; gradients by the names of `params`.
        """
        parts = None if out is None else (out,)
        loss, (grads,) = self.gradients(images, labels, train, step, out=parts)
        return loss, grads

    # Parameters and arrays of their shapes: gradients, momentum

    def load(self, params: Mapping[str, Any]) -> None:
        """Copy `params`, which has every parameter by name, from the host or any device."""
        divided = self.divided(params)
        backends = self._backends()
        self.parts = tuple(Part(*part) for part in zip(backends, divided, strict=True))

    def joined(self, values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Arrays given part by part, joined for the whole network; here there is one part.

        Args:
            values: for each part, arrays by the names of its parameters.
        """
        (own,) = values
        return dict(own)

    def divided(self, values: Mapping[str, Any]) -> tuple[dict[str, Array], ...]:
        """Copies of `values`, each part's on its device.

        Args:
            values: arrays of the parameters' names and shapes, of the host or any device.
        """
        self._check(values)
        asarray, copy = self.backend.asarray, self.backend.copy
        names = self.spec.param_shapes()
        return ({name: copy(asarray(values[name], np.float32)) for name in names},)

    def _check(self, values: Mapping[str, Any]) -> None:
        """Refuse `values` unless they have exactly the parameters' names and shapes."""
        shapes = self.spec.param_shapes()
        for name in (*values, *shapes):
            if name not in values or name not in shapes:
                state = "is missing" if name in shapes else "is no parameter of this network"
                raise ArgumentError(f"{name} {state}; {', '.join(shapes)} were expected.")
        for name, shape in shapes.items():
            if np.shape(values[name]) != shape:
                raise ArgumentError(
                    f"{name} has shape {np.shape(values[name])}; {shape} was expected."
                )

    # Passes over the parts

    def _backends(self) -> tuple[Backend, ...]:
        """The device of each part."""
        return (self.backend,)

    def _passes(
        self, train: bool, step: int | Array, out: Sequence[dict[str, Array]] | None = None
    ) -> tuple[Pass, ...]:
        """A pass over each part, which writes its gradients into its dict of `out`."""
        grads: Sequence[dict[str, Array]] = [{} for _ in self.parts] if out is None else out
        return tuple(
            Pass(
                part.backend,
                part.params,
                mine,
                train,
                self.seed,
                step if isinstance(step, int) else part.backend.asarray(step),
                self._masks,
                tower,
                len(self.parts),
            )
            for tower, (part, mine) in enumerate(zip(self.parts, grads, strict=True))
        )

    def _forward(self, x: Array, runs: Sequence[Pass]) -> Array:
        """Logits of a batch."""
        (run,) = runs
        for layer, memory in zip(self.spec.layers, self._memory(len(x)), strict=True):
            x = layer.forward(x, memory, run)
        return x

    def _backward(self, dlogits: Array, runs: Sequence[Pass]) -> None:
        """The gradients of the parameters, into each pass's dict."""
        (run,) = runs
        dy = dlogits
        layers = list(zip(self.spec.layers, self._memory(len(dlogits)), strict=True))
        # No gradient is needed below the first layer with parameters.
        for index in range(len(layers) - 1, self._first_weights - 1, -1):
            layer, memory = layers[index]
            dy = layer.backward(dy, memory, run, need_dx=index > self._first_weights)

    def _memory(self, images: int) -> Any:
        """The layers' buffers for this batch size; the oldest are dropped to make room."""
        if images not in self._memories:
            if len(self._memories) == _BATCH_SIZES:
                del self._memories[next(iter(self._memories))]
            self._memories[images] = self._new_memory()
        return self._memories[images]

    def _new_memory(self) -> Any:
        """Buffers yet to be made, for each layer."""
        return tuple(Memory() for _ in self.spec.layers)

    def _images(self, images: Any) -> Array:
        """The images on the device, if they are of the network's shape."""
        x = self.backend.asarray(images)
        if x.dtype != np.float32:
            raise ArgumentError(
                f"{self.spec.name}: images are {x.dtype}; float32 was expected, 0 to 255 minus the "
                "mean."
            )
        if x.ndim != 4 or x.shape[1:] != self.spec.input_shape:
            h, w, c = self.spec.input_shape
            raise ArgumentError(
                f"{self.spec.name}: images has shape {x.shape}; (N, {h}, {w}, {c}) was expected."
            )
        if len(x) == 0:
            raise ArgumentError(
                f"{self.spec.name}: images has shape {x.shape}, no image; at least 1 was expected."
            )
        return x
