"""Our side of a whole training step, and the gate that it has to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import pyalexnet
from pyalexnet.backends import Backend
from pyalexnet.data import Dataset
from pyalexnet.data.views import centre
from pyalexnet.net import NetSpec
from pyalexnet.sgd import SGD

from . import gate
from .reference import ReferenceBackend

Batch: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]

# Batches that take turns, so that no step finds its input in a cache.
BATCHES = 8
# Images of the gate's batch.
_GATE_IMAGES = 3
# Relative errors (Frobenius norm) of a gradient that has come through every layer in float32.
_GRADIENT = 1e-4


@dataclass(frozen=True)
class StepCase:
    """A network's training step at a batch size."""

    spec: NetSpec
    label: str
    batch: int


def synthetic(case: StepCase, seed: int = 0) -> list[Batch]:
    """Random pixels, 0 to 255 minus the mean, and labels that follow from them."""
    source = np.random.Generator(np.random.Philox(key=[seed, case.batch]))
    shape = (case.batch, *case.spec.input_shape)
    batches = []
    for _ in range(BATCHES):
        labels = source.integers(0, case.spec.classes, case.batch)
        pixels = source.integers(0, 256, shape, np.uint8).astype(np.float32) - np.float32(127.5)
        batches.append((pixels, labels))
    return batches


def packed(case: StepCase, dataset: Dataset) -> list[Batch]:
    """The first images of a data set, their centres, as a loader would hand them over."""
    split, mean = dataset.train, dataset.mean()
    height, width, channels = split.image_shape
    views = centre(case.batch, (height, width), case.spec.input_shape[:2], channels)
    top, left = views.corners[0]
    rows, columns, _ = case.spec.input_shape
    inside = (slice(top, top + rows), slice(left, left + columns))
    stored = np.empty((case.batch, *split.image_shape), np.uint8)
    batches = []
    for index in range(BATCHES):
        chosen = (np.arange(case.batch) + index * case.batch) % len(split.labels)
        split.read(chosen, stored)
        batches.append((stored[:, *inside] - mean[inside], split.labels[chosen]))
    return batches


class Step:
    """A net and its optimiser on a backend; `run(i)` trains on batch i of those given.

    The batches lie on the device already, unless `feed` asks that each comes from the host.
    """

    def __init__(
        self, backend: Backend, case: StepCase, batches: list[Batch], feed: bool = False
    ) -> None:
        self.net = pyalexnet.Net(case.spec, backend=backend)
        self._sgd = SGD(self.net)
        self._grads: dict[str, Any] = {}
        self._count = 0
        self._batches: list[tuple[Any, Any]] = [
            batch if feed else (backend.asarray(batch[0]), backend.asarray(batch[1]))
            for batch in batches
        ]

    def run(self, index: int) -> Any:
        """Train on one batch; the loss, a 0-d array of the device."""
        images, labels = self._batches[index % len(self._batches)]
        loss, self._grads = self.net.loss_and_grads(
            images, labels, train=True, step=self._count, out=self._grads
        )
        self._sgd.step(self._grads, 0.0)
        self._count += 1
        return loss

    def loss(self) -> float:
        """The loss of the first batch, without dropout and without learning."""
        loss, _ = self.net.loss_and_grads(*self._batches[0])
        return float(self.net.backend.to_numpy(loss))


def check(backend: Backend, case: StepCase) -> str | None:
    """What is wrong with loss and gradients of a small batch, beside float64; None if nothing.

    Pixels are those of the case, so that the magnitudes in every layer are.
    """
    small = StepCase(case.spec, case.label, _GATE_IMAGES)
    images, labels = synthetic(small)[0]
    results = []
    for side in (backend, ReferenceBackend()):
        net = pyalexnet.Net(case.spec, backend=side)
        loss, grads = net.loss_and_grads(images, labels)
        named = {"loss": loss, **grads}
        results.append({name: np.array(side.to_numpy(one)) for name, one in named.items()})
    ours, true = results
    for name, value in ours.items():
        if wrong := gate.difference(name, value, true[name], _GRADIENT):
            return wrong
    return None


def check_learning(step: Step, steps: int) -> str | None:
    """Whether `steps` updates on the first batch leave its loss finite and lower."""
    before = step.loss()
    for _ in range(steps):
        step.run(0)
    after = step.loss()
    if np.isfinite(after) and after < before:
        return None
    return f"the loss of a batch went from {before:.4f} to {after:.4f} in {steps} updates"
