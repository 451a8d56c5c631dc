"""The interface of every layer.

A layer is a frozen description. It computes shapes, refuses those that do not fit, and writes down
on a `Step` which operations compute its output and, from the output's gradient, the gradients of
its parameters and of its input. Shapes leave out the batch: (H, W, C) for maps, (features,) for
vectors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyalexnet.backends.base import Shape
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Step
from pyalexnet.ops.checks import integer


class Layer(ABC):
    """One layer; `name` is unique in its network and begins the names of the parameters."""

    name: str

    def out_shape(self, in_shape: Shape) -> Shape:
        """Shape of the output; refuses an impossible `in_shape` or impossible settings."""
        return in_shape

    @property
    def settings(self) -> dict[str, Any]:
        """The layer's settings except its name, as operations without weights take them."""
        return {name: value for name, value in vars(self).items() if name != "name"}

    def param_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        """Shapes of the parameters by full name; most layers have none."""
        return {}

    def initial(self, in_shape: Shape, seed: int) -> dict[str, NDArray[np.float32]]:
        """Initial values of the parameters; each depends on `seed` and its own name only."""
        return {}

    def macs(self, in_shape: Shape) -> int:
        """Multiply-accumulates of `forward` for one image, those with padding included."""
        shapes = [*self.param_shapes(in_shape).values()]
        return self.neurons(in_shape) * math.prod(shapes[0][1:]) if shapes else 0

    def neurons(self, in_shape: Shape) -> int:
        """Outputs for one image, counted as in the paper: those of layers with weights."""
        return math.prod(self.out_shape(in_shape)) if self.param_shapes(in_shape) else 0

    @property
    def reads_all(self) -> bool:
        """Whether an output depends on all input channels, including those of other towers."""
        return False

    def share(self, towers: int) -> Layer:
        """This layer as each of `towers` runs it, on its own outputs; refuses if it cannot."""
        return self

    @abstractmethod
    def forward(self, step: Step, x: str) -> str:
        """Write the calls that compute the output from the array `x`; returns the output's name."""

    @abstractmethod
    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        """Write the calls that compute the gradients of the parameters and of `x` from that of `y`.

        They may overwrite `dy`.
        """


def maps_of(name: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ArgumentError(
            f"{name}: the input has shape {shape}; maps (height, width, channels) were expected."
        )
    return shape[0], shape[1], shape[2]


def check_groups(name: str, groups: int, what: str, count: int) -> None:
    if count % integer(name, "groups", groups, low=1):
        raise ArgumentError(
            f"{name}: {count} {what} do not divide into {groups} groups; a multiple was expected."
        )
