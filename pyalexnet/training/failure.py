"""Which part of a network is to blame when its loss is not finite."""

from __future__ import annotations

import math

import numpy as np

from pyalexnet.backends import Array
from pyalexnet.step.net import Net


def culprit(net: Net, images: Array) -> str:
    """The first parameter, else the first layer's output for a batch, that is not finite."""
    to_numpy = net.backend.to_numpy
    for name, values in net.params.items():
        if not np.isfinite(to_numpy(values)).all():
            return f"{name} holds values that are not finite"
    largest = {}
    for name, outputs in net.activations(images):
        largest[name] = float(np.abs(to_numpy(outputs)).max())
        if not math.isfinite(largest[name]):
            return f"{name} is the first layer whose outputs are not finite"
    name = max(largest, key=lambda layer: largest[layer])
    return f"the largest output is {largest[name]:.1e}, of {name}"
