"""Work spread over processes, some of them killed at the worst moment."""

from __future__ import annotations

import multiprocessing
import operator
import os
import signal
import time
from collections.abc import Iterator

import pytest

from pyalexnet.data.processes import WorkerDied, each


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


@pytest.mark.every(3)
@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_item_once(workers: int) -> None:
    found = list(each(operator.neg, range(10), workers))
    assert sorted(found) == [(number, -number) for number in range(10)]


def test_nothing_to_do() -> None:
    assert list(each(operator.neg, [], 3)) == []


def test_an_error_is_raised_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(each(int, ["1", "2", "three", "4"], 2))


def test_a_process_that_ends_by_itself() -> None:
    with pytest.raises(WorkerDied):
        list(each(os._exit, [0], 1))


@pytest.mark.every(4)
@pytest.mark.parametrize("turn", range(8))
def test_killed_while_it_sends(turn: int) -> None:
    """Results are megabytes: most of the time goes into sending them."""
    begun = time.monotonic()
    results = each(bytes, [20_000_000] * 200, 2)
    for _ in range(turn + 1):
        next(results)
    time.sleep(0.02)  # both have filled their pipes
    os.kill(multiprocessing.active_children()[turn % 2].pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        list(results)
    assert time.monotonic() - begun < 30


def test_closing_ends_all_at_once() -> None:
    begun = time.monotonic()
    results = each(time.sleep, [0, 100, 100], 2)
    assert next(results) == (0, None)
    results.close()
    assert time.monotonic() - begun < 20
