"""Softmax with cross-entropy: loss, gradient, and errors with their rule for ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.oracle import Exact
from differences import Op, Oracle, assert_gradient, gradient
from pyalexnet.backends.elements import BFLOAT16
from samples import classes, few_values, normal, on_grid
from tolerance import SOFTMAX, UNIT, assert_close
from trial import run

# (N, classes); 1 to 4 classes are fewer than top-5 needs.
SIZES = [(3, 7), (1, 10), (6, 1), (4, 3), (33, 31), (2, 32), (5, 33), (2, 1000), (300, 5)]


def check(be: Any, logits: Any, labels: Any, **dtype: Any) -> None:
    """All four results against the oracle."""
    loss, dlogits, top1, top5 = run(be, "softmax_cross_entropy", logits, labels, **dtype)
    exact_loss, exact_dlogits = oracle.softmax_cross_entropy(logits, labels)
    assert_close(loss, exact_loss, SOFTMAX)
    assert_close(dlogits, exact_dlogits, SOFTMAX, **dtype)
    for error, k in ((top1, 1), (top5, 5)):
        expected = np.asarray(oracle.topk_error(logits, labels, k))
        assert_close(error, Exact(expected, np.ones(())))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_random_logits(be: Any, size: tuple[int, int], scale: float) -> None:
    check(be, np.float32(scale) * normal(*size), classes(*size))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_gradient_in_bfloat16(be: Any, size: tuple[int, int]) -> None:
    """The logits are float32; only their gradient is rounded."""
    check(be, normal(*size), classes(*size), dtype=BFLOAT16)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_logits_full_of_ties(be: Any, size: tuple[int, int]) -> None:
    check(be, few_values(*size), classes(*size))


def test_equal_logits(be: Any) -> None:
    """A net of zeros: the loss is ln 10, and the top k hold k of the ten classes."""
    zeros = np.zeros((4, 10), dtype=np.float32)
    check(be, zeros, classes(4, 10))
    _, _, top1, top5 = run(be, "softmax_cross_entropy", zeros, classes(4, 10))
    np.testing.assert_allclose((top1, top5), (0.9, 0.5), rtol=4 * UNIT)


def test_large_logits(be: Any) -> None:
    """exp of the logits themselves would overflow, and exp of their negatives would underflow."""
    logits = np.array(
        [[1e4, -1e4, 0], [-1e4, -1e4, -1e4 + 1], [88.8, 200, -3e38]], dtype=np.float32
    )
    check(be, logits, np.array([1, 2, 0]))


def test_minus_infinity_is_an_impossible_class(be: Any) -> None:
    logits = np.array([[0, 1, -np.inf]], dtype=np.float32)
    loss, dlogits, _, _ = run(be, "softmax_cross_entropy", logits, np.array([0]))
    assert loss == pytest.approx(np.log(1 + np.e), rel=16 * UNIT)
    assert dlogits[0, 2] == 0


def test_nan_shows(be: Any) -> None:
    """A diverged net must show: the loss is NaN, and a label whose logit is NaN is an error."""
    logits = np.zeros((2, 6), dtype=np.float32)
    logits[1] = np.nan
    loss, dlogits, top1, top5 = run(be, "softmax_cross_entropy", logits, np.array([0, 3]))
    assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(dlogits), np.isnan(logits))
    np.testing.assert_allclose(top1, (5 / 6 + 1) / 2, rtol=4 * UNIT)
    np.testing.assert_allclose(top5, (1 / 6 + 1) / 2, rtol=4 * UNIT)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.uint64], ids=lambda d: d.__name__
)
def test_labels_of_any_integer_type(be: Any, dtype: Any) -> None:
    check(be, normal(5, 9), classes(5, 9).astype(dtype))


def test_labels_as_a_list(be: Any) -> None:
    logits = normal(3, 4)
    loss = be.to_numpy(be.softmax_cross_entropy(be.asarray(logits), [3, 0, 1])[0])
    exact, _ = oracle.softmax_cross_entropy(logits, np.array([3, 0, 1]))
    assert_close(loss, exact, SOFTMAX)


def test_gradient_by_differences(be: Any) -> None:
    labels = classes(3, 7)
    op = Op(
        lambda z: run(be, "softmax_cross_entropy", z, labels)[0],
        lambda z, _: run(be, "softmax_cross_entropy", z, labels)[1],
    )
    exact = Oracle(
        lambda z: oracle.softmax_cross_entropy(z, labels)[0],
        lambda z, _: oracle.softmax_cross_entropy(z, labels)[1],
    )
    z, one = on_grid(3, 7), np.ones((), np.float32)
    slopes = gradient(lambda z: exact.fprop(z).value, z, one)
    assert_gradient(op, exact, slopes, z, one, SOFTMAX)


def test_gradient_of_a_row_sums_to_nothing(be: Any) -> None:
    """Shifting all logits of an image changes nothing."""
    _, dlogits, _, _ = run(be, "softmax_cross_entropy", normal(8, 100), classes(8, 100))
    np.testing.assert_allclose(dlogits.sum(axis=1, dtype=np.float64), 0, atol=2 * SOFTMAX * UNIT)
