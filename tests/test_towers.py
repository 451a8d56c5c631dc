"""Networks in two towers against the same networks on one device: outputs, gradients, learning."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

import pyalexnet
from pyalexnet import nets
from pyalexnet.backends import Backend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import name_of
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step import plan
from pyalexnet.step.net import Net
from pyalexnet.step.plan import Goal
from pyalexnet.step.sgd import SGD
from samples import classes, normal
from tolerance import SUM, UNIT, same_bits
from variants import CPU, CUDA, ONE_ORDER, SIM, SIMCHECK, in_every_order, on_two_gpus, parameters

RECIPE = Recipe(epochs=1, batch_size=4, momentum=0.9, rate=Rate(0.01, 0.02, 5e-4))
SEED, STEP = 2012, 7
HOSTS = parameters(CPU, SIM, SIMCHECK)
ANYWHERE = in_every_order(CPU, SIM, CUDA)
DEVICES = pytest.mark.parametrize("devices", [(0, 0), (0, 1)], ids=["one device", "two devices"])


def spec_of(name: str, input_shape: tuple[int, int, int], *layers: Layer) -> NetSpec:
    return NetSpec(name, input_shape, 5, layers, RECIPE)


# Every kind of layer in every possible place: before the first weights, where both towers see the
# whole image; divided, as maps and as vectors; and after the last weights, on tower 0. Towers of
# 3 and 5 maps, which no float4 divides.
EVERY_LAYER = spec_of(
    "every-layer",
    (11, 9, 4),
    Scale("scale0", 0.5),
    LRN("norm0", 3, alpha=0.2, beta=0.75, k=1.5),
    Dropout("drop0", keep=0.9, inverted=True),
    Conv("conv1", 6, 3, stride=(2, 1), pad=(1, 0, 0, 2), groups=2, std=0.4, bias=0.1),
    LRN("norm1", 3, alpha=0.5, beta=0.75, k=1.5, groups=2),
    MaxPool("pool1", 3, 2),
    Relu("relu1"),
    Conv("conv2", 10, 2, pad=1, activation="relu", std=0.4, bias=0.1),
    RNorm("rnorm2", 3, alpha=0.3, beta=0.6, k=1.2),
    AvgPool("pool2", 2, 2),
    Dropout("drop2", keep=0.8),
    Conv("conv3", 10, 2, groups=2, activation="tanh", std=0.3),
    Linear("fc4", 14, activation="relu", std=0.4, bias=0.3, groups=2),
    Dropout("drop4", keep=0.7),
    Scale("scale4", 1.5),
    Linear("fc5", 6, std=0.5),
    Tanh("tanh5", scale_out=1.7, scale_in=0.6),
    Dropout("drop5", keep=0.6, inverted=True),
    Linear("fc6", 5, std=0.6),
    Tanh("tanh6", scale_out=2.0, scale_in=0.5),
)
# A first layer that reads the whole image, four groups in two towers, a last layer in groups.
FOUR_GROUPS = spec_of(
    "four-groups",
    (6, 7, 3),
    Conv("conv1", 8, 3, pad=1, activation="relu", std=0.3, bias=0.1),
    LRN("norm1", 2, alpha=0.5, beta=0.75, k=1.5, groups=4),
    Conv("conv2", 12, 3, groups=4, activation="relu", std=0.3, bias=0.1),
    Linear("fc3", 20, groups=4, activation="tanh", std=0.2),
    Linear("fc4", 5, groups=5, std=0.5),
)
SMALL = [EVERY_LAYER, FOUR_GROUPS, nets.alexnet_tiny(classes=5, input_shape=(12, 12, 1))]


def sixteenth(name: str, **arguments: Any) -> NetSpec:
    """AlexNet with a sixteenth of its maps, for images of the original's size."""
    spec = nets.alexnet(classes=5, width=1 / 16, **arguments)
    return NetSpec(name, spec.input_shape, 5, spec.layers, spec.recipe)


ALEXNETS = [
    sixteenth("source"),
    sixteenth("paper", preset="paper", towers_norm=True),
    sixteenth("no-exchange", exchange=()),
    sixteenth("owt", preset="owt"),
]


def named(spec: NetSpec) -> str:
    return spec.name


def divisible(spec: NetSpec) -> NetSpec:
    """The network with separate norms for each tower, as two towers require."""
    layers = (
        LRN(one.name, one.size, one.alpha, one.beta, one.k, groups=2)
        if isinstance(one, LRN) and one.name != "norm0" and one.groups == 1
        else one
        for one in spec.layers
    )
    return NetSpec(spec.name, spec.input_shape, spec.classes, tuple(layers), spec.recipe)


def pair(be: Any, devices: tuple[int, int]) -> tuple[Backend, Backend]:
    """The backend under test and, for the second tower, itself or that for another device."""
    if devices[1] == 0:
        return be, be
    exact = getattr(be, "exact", False)
    return be, pyalexnet.backend(be.name, devices[1], exact=exact)


def both(be: Any, spec: NetSpec, devices: tuple[int, int] = (0, 0)) -> tuple[Net, Net]:
    """A network on one device and in two towers."""
    spec = divisible(spec)
    return Net(spec, be, SEED), Net(spec, pair(be, devices), SEED)


def batch(spec: NetSpec, images: int, seed: int = 0) -> tuple[Any, Any]:
    """Images, of the size that the first layer's weights were made for, and labels."""
    size = 60 if spec.name in ("alexnet-tiny", *map(named, ALEXNETS)) else 1
    x = size * normal(images, *spec.input_shape, seed=seed)
    return x.astype(np.float32), classes(images, spec.classes, seed=seed)


def assert_near(actual: Any, expected: Any, layers: int) -> None:
    """Equality up to rounding: each layer, forward and back, may add SUM units of the norm."""
    actual, expected = (np.asarray(one, np.float64) for one in (actual, expected))
    assert actual.shape == expected.shape
    error, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    assert error <= 2 * layers * SUM * UNIT * size, error / size


def assert_equal_outputs(net: Net, actual: Any, expected: Any) -> None:
    """Check that outputs are equal bit for bit."""
    actual, expected = (net.backend.to_numpy(one) for one in (actual, expected))
    assert same_bits(actual, expected)


# Against one device


def check_against_one_device(one: Net, two: Net, images: int) -> None:
    """Outputs in evaluation and training, then gradients."""
    x, labels = batch(one.spec, images)
    assert_equal_outputs(one, two.forward(x), one.forward(x))
    for (name, actual), (other, expected) in zip(
        two.activations(x), one.activations(x), strict=True
    ):
        assert name == other
        assert_equal_outputs(one, actual, expected)
    for train in (False, True):
        loss, grads = one.loss_and_grads(x, labels, train=train, step=STEP)
        actual, others = two.loss_and_grads(x, labels, train=train, step=STEP)
        assert_equal_outputs(one, actual, loss)
        for error, expected in zip(two.last_errors, one.last_errors, strict=True):
            assert_equal_outputs(one, error, expected)
        assert list(others) == list(grads)
        # The last layer's input, masks included, is in its gradient.
        last = list(grads)[-2:]
        for name, grad in grads.items():
            expected = one.backend.to_numpy(grad)
            assert np.linalg.norm(expected) > 0, f"{name}: nothing to see"
            assert_near(others[name], expected, len(one.spec.layers))
            if name in last:
                assert_equal_outputs(one, others[name], expected)


@pytest.mark.every(9)
@DEVICES
@pytest.mark.parametrize("be", HOSTS, indirect=True)
@pytest.mark.parametrize("spec", SMALL, ids=named)
def test_small_networks(be: Any, spec: NetSpec, devices: tuple[int, int]) -> None:
    check_against_one_device(*both(be, spec, devices), images=3)


@pytest.mark.every(9)
@pytest.mark.big
@DEVICES
@pytest.mark.parametrize("be", HOSTS, indirect=True)
@pytest.mark.parametrize("spec", ALEXNETS, ids=named)
def test_alexnets(be: Any, spec: NetSpec, devices: tuple[int, int]) -> None:
    check_against_one_device(*both(be, spec, devices), images=2)


@pytest.mark.slow
@pytest.mark.big
@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@pytest.mark.parametrize("groups", [1, 2])
def test_sums_that_are_split_otherwise_for_half_a_layer(be: Any, groups: int) -> None:
    """fc2's depth, 600, is cut at 304 for all its outputs; for half of them at 256 instead."""
    layers = (
        Linear("fc1", groups * 600, std=0.5),
        Linear("fc2", 8448, groups=groups, std=0.05, activation="tanh"),
        Linear("fc3", 5, std=0.05),
    )
    check_against_one_device(*both(be, spec_of("split", (1, 2, 2), *layers)), images=3)


@pytest.mark.every(8)
@pytest.mark.parametrize("be", in_every_order(CUDA), indirect=True)
@pytest.mark.parametrize("spec", SMALL, ids=named)
def test_both_towers_on_one_gpu(be: Any, spec: NetSpec) -> None:
    check_against_one_device(*both(be, spec), images=3)


@pytest.mark.every(4)
@pytest.mark.parametrize("be", on_two_gpus(), indirect=True)
@pytest.mark.parametrize("spec", SMALL, ids=named)
def test_two_gpus(be: Any, spec: NetSpec) -> None:
    check_against_one_device(*both(be, spec, (0, 1)), images=3)


@pytest.mark.big
@pytest.mark.parametrize("be", parameters(CUDA), indirect=True)
@pytest.mark.parametrize("spec", ALEXNETS, ids=named)
def test_alexnets_on_one_gpu(be: Any, spec: NetSpec) -> None:
    check_against_one_device(*both(be, spec), images=3)


@pytest.mark.big
@pytest.mark.parametrize("be", on_two_gpus("side"), indirect=True)
@pytest.mark.parametrize("spec", ALEXNETS, ids=named)
def test_alexnets_on_two_gpus(be: Any, spec: NetSpec) -> None:
    check_against_one_device(*both(be, spec, (0, 1)), images=3)


@pytest.mark.every(9)
@pytest.mark.parametrize("be", on_two_gpus(), indirect=True)
def test_towers_begin_on_the_second_gpu(be: Any) -> None:
    """Logits and losses are on tower 0's device, which need not be the current one."""
    spec = divisible(EVERY_LAYER)
    one, two = Net(spec, be, SEED), Net(spec, be.name, SEED, (1, 0))
    x, labels = batch(spec, 3)
    assert same_bits(two.backend.to_numpy(two.forward(x)), one.backend.to_numpy(one.forward(x)))
    assert two.forward(x).device.id == 1
    loss = SGD(two).step(x, labels, step=0, epoch=1)
    assert loss.device.id == 1


# Learning


def train(net: Net, steps: int) -> list[float]:
    """The losses of some training steps, each on its own batch."""
    sgd, found = SGD(net), []
    for step in range(steps):
        loss = sgd.step(*batch(net.spec, 4, step), step=step, epoch=1)
        found.append(float(net.backend.to_numpy(loss)))
    return found


@DEVICES
@pytest.mark.parametrize("be", parameters(CPU, SIM), indirect=True)
def test_learning_equals_that_on_one_device(be: Any, devices: tuple[int, int]) -> None:
    one, two = both(be, nets.alexnet_tiny(classes=5, input_shape=(12, 12, 1)), devices)
    before = {name: be.to_numpy(w).copy() for name, w in one.params.items()}
    steps = 5
    expected = train(one, steps)
    np.testing.assert_allclose(train(two, steps), expected, rtol=1e-5)
    assert abs(expected[0] - expected[-1]) > 1e-3
    for name, actual in two.params.items():
        w = be.to_numpy(one.params[name])
        assert not same_bits(w, before[name])
        # Each step rounds w once more and moves it by a gradient as accurate as above.
        assert_near(actual - before[name], w - before[name], steps * 40)


@pytest.mark.every(3)
@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_two_runs_are_bitwise_equal(be: Any) -> None:
    first, second = (Net(divisible(EVERY_LAYER), (be, be), SEED) for _ in range(2))
    assert train(first, 3) == train(second, 3)
    for name, param in first.params.items():
        assert same_bits(param, second.params[name])


def test_step_may_lie_on_a_device() -> None:
    _, two = both(pyalexnet.backend("sim"), EVERY_LAYER, (0, 1))
    x, labels = batch(two.spec, 3)
    step = two.backend.asarray(np.array(STEP, np.uint32))
    by_array, by_number = (two.loss_and_grads(x, labels, train=True, step=s) for s in (step, STEP))
    for name, grad in by_array[1].items():
        assert same_bits(grad, by_number[1][name])


@pytest.mark.parametrize("be", parameters(CPU, SIM), indirect=True)
def test_nothing_waits(be: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, two = both(be, EVERY_LAYER, (0, 1))
    sgd, (x, labels) = SGD(two), batch(two.spec, 3)
    for part in two.parts:
        for method in ("to_numpy", "synchronize"):
            monkeypatch.setattr(part.backend, method, None)  # a call would be an error
    sgd.step(x, labels, step=0, epoch=1)
    two.forward(x)


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_batch_sizes_do_not_disturb_each_other(be: Any) -> None:
    _, used = both(be, EVERY_LAYER)
    for images in (4, 3, 1, 4, 2, 5, 6, 4):
        x, labels = batch(used.spec, images, seed=images)
        used.forward(batch(used.spec, images, seed=99)[0])
        loss, grads = used.loss_and_grads(x, labels, train=True, step=images)
        _, fresh = both(be, EVERY_LAYER)
        expected, others = fresh.loss_and_grads(x, labels, train=True, step=images)
        assert same_bits(be.to_numpy(loss), be.to_numpy(expected))
        for name, grad in grads.items():
            assert same_bits(grad, others[name]), name


def test_buffers_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch, only the loss and the two errors are a new array."""
    _, two = both(pyalexnet.backend("cpu"), EVERY_LAYER, (0, 1))
    sgd, (x, labels) = SGD(two), batch(two.spec, 4)
    sgd.step(x, labels, step=0, epoch=1)
    made: list[Any] = []
    for part in two.parts:
        empty = part.backend.empty

        def counted(shape: Any, dtype: Any = np.float32, empty: Any = empty) -> Any:
            made.append(shape)
            return empty(shape, dtype)

        monkeypatch.setattr(part.backend, "empty", counted)
    sgd.step(x, labels, step=1, epoch=1)
    assert made == [(3,)]


def test_nobody_computes_the_gradient_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (LRN("norm", 3, 0.1, 0.75, 1), Conv("conv", 4, 3), Linear("fc", 5))
    two = Net(spec_of("norm-first", (5, 5, 2), *layers), "cpu", device=(0, 1))
    for part in two.parts:
        for op in ("conv_dgrad", "lrn_dgrad"):
            monkeypatch.setattr(part.backend, op, None)  # a call would be an error
    two.loss_and_grads(*batch(two.spec, 2))


def test_gradients_into_arrays_of_the_host() -> None:
    _, two = both(pyalexnet.backend("cpu"), EVERY_LAYER)
    x, labels = batch(two.spec, 3)
    _, first = two.loss_and_grads(*batch(two.spec, 3, seed=1))
    _, expected = two.loss_and_grads(x, labels)
    assert not same_bits(first["fc5.w"], expected["fc5.w"])
    _, again = two.loss_and_grads(x, labels, out=first)
    for name, grad in again.items():
        assert grad is first[name]
        assert same_bits(grad, expected[name])


@DEVICES
@pytest.mark.parametrize("be", parameters(CPU, SIM), indirect=True)
@pytest.mark.parametrize("spec", SMALL, ids=named)
def test_fused_towers_learn_the_same(be: Any, spec: NetSpec, devices: tuple[int, int]) -> None:
    """Layers are taken together in towers too, with the same bits and the same exchanges."""
    one_by_one, fused = (
        Net(divisible(spec), pair(be, devices), SEED, fused=fused) for fused in (False, True)
    )
    assert train(one_by_one, 3) == train(fused, 3)
    assert fused.exchanged == one_by_one.exchanged
    for name, param in fused.params.items():
        assert same_bits(param, one_by_one.params[name])


def test_bfloat16_does_not_cross() -> None:
    with pytest.raises(ArgumentError, match=r"precision is bf16 and there are 2 towers; fp32 or"):
        Net(divisible(EVERY_LAYER), "cpu", device=(0, 1), precision="bf16")


# Parameters


@pytest.mark.parametrize("be", HOSTS, indirect=True)
def test_each_tower_has_its_half(be: Any) -> None:
    one, two = both(be, EVERY_LAYER, (0, 1))
    whole = {name: be.to_numpy(w) for name, w in one.params.items()}
    for name, joined in two.params.items():
        assert same_bits(joined, whole[name])
    assert list(two.params) == list(whole)
    assert two.spec.num_parameters == one.spec.num_parameters
    first, second = two.parts
    for name, w in whole.items():
        if name.startswith("fc6"):  # the last layer belongs to tower 0 alone
            assert same_bits(be.to_numpy(first.params[name]), w) and name not in second.params
            continue
        half = len(w) // 2
        assert same_bits(be.to_numpy(first.params[name]), w[:half].copy())
        assert same_bits(be.to_numpy(second.params[name]), w[half:].copy())
    if be.name != "cpu":
        for device, part in enumerate(two.parts):
            assert {be._ext.device_of(w) for w in part.params.values()} == {device}


def test_towers_on_one_device_share_its_backend() -> None:
    two = Net(divisible(EVERY_LAYER), "cpu", device=(0, 0))
    assert two.parts[0].backend is two.parts[1].backend is two.backend


@pytest.mark.parametrize("be", HOSTS, indirect=True)
def test_parameters_and_momentum_make_the_round_trip(be: Any) -> None:
    """From two towers to one device and back: the same checkpoint suits any number of towers."""
    one, two = both(be, EVERY_LAYER, (0, 1))
    optimiser = SGD(two)
    for step in range(2):
        optimiser.step(*batch(two.spec, 3, step), step=step, epoch=1)
    other, back = SGD(one), both(be, EVERY_LAYER)[1]
    one.load(two.params)
    other.load(optimiser.momentum)
    back.load(one.params)
    returned = SGD(back)
    returned.load(other.momentum)
    for name, w in two.params.items():
        v = optimiser.momentum[name]
        assert np.linalg.norm(v) > 0
        assert same_bits(be.to_numpy(one.params[name]), w) and same_bits(back.params[name], w)
        assert same_bits(be.to_numpy(other.momentum[name]), v)
        assert same_bits(returned.momentum[name], v)


def test_what_is_loaded_is_copied() -> None:
    _, two = both(pyalexnet.backend("cpu"), EVERY_LAYER)
    given = two.params
    two.load(given)
    given["fc4.w"][:] = np.nan
    given["fc6.b"][:] = np.nan
    assert np.isfinite(two.params["fc4.w"]).all() and np.isfinite(two.params["fc6.b"]).all()


@pytest.mark.parametrize("change", ["missing", "unknown", "half"])
def test_parameters_that_do_not_fit(change: str) -> None:
    _, two = both(pyalexnet.backend("cpu"), EVERY_LAYER)
    values = two.params
    if change == "missing":
        del values["conv2.w"]
    elif change == "unknown":
        values["conv9.w"] = values["conv2.w"]
    else:
        values["conv2.w"] = values["conv2.w"][:5]
    with pytest.raises(ArgumentError, match=r"^conv[29].w (is missing|is no|has shape)"):
        two.load(values)


# What crosses


def fetched(spec: NetSpec, goal: Goal = "gradients") -> tuple[Counter[str], Counter[str]]:
    """Floats per image that tower 0 and tower 1 fetch, forward and backward, as "layer tower"."""
    forward, backward = Counter[str](), Counter[str]()
    made = plan.make(spec, goal=goal, towers=2, fused=False)
    for call in made.calls:
        for operand in call.reads.values() if call.exchanges else ():
            read = made.arrays[name_of(operand)]
            if read.part != call.part and call.op == "exchange_gather":
                layer = name_of(call.writes[0]).partition(".whole")[0]
                forward[f"{layer} {call.part}"] += math.prod(read.shape)
            elif read.part != call.part:
                layer = name_of(operand).partition(".whole")[0]
                own = made.arrays[name_of(call.writes[0])]
                backward[f"{layer} {call.part}"] += math.prod(own.shape)
    return forward, backward


@pytest.mark.slow
@pytest.mark.big
@DEVICES
def test_what_alexnet_exchanges(devices: tuple[int, int]) -> None:
    """28,288 floats per image each way (pool2, pool5, fc6), and fc7 to tower 0; all come back."""
    two = Net(nets.alexnet(), "cpu", device=devices)
    two.loss_and_grads(*batch(two.spec, 1), train=True)
    pool2, pool5, fc6, fc7 = 13 * 13 * 128, 6 * 6 * 128, 2048, 2048
    sizes = {"conv3": pool2, "fc6": pool5, "fc7": fc6}
    each_way = {f"{layer} {tower}": size for layer, size in sizes.items() for tower in (0, 1)}
    assert pool2 + pool5 + fc6 == 28_288
    assert fetched(two.spec) == ({**each_way, "fc8 0": fc7}, {**each_way, "fc8 1": fc7})
    assert two.exchanged == 4 * 2 * (2 * 28_288 + 2048)


def test_what_crosses_grows_with_the_batch_and_is_of_the_last_pass() -> None:
    two = Net(sixteenth("source"), "cpu", device=(0, 1))
    assert two.exchanged == 0
    forward, backward = fetched(two.spec)
    sizes = {"conv3": 13 * 13 * 8, "fc6": 6 * 6 * 8, "fc7": 128}
    each_way = {f"{layer} {tower}": size for layer, size in sizes.items() for tower in (0, 1)}
    assert (forward, backward) == ({**each_way, "fc8 0": 128}, {**each_way, "fc8 1": 128})
    for images in (3, 2):
        two.loss_and_grads(*batch(two.spec, images))
        assert two.exchanged == 4 * images * (forward.total() + backward.total())
    two.forward(batch(two.spec, 2)[0])
    assert fetched(two.spec, "logits") == (forward, {})
    assert two.exchanged == 4 * 2 * forward.total()


def test_only_the_last_layer_exchanges_where_no_other_may() -> None:
    two = Net(sixteenth("no-exchange", exchange=()), "cpu", device=(0, 1))
    two.loss_and_grads(*batch(two.spec, 1))
    forward, backward = fetched(two.spec)
    assert (set(forward), set(backward)) == ({"fc8 0"}, {"fc8 1"})
    assert two.exchanged == 4 * (forward.total() + backward.total())


def test_one_device_exchanges_nothing() -> None:
    one = Net(EVERY_LAYER, "cpu")
    one.loss_and_grads(*batch(one.spec, 1))
    assert one.exchanged == 0


# What cannot be divided


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((Conv("conv", 7, 3), Linear("fc", 5)), "conv: 7 filters do not divide among 2 towers"),
        ((Linear("fc1", 9), Linear("fc2", 5)), "fc1: 9 outputs do not divide among 2 towers"),
        (
            (Conv("conv1", 6, 3, groups=3), Linear("fc", 5)),
            "conv1: 3 groups do not divide among 2 towers; 1 or a multiple was expected",
        ),
        (
            (Conv("conv", 6, 3), LRN("norm", 3, 0.1, 0.75, 1), Linear("fc", 5)),
            "norm: a window sees channels of more than one tower",
        ),
        (
            (Conv("conv", 6, 3), LRN("norm", 3, 0.1, 0.75, 1, groups=3), Linear("fc", 5)),
            "norm: a window sees channels of more than one tower",
        ),
        ((Relu("relu"), Linear("fc", 5)), "undivided: 1 of its layers have weights; at least two"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_that_cannot_be_divided(layers: tuple[Layer, ...], sentence: str) -> None:
    spec = spec_of("undivided", (6, 6, 6), *layers)
    Net(spec, "cpu")
    with pytest.raises(ArgumentError) as raised:
        Net(spec, "cpu", device=(0, 1))
    assert str(raised.value).startswith(sentence)


def test_the_preset_whose_norms_see_all_maps() -> None:
    with pytest.raises(ArgumentError, match=r"^norm1: a window sees"):
        Net(sixteenth("paper", preset="paper"), "cpu", device=(0, 1))


@pytest.mark.parametrize("devices", [(), (0, 1, 0)])
def test_other_numbers_of_devices(devices: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"backend is .*; one was expected, or 2 of one kind"):
        Net(divisible(EVERY_LAYER), "cpu", device=devices)


def test_backends_of_two_kinds() -> None:
    mixed = (pyalexnet.backend("cpu"), pyalexnet.backend("sim"))
    with pytest.raises(
        ArgumentError, match=r"backend is \(cpu 0, sim 0\); one was expected, or 2 of one kind"
    ):
        Net(divisible(EVERY_LAYER), mixed)


def test_images_of_another_size() -> None:
    _, two = both(pyalexnet.backend("cpu"), EVERY_LAYER)
    with pytest.raises(ArgumentError, match=r"images has shape"):
        two.forward(normal(2, 5, 5, 4))
