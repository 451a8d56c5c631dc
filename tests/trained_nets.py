"""Networks as if trained: with weights that carry a signal to the logits, a mean, class names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet import nets
from pyalexnet.nets.spec import NetSpec
from pyalexnet.runs.checkpoint import Meta
from pyalexnet.step.net import Net
from pyalexnet.trained.load import Trained
from samples import normal


def lively(spec: NetSpec, seed: int = 0) -> dict[str, Any]:
    """Parameters under which the signal keeps its size from layer to layer.

    Initial weights with a deviation of .01 or less would hide most of a net's mistakes. The first
    layer's weights shrink pixels to about 30, where norms have an effect.
    """
    params: dict[str, Any] = {}
    for name, shape in spec.param_shapes().items():
        draws = normal(*shape, seed=seed)
        gain = math.sqrt(2 / math.prod(shape[1:])) if name.endswith(".w") else 0.1
        params[name] = draws * np.float32(gain if params else gain / 2)
    return params


def trained(spec: NetSpec, params: dict[str, Any] | None = None, **net_args: Any) -> Trained:
    """The network with `params`, or lively ones, and a mean image that differs at every pixel."""
    net = Net(spec, "cpu")
    net.load(lively(spec) if params is None else params)
    augment = spec.recipe.augment
    height, width, channels = spec.input_shape
    stored = (height, width) if augment is None else (augment.stored, augment.stored)
    names = tuple(f"class {number}" for number in range(spec.classes))
    meta = Meta(
        spec.name, spec.classes, names, spec.input_shape, step=7, epoch=1, net_args=net_args
    )
    mean = (120 + 10 * normal(*stored, channels)).astype(np.float32)
    return Trained(None, Path("checkpoints/step-00000007"), net, meta, mean, augment)


def named(name: str, **net_args: Any) -> Trained:
    """A network of `nets`, by name and arguments."""
    spec = nets.get(name)(**net_args)
    given = {key: value for key, value in net_args.items() if key != "classes"}
    return trained(spec, **given)
