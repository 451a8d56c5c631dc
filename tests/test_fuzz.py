"""Readers and bindings under hostile input; `make test-faults` runs for longer.

FUZZ_SECONDS is the length of a campaign, FUZZ_SEED repeats one. A failure shows the smallest case
that was found; the module's `check` accepts it again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import strategies as st

import fuzz_bindings
import fuzz_checkpoint
import fuzz_cifar
import fuzz_images
import fuzz_pack
from answers import answer
from fuzzing import SECONDS, SHRINKING, Child, campaign, sample

TARGETS = pytest.mark.parametrize(
    "target",
    [fuzz_checkpoint, fuzz_pack, fuzz_cifar, fuzz_images, fuzz_bindings],
    ids=lambda target: target.__name__.removeprefix("fuzz_"),
)


def test_the_smallest_case_that_fails_is_shown() -> None:
    def check(case: int) -> str:
        assert case < 1234
        return "fine"

    with pytest.raises(AssertionError) as caught:
        sample(check, st.integers(0, 10**6), 200)
    assert "To see it again: check(1234)" in caught.value.__notes__


def test_a_crash_is_a_failure_and_the_next_case_a_new_start() -> None:
    with Child(signal.raise_signal) as check:
        with pytest.raises(AssertionError, match=r"(?s)died.*exit code -11.*Segmentation fault"):
            check(signal.SIGSEGV)
        assert check(signal.SIGCONT) == "None"


def test_a_hang_and_a_greed_for_memory_are_failures() -> None:
    with Child(time.sleep, seconds=2) as sleep, pytest.raises(AssertionError, match="no answer"):
        sleep(60)
    with Child(bytes) as zeros, pytest.raises(AssertionError, match="MemoryError"):
        zeros(2**35)


@pytest.mark.every(2)
@TARGETS
def test_a_sample(target: ModuleType) -> None:
    with Child(target.check) as check:
        happened = sample(check, target.cases(), target.SAMPLE)
    assert {"refused"} < set(happened) <= target.OUTCOMES, happened


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + SHRINKING + 60)
@TARGETS
def test_a_campaign(target: ModuleType, tried: Callable[..., None]) -> None:
    with Child(target.check) as check:
        happened = campaign(check, target.cases())
    assert {"refused"} < set(happened) <= target.OUTCOMES, happened
    result = ", ".join(f"{word} {count:,}" for word, count in sorted(happened.items()))
    tried(str(target.__doc__).partition(":")[0], happened.total(), result)


NUMBERS = np.ones((1, 1, 1, 8), np.float32)
WHERE = np.zeros(NUMBERS.shape, np.uint8)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (
            "lrn_maxpool_fprop",
            [NUMBERS, NUMBERS, WHERE, (5, 1.0, 0.75, 2.0, 16), (1, 1, True), False],
        ),
        ("sgd_update", [NUMBERS.astype(float), None, NUMBERS, NUMBERS, (0.0, 0.5, 0.25)]),
        ("exchange_gather", [[NUMBERS], 3]),
    ],
    ids=["more groups than channels", "weights of another type", "a number for an array"],
)
def test_what_is_not_defined_has_no_answer(op: str, arguments: list[object]) -> None:
    """The cases, drawn once, on which the reference itself failed."""
    assert answer(op, arguments) is None
