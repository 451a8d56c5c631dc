"""What is measured on a run that is over: functions of its result.

A measure of NaN says that the run did not get as far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Epoch: TypeAlias = tuple[float, float, float, float, float]
"""Epochs done; training loss and error as it went; test loss and error after it. Fractions."""


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    chroma, chroma_learnt: of the first layer's filters, and of what training added to them, the
    share of energy off the grey axis, for either half of the filters. signal: the share of each
    layer's output that depends on the image, before training. failed: why training ended early.
    """

    data: str
    images: tuple[int, int]
    classes: int
    parameters: int
    epochs: tuple[Epoch, ...]
    chroma: tuple[float, float]
    chroma_learnt: tuple[float, float]
    signal: dict[str, float]
    ten_crop: float | None
    failed: str
    # What may differ from one time to the next.
    seconds: float
    commit: str


def train_error(run: Result) -> float:
    """Training error of the last epoch, as it went, %."""
    return 100 * run.epochs[-1][2]


def train_loss(run: Result) -> float:
    """Training loss of the last epoch, as it went, nats."""
    return run.epochs[-1][1]


def test_error(run: Result) -> float:
    """Test error after the last epoch, %."""
    return 100 * run.epochs[-1][4]


def gap(run: Result) -> float:
    """Test error less training error in the last epoch, points."""
    return test_error(run) - train_error(run)


def rise(run: Result) -> float:
    """How far the test loss ends above its lowest, nats: what overfitting costs."""
    losses = [epoch[3] for epoch in run.epochs]
    return losses[-1] - min(losses)


def learnt(run: Result) -> float:
    """How far the last epoch's training loss is below that of guessing, nats."""
    return math.log(run.classes) - train_loss(run)


def epochs_to_error(run: Result, at: float) -> float:
    """Epochs until the training error is `at` %."""
    return _reached([(epoch[0], epoch[2]) for epoch in run.epochs], at / 100)


def epochs_to_loss(run: Result, at: float) -> float:
    """Epochs until the training loss is `at` nats."""
    return _reached([(epoch[0], epoch[1]) for epoch in run.epochs], at)


def _reached(points: list[tuple[float, float]], level: float) -> float:
    """Where a falling line first meets a level; an epoch's mean stands at its middle."""
    before = (math.nan, math.inf)
    for done, value in points:
        middle = done - 0.5
        if value <= level:
            if not math.isfinite(before[1]):
                return middle
            return before[0] + (middle - before[0]) * (before[1] - level) / (before[1] - value)
        before = (middle, value)
    return math.nan


def signal(run: Result) -> float:
    """The share of the logits that depends on the image before training, %."""
    return 100 * list(run.signal.values())[-1]


def apart(run: Result) -> float:
    """How far the chroma of the two halves of the first layer's filters differs, points."""
    return 100 * abs(run.chroma[0] - run.chroma[1])


def apart_learnt(run: Result) -> float:
    """The same of what training added to the filters."""
    return 100 * abs(run.chroma_learnt[0] - run.chroma_learnt[1])


def ten_crop_gain(run: Result) -> float:
    """By how much ten crops lower the test error, points."""
    return math.nan if run.ten_crop is None else test_error(run) - 100 * run.ten_crop


def seconds(run: Result) -> float:
    """Time of training, tests not counted: the median epoch's, times their number."""
    return run.seconds


def chroma_shares(filters: NDArray[np.float32]) -> tuple[float, float]:
    """Filters (K, R, S, C): the share of energy off the grey axis, in either half of them."""
    energy = np.square(filters, dtype=np.float64)
    grey = np.square(filters.astype(np.float64).sum(axis=3)) / filters.shape[3]
    first, second = (
        1 - float(grey[half].sum() / max(energy[half].sum(), 1e-300))
        for half in np.array_split(np.arange(len(filters)), 2)
    )
    return first, second


def of(run: Result, measure: str, at: float | None = None) -> float:
    """A measure by its name; NaN for a run that failed."""
    function: Callable[..., Any] = globals()[measure]
    if run.failed:
        return math.nan
    return float(function(run) if at is None else function(run, at))
