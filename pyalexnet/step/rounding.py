"""How far two float32 programs may differ on the same network, images and parameters.

A bound that added up every rounding's worst case would be astronomic after eight layers. Here the
roundings are simulated instead, and their effect on the logits is measured (Monte Carlo arithmetic,
Parker 1997).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyalexnet.nets.layers import LRN, Conv, Layer, Linear, RNorm, Tanh
from pyalexnet.step.net import Net
from pyalexnet.step.program import output_of

Floats = npt.NDArray[np.float32]

UNIT = 2.0**-24  # relative error of one float32 rounding
# Errors in units: of a sum of products, in any order of summation, relative to the sum of absolute
# products; of a power or a tanh, 4 ulp, relative to its value.
SUM, FUNCTION = 8.0, 8.0


def rounding(net: Net, images: Floats, seed: int = 0) -> float:
    """The largest difference of a logit on `images` (n, H, W, C) that rounding explains.

    Each element of a layer's output is moved up or down at random, as far as the roundings in its
    own sums may take it, and the layers above propagate this as they do rounding errors. The
    largest change of a logit is doubled, since each of two programs rounds. net: on a host backend.
    """
    params, backend = net.params, net.backend
    absolute = {name: np.abs(value) for name, value in params.items()}
    chance = np.random.Generator(np.random.Philox(seed))
    exact = moved = np.ascontiguousarray(images, np.float32)
    for layer in net.spec.layers:
        magnitude = output_of(_linear_part(layer), np.abs(exact), absolute, backend)
        error = chance.choice(np.array([-UNIT, UNIT]), magnitude.shape) * _units(layer) * magnitude
        moved = (output_of(layer, moved, params, backend) + error).astype(np.float32)
        exact = output_of(layer, exact, params, backend)
    return 2 * float(np.max(np.abs(moved.astype(np.float64) - exact)))


def _units(layer: Layer) -> float:
    """Errors of a norm: of its sum, multiplied by the power, then of the power and the product."""
    if isinstance(layer, LRN | RNorm):
        return abs(layer.beta) * SUM + FUNCTION + SUM
    return FUNCTION + SUM if isinstance(layer, Tanh) else SUM


def _linear_part(layer: Layer) -> Layer:
    """The layer without its activation, which does not amplify errors."""
    return replace(layer, activation=None) if isinstance(layer, Conv | Linear) else layer
