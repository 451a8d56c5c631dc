"""Our side of a whole training step, and the gate it has to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

import pyalexnet
from pyalexnet.backends import Backend
from pyalexnet.backends.cpu import CpuBackend
from pyalexnet.backends.kernels import KernelBackend
from pyalexnet.data import Dataset
from pyalexnet.data.views import centre
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from pyalexnet.step.plan import Precision
from pyalexnet.step.sgd import SGD

from . import gate
from .cases import Arrays
from .reference import ReferenceBackend

Batch: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]

Variant: TypeAlias = Literal["layer by layer", "fused", "fused, graph", "fused, graph, mma"]
"""How our side runs a step: every layer an operation of its own; by the fusion plan; the same as
one CUDA graph (on a CPU, which has none, the same as the second); on a Hopper GPU that with the
main loop of any card."""
VARIANTS: tuple[Variant, ...] = ("layer by layer", "fused", "fused, graph")
OTHER_LOOP: Variant = "fused, graph, mma"

# Batches that take turns, so that no step finds its input in a cache.
BATCHES = 8
# Images of a batch of the gate's, and how many batches it tries: where rounding decides which pixel
# of a window a pool chooses, a gradient takes another way than in float64. What is wrong is wrong
# on every batch.
_GATE_IMAGES = 3
_GATE_BATCHES = 3
# Relative errors (Frobenius norm) after all layers, forward and back. In bfloat16 the reference
# rounds where ours does. Still, a sum midway between two bfloat16 numbers may round differently
# from float32 and from float64, by 2^-8 of it: a ReLU or maximum after it then chooses differently,
# and the gradient takes another path. NumPy's gradients are off by up to 6e-2 (conv1 of AlexNet),
# and by 2.5e-1 from unrounded ones. A gradient that is missing, counted twice or led past its ReLU
# is off by far more; smaller faults show in the gate of the operations.
_ERROR = {"fp32": 1e-4, "fp32x3": 1e-4, "bf16": 2e-1}
# Winograd's convolutions round some ten times as far: on every batch, one or two of the 210,000
# windows of AlexNet's pool1 choose another pixel than in float64, and each moves the gradient of
# conv1 by 2e-3 to 6e-3 of its norm. Where none does, it is right to 1e-5. The same step without
# Winograd's algorithm is held to the error above.
_ERROR_OF_WINOGRAD = 2e-2


@dataclass(frozen=True)
class Ours:
    """Our side of a step. exact: whether convolutions on a CPU never use Winograd's algorithm."""

    precision: Precision = "fp32"
    variant: Variant = "layer by layer"
    exact: bool = False

    @property
    def form(self) -> str:
        """How it is run, in words."""
        return f"{self.variant}, exact" if self.exact else self.variant

    def net(self, spec: NetSpec, backend: Backend, params: Arrays | None = None) -> Net:
        """The network.

        params: its initial parameters, if they have been drawn.
        """
        if self.exact:
            backend = pyalexnet.backend(backend.name, backend.device, exact=True)
        fused, graph = self.variant != "layer by layer", "graph" in self.variant
        if self.variant == OTHER_LOOP:
            backend = _of_any_card(backend)
        how: Any = {"precision": self.precision, "fused": fused, "graph": graph}
        return Net(spec, backend=backend, params=params, **how)

    def reference(self) -> Ours:
        """Its float64 reference: a step layer by layer, except in bf16."""
        if self.precision != "bf16":
            return Ours()
        return Ours(self.precision, "fused" if self.variant != "layer by layer" else self.variant)


def _of_any_card(backend: Backend) -> Backend:
    """Another backend for the same device, whose products use the main loop of any card."""
    other = pyalexnet.backend(backend.name, backend.device)
    if isinstance(other, KernelBackend):
        other.hopper = False
    return other


@dataclass(frozen=True)
class StepCase:
    """A network's training step at a batch size."""

    spec: NetSpec
    label: str
    batch: int


def synthetic(case: StepCase, count: int = BATCHES) -> list[Batch]:
    """The first batches of random pixels, 0 to 255 minus the mean, and labels."""
    source = np.random.Generator(np.random.Philox(key=[0, case.batch]))
    shape = (case.batch, *case.spec.input_shape)
    batches = []
    for _ in range(count):
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

    The batches are on the device already, as `given` leaves them, unless `feed` is true: then each
    comes from the host as it is.

    Attributes:
        net: what is trained.
    """

    def __init__(
        self,
        backend: Backend,
        case: StepCase,
        batches: list[Batch],
        ours: Ours | None = None,
        feed: bool = False,
        params: Arrays | None = None,
    ) -> None:
        self.net = (ours or Ours()).net(case.spec, backend, params)
        self._sgd = SGD(self.net)
        self._count = 0
        self._batches: list[tuple[Any, Any]] = [
            batch if feed else (given(self.net, batch[0]), backend.asarray(batch[1]))
            for batch in batches
        ]

    def run(self, index: int) -> Any:
        """Train on one batch; the loss, a 0-d array on the device."""
        images, labels = self._batches[index % len(self._batches)]
        loss = self._sgd.step(images, labels, step=self._count, epoch=0.0)
        self._count += 1
        return loss

    def loss(self) -> float:
        """The loss of the first batch, without dropout and without learning."""
        loss, _ = self.net.loss_and_grads(*self._batches[0])
        return float(self.net.backend.to_numpy(loss))

    def learned(self) -> Arrays:
        """The loss of one more step on the first batch, and what every parameter learned."""
        loss = float(self.net.backend.to_numpy(self.run(0)))
        momentum = {f"momentum of {name}": v for name, v in self._sgd.momentum.items()}
        return {"loss": np.array(loss), **self._copied(momentum), **self._copied(self.net.params)}

    def _copied(self, arrays: Any) -> Arrays:
        return {name: np.array(self.net.backend.to_numpy(one)) for name, one in arrays.items()}


def given(net: Net, images: NDArray[np.float32]) -> Any:
    """Images on the device as a loader leaves them and the net reads them in place."""
    pixels = net.backend.asarray(images)
    if not net.converts:
        return pixels
    seen = net.converted
    return net.backend.images_to_depth(pixels, block=seen.block, pad=seen.pad, dtype=net.element)


class Gate:
    """Compares a step on a small batch with float64, and on others before it calls it wrong; each
    network's reference runs once a batch, and its initial parameters are drawn once.
    """

    def __init__(self) -> None:
        self._exact: dict[tuple[str, Ours, int], Arrays] = {}
        self._initial: dict[str, Arrays] = {}

    def initial(self, case: StepCase) -> Arrays:
        """The parameters that every step of the network starts from, on the host."""
        if case.label not in self._initial:
            self._initial[case.label] = dict(case.spec.initial(seed=0))
        return self._initial[case.label]

    def check(self, backend: Backend, case: StepCase, ours: Ours | None = None) -> str | None:
        """What is wrong with a backend's update in a step, or None.

        The pixels are the case's, so the magnitudes in every layer are too.
        """
        ours = ours or Ours()
        wrong: str | None = None
        for number in range(_GATE_BATCHES):
            found = self._check_batch(backend, case, ours, number)
            if found is None:
                return None
            wrong = wrong or found
        return wrong

    def _check_batch(self, backend: Backend, case: StepCase, ours: Ours, number: int) -> str | None:
        small = StepCase(case.spec, case.label, _GATE_IMAGES)
        batches, params = synthetic(small, number + 1)[number:], self.initial(case)
        key = (case.label, ours.reference(), number)
        if key not in self._exact:
            reference = Step(ReferenceBackend(), small, batches, ours.reference(), params=params)
            self._exact[key] = reference.learned()
        step = Step(backend, small, batches, ours, params=params)
        error = _ERROR[ours.precision]
        if isinstance(step.net.backend, CpuBackend) and not step.net.backend.exact:
            error = max(error, _ERROR_OF_WINOGRAD)
        for name, value in step.learned().items():
            if wrong := gate.difference(name, value, self._exact[key][name], error):
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
