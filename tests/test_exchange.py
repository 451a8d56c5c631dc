"""Feature maps between towers: concatenated, and their gradients split and added; sums of parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyalexnet
from bench import oracle
from bench.oracle import double
from pyalexnet.ops.elements import BFLOAT16, ELEMENTS
from samples import EACH_ELEMENT, normal
from tolerance import assert_close, assert_same, same_bits
from trial import run
from variants import CPU, SIM, SIMCHECK, on_two_gpus, parameters

LEADS = [(2, 3, 5), (4,), (), (1, 1, 1)]
WIDTHS = [(6,), (3, 5), (4, 1, 7), (1, 1), (130, 70), (4, 8)]
HOSTS = parameters(CPU, SIM, SIMCHECK)


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_gather(be: Any, lead: tuple[int, ...], widths: tuple[int, ...]) -> None:
    parts = [normal(*lead, width, seed=i) for i, width in enumerate(widths)]
    (whole,) = run(be, "exchange_gather", parts)
    assert_same(whole, oracle.exchange_gather(parts))


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize(("start", "channels"), [(0, 8), (4, 4), (0, 3), (3, 5), (7, 1)])
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_scatter_add(
    be: Any, lead: tuple[int, ...], start: int, channels: int, readers: int
) -> None:
    dwholes = [normal(*lead, 8, seed=i) for i in range(readers)]
    cut = {"start": start, "channels": channels}
    (dpart,) = run(be, "exchange_scatter_add", dwholes, **cut)
    assert_close(dpart, oracle.exchange_scatter_add(dwholes, **cut))


def test_scatter_add_adds_in_the_given_order(be: Any) -> None:
    """(a + b) + c in float32: 1 is lost next to 2^24 unless it comes last."""
    a, b, c = (np.full((1, 2), value, np.float32) for value in (2.0**24, -(2.0**24), 1.0))
    for order, total in (((a, b, c), 1), ((a, c, b), 0), ((c, a, b), 0)):
        (dpart,) = run(be, "exchange_scatter_add", list(order), start=0, channels=2)
        assert (dpart == total).all()


def test_scatter_add_is_the_adjoint_of_gather(be: Any) -> None:
    """<gather(parts), dwhole> = sum of <part, its share of dwhole>: copies, so exact."""
    parts = [normal(2, 3, width, seed=width) for width in (4, 1, 7)]
    (whole,) = run(be, "exchange_gather", parts)
    dwhole = normal(2, 3, 12)
    starts = (0, 4, 5)
    shares = [
        run(be, "exchange_scatter_add", [dwhole], start=start, channels=part.shape[-1])[0]
        for start, part in zip(starts, parts, strict=True)
    ]
    assert same_bits(np.concatenate(shares, axis=-1), dwhole)
    inner = sum((double(p) * double(s)).sum() for p, s in zip(parts, shares, strict=True))
    assert inner == pytest.approx((double(whole) * double(dwhole)).sum(), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 13, 64])
@pytest.mark.parametrize("shape", [(3,), (), (5, 7), (2, 3, 4)], ids=str)
@EACH_ELEMENT
def test_sum_of_parts(be: Any, count: int, shape: tuple[int, ...], dtype: Any) -> None:
    parts = [np.asarray(normal(*shape, seed=i)).astype(dtype) for i in range(count)]
    for kind in ELEMENTS:
        (y,) = run(be, "sum_parts", parts, dtype=kind)
        assert_close(y, oracle.sum_parts(parts), dtype=kind)


def halves(parts: list[Any]) -> Any:
    """The sum of a branch of the tree: its left half is the next smaller power of two."""
    if len(parts) == 1:
        return parts[0]
    left = 2 ** ((len(parts) - 1).bit_length() - 1)
    return halves(parts[:left]) + halves(parts[left:])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11, 32, 64])
def test_parts_are_added_by_a_binary_tree(be: Any, count: int) -> None:
    """Bit for bit, so that a tree over ranks may go on with the sums of each rank's parts."""
    parts = [normal(9, 5, seed=i) for i in range(count)]
    (y,) = run(be, "sum_parts", parts)
    assert same_bits(y, halves(parts))
    if count == 11:  # else a sum from the left may be the tree's
        assert not same_bits(y, sum(parts[1:], parts[0]))


def test_half_numbers_are_added_in_float32_and_rounded_once(be: Any) -> None:
    parts = [np.full((2,), value).astype(BFLOAT16) for value in (256.0, 1.0, 1.0, 1.0)]
    (y,) = run(be, "sum_parts", parts)
    assert (y.astype(np.float32) == 260).all()  # 259; rounded after each addition, it were 258
    (y,) = run(be, "sum_parts", parts, dtype=np.float32)
    assert (y == 259).all()


@pytest.mark.parametrize("place", [0, 2])
def test_a_sum_may_take_the_place_of_a_part(be: Any, place: int) -> None:
    parts = [normal(3, 7, seed=i) for i in range(3)]
    here = [be.asarray(part.copy()) for part in parts]
    assert be.sum_parts(here, out=here[place]) is here[place]
    assert same_bits(be.to_numpy(here[place]), halves(parts))


@pytest.mark.parametrize("be", HOSTS, indirect=True)
def test_between_two_devices(be: Any) -> None:
    """Each of two towers fetches the other's maps, and the gradient that the other computed."""
    between(be, pyalexnet.backend(be.name, device=1))


@pytest.mark.parametrize("be", on_two_gpus(), indirect=True)
def test_between_two_gpus(be: Any) -> None:
    between(be, pyalexnet.backend(be.name, device=1))


def between(first: Any, second: Any) -> None:
    """Gather and scatter-add on each of two devices, from both."""
    parts = [normal(2, 3, 4, seed=1), normal(2, 3, 6, seed=2)]
    dwholes = [normal(2, 3, 10, seed=3), normal(2, 3, 10, seed=4)]
    placed = [first.asarray(parts[0]), second.asarray(parts[1])]
    dplaced = [first.asarray(dwholes[0]), second.asarray(dwholes[1])]
    for here, cut in ((first, (0, 4)), (second, (4, 6))):
        start, channels = cut
        whole = here.exchange_gather(placed)
        assert_same(here.to_numpy(whole), oracle.exchange_gather(parts))
        assert same_bits(here.to_numpy(here.sum_parts(dplaced)), dwholes[0] + dwholes[1])
        dpart = here.exchange_scatter_add(dplaced, start=start, channels=channels)
        assert_close(
            here.to_numpy(dpart),
            oracle.exchange_scatter_add(dwholes, start=start, channels=channels),
        )
