"""Shared by the tests of imports: random networks of other programs, and checks on the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyalexnet import nets
from pyalexnet.foreign import weights
from pyalexnet.step.rounding import rounding
from pyalexnet.trained.export_onnx import pixels
from pyalexnet.trained.load import Trained
from samples import normal

CLASSES = 11

# The full networks take half a minute to draw, write and read.
SMALL = 0.125


def drawn(name: str, shape: tuple[int, ...]) -> Any:
    """A random parameter that preserves the scale of signals."""
    gain = math.sqrt(2 / math.prod(shape[1:])) if name.endswith(".w") else 0.1
    return normal(*shape) * np.float32(gain)


def in_torch_order(preset: str, width: float) -> dict[str, Any]:
    """Random parameters by our names, in the shapes of other programs."""
    spec = nets.alexnet(classes=CLASSES, preset=preset, width=width)
    return {name: drawn(name, shape) for name, shape in weights.foreign_shapes(spec).items()}


def assert_no_run(folder: Path, files: int) -> None:
    """Check that nothing was made besides the `files` already there."""
    assert len(list(folder.iterdir())) == files


def assert_same_logits(run: Path, theirs: Callable[[Any], Any]) -> Trained:
    """Check that the run and the other program's model agree on the same photographs."""
    net = Trained.load(str(run), backend="cpu")
    stored = pixels(4, net.mean.shape, seed=3)
    ours, expected = net.logits(stored), theirs(stored)
    tolerance = rounding(net.net, net.net.backend.to_numpy(net.look(stored)))
    assert np.max(np.abs(ours - expected)) <= tolerance < 1e-3 * np.max(np.abs(expected))
    return net
