"""ONNX models of every network and every layer, run by onnxruntime and compared with our own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pyalexnet import nets
from pyalexnet.commands import export as command
from pyalexnet.errors import ArgumentError, PyalexnetError
from pyalexnet.nets.layers import (
    LRN,
    AvgPool,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    Relu,
    RNorm,
    Scale,
    Tanh,
)
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.records import PoolGeometry
from pyalexnet.step.rounding import rounding
from pyalexnet.trained import export_onnx
from pyalexnet.trained.export_onnx import Agreement, compare, serialised
from pyalexnet.trained.load import Trained
from trained_nets import named, trained

narrow = partial(named, "alexnet", classes=7, width=0.125)
NETS: dict[str, Callable[[], Trained]] = {
    **{name: partial(narrow, preset=name) for name in ("source", "paper", "caffe", "owt")},
    "tanh, 2/2": partial(narrow, activation="tanh", pooling="2/2"),
    "no exchange": partial(narrow, exchange=()),
    "one tower": partial(narrow, one_tower=True),
    **{name: partial(named, name) for name in nets.names() if name != "alexnet"},
}


def odd() -> Trained:
    """Every kind of layer, in shapes that exporters get wrong."""
    assert PoolGeometry.of("pool1", 2, 3, True).out_size("pool1", 12, 13) == (4, 5)
    assert PoolGeometry.of("pool2", 1, 2, True).out_size("pool2", 4, 5) == (2, 3)  # one is dropped
    layers = (
        Scale("shrink", 0.5),
        Conv("conv1", 12, 4, stride=(2, 1), pad=(1, 0, 2, 3), activation="relu"),
        LRN("even", 4, alpha=0.01, beta=0.75, k=2, groups=2),
        LRN("odd", 3, alpha=0.01, beta=0.5, k=1, groups=3),
        LRN("wide", 5, alpha=0.01, beta=1, k=1),
        RNorm("rnorm3", 3, alpha=0.02, beta=0.75, k=1),
        RNorm("rnorm2", 2, alpha=0.02, beta=0.75, k=1),
        MaxPool("pool1", 2, 3),
        Conv("conv2", 8, 3, pad=1, groups=4, activation="tanh"),
        Tanh("tanh2", scale_out=1.7, scale_in=0.6),
        AvgPool("pool2", 1, 2),
        AvgPool("pool3", 2, 2),
        Relu("relu3"),
        Dropout("drop3", keep=0.4),
        Linear("fc3", 6, activation="relu", groups=2),
        Dropout("drop4", keep=0.4, inverted=True),
        Linear("fc4", 9, activation="tanh", groups=3),
        Linear("fc5", 5),
    )
    recipe = Recipe(epochs=1, batch_size=1, momentum=0.9, rate=Rate(0.1, 0.1, 0))
    return trained(NetSpec("odd", (24, 11, 3), 5, layers, recipe))


def checked(net: Trained, content: bytes, **choices: Any) -> Agreement:
    """A comparison that found only rounding, with a tolerance tight enough to find more."""
    choices = {"batch": None, "preprocessing": False, **choices}
    agreement = compare(net, content, **choices)
    assert agreement.difference <= agreement.tolerance
    assert agreement.tolerance < 1e-3 * agreement.largest
    return agreement


@pytest.mark.peer
@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_agrees(name: str) -> None:
    net = NETS[name]()
    checked(net, serialised(net, batch=None, opset=17, preprocessing=False))


@pytest.mark.peer
@pytest.mark.parametrize("opset", [13, 17, 18, 19, 21, 22])
def test_every_layer_in_operators_of_every_age(opset: int) -> None:
    net = odd()
    content = serialised(net, batch=None, opset=opset, preprocessing=True)
    checked(net, content, preprocessing=True)
    assert loaded(content).opset_import[0].version == opset


@pytest.mark.peer
def test_a_model_for_one_size_of_batch() -> None:
    net = NETS["alexnet-tiny"]()
    content = serialised(net, batch=3, opset=17, preprocessing=False)
    assert checked(net, content, batch=3).images == 3
    assert [one.dim_value for one in loaded(content).graph.input[0].type.tensor_type.shape.dim] == [
        3, 3, 32, 32,
    ]  # fmt: skip
    with pytest.raises(PyalexnetError, match="cannot run the model"):
        compare(net, content, batch=2, preprocessing=False)


@pytest.mark.peer
def test_others_find_what_they_expect() -> None:
    """Names and shapes, KCRS filters, columns of the first linear layer in the order C, H, W."""
    net = odd()
    model = loaded(serialised(net, batch=None, opset=17, preprocessing=True))
    values = {one.name: arrays(one) for one in model.graph.initializer}
    params = net.net.params
    np.testing.assert_array_equal(values["conv1.w"], params["conv1.w"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(values["mean"], net.mean.transpose(2, 0, 1))
    told = {one.key: one.value for one in model.metadata_props}
    assert json.loads(told["class_names"]) == [f"class {number}" for number in range(5)]
    assert json.loads(told["class_ids"]) == [f"class {number}" for number in range(5)]
    assert told["net"] == "odd" and told["step"] == "7" and told["preset"] == ""
    assert model.producer_name == "pyalexnet"
    assert [one.name for one in (*model.graph.input, *model.graph.output)] == ["images", "logits"]

    alexnet = loaded(serialised(narrow(), batch=None, opset=17, preprocessing=False))
    assert {one.key: one.value for one in alexnet.metadata_props}["preset"] == "source"

    tiny = NETS["alexnet-tiny"]()
    graph = loaded(serialised(tiny, batch=None, opset=17, preprocessing=False)).graph
    fc5 = next(arrays(one) for one in graph.initializer if one.name == "fc5.w")
    ours = tiny.net.params["fc5.w"].reshape(128, 4, 4, 64)  # H, W, C
    np.testing.assert_array_equal(fc5.reshape(128, 64, 4, 4), ours.transpose(0, 3, 1, 2))


def loaded(content: bytes) -> Any:
    import onnx

    return onnx.load_from_string(content)


def arrays(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


# ---------------------------------------------------------------------- mistakes are found


def set_attribute(kind: str, name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def slip(graph: Any) -> None:
        nodes = [node for node in graph.node if node.op_type == kind]
        for attribute in (one for node in nodes for one in node.attribute if one.name == name):
            if name == "pads":
                attribute.ints[:] = change(list(attribute.ints))
            elif name == "count_include_pad":
                attribute.i = change(attribute.i)
            else:
                attribute.f = change(attribute.f)

    return slip


def set_constant(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def slip(graph: Any) -> None:
        from onnx import numpy_helper

        tensor = next(one for one in graph.initializer if one.name == name)
        changed = np.ascontiguousarray(change(arrays(tensor)), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(changed, name))

    return slip


SLIPS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "alpha not times the size": ("source", set_attribute("LRN", "alpha", lambda a: a / 5)),
    "k of 1": ("paper", set_attribute("LRN", "bias", lambda _: 1.0)),
    "beta": ("caffe", set_attribute("LRN", "beta", lambda b: b - 0.01)),
    "same-map alpha": ("source", set_constant("rnorm2.alpha", lambda a: a / 25)),
    "padding counts": (
        "cifar-18pct",
        set_attribute("AveragePool", "count_include_pad", lambda _: 1),
    ),
    "padding on both sides": (
        "source",
        set_attribute("Conv", "pads", lambda p: [1, 1, 2, 2] if p == [0, 0, 3, 3] else p),
    ),
    "no keep": ("source", set_constant("drop7.factor", np.ones_like)),
    "BGR": ("caffe", set_constant("conv1.w", lambda w: w[:, ::-1])),
    "columns H, W, C": (
        "owt",
        set_constant(
            "fc6.w", lambda w: w.reshape(-1, 32, 6, 6).transpose(0, 2, 3, 1).reshape(w.shape)
        ),
    ),
    "a bias lost": ("owt", set_constant("fc8.b", np.zeros_like)),
    "one weight lost": (
        "alexnet-tiny",
        set_constant("conv3.w", lambda w: np.where(np.arange(w.size).reshape(w.shape), w, 0)),
    ),
}


@pytest.mark.peer
@pytest.mark.parametrize("name", SLIPS)
def test_the_comparison_finds_a_slip(name: str) -> None:
    of, slip = SLIPS[name]
    net = NETS[of]()
    model = loaded(serialised(net, batch=None, opset=17, preprocessing=False))
    before = model.SerializeToString()
    slip(model.graph)
    assert model.SerializeToString() != before
    agreement = compare(net, model.SerializeToString(), batch=None, preprocessing=False)
    assert agreement.difference > 2 * agreement.tolerance


def test_roundings_are_bounded_by_what_float32_does() -> None:
    """The tolerance is above the error of float32, as two orders of NumPy's sums show."""
    net = odd().net
    images = export_onnx.pixels(6, net.spec.input_shape, seed=1).astype(np.float32) - 128
    tolerance = rounding(net, images)
    largest = float(np.max(np.abs(net.forward(images))))
    single = np.concatenate([net.forward(image[None]) for image in images])
    assert np.max(np.abs(single - net.forward(images))) <= tolerance
    assert 0 < tolerance < 1e-3 * largest
    assert rounding(net, images, seed=1) != tolerance
    assert rounding(net, images) == tolerance


# ---------------------------------------------------------------------- files


@pytest.mark.peer
def test_a_file_is_written_once_onnxruntime_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, file = odd(), tmp_path / "model.onnx"
    agreement = export_onnx.export(net, file)
    assert agreement.images == export_onnx.CHECKED_IMAGES
    good = file.read_bytes()
    monkeypatch.setattr(export_onnx, "rounding", lambda *_: 0.0)
    with pytest.raises(PyalexnetError, match=r"differ from ours by .* no file was written"):
        export_onnx.export(net, file)
    assert file.read_bytes() == good and list(tmp_path.iterdir()) == [file]


@pytest.mark.peer
@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"opset": 12}, "opset is 12; 13 to"),
        ({"opset": 999}, "opset is 999"),
        ({"batch": 0}, "batch is 0; at least 1"),
    ],
)
def test_refusals(tmp_path: Path, choice: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        export_onnx.export(odd(), tmp_path / "model.onnx", **choice)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PyalexnetError, match=r"pip install 'pyalexnet\[onnx\]'"):
        export_onnx.export(odd(), tmp_path / "model.onnx")


# ---------------------------------------------------------------------- the command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The command on the network `odd`, for any run named."""
    app = typer.Typer()
    app.command()(command.export)
    monkeypatch.setattr(Trained, "load", lambda *_, **__: odd())
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.peer
def test_the_command_says_the_largest_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    result = run(monkeypatch, "latest", str(file), "--batch", "2", "--include-preprocessing")
    assert result.exit_code == 0, result.output
    assert "logits on 2 random images differ from ours by at most" in result.output
    assert loaded(file.read_bytes()).graph.node[0].op_type == "Sub"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("latest", "w.pth"), "w.pth: the ending .pth is not known; .onnx or .safetensors was"),
        (("latest", "model"), "model: has no ending; .onnx or .safetensors was expected"),
        (("latest", "model.onnx", "--format", "h5"), "--format is 'h5' for model.onnx"),
        (("latest", "model.onnx", "--batch", "many"), "--batch is 'many'"),
        (("latest", "model.safetensors"), "no network of preset owt"),
    ],
)
def test_the_command_refuses(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    result = run(monkeypatch, *arguments)
    assert isinstance(result.exception, ArgumentError) and sentence in str(result.exception)
