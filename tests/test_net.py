"""Networks as a whole: gradients, repeatability, buffers, dropout, initial values, refusals."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import pyalexnet
from bench import oracle
from pyalexnet import nets
from pyalexnet.errors import ArgumentError
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
    Tanh,
)
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from samples import classes, normal
from tolerance import same_bits
from variants import CPU, CUDA, ONE_ORDER, SIM, in_every_order, parameters

pytestmark = pytest.mark.orders
ANYWHERE = in_every_order(CPU, SIM, CUDA)

RECIPE = Recipe(epochs=1, batch_size=4, momentum=0.9, rate=Rate(0.01, 0.02, 5e-4))
SEED = 2012
STEP = 7

# Every kind of layer, no two sizes equal, and settings that keep every path alive.
EVERY_LAYER = NetSpec(
    "every-layer",
    (11, 9, 4),
    3,
    (
        Conv("conv1", 6, 3, stride=(2, 1), pad=(1, 0, 0, 2), groups=2, std=0.4, bias=0.1),
        LRN("norm1", 3, alpha=0.5, beta=0.75, k=1.5, groups=2),
        MaxPool("pool1", 3, 2),
        Relu("relu1"),
        Conv("conv2", 5, 2, pad=1, activation="relu", std=0.4, bias=0.1),
        RNorm("rnorm2", 3, alpha=0.3, beta=0.6, k=1.2),
        AvgPool("pool2", 2, 2),
        Conv("conv3", 4, 2, activation="tanh", std=0.3),
        Linear("fc4", 7, activation="relu", std=0.4, bias=0.3),
        Dropout("drop4", keep=0.7),
        Linear("fc5", 6, std=0.5),
        Tanh("tanh5", scale_out=1.7, scale_in=0.6),
        Dropout("drop5", keep=0.6, inverted=True),
        Linear("fc6", 3, std=0.6),
    ),
    RECIPE,
)


def batch(spec: NetSpec, images: int, seed: int = 0) -> tuple[Any, Any]:
    """Images and labels."""
    x = normal(images, *spec.input_shape, seed=seed)
    return x, classes(images, spec.classes, seed=seed)


def host(net: Net, arrays: dict[str, Any]) -> dict[str, Any]:
    """Copies on the host."""
    return {name: np.array(net.backend.to_numpy(array)) for name, array in arrays.items()}


# The network in float64, from the oracle's ops


def exact_layer(layer: Layer, x: Any, params: dict[str, Any], masks: list[str] | None) -> Any:
    """Output of one layer; `masks` names the dropout layers in order, None in evaluation."""
    match layer:
        case Conv():
            return oracle.conv_fprop(
                x,
                params[layer.w],
                params[layer.b],
                stride=layer.stride,
                pad=layer.pad,
                groups=layer.groups,
                activation=layer.activation,
            ).value
        case Linear():
            x = x.reshape(len(x), -1)
            w, b = params[layer.w], params[layer.b]
            return oracle.linear_fprop(x, w, b, activation=layer.activation).value
        case LRN(_, size, alpha, beta, k, groups):
            return oracle.lrn_fprop(x, size=size, alpha=alpha, beta=beta, k=k, groups=groups).value
        case RNorm(_, size, alpha, beta, k):
            return oracle.rnorm_fprop(x, size=size, alpha=alpha, beta=beta, k=k).value
        case MaxPool(_, size, stride, ceil):
            return oracle.maxpool_fprop(x, size=size, stride=stride, ceil=ceil)[0]
        case AvgPool(_, size, stride, ceil):
            return oracle.avgpool_fprop(x, size=size, stride=stride, ceil=ceil).value
        case Relu():
            return oracle.relu_fprop(x)
        case Tanh():
            return layer.scale_out * np.tanh(layer.scale_in * x)
        case Dropout(name, keep, inverted):
            if masks is None:
                return x if inverted else x * keep
            number = masks.index(name)
            y = oracle.dropout(x, keep=keep, seed=SEED, step=STEP, layer=number)
            return y / keep if inverted else y
    raise AssertionError(f"no oracle for {layer}")


def exact_logits(spec: NetSpec, params: dict[str, Any], x: Any, train: bool) -> Any:
    """The network's output in float64."""
    masks = [layer.name for layer in spec.layers if isinstance(layer, Dropout)]
    for layer in spec.layers:
        x = exact_layer(layer, x, params, masks if train else None)
    return x


@cache
def exact(train: bool) -> tuple[Any, float, dict[str, Any]]:
    """Logits, loss and gradients of `EVERY_LAYER`, the last by central differences."""
    params = host(net := Net(EVERY_LAYER, "cpu", SEED), net.params)
    params = {name: param.astype(np.float64) for name, param in params.items()}
    x, labels = batch(EVERY_LAYER, 4)

    def loss() -> float:
        logits = exact_logits(EVERY_LAYER, params, x, train)
        return float(oracle.softmax_cross_entropy(logits, labels)[0].value)

    def slope(param: Any, place: tuple[int, ...], step: float = 1e-5) -> float:
        middle = param[place]
        param[place] = middle + step
        above = loss()
        param[place] = middle - step
        below = loss()
        param[place] = middle
        return (above - below) / (2 * step)

    grads = {}
    for name, param in params.items():
        slopes = [slope(param, place) for place in np.ndindex(param.shape)]
        grads[name] = np.reshape(slopes, param.shape)
    return exact_logits(EVERY_LAYER, params, x, train), loss(), grads


def assert_near(actual: Any, expected: Any, relative: float = 1e-5) -> None:
    """Check the norm of the difference against `relative` times the norm: some eighty roundings."""
    error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    assert error <= relative * np.linalg.norm(expected)


@pytest.mark.every(9)
@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_gradients(be: Any, train: bool) -> None:
    net = Net(EVERY_LAYER, be, SEED)
    _, loss, exact_grads = exact(train)
    actual, grads = net.loss_and_grads(*batch(EVERY_LAYER, 4), train=train, step=STEP)
    assert be.to_numpy(actual).shape == ()
    assert_near(be.to_numpy(actual), loss)
    assert list(grads) == list(net.params)
    for name, grad in host(net, grads).items():
        assert np.linalg.norm(exact_grads[name]) > 1e-3, f"{name}: nothing to see"
        assert_near(grad, exact_grads[name])


def test_forward(be: Any) -> None:
    net = Net(EVERY_LAYER, be, SEED)
    logits = net.forward(batch(EVERY_LAYER, 4)[0])
    assert_near(be.to_numpy(logits), exact(False)[0])


# Training


def losses(net: Net, steps: int, images: int, size: float = 1) -> list[float]:
    """The losses of some training steps, each on its own batch with pixels of that `size`."""
    sgd, found = SGD(net), []
    for step in range(steps):
        x, labels = batch(net.spec, images, step)
        loss = sgd.step(size * x, labels, step=step, epoch=0)
        found.append(float(net.backend.to_numpy(loss)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
def test_twenty_steps_equal_those_on_cpu(be: Any) -> None:
    spec = nets.alexnet_tiny(input_shape=(28, 28, 1))
    expected = losses(Net(spec, pyalexnet.backend("cpu", exact=True)), 20, 8, size=60)
    assert len(set(expected)) == 20
    np.testing.assert_allclose(losses(Net(spec, be), 20, 8, size=60), expected, rtol=1e-4)


@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_two_runs_are_bitwise_equal(be: Any) -> None:
    first, second = Net(EVERY_LAYER, be, 3), Net(EVERY_LAYER, be, 3)
    assert losses(first, 5, 4) == losses(second, 5, 4)
    for name, param in host(first, first.params).items():
        assert same_bits(param, be.to_numpy(second.params[name])), name


@pytest.mark.parametrize("be", parameters(CPU, SIM), indirect=True)
def test_overfits_eight_images(be: Any) -> None:
    spec = nets.alexnet_tiny(input_shape=(8, 8, 1), dropout=0)
    net, labels = Net(spec, be), np.arange(8) % 4
    sgd, x = SGD(net), 60 * normal(8, *spec.input_shape)
    for step in range(60):
        loss = sgd.step(x, labels, step=step, epoch=1)
    assert float(be.to_numpy(loss)) < 0.05
    assert_array_equal(be.to_numpy(net.forward(x)).argmax(axis=1), labels)
    assert float(be.to_numpy(net.last_errors[0])) == 0


# Buffers


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_batch_sizes_do_not_disturb_each_other(be: Any) -> None:
    """A last, smaller batch and a batch of 1 among larger ones, in a net that has seen others."""
    used = Net(EVERY_LAYER, be, 3)
    for images in (4, 3, 1, 4, 2, 5, 6, 4, 1):
        x, labels = batch(EVERY_LAYER, images, seed=images)
        used.forward(batch(EVERY_LAYER, images, seed=99)[0])
        loss, grads = used.loss_and_grads(x, labels, train=True, step=images)
        fresh = Net(EVERY_LAYER, be, 3)
        expected, exact_grads = fresh.loss_and_grads(x, labels, train=True, step=images)
        assert same_bits(be.to_numpy(loss), be.to_numpy(expected))
        for name, grad in host(used, grads).items():
            assert same_bits(grad, be.to_numpy(exact_grads[name])), name


def test_a_batch_is_the_mean_of_its_images(be: Any) -> None:
    """Evaluation treats every image alone."""
    net = Net(EVERY_LAYER, be, SEED)
    x, labels = batch(EVERY_LAYER, 3)
    whole, _ = net.loss_and_grads(x, labels)
    alone = [net.loss_and_grads(x[i : i + 1], labels[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(
        be.to_numpy(whole), np.mean([be.to_numpy(loss) for loss in alone]), rtol=1e-6
    )


@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_results_are_the_callers(be: Any) -> None:
    """Logits, loss and gradients survive later calls; `out` is written only on request."""
    net = Net(EVERY_LAYER, be, SEED)
    (x, labels), (other, _) = batch(EVERY_LAYER, 2, seed=1), batch(EVERY_LAYER, 2, seed=2)
    logits = net.forward(x)
    loss, grads = net.loss_and_grads(x, labels)
    kept = host(net, {"logits": logits, "loss": loss, **grads})
    net.forward(other)
    _, others = net.loss_and_grads(other, labels)
    for name, array in host(net, {"logits": logits, "loss": loss, **grads}).items():
        assert same_bits(array, kept[name]), name

    _, again = net.loss_and_grads(x, labels, out=others)
    for name, array in again.items():
        assert array is others[name]
        assert same_bits(be.to_numpy(array), kept[name]), name


def test_buffers_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch, only the loss and the two errors are a new array."""
    net = Net(EVERY_LAYER, "cpu", SEED)
    x, labels = batch(EVERY_LAYER, 4)
    _, grads = net.loss_and_grads(x, labels, train=True)
    made: list[Any] = []
    empty = net.backend.empty

    def counted(shape: Any, dtype: Any = np.float32) -> Any:
        made.append(shape)
        return empty(shape, dtype)

    monkeypatch.setattr(net.backend, "empty", counted)
    net.loss_and_grads(x, labels, train=True, out=grads)
    assert made == [(3,)]


def test_nobody_computes_the_gradient_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = NetSpec(
        "norm-first",
        (5, 5, 2),
        2,
        (LRN("norm", 3, 0.1, 0.75, 1), Conv("conv", 2, 3), Linear("fc", 2)),
        RECIPE,
    )
    net = Net(spec, "cpu")
    for op in ("conv_dgrad", "lrn_dgrad"):
        monkeypatch.setattr(net.backend, op, None)  # a call would be an error
    _, grads = net.loss_and_grads(*batch(spec, 2))
    assert list(grads) == ["conv.w", "conv.b", "fc.w", "fc.b"]


@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_one_device_has_one_part(be: Any) -> None:
    """Code written part by part for any number of devices works on one, without copies."""
    net = Net(EVERY_LAYER, be, SEED)
    (part,) = net.parts
    assert part.backend is be and part.params is net.params
    x, labels = batch(EVERY_LAYER, 3)
    _, grads = net.loss_and_grads(x, labels, train=True, step=STEP)
    joined = net.joined((grads,))
    assert all(joined[name] is grads[name] for name in net.params)
    sgd = SGD(net)
    sgd.step(x, labels, step=STEP, epoch=0)
    (divided,) = net.divided(sgd.momentum)
    for name, v in host(net, sgd.momentum).items():
        assert divided[name] is not sgd.momentum[name]
        assert same_bits(be.to_numpy(divided[name]), v)


# Dropout


def dropout_net(**settings: Any) -> NetSpec:
    """A linear layer, dropout, and a last layer that shows each element of the mask as a logit."""
    layers = (Linear("fc1", 40, bias=1.0, std=0), Dropout("drop1", **settings), Linear("fc2", 40))
    return NetSpec("dropout", (1, 1, 3), 40, layers, RECIPE)


def masked(be: Any, step: int, train: bool, seed: int = 0, **settings: Any) -> Any:
    """What ones become after the dropout layer, read off the next layer's weight gradient."""
    net = Net(dropout_net(**settings), be, seed)
    x, labels = batch(net.spec, 1)
    _, grads = net.loss_and_grads(x, labels, train=train, step=step)
    grads = host(net, grads)
    return grads["fc2.w"][0] / grads["fc2.b"][0]


@pytest.mark.parametrize("inverted", [False, True], ids=["2012", "inverted"])
def test_dropout_rules(be: Any, inverted: bool) -> None:
    settings: dict[str, Any] = {"keep": 0.25, "inverted": inverted}
    trained, evaluated = (4.0, 1.0) if inverted else (1.0, 0.25)
    y = masked(be, 5, True, **settings)
    kept = oracle.dropout(np.ones((1, 40)), keep=0.25, seed=0, step=5, layer=0)[0]
    assert 0 < kept.sum() < 40
    assert_array_equal(y, kept.astype(np.float32) * np.float32(trained))
    assert_array_equal(masked(be, 5, False, **settings), np.full(40, evaluated, np.float32))


def test_masks_depend_on_step_and_seed(be: Any) -> None:
    first = masked(be, 5, True, keep=0.5)
    assert same_bits(first, masked(be, 5, True, keep=0.5))
    assert not same_bits(first, masked(be, 6, True, keep=0.5))
    assert not same_bits(first, masked(be, 5, True, seed=1, keep=0.5))


def test_step_may_lie_on_the_device(be: Any) -> None:
    step = be.asarray(np.array(5, np.uint32))
    assert same_bits(masked(be, step, True, keep=0.5), masked(be, 5, True, keep=0.5))


def test_without_dropout_training_is_evaluation() -> None:
    net = Net(nets.alexnet_tiny(input_shape=(12, 12, 1), dropout=0), "cpu")
    x, labels = batch(net.spec, 2)
    (loss, grads), (evaluated, others) = (
        net.loss_and_grads(x, labels, train=train, step=3) for train in (True, False)
    )
    assert same_bits(np.asarray(loss), np.asarray(evaluated))
    assert all(same_bits(grads[name], others[name]) for name in grads)


# Initial values


def test_initial_values_depend_on_seed_and_name_alone(be: Any) -> None:
    small = NetSpec("small", (3, 3, 2), 3, (Conv("conv2", 5, 2), Linear("fc6", 3)), RECIPE)
    two = NetSpec("two", (3, 3, 2), 3, (Linear("conv2", 4), Linear("fc6", 3)), RECIPE)
    net, on_cpu = Net(small, be, 9), Net(small, "cpu", 9)
    for name, param in host(net, net.params).items():
        assert same_bits(param, on_cpu.params[name])
    assert not same_bits(on_cpu.params["conv2.w"], Net(small, "cpu", 8).params["conv2.w"])
    in_other_net = Net(two, "cpu", 9).params["conv2.w"]
    assert same_bits(in_other_net.ravel()[:40], on_cpu.params["conv2.w"].ravel())


def test_every_bit_of_the_seed_counts() -> None:
    layer = Linear("fc", 2)
    starts = [layer.initial((3,), seed)["fc.w"] for seed in (0, 1, 2**63, 2**64 - 2, 2**64 - 1)]
    assert len({start.tobytes() for start in starts}) == len(starts)


def test_normal_and_constant_start() -> None:
    spec = NetSpec("start", (1, 1, 300), 200, (Linear("fc", 200, std=0.03, bias=0.7),), RECIPE)
    params = Net(spec, "cpu").params
    assert_array_equal(params["fc.b"], np.full(200, 0.7, np.float32))
    # 60,000 draws: three standard errors of the mean and of the standard deviation.
    assert abs(params["fc.w"].mean()) < 3 * 0.03 / 245
    assert abs(params["fc.w"].std() - 0.03) < 3 * 0.03 / 346


def test_fan_in_start() -> None:
    """Uniform on +-1 / sqrt(R S C), with a standard deviation of 1 / sqrt(3 R S C)."""
    conv = Conv("conv", 400, 5, groups=2, std="fan_in", bias="fan_in")
    params = conv.initial((9, 9, 8), seed=1)
    for values in params.values():
        assert abs(values).max() <= 0.1 < abs(values).max() * 1.01
        assert abs(values.mean()) < 0.01
        assert abs(values.std() - 0.1 / math.sqrt(3)) < 0.003


@pytest.mark.parametrize("name", [name for name in nets.names() if name != "alexnet"])
def test_first_loss(name: str) -> None:
    """Untrained logits with variance s^2 over the classes cost ln(classes) + s^2 / 2."""
    net = Net(nets.get(name)(input_shape=(28, 28, 1)), "cpu")
    x, labels = batch(net.spec, 32)
    loss, _ = net.loss_and_grads(60 * x, labels)
    spread = float(net.forward(60 * x).var(axis=1).mean())
    # Three standard errors of the mean of the labels' logits; 0.001 for higher terms of exp.
    assert abs(float(loss) - math.log(10) - spread / 2) < 3 * math.sqrt(spread / 32) + 0.001
    assert spread < 0.1


# Refusals


def refusal(call: Any, *arguments: Any, **named: Any) -> str:
    """The sentence of the ArgumentError that a call has to raise."""
    with pytest.raises(ArgumentError) as error:
        call(*arguments, **named)
    return str(error.value)


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        (Conv("conv9", 4, 9), "conv9: the filter is 9 x 9; the padded image is only 5 x 6"),
        (Conv("conv9", 4, 3, groups=2), "conv9: 3 input channels do not divide into 2 groups"),
        (Conv("conv9", 4, 3, groups=3), "conv9: 4 filters do not divide into 3 groups"),
        (Conv("conv9", 0, 3), "conv9: filters is 0"),
        (Conv("conv9", 4, 3, stride=0), "conv9: stride is 0"),
        (Conv("conv9", 4, 3, std=-1), "conv9: std is -1"),
        (Conv("conv9", 4, 3, activation="elu"), "conv9: activation is 'elu'"),  # type: ignore
        (Linear("fc9", 0), "fc9: outputs is 0"),
        (LRN("norm9", 5, -1, 0.75, 1), "norm9: alpha is -1"),
        (LRN("norm9", 5, 1, 0.75, 1, groups=2), "norm9: 3 input channels do not divide into 2"),
        (RNorm("norm9", 5, 1, 0.75, 0), "norm9: k is 0"),
        (MaxPool("pool9", 8, 2, ceil=False), "pool9: no window of size 8 and stride 2 fits"),
        (AvgPool("pool9", 3, 0), "pool9: stride is 0"),
        (Dropout("drop9", 0), "drop9: keep is 0"),
        (Dropout("drop9", 1.5), "drop9: keep is 1.5"),
        (Tanh("tanh9", math.inf), "tanh9: scale_out is inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_refuse(layer: Layer, part: str) -> None:
    said = refusal(NetSpec, "bad", (5, 6, 3), 2, (layer, Linear("fc", 2)), RECIPE)
    assert said.startswith(part) and said.endswith(".")


@pytest.mark.parametrize(
    "layer", [Conv("late", 3, 1), MaxPool("late", 2, 2), LRN("late", 3, 1, 1, 1)]
)
def test_layers_of_maps_refuse_vectors(layer: Layer) -> None:
    said = refusal(NetSpec, "bad", (5, 6, 3), 2, (Linear("fc", 2), layer), RECIPE)
    assert said == "late: the input has shape (2,); maps (height, width, channels) were expected."


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((), "bad: there are no layers; at least one was expected."),
        ((Linear("fc", 2), Linear("fc", 2)), "bad: two layers are called 'fc'."),
        (
            (Linear("fc", 3),),
            "bad: the output of fc has shape (3,); (2,) was expected, a logit for each class.",
        ),
    ],
    ids=["none", "twice", "classes"],
)
def test_specs_refuse(layers: tuple[Layer, ...], said: str) -> None:
    assert refusal(NetSpec, "bad", (5, 6, 3), 2, layers, RECIPE) == said


def test_rates_of_no_layer_are_refused() -> None:
    recipe = Recipe(1, 4, 0.9, Rate(0.01, 0.01, 0), rates={"fc9": Rate(0.02, 0.02, 0)})
    said = refusal(NetSpec, "bad", (5, 6, 3), 2, (Linear("fc", 2),), recipe)
    assert said == "bad: the recipe has a rate for 'fc9'; one of fc was expected."


def test_images_and_labels_are_refused(be: Any) -> None:
    net = Net(EVERY_LAYER, be)
    x, labels = batch(EVERY_LAYER, 2)
    want = "(N, 11, 9, 4) was expected."
    assert refusal(net.forward, x[:, :-1]) == f"every-layer: images has shape (2, 10, 9, 4); {want}"
    assert refusal(net.forward, x[0]) == f"every-layer: images has shape (11, 9, 4); {want}"
    none = "every-layer: images has shape (0, 11, 9, 4), no image; at least 1 was expected."
    assert refusal(net.forward, x[:0]) == none
    assert refusal(net.loss_and_grads, x[:0], np.zeros(0, np.int64)) == none
    assert "images are uint8; float32 was expected" in refusal(net.forward, x.astype(np.uint8))
    assert "labels has 3" in refusal(net.loss_and_grads, x, np.array([0, 3]))
    assert "labels has shape (1,)" in refusal(net.loss_and_grads, x, labels[:1])
    assert "labels are float32" in refusal(net.loss_and_grads, x, labels.astype(np.float32))


def test_seeds_are_refused() -> None:
    assert refusal(Net, EVERY_LAYER, "cpu", -1).startswith("Net: seed is -1")


def test_labels_of_any_integer_type(be: Any) -> None:
    net = Net(EVERY_LAYER, be)
    x, labels = batch(EVERY_LAYER, 3)
    expected = be.to_numpy(net.loss_and_grads(x, labels)[0])
    for dtype in (np.uint8, np.int32, np.uint64):
        assert same_bits(be.to_numpy(net.loss_and_grads(x, labels.astype(dtype))[0]), expected)
    assert same_bits(be.to_numpy(net.loss_and_grads(x, labels.tolist())[0]), expected)


# Loading


def test_load_copies(be: Any) -> None:
    source, net = Net(EVERY_LAYER, be, 1), Net(EVERY_LAYER, be, 2)
    params = host(source, source.params)
    kept = {name: param.copy() for name, param in params.items()}
    net.load(params)
    for name, param in host(net, net.params).items():
        assert same_bits(param, kept[name])
    losses(net, 1, 2)
    for name, param in params.items():
        assert same_bits(param, kept[name]), f"{name}: the caller's array was trained"


def test_load_refuses_what_does_not_fit() -> None:
    net = Net(EVERY_LAYER, "cpu")
    params = host(net, net.params)
    assert refusal(net.load, {**params, "fc6.b": np.zeros(4)}) == (
        "fc6.b has shape (4,); (3,) was expected."
    )
    assert refusal(net.load, {**params, "fc9.w": np.zeros(4)}).startswith("fc9.w is no parameter")
    del params["conv2.w"]
    assert refusal(net.load, params).startswith("conv2.w is missing")
