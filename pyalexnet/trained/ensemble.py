"""Averages of several networks' softmaxes on the same images, and their scores.

Everything is float64 on the host and depends on nothing but its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet.data.dataset import Labels
from pyalexnet.errors import ArgumentError
from pyalexnet.runs.run import Scores

Probabilities = npt.NDArray[np.float64]

STEPS = 20
"""Coefficients that `search` tries, besides 0: the multiples of 1 / 20 up to 1."""

_BLOCK = 1024
"""Images that `search` weighs at a time, so that its scratch stays in the cache."""


@dataclass(frozen=True)
class Weighted:
    """The result of `search`: a coefficient for each network, and the scores with them."""

    coefficients: tuple[float, ...]
    scores: Scores


def softmax(logits: npt.NDArray[np.floating[Any]]) -> Probabilities:
    """Probabilities (n, classes) of logits (n, classes)."""
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return shares


def best(probabilities: Probabilities, count: int) -> list[list[int]]:
    """Each image's `count` most probable classes, in that order; ties by class number."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    numbers: list[list[int]] = order.tolist()
    return numbers


def average(
    members: Sequence[Probabilities], coefficients: Sequence[float] | None = None
) -> Probabilities:
    """The weighted mean of probabilities (n, classes), summed in the order of the members.

    coefficients: a weight for each member, not all 0; only their ratios matter. None: all equal.
    """
    weights = [1.0] * len(members) if coefficients is None else list(coefficients)
    if len(weights) != len(members) or not sum(weights) > 0 or min(weights) < 0:
        raise ArgumentError(
            f"average: coefficients are {weights}; {len(members)} of at least 0 were expected, one "
            "of them above 0."
        )
    whole = np.zeros_like(members[0], np.float64)
    for weight, member in zip(weights, members, strict=True):
        if member.shape != whole.shape:
            raise ArgumentError(
                f"average: a member has shape {member.shape}; {whole.shape} was expected."
            )
        whole += weight * member
    whole /= sum(weights)
    return whole


def costs(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """Each image's loss, -ln of the label's probability, in nats.

    A probability that float64 has rounded to zero counts as its smallest normal number, 708 nats.
    """
    own = probabilities[np.arange(len(labels)), labels]
    lost: npt.NDArray[np.float64] = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    return lost


def mistakes(probabilities: Probabilities, labels: Labels, k: int) -> npt.NDArray[np.float64]:
    """Each image's top-k error, 0 to 1: a label that ties for the last places gets part credit.

    With g classes strictly above the label and t equal to it, itself included, the credit is
    (k - g) / t, clamped to 0 to 1.
    """
    own = probabilities[np.arange(len(labels)), labels][:, None]
    above = (probabilities > own).sum(axis=1)
    level = (probabilities == own).sum(axis=1)
    missed: npt.NDArray[np.float64] = 1 - np.clip((k - above) / level, 0, 1)
    return missed


def scores(probabilities: Probabilities, labels: Labels) -> Scores:
    """Mean loss, top-1 and top-5 error."""
    top1, top5 = (float(mistakes(probabilities, labels, k).mean()) for k in (1, 5))
    return Scores(float(costs(probabilities, labels).mean()), top1, top5)


def search(members: Sequence[Probabilities], labels: Labels) -> Weighted:
    """Coefficients with the lowest top-5 error on these very images.

    Each coefficient in turn tries every multiple of .05 from 0 to 1 while the others stay fixed,
    round after round until a round changes none, as in the original program's `avg-valid.py`. All
    start at 1. Ties in the top-5 error are broken by the top-1 error, then by the loss; in a full
    tie the current coefficient stays, else the smallest is taken.

    As they are fitted on the images that they are scored on, the scores are optimistic.
    """
    chosen = [STEPS] * len(members)
    best = _judged(members, labels, chosen)
    changed = True
    while changed:
        changed = False
        for place in range(len(members)):
            for tried in range(STEPS + 1):
                counts = [*chosen[:place], tried, *chosen[place + 1 :]]
                if tried == chosen[place] or not any(counts):
                    continue
                found = _judged(members, labels, counts)
                if found < best:
                    best, chosen, changed = found, counts, True
    top5, top1, loss = best
    return Weighted(tuple(count / STEPS for count in chosen), Scores(loss, top1, top5))


def _judged(
    members: Sequence[Probabilities], labels: Labels, counts: Sequence[int]
) -> tuple[float, float, float]:
    """(top-5 error, top-1 error, loss) of the average by these coefficients."""
    sums = np.zeros(3)
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        mixed = average([member[block] for member in members], counts)
        own = labels[block]
        wrong = [mistakes(mixed, own, k).sum() for k in (5, 1)]
        sums += (*wrong, costs(mixed, own).sum())
    top5, top1, loss = (sums / len(labels)).tolist()
    return top5, top1, loss
