"""The tolerance of sums: correct sums pass it, sums that lost a term do not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bench import gate
from bench.oracle import Exact
from pyalexnet.ops.elements import BFLOAT16
from samples import normal
from tensor_cores import AMPERE, HOPPER, Card, added
from tolerance import SUM, assert_close, assert_same, bound, product_units, same_bits

TRIALS = 1000


def dot_products(terms: int) -> tuple[np.ndarray, Exact]:
    """The float32 products of TRIALS pairs of vectors, and their exact sums."""
    x, w = normal(TRIALS, terms, seed=1), normal(TRIALS, terms, seed=2)
    exact = x.astype(np.float64) * w
    return x * w, Exact(exact.sum(axis=1), abs(exact).sum(axis=1))


@pytest.mark.every(4)
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


FEW = 250


class Gpu:
    """A backend whose products may be cut."""

    name = "sim"


@cache
def factors(terms: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = (normal(FEW, terms, seed=i).astype(BFLOAT16).astype(np.float64) for i in (1, 2))
    return x, w


def on_a_card(terms: int, card: Card | None, wrong: str) -> tuple[np.ndarray, Exact, float]:
    """Sums of bfloat16 products, cut as a card's or rounded one by one; the exact sums; the units.

    One product may be wrong: dropped, or that of the pixel beside it.
    """
    x, w = factors(terms)
    exact = Exact((x * w).sum(axis=1), abs(x * w).sum(axis=1))
    seen, place = x.copy(), terms // 2
    if wrong:
        seen[:, place] = 0 if wrong == "dropped" else x[:, place - 1]
    if card:
        sums = added(np.zeros(FEW), seen, w, card).astype(np.float32)
    else:
        sums = np.add.accumulate((seen * w).astype(np.float32), axis=1)[:, -1]
    return sums, exact, product_units(Gpu, BFLOAT16, terms)


EACH_CARD = pytest.mark.parametrize("card", [None, AMPERE, HOPPER], ids=["nearest", "8", "16"])
EACH_LENGTH = pytest.mark.parametrize("terms", [25, 363, 1200, 3456, 9216])


@EACH_CARD
@EACH_LENGTH
def test_sums_of_tensor_cores_pass(terms: int, card: Card | None) -> None:
    sums, exact, units = on_a_card(terms, card, "")
    assert_close(sums, exact, units)


@EACH_CARD
@EACH_LENGTH
@pytest.mark.parametrize("wrong", ["dropped", "beside"])
def test_wrong_sums_of_tensor_cores_fail(terms: int, wrong: str, card: Card | None) -> None:
    sums, exact, units = on_a_card(terms, card, wrong)
    noticed = abs(sums - exact.value) > bound(exact, units)
    assert noticed.mean() >= (0.98 if terms < 9216 else 0.95)


@EACH_CARD
@EACH_LENGTH
def test_the_gate_compares_sums_of_tensor_cores(terms: int, card: Card | None) -> None:
    """bench/gate.py compares norms: one in fifty elements has lost a product."""
    sums, exact, _ = on_a_card(terms, card, "")
    allowed = (gate.SUMMED + gate.CUT * terms) * np.linalg.norm(exact.value)
    assert np.linalg.norm(sums - exact.value) <= allowed
    sums[::50] = on_a_card(terms, card, "dropped")[0][::50]
    assert np.linalg.norm(sums - exact.value) > allowed


def test_long_sums_of_tensor_cores_ask_for_more() -> None:
    """Those that are cut are further off than eight units, so the longer bound is needed."""
    sums, exact, _ = on_a_card(9216, AMPERE, "")
    assert (abs(sums - exact.value) > bound(exact)).any()
    assert product_units(Gpu, BFLOAT16, 576) == product_units(Gpu, np.float32, 9216) == SUM


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
