"""A network's description: its layers in order, and the recipe that trains it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Conv, Dropout, Layer
from pyalexnet.nets.recipe import Recipe
from pyalexnet.ops.checks import integer


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
    classes; the loss of every network is the cross-entropy of their softmax. Layers that do not
    fit, or of the same name, are refused with an ArgumentError.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    layers: tuple[Layer, ...]
    recipe: Recipe

    def __post_init__(self) -> None:
        integer(self.name, "classes", self.classes, low=1)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            said = f"{self.name}: input_shape is {self.input_shape}"
            raise ArgumentError(f"{said}; (height, width, channels) was expected.")
        if not self.layers:
            raise ArgumentError(f"{self.name}: there are no layers; at least one was expected.")
        names = [layer.name for layer in self.layers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ArgumentError(f"{self.name}: two layers are called {twice[0]!r}.")
        if lost := [name for name in self.recipe.rates if name not in names]:
            said = f"{self.name}: the recipe has a rate for {lost[0]!r}"
            raise ArgumentError(f"{said}; one of {', '.join(names)} was expected.")
        *_, (last, _, logits) = self.walk()
        if logits != (self.classes,):
            said = f"{self.name}: the output of {last.name} has shape {logits}"
            raise ArgumentError(f"{said}; ({self.classes},) was expected, a logit for each class.")

    def walk(self) -> Iterator[tuple[Layer, Shape, Shape]]:
        """Each layer with the shapes of its input and output for one image."""
        in_shape: Shape = self.input_shape
        for layer in self.layers:
            out_shape = layer.out_shape(in_shape)
            yield layer, in_shape, out_shape
            in_shape = out_shape

    def shapes(self) -> tuple[LayerShape, ...]:
        """The network as a table, a row for each layer."""
        rows = []
        for layer, in_shape, out_shape in self.walk():
            parameters = sum(map(math.prod, layer.param_shapes(in_shape).values()))
            counts = parameters, layer.macs(in_shape), layer.neurons(in_shape)
            rows.append(LayerShape(layer.name, type(layer).__name__, in_shape, out_shape, *counts))
        return tuple(rows)

    def param_shapes(self) -> dict[str, Shape]:
        """Shapes of the parameters by name, in the order of the layers."""
        shapes: dict[str, Shape] = {}
        for layer, in_shape, _ in self.walk():
            shapes |= layer.param_shapes(in_shape)
        return shapes

    @property
    def towers(self) -> int:
        """Number of parts that each have their own filters from the first convolution on."""
        # The first reads the image, which all towers see; the second only its own tower's maps.
        convolutions = [layer for layer in self.layers if isinstance(layer, Conv)]
        return convolutions[1].groups if len(convolutions) > 1 else 1

    @property
    def masks(self) -> dict[str, int]:
        """Numbers of the dropout layers by name; their masks depend on these."""
        dropouts = [layer.name for layer in self.layers if isinstance(layer, Dropout)]
        return {name: number for number, name in enumerate(dropouts)}

    @property
    def num_parameters(self) -> int:
        return sum(row.parameters for row in self.shapes())

    def macs(self) -> int:
        """Multiply-accumulates of a forward pass for one image, those with padding included."""
        return sum(row.macs for row in self.shapes())

    def neurons(self) -> int:
        """Outputs of the convolutions and linear layers for one image (paper, section 3.5)."""
        return sum(row.neurons for row in self.shapes())

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """The initial parameters, on the host, by name in the order of the layers."""
        values: dict[str, NDArray[np.float32]] = {}
        for layer, in_shape, _ in self.walk():
            values |= layer.initial(in_shape, seed)
        return values
