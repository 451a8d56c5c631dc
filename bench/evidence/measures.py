"""The measures of a finished run: functions of its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Epoch: TypeAlias = tuple[float, float, float, float, float]
"""Epochs done; training loss and error as it went; test loss and error after it. Fractions."""

# Of each curve the column of an epoch's row, what it is multiplied by, and its unit.
CURVES = {
    "train_loss": (1, 1, "nats"),
    "train_error": (2, 100, "%"),
    "test_loss": (3, 1, "nats"),
    "test_error": (4, 100, "%"),
}


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    chroma: the share of energy off the grey axis, for either half of the first layer's filters.
    filters: energy of each, and that off the grey axis. signal: the share of each layer's output
    that depends on the image, before training. failed: why training ended early.
    """

    data: str
    images: tuple[int, int]
    classes: int
    parameters: int
    epochs: tuple[Epoch, ...]
    chroma: tuple[float, float]
    signal: dict[str, float]
    ten_crop: float | None
    failed: str
    # These may differ between repetitions.
    seconds: float
    commit: str
    machine: str = ""
    filters: tuple[tuple[float, float], ...] = ()  # () in records before they were kept
    numbers: str = ""  # see Run; "" in records before it was kept

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Epochs and values; a mean over an epoch's training is placed at the epoch's middle."""
        column, scale, _ = CURVES[name]
        middle = 0.5 if name.startswith("train") else 0.0
        return [(row[0] - middle, scale * row[column]) for row in self.epochs]

    def end(self, name: str) -> float:
        """The last value of a curve."""
        return self.curve(name)[-1][1]


def _split(run: Result) -> float:
    """In %, of 10,000 halves drawn alike for every run."""
    if not run.filters:
        return math.nan
    energy, chroma = np.array(run.filters).T
    own = np.arange(len(energy)) < (len(energy) + 1) // 2
    drawn = np.random.default_rng(0).permuted(np.tile(own, (10_000, 1)), axis=1)

    def apart(first: NDArray[np.bool_]) -> NDArray[np.float64]:
        one, other = (half @ chroma / np.maximum(half @ energy, 1e-300) for half in (first, ~first))
        return np.asarray(np.abs(one - other))

    return 100 * float(np.mean(apart(drawn) < apart(own)))


def _ten_crop_error(run: Result) -> float:
    return math.nan if run.ten_crop is None else 100 * run.ten_crop


MEASURES: Mapping[str, tuple[str, Callable[[Result], float]]] = {
    # Between the errors of the last epoch.
    "gap": ("points", lambda run: run.end("test_error") - run.end("train_error")),
    # By which the last epoch's training loss is below that of guessing.
    "learnt": ("nats", lambda run: math.log(run.classes) - run.end("train_loss")),
    # The share of the logits that depends on the image before training.
    "signal": ("%", lambda run: 100 * list(run.signal.values())[-1]),
    # Between the chroma of the first layer's halves.
    "apart": ("points", lambda run: 100 * abs(run.chroma[0] - run.chroma[1])),
    # How many random halves of the first layer's filters are less far apart than its halves.
    "split": ("%", _split),
    # The test error of the mean of ten crops, and by how much that is lower than that of one.
    "ten_crop_error": ("%", _ten_crop_error),
    "ten_crop_gain": ("points", lambda run: run.end("test_error") - _ten_crop_error(run)),
    # Of training, tests not counted: the median epoch's, times their number.
    "seconds": ("s", lambda run: run.seconds),
}


def unit(measure: str) -> str:
    """The unit of a measure."""
    if measure.startswith("epochs_to_"):
        return "epochs"
    return CURVES[measure][2] if measure in CURVES else MEASURES[measure][0]


def of(run: Result, measure: str, at: float | None = None) -> float:
    """The end of a curve, the epochs to a level of one, or one of MEASURES.

    measure: `CURVE`, `epochs_to_CURVE` or a name. Returns NaN if the run did not get there.
    """
    if run.failed:
        return math.nan
    if at is not None:
        return _reached(run.curve(measure.removeprefix("epochs_to_")), at)
    return run.end(measure) if measure in CURVES else MEASURES[measure][1](run)


def half_way(pair: Sequence[Result], measure: str) -> float:
    """The level of a curve half way from guessing to the lowest one that all runs reach."""
    curve, classes = measure.removeprefix("epochs_to_"), pair[0].classes
    guessed = math.log(classes) if curve.endswith("loss") else 100 * (1 - 1 / classes)
    return (guessed + max(min(value for _, value in run.curve(curve)) for run in pair)) / 2


def _reached(points: Sequence[tuple[float, float]], level: float) -> float:
    """Where a falling curve first reaches a level."""
    before = points[0]
    for at, value in points:
        if value <= level:
            fall = before[1] - value
            return at if fall <= 0 else before[0] + (at - before[0]) * (before[1] - level) / fall
        before = (at, value)
    return math.nan


def energies(filters: NDArray[np.float32]) -> tuple[tuple[float, float], ...]:
    """Filters (K, R, S, C): the energy of each, and the part of it off the grey axis."""
    values = filters.astype(np.float64)
    energy = np.square(values).sum(axis=(1, 2, 3))
    grey = np.square(values.sum(axis=3)).sum(axis=(1, 2)) / filters.shape[3]
    return tuple(zip(energy.tolist(), (energy - grey).tolist(), strict=True))


def chroma_shares(filters: NDArray[np.float32]) -> tuple[float, float]:
    """Filters (K, R, S, C): the share of energy off the grey axis, in either half of them."""
    energy, chroma = np.array(energies(filters)).T
    first, second = (
        float(chroma[half].sum() / max(energy[half].sum(), 1e-300))
        for half in np.array_split(np.arange(len(filters)), 2)
    )
    return first, second
