"""Whole AlexNets against PyTorch's autograd: loss, every gradient, ten steps of learning.

PyTorch computes the same network in float32 and in float64, which shows the rounding of both
float32 results, ours and PyTorch's. Dropout is off.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import samples
from bench import oracle
from bench.oracle import Exact
from pyalexnet.nets import alexnet
from pyalexnet.nets.layers import LRN, Conv, Layer, Linear, MaxPool, Relu, RNorm, Scale, Tanh
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.records import ConvGeometry
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from samples import classes, normal
from tolerance import SUM, UNIT, assert_close, convolution_units, norm_units
from trial import alone
from variants import CPU, CPU_EXACT, CUDA, ONE_ORDER, parameters

pytestmark = [pytest.mark.peer]

PRESETS = ("source", "paper", "caffe", "owt")
PIXELS = 50

KNOBS: dict[str, dict[str, Any]] = {
    "tanh": {"activation": "tanh"},
    "pools 2/2": {"pooling": "2/2"},
    "no norms": {"lrn": False},
    "no exchange": {"exchange": "none"},
    "no exchange, fc7 reads maps": {"exchange": "none", "without": "fc6"},
    "without conv4": {"without": "conv4"},
    "without conv5": {"without": "conv5"},
    "one tower": {"one_tower": True},
    "norms per tower": {"preset": "paper", "towers_norm": True},
}


# The networks in PyTorch: NCHW maps, parameters in our order of axes


@dataclass(frozen=True)
class Peer:
    """PyTorch in a precision, with every neuron and pool deciding on slightly different inputs.

    nudge: the difference, relative to their root mean square. ReLUs and pools still pass on the
    values themselves; only close decisions change.
    """

    torch: Any
    precision: str = "float64"
    nudge: float = 0.0

    def gradients(
        self, spec: NetSpec, params: dict[str, Any], x: Any, labels: Any
    ) -> tuple[float, dict[str, Any]]:
        """Loss and its gradients with respect to all parameters."""
        torch, kind = self.torch, getattr(self.torch, self.precision)
        leaves = {name: torch.tensor(param, dtype=kind) for name, param in params.items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        y = torch.tensor(x.transpose(0, 3, 1, 2), dtype=kind)
        for layer in spec.layers:
            y = self.forward(layer, y, leaves)
        loss = torch.nn.functional.cross_entropy(y, torch.tensor(labels))
        loss.backward()
        return loss.item(), {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    def forward(self, layer: Layer, x: Any, params: dict[str, Any]) -> Any:
        """Output of a layer."""
        torch, functional = self.torch, self.torch.nn.functional
        match layer:
            case Conv():
                w, b = params[layer.w].permute(0, 3, 1, 2), params[layer.b]
                g = ConvGeometry.of(layer.name, layer.stride, layer.pad, layer.groups)
                x = functional.pad(x, (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom))
                stride = (g.stride_h, g.stride_w)
                y = functional.conv2d(x, w, b, stride=stride, groups=layer.groups)
                return self.activated(y, layer.activation)
            case Linear():
                # Each group sees its own channels, flattened in our order.
                shares = zip(
                    x.chunk(layer.groups, dim=1),
                    params[layer.w].chunk(layer.groups),
                    params[layer.b].chunk(layer.groups),
                    strict=True,
                )
                parts = [functional.linear(flat(part), w, b) for part, w, b in shares]
                return self.activated(torch.cat(parts, dim=1), layer.activation)
            case LRN(_, size, alpha, beta, k, groups):
                parts = [
                    functional.local_response_norm(part, size, alpha * size, beta, k)
                    for part in x.chunk(groups, dim=1)
                ]
                return torch.cat(parts, dim=1)
            case RNorm(_, size, alpha, beta, k):
                mean = functional.avg_pool2d(x * x, size, stride=1, padding=size // 2)
                return x * (k + alpha * size**2 * mean) ** -beta
            case MaxPool(_, size, stride, ceil):
                _, where = functional.max_pool2d(
                    self.nudged(x), size, stride, ceil_mode=ceil, return_indices=True
                )
                return x.flatten(2).gather(2, where.flatten(2)).view_as(where)
            case Relu():
                return self.activated(x, "relu")
            case Tanh():
                return layer.scale_out * torch.tanh(layer.scale_in * x)
            case Scale():
                return layer.factor * x
        raise AssertionError(f"PyTorch has nothing for {layer} here")

    def activated(self, y: Any, activation: str | None) -> Any:
        if activation == "relu":
            return y * (self.nudged(y) > 0)
        return self.torch.tanh(y) if activation == "tanh" else y

    def nudged(self, x: Any) -> Any:
        """x with a small random change."""
        with self.torch.no_grad():
            signs = (
                2.0 * self.torch.tensor(samples.generator(x.numel()).integers(0, 2, x.shape)) - 1
            )
            return x + self.nudge * x.square().mean().sqrt() * signs


def flat(x: Any) -> Any:
    """(N, C, H, W) as rows in the order H, W, C."""
    return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x


# What they are compared on


def lively(spec: NetSpec) -> dict[str, Any]:
    """Parameters with which every layer matters.

    Deviations of sqrt(2 / inputs) preserve the pixels' scale through the layers, where the squares
    in a norm are about as large as its constant; tanh does not saturate, and logits are small.
    """
    params = {}
    for seed, (name, shape) in enumerate(Net(spec, "cpu").params.items()):
        value = normal(*shape.shape, seed=seed)
        if name.endswith(".b"):
            params[name] = value
            continue
        size = math.sqrt(2 / math.prod(value.shape[1:]))
        tanh = any(isinstance(layer, Tanh) or is_tanh(layer) for layer in spec.layers)
        if name == "fc8.w" or (tanh and name == "conv1.w"):
            size /= PIXELS
        params[name] = value * np.float32(size)
    return params


def is_tanh(layer: Layer) -> bool:
    return getattr(layer, "activation", None) == "tanh"


def batch(spec: NetSpec, images: int, seed: int = 0) -> tuple[Any, Any]:
    """Images of the size of pixels minus their mean, and labels."""
    x = PIXELS * normal(images, *spec.input_shape, seed=seed)
    return x, classes(images, spec.classes, seed=seed)


def rounding(be: Any, spec: NetSpec) -> float:
    """Relative error of a gradient, by its norm, in float32.

    It has passed forward once, and back at most once, through every layer. The sums of each add up
    to SUM roundings, or a convolution's tolerance; since layers are independent, squares add up.
    """
    squares = [units(be, *step) ** 2 for step in spec.walk()]
    return UNIT * math.sqrt(2 * sum(squares) + SUM**2)


def units(be: Any, layer: Layer, x: Any, y: Any) -> float:
    """The roundings of a layer's sums, forward or backward; x, y: shapes of an image's maps."""
    if not isinstance(layer, Conv):
        return SUM
    filters = layer.param_shapes(x)[f"{layer.name}.w"]
    return max(convolution_units(be, filters, layer.stride, (1, *tiled)) for tiled in (x, y))


def distance(actual: Any, exact: Any) -> float:
    """Norm of the difference divided by the norm of the exact one."""
    error = np.linalg.norm(np.asarray(actual, np.float64) - exact)
    return float(error / np.linalg.norm(exact))


def assert_parity(torch: Any, be: Any, spec: NetSpec, images: int) -> None:
    """Check loss and gradients in float32, ours and PyTorch's, against PyTorch's in float64.

    If a ReLU or a pool decides between values that are equal within rounding, a gradient may jump;
    nudging them both ways shows how far. In most networks here no decision is that close.
    """
    params, (x, labels) = lively(spec), batch(spec, images)
    limit = rounding(be, spec)
    exact_loss, exact = Peer(torch).gradients(spec, params, x, labels)
    peer_loss, peer = Peer(torch, "float32").gradients(spec, params, x, labels)
    (_, high), (_, low) = (
        Peer(torch, nudge=nudge).gradients(spec, params, x, labels) for nudge in (limit, -limit)
    )
    net = Net(spec, be)
    net.load(params)
    loss, ours = net.loss_and_grads(x, labels)
    assert list(ours) == list(exact)
    for value in (float(be.to_numpy(loss)), peer_loss):
        assert abs(value - exact_loss) <= limit * exact_loss
    for name, gradient in exact.items():
        assert np.linalg.norm(gradient) > 0, f"{name}: nothing to see"
        jumps = (distance(high[name], gradient) ** 2 + distance(low[name], gradient) ** 2) ** 0.5
        own = be.to_numpy(ours[name])
        assert own.dtype == np.float32 and own.shape == gradient.shape
        assert jumps < 0.02, f"{name}: hardly anything could be told apart"
        for who, value in (("ours", own), ("PyTorch's", peer[name])):
            assert distance(value, gradient) <= limit + jumps, f"{name}: {who}"


@pytest.mark.parametrize("be", parameters(CPU), indirect=True)
def test_a_quarter_of_the_width_by_winograd(be: Any, torch: Any) -> None:
    """Of caffe: within the bound, more gradients of the other presets could jump than shows faults.

    That bound is for the worst case; measured errors are far smaller, and each pass of each layer
    is held to its own in test_torch_parity.py.
    """
    assert_parity(torch, be, alexnet(10, "caffe", width=0.25, dropout=0), images=4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("be", parameters(CPU_EXACT, CUDA), indirect=True)
def test_a_quarter_of_the_width(be: Any, torch: Any, preset: str) -> None:
    assert_parity(torch, be, alexnet(10, preset, width=0.25, dropout=0), images=4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("be", parameters(CPU_EXACT, CUDA), indirect=True)
def test_full_width(be: Any, torch: Any, preset: str) -> None:
    assert_parity(torch, be, alexnet(10, preset, dropout=0), images=2)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_small(be: Any, torch: Any, preset: str) -> None:
    spec = alexnet(5, preset, width=1 / 16, dropout=0, input_shape=(67, 67, 3))
    assert_parity(torch, be, spec, images=3)


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_knobs(be: Any, torch: Any, knobs: dict[str, Any]) -> None:
    spec = alexnet(5, width=1 / 16, dropout=0, input_shape=(67, 67, 3), **knobs)
    assert_parity(torch, be, spec, images=3)


# LRN as Caffe has it


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
@pytest.mark.parametrize("name", ["norm1", "norm2"])
def test_lrn_of_caffe_is_torchs_module(be: Any, torch: Any, name: str) -> None:
    """Both divide alpha by the window's size; k is 1."""
    spec = alexnet(5, "caffe", width=1 / 8, input_shape=(67, 67, 3))
    norm, shape = next((layer, x) for layer, x, _ in spec.walk() if layer.name == name)
    assert isinstance(norm, LRN)
    # Squares of this size matter as much as k.
    x, dy = 100 * normal(2, *shape, seed=1), normal(2, *shape, seed=2)
    module = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    x_peer = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
    y_peer = module(x_peer)
    y_peer.backward(torch.tensor(dy.transpose(0, 3, 1, 2), dtype=torch.float64))

    y, dx, _ = alone(be, norm, x, dy)
    settings: dict[str, Any] = {"size": 5, "alpha": 2e-5, "beta": 0.75, "k": 1.0}
    units = norm_units(0.75)
    for ours, peer, exact in (
        (y, y_peer, oracle.lrn_fprop(x, **settings)),
        (dx, x_peer.grad, oracle.lrn_dgrad(x, dy, **settings)),
    ):
        value = peer.detach().numpy().transpose(0, 2, 3, 1)
        assert_close(ours, Exact(value, exact.magnitude), units)


# Learning

STEPS, DROP = 10, 5
LEARNT = Recipe(
    epochs=STEPS,
    batch_size=3,
    momentum=0.9,
    rate=Rate(0.01, 0.02, 0.05),
    rates={"conv1": Rate(1e-5, 0.02, 5.0)},
    schedule=Steps(((DROP, 0.1),)),
)


def learnt(torch: Any, spec: NetSpec, torchs_rule: bool) -> dict[str, Any]:
    """Parameters after some steps in float64, by the rule of the paper's section 5 or by PyTorch's.

    The two differ where the rate drops: PyTorch's buffer holds gradients, the paper's steps.
    """
    w = {name: value.astype(np.float64) for name, value in lively(spec).items()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    for step in range(STEPS):
        _, grads = Peer(torch).gradients(spec, w, *batch(spec, 3, seed=step))
        for name in w:
            of_conv1, is_bias = name.startswith("conv1"), name.endswith(".b")
            lr = 0.02 if is_bias else 1e-5 if of_conv1 else 0.01
            decay = 0.0 if is_bias else 5.0 if of_conv1 else 0.05
            lr *= 1 if step < DROP else 0.1
            if torchs_rule:
                v[name] = 0.9 * v[name] + grads[name] + decay * w[name]
                w[name] = w[name] - lr * v[name]
            else:
                v[name] = 0.9 * v[name] - decay * lr * w[name] - lr * grads[name]
                w[name] = w[name] + v[name]
    return w


@pytest.mark.parametrize("be", ONE_ORDER, indirect=True)
def test_ten_steps_across_a_drop(be: Any, torch: Any) -> None:
    """With a network that is smooth except for its pools, so that rounding stays small."""
    small = alexnet(5, width=1 / 16, dropout=0, input_shape=(67, 67, 3), activation="tanh")
    spec = dataclasses.replace(small, recipe=LEARNT)
    net = Net(spec, be)
    net.load(lively(spec))
    sgd = SGD(net)
    for step in range(STEPS):
        sgd.step(*batch(spec, 3, seed=step), step=step, epoch=step)

    start, exact = lively(spec), learnt(torch, spec, torchs_rule=False)
    other = learnt(torch, spec, torchs_rule=True)
    for name, value in exact.items():
        moved = np.linalg.norm(value - start[name])
        # Each step adds the error of its gradient, and rounds the parameters themselves.
        limit = STEPS * (rounding(be, spec) * moved + UNIT * np.linalg.norm(value))
        error = np.linalg.norm(be.to_numpy(net.params[name]) - value)
        assert moved > 0 and error <= limit, f"{name}: {error} of {limit}"
        assert np.linalg.norm(other[name] - value) > 10 * limit, f"{name}: no drop to see"
