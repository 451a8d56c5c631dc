"""How well a linear classifier tells a dataset's classes apart by a network's features.

The network stays as it is; a softmax regression with weight decay is fitted to a layer's outputs,
each standardised to mean 0 and deviation 1 over the training images:

    minimise over W (classes, numbers) and b (classes,)
    mean over the images of -ln softmax(W x + b)[label]  +  decay / 2 * sum of W^2

It is convex, so there is one answer and no seed. `Problem.solve` approaches it until the gradient's
norm is a stated fraction of its initial value.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet.data import Dataset, Split
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Labels, Progress, hold_out
from pyalexnet.errors import DataError
from pyalexnet.ops.checks import real
from pyalexnet.runs import tensors
from pyalexnet.runs.run import Scores
from pyalexnet.trained import ensemble, features
from pyalexnet.trained.ensemble import Probabilities
from pyalexnet.trained.evaluate import scored
from pyalexnet.trained.load import BATCH, Say, Trained

Matrix = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.floating[Any]]

DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Decays that `choose_decay` tries, from the simplest classifier to the closest fit."""

TOLERANCE = 1e-4
"""The gradient's norm at the end over that at the start, where W and b are 0."""

MOST_STEPS = 5000

_COPIES = 3
"""Float64 arrays of the size of the training features that a fit holds at once."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The classifier: logits are `x @ w.T + b` of a layer's outputs x as they come.

    w, b: (classes, numbers) and (classes,) float64. decay: of the weights of the standardised
    features. gradient: the norm of the objective's gradient here, over that at the start. steps:
    taken by the fit.
    """

    w: Matrix
    b: Matrix
    decay: float
    gradient: float
    steps: int

    def probabilities(self, x: Vectors) -> Probabilities:
        """(n, classes) for features (n, numbers)."""
        return ensemble.softmax(x @ self.w.T + self.b)


class Problem:
    """The objective on one set of features, in coordinates that make it quick to solve.

    Along the principal axes of the standardised features their covariance is diagonal, and the
    Hessian at every point is below half of it plus the decay (Böhning, 1992). Steps divided by that
    bound, each along its own axis, never overshoot; Nesterov's momentum, reset whenever it points
    uphill, makes them quick. An orthogonal change of coordinates changes neither the objective nor
    the norm of its gradient.
    """

    def __init__(self, x: Vectors, labels: Labels, classes: int) -> None:
        """Prepare for features `x` (n, numbers) and `labels` (n,)."""
        wide = np.asarray(x, np.float64)
        self._mean = wide.mean(axis=0)
        deviation = wide.std(axis=0)
        # A unit with the same value for all images carries no information; 1 keeps its column zero.
        self._deviation = np.where(deviation > 0, deviation, 1)
        self._variances, self._axes, self._x = _principal((wide - self._mean) / self._deviation)
        self._labels = labels
        self._weights = np.zeros((classes, len(self._variances)))
        self._biases = np.zeros(classes)
        self._first = self._norm(*self._gradient(self._weights, self._biases, 0.0))

    def solve(self, decay: float, progress: Progress | None = None) -> Probe:
        """The minimum for a decay, starting from the previous solution.

        progress: called with (percent, 100): the gradient's progress on a logarithmic scale. A
        DataError if the gradient is still too large after `MOST_STEPS`.
        """
        real("probe", "decay", decay, low=0)
        bound = self._variances / 2 + decay
        bound = np.maximum(bound, bound.max() * np.finfo(np.float64).eps)
        w, b = ahead_w, ahead_b = self._weights, self._biases
        speed, done = 1.0, 0
        for step in range(MOST_STEPS):
            dw, db = self._gradient(ahead_w, ahead_b, decay)
            ratio = self._norm(dw, db) / self._first if self._first > 0 else 0.0
            if ratio <= TOLERANCE:
                self._weights, self._biases = ahead_w, ahead_b
                w = ahead_w @ self._axes.T / self._deviation  # for raw features
                return Probe(w, ahead_b - w @ self._mean, decay, ratio, step)
            new_w, new_b = ahead_w - dw / bound, ahead_b - 2 * db
            uphill = np.vdot(dw, new_w - w) + np.vdot(db, new_b - b) > 0
            next_speed = 1.0 if uphill else (1 + np.sqrt(1 + 4 * speed**2)) / 2
            push = 0.0 if uphill else (speed - 1) / next_speed
            ahead_w, ahead_b = new_w + push * (new_w - w), new_b + push * (new_b - b)
            w, b, speed = new_w, new_b, next_speed
            if progress:
                done = max(done, round(100 * np.log(max(ratio, TOLERANCE)) / np.log(TOLERANCE)))
                progress(min(done, 99), 100)
        raise DataError(
            f"probe: after {MOST_STEPS} steps with decay {decay:g} the gradient is {ratio:.1e} of "
            f"its initial value; {TOLERANCE:g} was expected. A larger --decay is easier."
        )

    def _gradient(self, w: Matrix, b: Matrix, decay: float) -> tuple[Matrix, Matrix]:
        excess = ensemble.softmax(self._x @ w.T + b)
        excess[np.arange(len(self._labels)), self._labels] -= 1
        excess /= len(self._labels)
        return excess.T @ self._x + decay * w, excess.sum(axis=0)

    def _norm(self, dw: Matrix, db: Matrix) -> float:
        return float(np.sqrt((dw**2).sum() + (db**2).sum()))


def _principal(z: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Variances (r,) along the principal axes (numbers, r) of z (n, numbers), and z (n, r) there.

    With fewer images than numbers only the axes that the images span are kept: the best weights
    have no component along the others.
    """
    n, numbers = z.shape
    if n >= numbers:
        variances, axes = np.linalg.eigh(z.T @ z / n)
        return np.maximum(variances, 0), axes, z @ axes
    variances, mixtures = np.linalg.eigh(z @ z.T / n)
    there = variances > variances[-1] * n * np.finfo(np.float64).eps
    lengths = np.sqrt(n * variances[there])
    axes = z.T @ (mixtures[:, there] / lengths)
    return variances[there], axes, mixtures[:, there] * lengths


def choose_decay(
    x: Vectors, labels: Labels, classes: int, *, say: Say, progress: Progress | None = None
) -> float:
    """The decay of `DECAYS` with the lowest top-1 error on a held-out tenth of each class.

    Ties are broken by the loss. Closer fits take longer; after two in a row that are no better than
    the best before them, closer ones are not tried.
    """
    kept, held = hold_out(labels, seed=0)
    problem = Problem(x[kept], labels[kept], classes)
    found: list[tuple[float, float, float]] = []
    say(f"{'decay':>6}  {'held-out top-1 error':>20}  {'held-out loss':>13}  {'steps':>5}")
    for decay in DECAYS:
        probe = problem.solve(decay, progress)
        there = scores(probe, in_batches(x[held], labels[held]))
        found.append((there.top1_error, there.loss, decay))
        error = f"{100 * there.top1_error:>18.2f} %"
        say(f"{decay:>6g}  {error}  {there.loss:>13.4f}  {probe.steps:>5}")
        if min(found) in found[:-2]:
            break
    return min(found)[2]


def collected(
    run: Trained,
    split: Split,
    layer: str,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> features.Features:
    """Features (n, numbers) float32 of a split; a DataError if the fit needs too much memory."""
    numbers = features.width(run, layer)
    needed = _COPIES * 8 * len(split) * numbers
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise DataError(
            f"probe: {len(split)} images with {numbers} features each need {needed / 1e9:.1f} GB; "
            f"at most this machine's {memory / 1e9:.1f} GB was expected."
        )
    whole = np.empty((len(split), numbers), np.float32)
    seen = 0
    for rows, _ in features.of(run, run.batches(split, batch_size, progress), layer):
        whole[seen : seen + len(rows)] = rows
        seen += len(rows)
    return whole


def in_batches(x: Vectors, labels: Labels) -> Iterator[tuple[Vectors, Labels]]:
    """Features (n, numbers) and their labels (n,), a batch at a time."""
    for start in range(0, len(labels), BATCH):
        yield x[start : start + BATCH], labels[start : start + BATCH]


def scores(probe: Probe, batches: Iterable[tuple[Vectors, Labels]]) -> Scores:
    """Scores of a probe on batches of features (n, numbers) with labels (n,)."""
    return scored((probe.probabilities(x), labels) for x, labels in batches)


def chance(dataset: Dataset) -> Scores:
    """Test scores of predicting each class, for every image, by its frequency in training."""
    shares = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
    shares = shares / shares.sum()
    labels = dataset.test.labels
    return ensemble.scores(np.broadcast_to(shares, (len(labels), len(shares))), labels)


def write(path: Path, probe: Probe, run: Trained, layer: str, classes: Classes) -> None:
    """Write `w` (classes, numbers) and `b` (classes,), float64, as safetensors."""
    about = features.origin(run, layer) | classes.described() | {"decay": repr(probe.decay)}
    tensors.write(path, {"b": probe.b, "w": probe.w}, about)
