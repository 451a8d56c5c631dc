"""LRN, the max-pool after it and the ReLUs around them, in one kernel forward and one backward."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bench import oracle
from bench.oracle import Exact, double
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.records import lrn_maxpool_fits
from samples import EACH_ELEMENT, generator, normal
from shapes import LRN, LRN_POOLS, NO_LRN_POOLS, LRNPool, Pool, each
from tolerance import SUM, assert_close, bound, norm_units, same_bits
from trial import run

CASES = pytest.mark.parametrize("case", each(LRN_POOLS))
RELUS = pytest.mark.parametrize("relus", [False, True], ids=["plain", "relus"])
FORMS = [LRN_POOLS[0], LRN_POOLS[5], LRN_POOLS[7], LRN_POOLS[9]]
EACH_FORM = pytest.mark.parametrize("case", FORMS, ids=str)
"""The networks' form, windows that overlap more, the largest, and many channels."""


def units(case: LRNPool) -> float:
    """The norm's units, plus those of the sum over the windows that contain a pixel."""
    return norm_units(case.norm.beta) + SUM


@cache
def inputs(case: LRNPool, dtype: Any) -> tuple[Any, Any]:
    """x, dy."""
    return normal(*case.x, seed=1).astype(dtype), normal(*case.y, seed=2).astype(dtype)


@cache
def maxima(case: LRNPool, dtype: Any) -> tuple[Exact, Any]:
    """The maxima due, and their places."""
    y, where = oracle.lrn_maxpool_fprop(inputs(case, dtype)[0], **case.constants)
    return y, where.astype(case.where_dtype)


@cache
def outputs(case: LRNPool, dtype: Any) -> Any:
    """A possible output of a ReLU after the pool, with zeros and a NaN."""
    y = np.maximum(normal(*case.y, seed=3), 0).astype(dtype)
    y[0, 0, 0, 0] = np.nan
    return y


@cache
def slopes(case: LRNPool, dtype: Any, relus: bool) -> Exact:
    """dx of a case, with both ReLUs or none."""
    y = outputs(case, dtype) if relus else None
    x, dy = inputs(case, dtype)
    where = maxima(case, dtype)[1]
    return oracle.lrn_maxpool_dgrad(x, dy, where, **case.constants, y=y, gated=relus)


@pytest.mark.every(3)
@EACH_ELEMENT
@RELUS
@CASES
def test_fprop(be: Any, case: LRNPool, relus: bool, dtype: Any) -> None:
    x, _ = inputs(case, dtype)
    y, where = run(be, "lrn_maxpool_fprop", x, **case.constants, relu=relus)
    due, _ = maxima(case, dtype)
    within = Exact(np.maximum(due.value, 0) if relus else due.value, due.magnitude)
    assert_close(y, within, norm_units(case.norm.beta), dtype=dtype)
    assert where.dtype == case.where_dtype
    # If two values differ by less than their rounding, either place is right.
    normalised = oracle.lrn_fprop(x, **case.norm.constants).value
    named = oracle.chosen(normalised, where, size=case.pool.size, stride=case.pool.stride)
    assert (named >= due.value - 2 * bound(due, units(case))).all()


@pytest.mark.every(3)
@EACH_ELEMENT
@RELUS
@CASES
def test_dgrad(be: Any, case: LRNPool, relus: bool, dtype: Any) -> None:
    x, dy = inputs(case, dtype)
    y = be.asarray(outputs(case, dtype)) if relus else None
    where = maxima(case, dtype)[1]
    (dx,) = run(be, "lrn_maxpool_dgrad", x, dy, where, **case.constants, y=y, gated=relus)
    assert_close(dx, slopes(case, dtype, relus), units(case), dtype=dtype)


@EACH_ELEMENT
@EACH_FORM
def test_of_equals_the_first_is_named(be: Any, case: LRNPool, dtype: Any) -> None:
    """Every pixel is one of three, so whole windows tie, to the last bit."""
    kinds = normal(3, case.x[3], seed=4)
    which = generator(5, *case.x[:3]).integers(0, 3, case.x[:3])
    x = kinds[which].astype(dtype)
    y, where = run(be, "lrn_maxpool_fprop", x, **case.constants)
    due, places = oracle.lrn_maxpool_fprop(x, **case.constants)
    assert_close(y, due, norm_units(case.norm.beta), dtype=dtype)
    assert_array_equal(where, places)


@EACH_ELEMENT
@EACH_FORM
@pytest.mark.parametrize("relu", [False, True])
def test_the_first_nan_wins(be: Any, case: LRNPool, relu: bool, dtype: Any) -> None:
    """One NaN spreads to the channels whose windows see it; each is the maximum wherever it is."""
    x = normal(*case.x).astype(dtype)
    for place in ((0, 2, 2, 3), (0, 2, 3, 3), (0, 3, 1, 3), (-1, -1, -1, -1)):
        x[place] = np.nan
    y, where = run(be, "lrn_maxpool_fprop", x, **case.constants, relu=relu)
    normalised = np.array(oracle.lrn_fprop(x, **case.norm.constants).value)
    due, places = oracle.maxpool_fprop(normalised, **case.pool.geometry)
    assert np.isnan(due).any()
    assert_array_equal(np.isnan(y.astype(np.float32)), np.isnan(due))
    assert_array_equal(where[np.isnan(due)], places[np.isnan(due)])


@EACH_FORM
def test_it_is_the_three_one_after_the_other(be: Any, case: LRNPool) -> None:
    """In float32, forward and backward, within the tolerance of both."""
    x, dy = inputs(case, np.dtype(np.float32))
    y, where = run(be, "lrn_maxpool_fprop", x, **case.constants, relu=True)
    normalised = run(be, "lrn_fprop", x, **case.norm.constants)[0]
    pooled, place = run(be, "maxpool_fprop", normalised, **case.pool.geometry)
    due = Exact(double(np.maximum(pooled, 0)), maxima(case, x.dtype)[0].magnitude)
    assert_close(y, due, 2 * norm_units(case.norm.beta))
    assert (where == place).mean() > 0.99

    (dx,) = run(be, "lrn_maxpool_dgrad", x, dy, where, **case.constants, y=be.asarray(y))
    (passed,) = run(be, "relu_dgrad", y, dy)
    (spread,) = run(be, "maxpool_dgrad", passed, where, x_shape=case.x, **case.pool.geometry)
    (one_by_one,) = run(be, "lrn_dgrad", x, spread, **case.norm.constants)
    exact = oracle.lrn_maxpool_dgrad(x, dy, where, **case.constants, y=y)
    assert_close(dx, Exact(double(one_by_one), exact.magnitude), 2 * units(case))


@EACH_ELEMENT
@EACH_FORM
def test_a_closed_gate_lets_nothing_through(be: Any, case: LRNPool, dtype: Any) -> None:
    """Nor the norm's second term, which reaches pixels that no window chose."""
    x, dy = inputs(case, dtype)
    where = maxima(case, dtype)[1]
    (dx,) = run(be, "lrn_maxpool_dgrad", -abs(x), dy, where, **case.constants, gated=True)
    assert (dx == 0).all()
    nothing = be.asarray(np.zeros(case.y, dtype))
    (dx,) = run(be, "lrn_maxpool_dgrad", x, dy, where, **case.constants, y=nothing)
    assert (dx == 0).all()


@pytest.mark.parametrize("size", [3, 2])
def test_a_block_may_begin_anywhere(be: Any, size: int) -> None:
    """Strips and tiles with every kind of remainder give the same as the maps in one piece."""
    norm = LRN("", (1, 1, 1, 16), 5, groups=2)
    whole = LRNPool("", norm, Pool("", (1, 41, 64, 16), size, 2))
    x = normal(*whole.x)
    y, where = run(be, "lrn_maxpool_fprop", x, **whole.constants)
    for rows, columns in ((21, 64), (41, 9), (20, 31)):
        part = np.ascontiguousarray(x[:, :rows, :columns])
        small, codes = run(be, "lrn_maxpool_fprop", part, **whole.constants | {"ceil": False})
        p, q = small.shape[1:3]
        assert same_bits(small, np.ascontiguousarray(y[:, :p, :q]))
        assert same_bits(codes, np.ascontiguousarray(where[:, :p, :q]))


@EACH_ELEMENT
@pytest.mark.parametrize("case", NO_LRN_POOLS, ids=str)
def test_another_form_is_refused(be: Any, case: LRNPool, dtype: Any) -> None:
    """In one sentence, forward and backward, and wherever `lrn_maxpool_fits` says so."""
    assert not lrn_maxpool_fits(case.x[-1], np.dtype(dtype), case.constants)
    x, dy = (be.asarray(each) for each in inputs(case, dtype))
    where = be.asarray(np.zeros(case.y, case.where_dtype))
    with pytest.raises(ArgumentError, match=f"^lrn_maxpool_fprop: {case.name}.* was expected"):
        be.lrn_maxpool_fprop(x, **case.constants)
    with pytest.raises(ArgumentError, match=f"^lrn_maxpool_dgrad: {case.name}.* was expected"):
        be.lrn_maxpool_dgrad(x, dy, where, **case.constants)


@EACH_ELEMENT
@CASES
def test_what_fits_is_known_without_a_backend(case: LRNPool, dtype: Any) -> None:
    assert lrn_maxpool_fits(case.x[-1], np.dtype(dtype), case.constants)


def test_vectors_are_read_whole(be: Any) -> None:
    """Maps that begin between two of them are refused, on whichever device."""
    case = LRN_POOLS[0]
    x, _ = inputs(case, np.dtype(np.float32))
    room = be.asarray(np.zeros(x.size + 1, np.float32))
    with pytest.raises(ArgumentError, match="x begins at an address that is no multiple of 16"):
        be.lrn_maxpool_fprop(room[1:].reshape(x.shape), **case.constants)
