"""How far two float32 programs may come apart on the same network, images and parameters.

A bound that added up every rounding's worst case would be astronomic after eight layers. Here the
roundings are tried out instead, each at its full size and in a direction left to chance, and what
they do to the logits is measured (Monte Carlo arithmetic, Parker 1997).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyalexnet.layers import LRN, Conv, Layer, Linear, Memory, Pass, RNorm, Tanh
from pyalexnet.net import Net

Floats = npt.NDArray[np.float32]

UNIT = 2.0**-24
"""Relative error of one float32 rounding."""

SUM, FUNCTION = 8.0, 8.0
"""Errors in units: of a sum of products, added in whatever order, as a part of the sum of absolute
products; of a power or a tanh, 4 ulp, as a part of its value."""


def rounding(net: Net, images: Floats, seed: int = 0) -> float:
    """The largest difference of a logit on `images` (n, H, W, C) that roundings explain.

    Every layer's output is moved, each element up or down by chance, as far as the roundings in its
    own sums may take it, and the layers above pass the movements on as they do rounding errors. The
    largest change of a logit counts twice: each of two programs rounds.

    net: on a backend of the host. seed: of the directions.
    """
    run = Pass(net.backend, net.params, {}, train=False, seed=net.seed, step=0, masks={})
    absolute = replace(run, params={name: np.abs(value) for name, value in net.params.items()})
    chance = np.random.Generator(np.random.Philox(seed))
    exact = moved = np.ascontiguousarray(images, np.float32)
    for layer in net.spec.layers:
        magnitude = _linear_part(layer).forward(np.abs(exact), Memory(), absolute)
        error = chance.choice(np.array([-UNIT, UNIT]), magnitude.shape) * _units(layer) * magnitude
        moved = (layer.forward(moved, Memory(), run) + error).astype(np.float32)
        exact = layer.forward(exact, Memory(), run)
    return 2 * float(np.max(np.abs(moved.astype(np.float64) - exact)))


def _units(layer: Layer) -> float:
    """Of a norm: its sum, whose error the power multiplies, then the power and the product."""
    if isinstance(layer, LRN | RNorm):
        return abs(layer.beta) * SUM + FUNCTION + SUM
    return FUNCTION + SUM if isinstance(layer, Tanh) else SUM


def _linear_part(layer: Layer) -> Layer:
    """The layer without its activation, which makes no error larger."""
    return replace(layer, activation=None) if isinstance(layer, Conv | Linear) else layer
