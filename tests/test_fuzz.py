"""Readers and bindings under input that nobody would write; `make test-faults` goes on for longer.

FUZZ_SECONDS says how long a campaign lasts, FUZZ_SEED repeats one. A failure shows the smallest
case that was found; the module's `check` takes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

import fuzz_bindings
import fuzz_checkpoint
import fuzz_cifar
import fuzz_images
import fuzz_pack
from fuzzing import SECONDS, SHRINKING, Child, campaign, sample

TARGETS = pytest.mark.parametrize(
    "target",
    [fuzz_checkpoint, fuzz_pack, fuzz_cifar, fuzz_images, fuzz_bindings],
    ids=lambda target: target.__name__.removeprefix("fuzz_"),
)


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
