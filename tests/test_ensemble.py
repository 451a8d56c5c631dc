"""Averages, scores with ties, and the search for coefficients, against exact fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from pyalexnet import backend
from pyalexnet.data.dataset import Labels
from pyalexnet.errors import ArgumentError
from pyalexnet.trained import ensemble
from samples import classes, few_values, generator, normal


def shares(*shape: int, seed: int = 0) -> ensemble.Probabilities:
    """Random probabilities (..., classes)."""
    return ensemble.softmax(2 * normal(*shape, seed=seed))


def test_softmax_is_that_of_exact_sums() -> None:
    logits = 20 * normal(5, 7)
    for row, shares_ in zip(logits, ensemble.softmax(logits), strict=True):
        powers = [math.exp(float(x) - float(row.max())) for x in row]
        exact = [power / math.fsum(powers) for power in powers]
        assert shares_ == pytest.approx(exact, rel=2**-50)


def test_softmax_of_large_logits_is_finite() -> None:
    found = ensemble.softmax(np.array([[3e38, -3e38], [1e4, 1e4]], np.float32))
    assert found.tolist() == [[1, 0], [0.5, 0.5]]


def test_an_average_is_numpys() -> None:
    members = [shares(6, 5, seed=seed) for seed in range(3)]
    assert np.array_equal(ensemble.average(members), (members[0] + members[1] + members[2]) / 3)
    weighted = ensemble.average(members, (0.5, 0.0, 0.25))
    assert weighted == pytest.approx((2 * members[0] + members[2]) / 3, rel=2**-50)


@pytest.mark.parametrize("coefficients", [(0, 0), (1,), (1, -1), (2, -1)])
def test_an_average_of_nothing_is_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="coefficients are"):
        ensemble.average([shares(2, 3), shares(2, 3)], coefficients)


def test_members_of_other_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="shape"):
        ensemble.average([shares(2, 3), shares(1, 3)])


def test_mistakes_share_the_last_places_among_ties() -> None:
    probabilities = -few_values(200, 8, values=4).astype(np.float64)
    labels = classes(200, 8)
    for k in (1, 5):
        found = ensemble.mistakes(probabilities, labels, k)
        for row, label, mistake in zip(probabilities, labels, found, strict=True):
            above = sum(x > row[label] for x in row)
            level = sum(x == row[label] for x in row)
            credit = min(max(Fraction(k - int(above), int(level)), Fraction(0)), Fraction(1))
            assert mistake == pytest.approx(float(1 - credit), abs=2**-52)
    assert np.mean((found > 0) & (found < 1)) > 0


def test_scores_are_those_of_the_training_op() -> None:
    logits, labels = 3 * normal(40, 9), classes(40, 9)
    cpu = backend("cpu")
    loss, _, top1, top5 = cpu.softmax_cross_entropy(logits, labels)
    scores = ensemble.scores(ensemble.softmax(logits), labels)
    assert scores.top1_error == pytest.approx(float(top1), rel=1e-6)
    assert scores.top5_error == pytest.approx(float(top5), rel=1e-6)
    assert scores.loss == pytest.approx(float(loss), rel=8 * 2**-24 * 9)


def test_a_probability_of_zero_costs_much_and_not_everything() -> None:
    assert ensemble.costs(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx([708.4], abs=0.1)


def test_the_search_ends_where_no_single_coefficient_helps() -> None:
    labels = classes(300, 12)
    members = [shares(300, 12, seed=seed) for seed in range(3)]
    for number, member in enumerate(members):  # each is right on a part of the images
        mine = np.arange(300) % 3 == number
        member[mine, labels[mine]] += 0.3 * (number + 1)
    found = ensemble.search(members, labels)
    assert found.coefficients != (1, 1, 1)
    best = key(members, labels, found.coefficients)
    assert best < key(members, labels, (1, 1, 1))
    assert found.scores == ensemble.scores(ensemble.average(members, found.coefficients), labels)
    for place, count in itertools.product(range(3), range(21)):
        other = list(found.coefficients)
        other[place] = count / 20
        if any(other):
            assert best <= key(members, labels, other)


def key(
    members: list[ensemble.Probabilities], labels: Labels, weights: Sequence[float]
) -> tuple[float, float, float]:
    """What the search minimises; it adds up blocks, so the loss's last bits may differ."""
    scores = ensemble.scores(ensemble.average(members, weights), labels)
    return round(scores.top5_error, 9), round(scores.top1_error, 9), round(scores.loss, 9)


def test_the_search_leaves_equals_as_they_are() -> None:
    member = shares(50, 8)
    assert ensemble.search([member, member.copy()], classes(50, 8)).coefficients == (1, 1)


def test_the_search_silences_a_member_that_knows_nothing() -> None:
    labels = classes(400, 10)
    good = np.full((400, 10), 0.01)
    good[np.arange(400), labels] = 0.2
    bad = generator(3).permuted(good, axis=1)
    found = ensemble.search([bad, good], labels)
    assert found.scores.top1_error == 0
    assert found.coefficients[0] < found.coefficients[1]
