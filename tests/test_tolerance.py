"""The tolerance of sums: correct sums pass it, sums that lost a term do not."""

from __future__ import annotations

import numpy as np
import pytest

from bench.oracle import Exact
from samples import normal
from tolerance import assert_close, assert_same, bound, same_bits

TRIALS = 1000


def dot_products(terms: int) -> tuple[np.ndarray, Exact]:
    """The float32 products of TRIALS pairs of vectors, and their exact sums."""
    x, w = normal(TRIALS, terms, seed=1), normal(TRIALS, terms, seed=2)
    exact = x.astype(np.float64) * w
    return x * w, Exact(exact.sum(axis=1), abs(exact).sum(axis=1))


@pytest.mark.parametrize("terms", [25, 363, 1200, 3456, 9216])
def test_sums_in_order_pass(terms: int) -> None:
    """One float32 accumulator, term by term, is the least accurate order that a kernel uses."""
    products, exact = dot_products(terms)
    assert_close(np.add.accumulate(products, axis=1)[:, -1], exact)


@pytest.mark.parametrize("terms", [25, 363, 1200, 3456, 9216])
def test_sums_that_lost_a_term_fail(terms: int) -> None:
    products, exact = dot_products(terms)
    lost = products[:, terms // 2].astype(np.float64)
    noticed = abs(products.astype(np.float64).sum(axis=1) - lost - exact.value) > bound(exact)
    assert noticed.mean() >= 0.98


def test_close_refuses_other_shapes_types_and_nan() -> None:
    exact = Exact(np.ones(3), np.ones(3))
    assert_close(np.ones(3, np.float32), exact)
    for wrong in (
        np.ones(3),
        np.ones((1, 3), np.float32),
        np.full(3, np.nan, np.float32),
        np.array([1, 1, 1 + 2.0**-20], np.float32),
    ):
        with pytest.raises(AssertionError):
            assert_close(wrong, exact)


def test_same_refuses_the_next_number() -> None:
    with pytest.raises(AssertionError):
        assert_same(np.nextafter(np.ones(2, np.float32), np.float32(2)), np.ones(2))


def test_same_bits_tells_the_zeros_apart() -> None:
    zero = np.zeros(2, np.float32)
    assert same_bits(zero, zero.copy())
    assert not same_bits(zero, -zero)
