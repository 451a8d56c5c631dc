"""When a run stuck at chance is stopped, and that no run that learns, however slowly, is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pyalexnet.errors import CheckpointError
from pyalexnet.training.chance import Losses, chance
from pyalexnet.training.course import Position

Curve = npt.NDArray[np.float64]

TEN, THOUSAND = math.log(10), math.log(1000)
# As losses of batches of 128 vary in training: a deviation of .0078 was observed on 10 classes.
NOISE = 0.01


def curve(steps: int, course: Callable[[Curve], Curve], noise: float = NOISE) -> Curve:
    """Losses step by step, with noise."""
    draws = np.random.Generator(np.random.Philox(key=7)).normal(0, noise, steps)
    return course(np.arange(steps, dtype=np.float64)) + draws


def stop(losses: Curve, expected: float, steps: int = 500) -> int | None:
    """The step after which a run with these losses is stopped."""
    state = Losses()
    for step, loss in enumerate(losses, 1):
        if state.stop(128, float(loss), expected, steps):
            return step
    return None


def test_chance_of_balanced_labels_is_the_logarithm_of_the_classes() -> None:
    assert math.isclose(chance(np.arange(50) % 10), TEN)
    assert chance(np.zeros(9, np.int64)) == 0


def test_chance_of_other_labels_is_their_entropy() -> None:
    """Half, a quarter, and two eighths: 1.75 bits; a class without images does not count."""
    labels = np.array([0] * 4 + [1] * 2 + [2] + [4])
    assert math.isclose(chance(labels), 1.75 * math.log(2))


# Runs that are stopped


@pytest.mark.parametrize("expected", [math.log(2), TEN, THOUSAND])
@pytest.mark.parametrize("lift", [0.0006, 0.02, 0.2])
def test_flat_at_chance(expected: float, lift: float) -> None:
    """Dropout's noise on the logits lifts the loss above chance."""
    stopped = stop(curve(2000, lambda t: expected + lift + 0 * t), expected)
    assert stopped is not None and 500 <= stopped <= 700


def test_preset_paper_on_photographs_of_ten_classes() -> None:
    """Means of 100 steps each, measured at a quarter of its width, then the level they reached."""
    means = np.array([2.3518, 2.328, 2.3104, 2.3078, 2.3052, *[2.3045] * 15])
    stopped = stop(curve(2000, lambda t: means[t.astype(int) // 100]), TEN)
    assert stopped is not None and 500 <= stopped <= 1000


def test_collapse_after_learning() -> None:
    stopped = stop(curve(3000, lambda t: np.where(t < 1000, 1.5, TEN + 0.001)), TEN)
    assert stopped is not None and 1500 <= stopped <= 1700


def test_fewer_steps_stop_sooner() -> None:
    stopped = stop(curve(500, lambda t: TEN + 0.003 + 0 * t), TEN, steps=50)
    assert stopped is not None and 50 <= stopped <= 100
    assert stop(curve(10, lambda t: TEN + 0.1 + 0 * t, noise=0.0), TEN, steps=3) == 5


# Runs that go on


@pytest.mark.parametrize("fall", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("lift", [0.0, 0.25])
def test_a_slow_start_on_a_thousand_classes(fall: float, lift: float) -> None:
    """6.908 falls by as little as .01 in 500 steps; noise that lifts it at first fades."""
    course = curve(4000, lambda t: THOUSAND + lift * np.exp(-t / 300) - fall * t / 500, noise=0.035)
    assert stop(course, THOUSAND) is None


def test_a_start_that_hardly_shows() -> None:
    """Tiny logits (cuda-convnet's smallest nets): 1e-6 below chance at first, doubling in 300."""
    course = curve(4000, lambda t: TEN - np.minimum(1e-6 * 2 ** (t / 300), 1), noise=1e-6)
    assert stop(course, TEN) is None


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_below_chance(level: float) -> None:
    assert stop(curve(3000, lambda t: level * TEN + 0 * t), TEN) is None


def test_far_above_chance_is_something_else() -> None:
    assert stop(curve(3000, lambda t: TEN + 1 + 0 * t), TEN) is None
    assert stop(curve(400, lambda t: TEN * 1.03**t), TEN) is None


def test_losses_that_are_not_finite_are_not_its_business() -> None:
    state = Losses()
    for loss in (math.nan, math.inf):
        assert not state.stop(128, loss, TEN, 5)
    assert state == Losses()


def test_switched_off() -> None:
    state = Losses()
    assert not any(state.stop(128, TEN, TEN, 0) for _ in range(2000))
    assert state == Losses()


def test_one_class_has_nothing_to_learn() -> None:
    assert stop(np.zeros(2000), 0.0) is None


# The state


def test_losses_count_by_their_images() -> None:
    """A block of five steps with 1, 3 and 8 images: mean 2.5, variance 0.375."""
    state = Losses()
    for images, loss in [(1, 1.0), (3, 3.0), (1, 1.0), (3, 3.0)]:
        assert not state.stop(images, loss, TEN, 25)
    assert (state.steps, state.images, state.blocks) == (4, 8, [])
    assert not state.stop(8, 2.5, TEN, 25)
    assert (state.steps, state.images) == (0, 0)
    ((mean, variance),) = state.blocks
    assert (mean, variance) == (2.5, 0.375 / 4)


@pytest.mark.parametrize("at", [1, 99, 100, 437, 512])
def test_a_resumed_run_stops_at_the_same_step(at: int) -> None:
    state, straight = Losses(), Losses()
    for step, loss in enumerate(curve(700, lambda t: TEN + 0.001 + 0 * t), 1):
        if step == at:
            position = json.loads(json.dumps(asdict(Position(losses=state))))
            state = Position.from_mapping(position).losses
        assert state.stop(128, loss, TEN, 500) == straight.stop(128, loss, TEN, 500)
    assert state == straight


@pytest.mark.parametrize("values", [{}, {"blocks": [1, 2]}, {"blocks": [], "colour": 3}])
def test_refuses_another_state(values: Any) -> None:
    with pytest.raises(CheckpointError, match="losses"):
        Position.from_mapping(asdict(Position()) | {"losses": values})
