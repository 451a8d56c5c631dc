"""The optimiser over many steps: drops in the rate, a rate for each parameter, frozen layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Linear
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from samples import classes, normal
from tolerance import same_bits

# Large rates and decays, so that every term is seen.
RATES = {"fc2": Rate(0.2, 0.05, 0.3, 0.4, schedule_b=Steps())}
DROPS = Recipe(
    epochs=10,
    batch_size=4,
    momentum=0.7,
    rate=Rate(0.1, 0.3, 0.5),
    schedule=Steps(((4, 0.1), (8, 0.01))),
    rates=RATES,
)


def net_of(be: Any, recipe: Recipe) -> Net:
    """Two linear layers of different sizes."""
    layers = (Linear("fc1", 5, std=1, bias=0.5), Linear("fc2", 3, std=1, bias=0.5))
    return Net(NetSpec("two", (1, 1, 4), 3, layers, recipe), be)


def batch(step: int) -> tuple[Any, Any]:
    """Images and labels, different at every step."""
    return normal(6, 1, 1, 4, seed=step), classes(6, 3, seed=step)


def host(net: Net, arrays: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    return {name: np.array(net.backend.to_numpy(array)) for name, array in arrays.items()}


def test_across_two_drops(be: Any) -> None:
    """Ten steps against section 5 in float64, each parameter with its own rate and decay."""
    net = net_of(be, DROPS)
    sgd = SGD(net)
    w = {name: param.astype(np.float64) for name, param in host(net, net.params).items()}
    v = {name: np.zeros_like(param) for name, param in w.items()}
    base = {"fc1.w": 0.1, "fc1.b": 0.3, "fc2.w": 0.2, "fc2.b": 0.05}
    decay = {"fc1.w": 0.5, "fc1.b": 0.0, "fc2.w": 0.3, "fc2.b": 0.4}
    for step in range(10):
        _, grads = net.loss_and_grads(*batch(step))
        sgd.step(*batch(step), step=step, epoch=step)
        factor = 1 if step < 4 else 0.1 if step < 8 else 0.01
        for name, grad in host(net, grads).items():
            lr = base[name] * (1 if name == "fc2.b" else factor)
            v[name] = 0.7 * v[name] - decay[name] * lr * w[name] - lr * grad.astype(np.float64)
            w[name] += v[name]
    for name, param in host(net, net.params).items():
        # Ten updates of magnitude about 1, with a few roundings each.
        np.testing.assert_allclose(param, w[name], rtol=0, atol=50 * 2.0**-24 * 4)
        np.testing.assert_allclose(
            be.to_numpy(sgd.momentum[name]), v[name], rtol=0, atol=50 * 2.0**-24
        )


def test_a_drop_does_not_shrink_old_steps(be: Any) -> None:
    """The buffer holds steps, not gradients: after the drop it still moves at the old rate."""
    net = net_of(be, DROPS)
    sgd = SGD(net)
    sgd.step(*batch(0), step=0, epoch=3)
    before = host(net, sgd.momentum)
    sgd.recipe = DROPS.override(weight_decay=0, lr=1e-12)
    sgd.step(*batch(1), step=1, epoch=8)
    for name in ("fc1.w", "fc1.b", "fc2.w"):
        np.testing.assert_allclose(be.to_numpy(sgd.momentum[name]), 0.7 * before[name], rtol=1e-6)


def test_frozen_parameters_stay(be: Any) -> None:
    """At rate 0 neither gradient nor decay nor old momentum acts, and the buffer waits."""
    frozen = Recipe(
        epochs=10,
        batch_size=4,
        momentum=0.7,
        rate=Rate(0.1, 0.1, 0.5),
        rates={"fc1": Rate(0.1, 0.1, 0.5, schedule_w=Steps(((2, 0.0), (4, 1.0))))},
    )
    net = net_of(be, frozen)
    sgd = SGD(net)
    states = []
    for step in range(5):
        sgd.step(*batch(step), step=step, epoch=step)
        states.append((host(net, net.params), host(net, sgd.momentum)))
    for arrays in zip(*states, strict=True):
        fc1 = [one["fc1.w"] for one in arrays]
        assert same_bits(fc1[1], fc1[2]) and same_bits(fc1[1], fc1[3])
        assert not same_bits(fc1[0], fc1[1]) and not same_bits(fc1[3], fc1[4])
        for name in ("fc1.b", "fc2.w", "fc2.b"):
            assert not same_bits(arrays[1][name], arrays[2][name])


def test_load_copies(be: Any) -> None:
    """Two optimisers with equal buffers take equal steps, and the loaded arrays do not change."""
    first, second = net_of(be, DROPS), net_of(be, DROPS)
    sgd, other = SGD(first), SGD(second)
    sgd.step(*batch(0), step=0, epoch=0)
    saved = host(first, sgd.momentum)
    second.load(host(first, first.params))
    other.load(saved)
    for one in (sgd, other):
        one.step(*batch(1), step=1, epoch=1)
    for name, param in host(first, first.params).items():
        assert same_bits(param, be.to_numpy(second.params[name]))
        assert not same_bits(saved[name], be.to_numpy(other.momentum[name]))


# Recipes


def test_steps() -> None:
    steps = Steps(((2, 0.5), (3.5, 0.0)))
    factors = {epoch: steps.factor(epoch) for epoch in (0, 1.99, 2, 3.49, 3.5, 100)}
    assert factors == {0: 1, 1.99: 1, 2: 0.5, 3.49: 0.5, 3.5: 0, 100: 0}
    assert Steps().factor(7) == 1
    assert steps.stretched(2) == Steps(((4, 0.5), (7, 0.0)))


def test_override_of_lr() -> None:
    """Other rates change in proportion, except those of biases with their own schedule."""
    recipe = DROPS.override(lr=0.01)
    rates = {name: recipe.lr(name, 0) for name in ("fc1.w", "fc1.b", "fc2.w", "fc2.b")}
    expected = {"fc1.w": 0.01, "fc1.b": 0.03, "fc2.w": 0.02, "fc2.b": 0.05}
    assert all(math.isclose(rates[name], expected[name]) for name in expected)
    assert math.isclose(recipe.lr("fc1.w", 4), 0.001)


def test_override_of_epochs_stretches_schedules() -> None:
    own = Recipe(
        epochs=10,
        batch_size=4,
        momentum=0.7,
        rate=Rate(0.1, 0.1, 0, schedule_b=Steps(((5, 0.0),))),
        schedule=Steps(((8, 0.1),)),
    ).override(epochs=5)
    assert own.epochs == 5
    assert [own.lr("fc1.w", epoch) for epoch in (3.9, 4)] == [0.1, 0.1 * 0.1]
    assert [own.lr("fc1.b", epoch) for epoch in (2.4, 2.5)] == [0.1, 0]


def test_override_of_the_rest() -> None:
    recipe = DROPS.override(batch_size=64, momentum=0.5, weight_decay=0.25)
    assert (recipe.batch_size, recipe.momentum) == (64, 0.5)
    assert [recipe.decay(name) for name in ("fc1.w", "fc2.w", "fc1.b", "fc2.b")] == [
        *(0.25, 0.25, 0, 0.4)
    ]
    assert DROPS.override() == DROPS


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Rate(-0.1, 0.1, 0), "rate: lr_w is -0.1"),
        (lambda: Rate(0.1, math.nan, 0), "rate: lr_b is nan"),
        (lambda: Steps(((2, 0.1), (1, 0.01))), "schedule: epochs are [2, 1]"),
        (lambda: Steps(((2, -0.1),)), "schedule: a factor is -0.1"),
        (lambda: DROPS.override(epochs=0), "recipe: epochs is 0"),
        (lambda: DROPS.override(batch_size=0), "recipe: batch_size is 0"),
        (lambda: DROPS.override(momentum=1.5), "recipe: momentum is 1.5; at least 0 and less"),
        (lambda: DROPS.override(momentum=1), "recipe: momentum is 1; at least 0 and less than 1"),
        (lambda: DROPS.override(momentum=-0.1), "recipe: momentum is -0.1; at least 0"),
        (lambda: DROPS.override(momentum=float("nan")), "recipe: momentum is nan; a finite"),
        (lambda: DROPS.override(lr=-1), "recipe: lr is -1"),
        (lambda: DROPS.override(lr=0).override(lr=1), "recipe: lr has no rates to scale"),
        (lambda: DROPS.override(weight_decay=math.inf), "recipe: weight_decay is inf"),
    ],
)
def test_refusals(make: Any, part: str) -> None:
    with pytest.raises(ArgumentError) as error:
        make()
    assert str(error.value).startswith(part)
