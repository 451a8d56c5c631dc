"""What can be changed in AlexNet besides its preset: shapes, hand-computed counts, refusals."""

from __future__ import annotations

import inspect
import math
import tomllib
from typing import Any

import numpy as np
import pytest

from pyalexnet.errors import ArgumentError
from pyalexnet.nets import alexnet
from pyalexnet.nets.layers import LRN, Conv, Dropout, Linear, Relu, RNorm, Tanh
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from samples import normal
from variants import CPU, parameters

PRESETS = ("source", "paper", "caffe", "owt")
WEIGHTED = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

# Weights and biases of the whole network by layer, K R S C / groups + K.
PARAMETERS = {
    "conv1": 96 * 11 * 11 * 3 + 96,
    "conv2": 256 * 5 * 5 * 48 + 256,
    "conv3": 384 * 3 * 3 * 256 + 384,
    "conv4": 384 * 3 * 3 * 192 + 384,
    "conv5": 256 * 3 * 3 * 192 + 256,
    "fc6": 4096 * 6 * 6 * 256 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 1000 * 4096 + 1000,
}


def named(spec: NetSpec) -> dict[str, Any]:
    """Layers by name."""
    return {layer.name: layer for layer in spec.layers}


def sizes(spec: NetSpec) -> dict[str, int]:
    """Height of the maps after each convolution and pool."""
    return {row.name: row.out_shape[0] for row in spec.shapes() if row.kind in ("Conv", "MaxPool")}


def groups(spec: NetSpec) -> dict[str, int]:
    """The number of parts that do not see each other, for layers with more than one."""
    layers = ((layer.name, getattr(layer, "groups", 1)) for layer in spec.layers)
    return {name: count for name, count in layers if count > 1}


def parameters_of(spec: NetSpec) -> dict[str, int]:
    """Weights and biases by layer."""
    return {row.name: row.parameters for row in spec.shapes() if row.parameters}


def test_parameters_by_hand() -> None:
    assert parameters_of(alexnet()) == PARAMETERS
    assert sum(PARAMETERS.values()) == 60_965_224


# Neurons


@pytest.mark.parametrize("preset", PRESETS)
def test_tanh_takes_the_place_of_every_relu(preset: str) -> None:
    relu, tanh = alexnet(preset=preset), alexnet(preset=preset, activation="tanh")
    changes = 0
    for before, after in zip(relu.layers, tanh.layers, strict=True):
        if isinstance(before, Conv | Linear):
            assert isinstance(after, Conv | Linear)
            expected = "tanh" if before.activation == "relu" else None
            assert (after.name, after.activation) == (before.name, expected)
            changes += expected == "tanh"
        elif isinstance(before, Relu):
            assert after == Tanh(before.name.replace("relu", "tanh"))
            changes += 1
        else:
            assert after == before
    assert changes == 7
    assert tanh.num_parameters == relu.num_parameters


# Norms


@pytest.mark.parametrize(
    ("preset", "lrn", "norms"),
    [
        ("source", None, ["norm1", "norm2", "rnorm2"]),
        ("source", True, ["norm1", "norm2", "rnorm2"]),
        ("source", ["norm1", "norm2"], ["norm1", "norm2", "rnorm2"]),
        ("source", False, []),
        ("source", [], []),
        ("source", ["norm1"], ["norm1"]),
        ("source", "norm2", ["norm2", "rnorm2"]),
        ("source", ["rnorm2", "norm1"], ["norm1", "rnorm2"]),
        ("paper", None, ["norm1", "norm2"]),
        ("paper", ["norm2"], ["norm2"]),
        ("paper", ["norm2", "rnorm2"], ["norm2", "rnorm2"]),
        ("caffe", False, []),
        ("owt", None, []),
        ("owt", True, ["norm1", "norm2"]),
    ],
)
def test_norms(preset: str, lrn: Any, norms: list[str]) -> None:
    spec = alexnet(preset=preset, lrn=lrn)
    found = [layer for layer in spec.layers if isinstance(layer, LRN | RNorm)]
    assert [norm.name for norm in found] == norms
    whole = [layer for layer in spec.layers if layer not in found]
    assert whole == list(alexnet(preset=preset, lrn=False).layers)
    order = [layer.name for layer in spec.layers]
    for norm, before in (("norm1", "conv1"), ("norm2", "conv2"), ("rnorm2", "conv2")):
        if norm in norms:
            between = order[order.index(before) + 1 : order.index(norm)]
            assert between in ([], ["norm2"])


def test_norms_that_end_at_a_tower() -> None:
    for preset, per_tower in {"source": 2, "paper": 1, "caffe": 1}.items():
        spec, in_towers = alexnet(preset=preset), alexnet(preset=preset, towers_norm=True)
        for name in ("norm1", "norm2"):
            assert named(spec)[name].groups == per_tower
            assert named(in_towers)[name].groups == 2
        others = [layer for layer in in_towers.layers if not isinstance(layer, LRN)]
        assert others == [layer for layer in spec.layers if not isinstance(layer, LRN)]
    assert named(alexnet(one_tower=True, towers_norm=True))["norm1"].groups == 1


# Pools


@pytest.mark.parametrize("preset", PRESETS)
def test_pools_that_do_not_overlap(preset: str) -> None:
    """#147: conv2 padded by 1, conv5 by 0; the inputs of conv3 and fc6 keep their sizes."""
    spec = alexnet(preset=preset, pooling="2/2")
    assert sizes(spec) == {
        "conv1": 55,
        "pool1": 28,
        "conv2": 26,
        "pool2": 13,
        "conv3": 13,
        "conv4": 13,
        "conv5": 11,
        "pool5": 6,
    }
    assert (named(spec)["conv2"].pad, named(spec)["conv5"].pad) == (1, 0)
    assert parameters_of(spec) == parameters_of(alexnet(preset=preset))
    assert alexnet(preset=preset, pooling="3/2") == alexnet(preset=preset)


def test_multiplications_with_pools_that_do_not_overlap() -> None:
    before = {row.name: row.macs for row in alexnet().shapes()}
    after = {row.name: row.macs for row in alexnet(pooling="2/2").shapes()}
    before["conv2"] = 26 * 26 * 256 * 5 * 5 * 48
    before["conv5"] = 11 * 11 * 256 * 3 * 3 * 192
    assert after == before


# Dropout


def test_dropout_of_the_preset() -> None:
    for preset in PRESETS:
        assert alexnet(preset=preset, dropout=None) == alexnet(preset=preset, dropout=0.5)
        assert named(alexnet(preset=preset))["drop7"].keep == 0.5


# Layers left out


@pytest.mark.parametrize(
    ("without", "changed"),
    [
        (["conv3"], {"conv4": 384 * 3 * 3 * 128 + 384}),
        (["conv4"], {}),
        (["conv5"], {"fc6": 4096 * 6 * 6 * 384 + 4096}),
        (["fc6"], {"fc7": 4096 * 6 * 6 * 256 + 4096}),
        (["fc7"], {}),
        (["fc6", "fc7"], {"fc8": 1000 * 6 * 6 * 256 + 1000}),
        (["conv3", "conv4"], {"conv5": 256 * 3 * 3 * 128 + 256}),
    ],
    ids=str,
)
def test_without_a_middle_layer(without: list[str], changed: dict[str, int]) -> None:
    spec = alexnet(without=without)
    expected = {name: n for name, n in PARAMETERS.items() if name not in without} | changed
    assert parameters_of(spec) == expected


def test_what_goes_with_a_layer() -> None:
    """The neuron that comes later, and dropout; nothing else."""
    order = [layer.name for layer in alexnet().layers]
    gone = {
        "conv3": {"conv3"},
        "conv4": {"conv4"},
        "conv5": {"conv5", "relu5"},
        "fc6": {"fc6", "drop6"},
        "fc7": {"fc7", "drop7"},
        "rnorm2": {"rnorm2"},
    }
    for name, missing in gone.items():
        left = [layer.name for layer in alexnet(without=[name]).layers]
        assert left == [one for one in order if one not in missing]
    tanh = alexnet(without="conv5", activation="tanh")
    assert "tanh5" not in named(tanh)
    owt = alexnet(preset="owt", without="fc6")
    assert [layer.name for layer in owt.layers][-4:] == ["pool5", "drop7", "fc7", "fc8"]


# Exchange


def test_exchange_of_the_presets() -> None:
    for preset in ("source", "paper", "caffe"):
        assert {"conv2", "conv4", "conv5"} == {
            name for name in groups(alexnet(preset=preset)) if not name.startswith("norm")
        }
    usual = ("conv3", "fc6", "fc7", "fc8")
    assert alexnet(exchange=usual) == alexnet()


def test_exchange_at_another_layer() -> None:
    """#132 and #133: at conv4 instead of conv3."""
    spec = alexnet(exchange=["conv4", "fc6", "fc7"])
    assert set(groups(spec)) - {"norm1", "norm2"} == {"conv2", "conv3", "conv5"}
    changed = {"conv3": 384 * 3 * 3 * 128 + 384, "conv4": 384 * 3 * 3 * 384 + 384}
    assert parameters_of(spec) == PARAMETERS | changed


@pytest.mark.parametrize("exchange", [(), ("none",), "none", ["fc8"]], ids=str)
def test_no_exchange(exchange: Any) -> None:
    """#150: 160 maps a tower in conv2 and 4,096 units in fc6; only fc8 reads both."""
    spec = alexnet(exchange=exchange)
    assert spec.num_parameters == 60_714_408
    assert set(groups(spec)) - {"norm1", "norm2"} == {*WEIGHTED} - {"conv1", "fc8"}
    layers = named(spec)
    assert (layers["conv2"].filters, layers["fc6"].outputs, layers["fc7"].outputs) == (
        320,
        8192,
        4096,
    )


@pytest.mark.parametrize(("exchange", "meet"), [("none", False), (["fc7"], True)])
def test_where_towers_meet(exchange: Any, meet: bool) -> None:
    """The second tower's filters do not affect the first half of fc7's units."""
    spec = alexnet(4, width=1 / 64, input_shape=(67, 67, 3), exchange=exchange, dropout=0)
    net = Net(spec, "cpu")
    net.params["fc8.w"][:, named(spec)["fc7"].outputs // 2 :] = 0
    x, outputs = 50 * normal(2, *spec.input_shape), []
    for _ in range(2):
        outputs.append(np.array(net.forward(x)))
        for name in WEIGHTED[1:-1]:
            weights = net.params[f"{name}.w"]
            weights[len(weights) // 2 :] += 0.1
    assert np.array_equal(outputs[0], outputs[1]) == (not meet)


# All of it


def test_what_does_not_change_the_recipe() -> None:
    recipe = alexnet().recipe
    for changed in (
        alexnet(activation="tanh"),
        alexnet(lrn=False),
        alexnet(pooling="2/2"),
        alexnet(without="conv4"),
        alexnet(exchange="none"),
        alexnet(dropout=0),
        alexnet(one_tower=True),
    ):
        assert changed.recipe == recipe


KNOBS: dict[str, dict[str, Any]] = {
    "tanh": {"activation": "tanh"},
    "no norms": {"lrn": False},
    "same-map norm alone": {"lrn": ["rnorm2"]},
    "2/2": {"pooling": "2/2"},
    "without conv4": {"without": ["conv4"]},
    "without conv5 and fc6": {"without": ["conv5", "fc6"]},
    "exchange at conv4": {"exchange": ["conv4", "fc7"]},
    "no exchange": {"exchange": []},
    "no exchange, fc7 reads maps": {"exchange": [], "without": ["fc6"]},
    "one tower": {"one_tower": True},
    "norms per tower": {"preset": "paper", "towers_norm": True},
}


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=list(KNOBS))
@pytest.mark.parametrize("be", parameters(CPU), indirect=True)
def test_each_of_them_runs(be: Any, knobs: dict[str, Any]) -> None:
    """Every parameter gets a gradient, with dropout on."""
    spec = alexnet(3, width=1 / 32, input_shape=(67, 67, 3), **knobs)
    loss, grads = Net(spec, be).loss_and_grads(50 * normal(2, 67, 67, 3), [2, 0], train=True)
    assert np.isfinite(loss)
    assert list(grads) == [f"{name}.{kind}" for name in parameters_of(spec) for kind in "wb"]
    assert all(np.isfinite(grad).all() and np.any(grad) for grad in grads.values())


def test_arguments_go_through_toml() -> None:
    """config.toml keeps texts, numbers and lists, and leaves out None."""
    text = """
        preset = "paper"
        width = 0.25
        one_tower = false
        activation = "tanh"
        lrn = ["norm1"]
        pooling = "2/2"
        without = ["conv4"]
        exchange = ["conv3", "fc8"]
        towers_norm = true
        dropout = 0.25
    """
    arguments = tomllib.loads(text)
    known = inspect.signature(alexnet).parameters
    assert {*arguments} == {*known} - {"classes", "input_shape"}
    spec = alexnet(**arguments)
    assert [layer.name for layer in spec.layers if isinstance(layer, LRN | RNorm)] == ["norm1"]
    assert math.isclose(named(spec)["drop6"].keep, 0.75)
    assert any(isinstance(layer, Dropout) for layer in spec.layers)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"activation": "elu"}, "activation is 'elu'; relu or tanh was expected"),
        ({"lrn": ["norm3"]}, "lrn names 'norm3'; some of norm1, norm2, rnorm2 were expected"),
        ({"pooling": "3/3"}, "pooling is '3/3'; 3/2 or 2/2 was expected"),
        ({"without": "conv1"}, "without names 'conv1'; some of conv3, conv4, conv5, fc6, fc7, "),
        ({"without": ["conv3", "fc8"]}, "without names 'fc8'"),
        ({"exchange": ["conv1"]}, "exchange names 'conv1'; some of conv2, conv3, conv4, conv5, "),
        ({"exchange": ["none", "fc6"]}, "exchange is none, fc6; none or names of layers"),
        ({"exchange": ["conv3"], "without": ["conv3"]}, "exchange names conv3, which is left out"),
        ({"exchange": ["conv3"], "preset": "owt"}, "exchange is ['conv3']; with a single tower"),
        ({"exchange": "none", "one_tower": True}, "exchange is 'none'; with a single tower"),
        ({"dropout": -0.1}, "dropout is -0.1; 0 to 1 was expected"),
    ],
    ids=str,
)
def test_refusals(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(ArgumentError) as error:
        alexnet(**arguments)
    assert str(error.value).startswith(f"alexnet: {part}")


def test_all_dropped_is_refused() -> None:
    with pytest.raises(ArgumentError, match="drop6: keep is 0; a number above 0 was expected"):
        alexnet(dropout=1)


@pytest.mark.parametrize("pooling", ["3/2", "2/2"])
def test_inputs_that_are_too_small_are_refused(pooling: str) -> None:
    with pytest.raises(ArgumentError, match="conv1: the filter is 11 x 11; the padded image is"):
        alexnet(input_shape=(7, 7, 3), pooling=pooling)
