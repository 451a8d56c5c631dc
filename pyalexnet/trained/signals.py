"""Where the image signal dies on its way through a network.

At each layer: how much units differ between images (signal), and how much between dropout's masks
for one image (noise), both as the rms over the units of a standard deviation. Biases and narrow
weights give units that are nearly the same for every image, and training then starts from logits
that carry no information: the loss stays at chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyalexnet.data.dataset import Progress
from pyalexnet.errors import ArgumentError
from pyalexnet.step.net import Net
from pyalexnet.trained.load import Trained

# The number of images that `survey` uses, twice as many as it needs.
IMAGES = 32

_FEWEST = 2  # one image has no deviation
# The share of fresh networks' logits that depends on the image (batches of 128, photographs of 10
# classes): 0.0002 in preset paper at a quarter of its width, which stayed at chance; 0.005 in
# source at that width, which learnt. At full width it is 0.01 and 0.13.
_DEAD, _FAINT = 1e-3, 2e-2
# The smallest nets of cuda-convnet begin with logits that differ by 1.6e-4, and learn.
_LEAST = 1e-6


@dataclass(frozen=True)
class Units:
    """A layer's units over a batch of images, dropout off except for `noise`.

    mean: of |y|. rms: of y. signal: rms over the units of the deviation between images. noise: the
    same between dropout's masks, at one image. active: share of units and images above 0. alive:
    share of units above 0 for some image. fan_in, std, bias: inputs of a unit, deviation of the
    weights, mean |bias|; of layers with weights.
    """

    layer: str
    mean: float
    rms: float
    signal: float
    noise: float
    active: float
    alive: float
    fan_in: int | None = None
    std: float = 0.0
    bias: float = 0.0

    @property
    def share(self) -> float:
        """The share of the output that depends on the image: signal / rms."""
        return self.signal / self.rms if self.rms > 0 else 0.0

    @property
    def noise_to_signal(self) -> float:
        return self.noise / self.signal if self.signal > 0 else math.inf if self.noise else 0.0

    @property
    def percent(self) -> str:
        """The share for people."""
        return f"{100 * self.share:.2g} %"


class Verdict(NamedTuple):
    """The layer at fault, or None, and a sentence about it."""

    layer: str | None
    sentence: str
    state: Literal["healthy", "faint", "dead", "not finite"]


def survey(net: Net, images: Any) -> tuple[Units, ...]:
    """A row for the images themselves, then one for each layer.

    images: (N, H, W, C) float32, minus the mean, of the host or the device; the first 32 are used,
        and with fewer than 16 the numbers are rough.
    """
    if len(images) < _FEWEST:
        raise ArgumentError(f"images has {len(images)}; at least {_FEWEST} were expected.")
    batch = np.asarray(net.backend.to_numpy(images[:IMAGES]))
    host = net.backend.to_numpy
    copies = np.repeat(batch[:1], len(batch), axis=0)  # of one image, each with its own mask
    dropping, whole = net.activations(copies, train=True), net.activations(batch)
    noises = {name: _spread(np.asarray(host(outputs))) for name, outputs in dropping}
    weights = {name: np.asarray(host(values)) for name, values in net.params.items()}
    layers = [_row(name, host(outputs), noises[name], weights) for name, outputs in whole]
    return _row("images", batch, 0.0, weights), *layers


def survey_of_run(
    trained: Trained, at: str = "start", path: str | None = None, progress: Progress | None = None
) -> tuple[Units, ...]:
    """`survey` on images spread over the training set, which may be sorted by class.

    at: "start", the initial parameters, drawn again from the run's seed; "last", its own. path:
    another dataset, whose images are used instead. progress: called with (images read, images).
    """
    if at not in ("start", "last"):
        raise ArgumentError(f"at is {at!r}; start or last was expected.")
    net = trained.net
    if at == "start":
        net = Net(net.spec, net.backend, seed=trained.meta.config.get("seed", 0))
    split = trained.dataset(path, progress).train
    chosen = np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(np.int64)
    return survey(net, trained.look(split.take(chosen)))


def verdict(rows: Sequence[Units]) -> Verdict:
    """The layer where the signal dies, or, if little of it arrives, is weakened most."""
    for row in rows:
        if not math.isfinite(row.rms):
            sentence = f"{row.layer} is the first layer whose outputs are not finite"
            return Verdict(row.layer, sentence, "not finite")
    first, last = rows[0], rows[-1]
    if first.signal == 0:
        return Verdict("images", "the images are all alike", "dead")
    if last.share >= _FAINT and last.signal >= _LEAST:
        sentence = f"the image signal is healthy: {last.percent} of the output of {last.layer} "
        return Verdict(None, sentence + "depends on the image", "healthy")
    before, worst = _weakest(rows, by_share=last.share < _FAINT)
    dead = last.share < _DEAD or last.signal < _LEAST
    what = "dies" if dead else "is faint, and is weakened most"
    under = f", under dropout noise {last.noise_to_signal:,.0f} times as large"
    sentence = (
        f"the image signal {what} in {worst.layer}: {worst.percent} of its output depends on the "
        f"image, {before.percent} of that of {before.layer}, {last.percent} of that of "
        f"{last.layer}{under if last.noise > last.signal else ''}; {_advice(worst)}"
    )
    return Verdict(worst.layer, sentence, "dead" if dead else "faint")


def chance_sentence(
    net: Net, images: Any, *, step: int, steps: int, loss: float, chance: float, run: Path
) -> str:
    """Why a run stops after `steps` steps of loss at chance, and what to do."""
    found = verdict(survey(net, images))
    why = found.sentence
    if found.layer is None:
        why += "; so try another learning rate, and check that the labels are right"
    return (
        f"step {step}: the loss is {loss:.4f} and has been at chance, {chance:.4f}, for {steps} "
        f"steps; {why}; for every layer: pyalexnet doctor --init {run} (to continue anyway: "
        "--chance-steps 0)."
    )


def _row(layer: str, outputs: Any, noise: float, weights: dict[str, NDArray[Any]]) -> Units:
    y = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    w, b = (weights.get(f"{layer}.{kind}") for kind in "wb")
    of_weights: dict[str, Any] = {}
    if w is not None and b is not None:
        bias = float(np.abs(b).mean(dtype=np.float64))
        std = float(w.std(dtype=np.float64))
        of_weights = {"fan_in": math.prod(w.shape[1:]), "std": std, "bias": bias}
    with np.errstate(over="ignore", invalid="ignore"):
        mean, rms = float(np.abs(y).mean()), float(np.sqrt((y * y).mean()))
        active, alive = float((y > 0).mean()), float((y > 0).any(axis=0).mean())
        return Units(layer, mean, rms, _spread(y), noise, active, alive, **of_weights)


def _spread(y: NDArray[Any]) -> float:
    """The rms over the units of the deviation along the batch (N, ...)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(y.var(axis=0, dtype=np.float64).mean()))


def _weakest(rows: Sequence[Units], *, by_share: bool) -> tuple[Units, Units]:
    """The layer with weights that lets the least through, preceded by the row before it.

    by_share: compare the signal's share of the output; otherwise its size.
    """

    def through(pair: tuple[Units, Units]) -> float:
        inputs, row = pair
        passed, of = (row.share, inputs.share) if by_share else (row.signal, inputs.signal)
        return passed / of if of > 0 else 1.0

    return min((pair for pair in pairwise(rows) if pair[1].fan_in), key=through)


def _advice(row: Units) -> str:
    """What to change about a layer that weakens the signal."""
    assert row.fan_in is not None  # it has weights
    wide = math.sqrt(2 / row.fan_in)
    if row.alive == 0:
        return f"none of its units is above 0: try biases above {-row.bias:.2g}"
    parts = []
    if row.std < wide:
        usual = f"{wide:.2g} = sqrt(2 / {row.fan_in})"
        parts.append(f"try wider initial weights there, {usual} instead of {row.std:.2g}")
    if row.bias > row.signal:
        parts.append(f"smaller biases than {row.bias:.2g}")
    # In exactly these layers preset source differs from paper: 0.03 instead of 0.01.
    if row.layer in ("conv3", "conv4", "conv5") and row.std < 0.02:
        parts.append("in alexnet --preset source")
    return ", or ".join(parts) or "try another seed"
