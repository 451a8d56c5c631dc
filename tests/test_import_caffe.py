"""Caffe's networks: imported as their files say and compared with PyTorch, or refused."""

from __future__ import annotations

import copy
import math
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from caffe_files import blob, field, layer, shaped, snapshot, varint
from foreign_files import CLASSES, SMALL, assert_no_run, assert_same_logits, drawn
from pyalexnet import nets
from pyalexnet.cli import app
from pyalexnet.errors import ArgumentError, CheckpointError, PyalexnetError
from pyalexnet.foreign import caffe, caffe_layers, caffe_messages
from pyalexnet.foreign.import_weights import import_run
from pyalexnet.foreign.weights import ForeignNet
from pyalexnet.nets.layers import Conv, Linear
from pyalexnet.trained.load import Trained
from samples import normal

pytestmark = pytest.mark.peer  # all but one of them need protobuf

Layers = list[dict[str, Any]]
Change = Callable[[Layers], None]

MEAN = "data/ilsvrc12/imagenet_mean.binaryproto"


# ---------------------------------------------------------------------- networks


def conv(name: str, bottom: str, count: int, size: int, **options: Any) -> dict[str, Any]:
    told = {"num_output": count, "kernel_size": [size]} | options
    return {
        "name": name, "type": "Convolution", "bottom": [bottom], "top": [name],
        "convolution_param": told,
    }  # fmt: skip


def linear(name: str, bottom: str, count: int) -> dict[str, Any]:
    return {
        "name": name, "type": "InnerProduct", "bottom": [bottom], "top": [name],
        "inner_product_param": {"num_output": count},
    }  # fmt: skip


def inplace(name: str, kind: str, blob: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "bottom": [blob], "top": [blob]} | options


def norm(name: str, bottom: str) -> dict[str, Any]:
    told = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
    return {"name": name, "type": "LRN", "bottom": [bottom], "top": [name], "lrn_param": told}


def pool(name: str, bottom: str) -> dict[str, Any]:
    told = {"pool": 0, "kernel_size": 3, "stride": 2}
    return {
        "name": name, "type": "Pooling", "bottom": [bottom], "top": [name], "pooling_param": told,
    }  # fmt: skip


def bvlc(width: float = SMALL) -> Layers:
    """`models/bvlc_alexnet/train_val.prototxt`, as left by training, without numbers."""
    k1, k2, k3, k4, k5, units = (round(width * k) for k in (96, 256, 384, 384, 256, 4096))
    return [
        {
            "name": "data", "type": "Data", "top": ["data", "label"],
            "transform_param": {"mirror": 1, "crop_size": 227, "mean_file": MEAN},
            "data_param": {"source": "ilsvrc12_train_lmdb", "batch_size": 256},
        },
        conv("conv1", "data", k1, 11, stride=[4]),
        inplace("relu1", "ReLU", "conv1"),
        norm("norm1", "conv1"),
        pool("pool1", "norm1"),
        conv("conv2", "pool1", k2, 5, pad=[2], group=2),
        inplace("relu2", "ReLU", "conv2"),
        norm("norm2", "conv2"),
        pool("pool2", "norm2"),
        conv("conv3", "pool2", k3, 3, pad=[1]),
        inplace("relu3", "ReLU", "conv3"),
        conv("conv4", "conv3", k4, 3, pad=[1], group=2),
        inplace("relu4", "ReLU", "conv4"),
        conv("conv5", "conv4", k5, 3, pad=[1], group=2),
        inplace("relu5", "ReLU", "conv5"),
        pool("pool5", "conv5"),
        linear("fc6", "pool5", units),
        inplace("relu6", "ReLU", "fc6"),
        inplace("drop6", "Dropout", "fc6", dropout_param={"dropout_ratio": 0.5}),
        linear("fc7", "fc6", units),
        inplace("relu7", "ReLU", "fc7"),
        inplace("drop7", "Dropout", "fc7", dropout_param={"dropout_ratio": 0.5}),
        linear("fc8", "fc7", CLASSES),
        {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["fc8", "label"], "top": ["loss"]},
    ]  # fmt: skip


def at(layers: Layers, name: str) -> dict[str, Any]:
    """The layer of that name."""
    return next(one for one in layers if one["name"] == name)


def options(layers: Layers, name: str) -> dict[str, Any]:
    """Its options."""
    return told_of(at(layers, name))


def told_of(one: dict[str, Any]) -> dict[str, Any]:
    """The first options of a layer, or none."""
    own: dict[str, Any] = next((v for key, v in one.items() if key.endswith("_param")), {})
    return own


def sides(told: dict[str, Any], name: str, usual: int) -> tuple[int, int]:
    """An option for both directions."""
    short = name.removesuffix("_size")
    if f"{short}_h" in told:
        return told[f"{short}_h"], told[f"{short}_w"]
    given = told.get(name, [usual])
    both = given if isinstance(given, list) else [given]
    return both[0], both[-1]


def parameters(layers: Layers, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Random blobs by layer and kind, for an input (C, H, W); the first ones shrink pixels."""
    c, *size = shape
    found: dict[str, Any] = {}
    for one in layers:
        told = told_of(one)
        if one["type"] == "Convolution":
            window, stride, pad = (
                sides(told, name, usual)
                for name, usual in (("kernel_size", 0), ("stride", 1), ("pad", 0))
            )
            found[f"{one['name']}.w"] = drawn(
                "x.w", (told["num_output"], c // told.get("group", 1), *window)
            )
            size = [
                (n + 2 * p - r) // s + 1
                for n, p, r, s in zip(size, pad, window, stride, strict=True)
            ]
            c = told["num_output"]
        elif one["type"] == "Pooling":
            round_to = math.floor if told.get("round_mode") else math.ceil
            size = [round_to((n - told["kernel_size"]) / told.get("stride", 1)) + 1 for n in size]
        elif one["type"] == "InnerProduct":
            found[f"{one['name']}.w"] = drawn("x.w", (told["num_output"], c * math.prod(size)))
            c, size = told["num_output"], []
        if f"{one['name']}.w" in found and told.get("bias_term", 1):
            found[f"{one['name']}.b"] = drawn("x.b", (told["num_output"],))
    first = next(iter(found))
    found[first] *= np.float32(0.5)
    return found


def with_blobs(layers: Layers, params: dict[str, Any], *, v1: bool = False) -> Layers:
    """The layers with their numbers, arrays or bytes."""
    new = copy.deepcopy(layers)
    for one in new:
        values = [params[key] for key in (f"{one['name']}.w", f"{one['name']}.b") if key in params]
        if one["type"] == "InnerProduct" and options(new, one["name"]).get("transpose"):
            values[0] = np.ascontiguousarray(values[0].T)
        one["blobs"] = [
            value if isinstance(value, bytes) else blob(value, v1=v1) for value in values
        ]
    return new


def as_caffe(torch: Any, layers: Layers, params: dict[str, Any], pixels: Any) -> Any:
    """What Caffe computes for pixels (N, H, W, C) minus the mean, RGB, by its layers' own rules."""
    f = torch.nn.functional
    x = torch.tensor(pixels[..., ::-1].transpose(0, 3, 1, 2).copy()).double()
    p = {name: torch.tensor(value).double() for name, value in params.items()}
    for one in layers:
        told = told_of(one)
        w, b = p.get(f"{one['name']}.w"), p.get(f"{one['name']}.b")
        match one["type"]:
            case "Data":
                x = x * told.get("scale", 1.0)
            case "Convolution":
                stride, pad = sides(told, "stride", 1), sides(told, "pad", 0)
                x = f.conv2d(x, w, b, stride=stride, padding=pad, groups=told.get("group", 1))
            case "InnerProduct":
                x = f.linear(x.flatten(1), w, b)
            case "ReLU":
                x = f.relu(x)
            case "TanH":
                x = torch.tanh(x)
            case "Power":
                x = x * told["scale"]
            case "LRN" if told.get("norm_region"):
                size = told["local_size"]
                sums = f.avg_pool2d(x**2, size, 1, size // 2)  # padding is included
                x = x * (1 + told["alpha"] * sums) ** -told["beta"]
            case "LRN":
                usual = {"local_size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0} | told
                x = f.local_response_norm(
                    x, usual["local_size"], usual["alpha"], usual["beta"], usual["k"]
                )
            case "Pooling":
                size, stride = told["kernel_size"], told.get("stride", 1)
                choice = {"ceil_mode": not told.get("round_mode")}
                if told["pool"]:
                    x = f.avg_pool2d(x, size, stride, count_include_pad=False, **choice)
                else:
                    x = f.max_pool2d(x, size, stride, **choice)
    return x.numpy()


def imported(
    folder: Path,
    layers: Layers,
    params: dict[str, Any],
    *,
    v1: bool = False,
    inputs: bytes = b"",
    mean: Path | None = None,
) -> ForeignNet:
    """The import of a snapshot, into the folder `run`."""
    file = folder / "a.caffemodel"
    file.write_bytes(snapshot(with_blobs(layers, params, v1=v1), v1=v1, inputs=inputs))
    return import_run(file, folder / "run", mean=mean)


def assert_as_caffe(
    torch: Any, run: Path, layers: Layers, params: dict[str, Any], crop: int
) -> Trained:
    """Check that the run agrees with Caffe's layers on an image's centre, minus the run's mean."""
    mean = Trained.load(str(run), backend="cpu").mean

    def theirs(stored: Any) -> Any:
        corner = (stored.shape[1] - crop) // 2
        seen = (stored - mean.astype(np.float64))[:, corner : corner + crop, corner : corner + crop]
        return as_caffe(torch, layers, params, seen)

    return assert_same_logits(run, theirs)


# ---------------------------------------------------------------------- bvlc_alexnet


@pytest.mark.parametrize(
    ("v1", "width"),
    [(True, SMALL), (False, SMALL), pytest.param(False, 1.0, marks=pytest.mark.slow)],
)
def test_bvlc_alexnet(torch: Any, tmp_path: Path, v1: bool, width: float) -> None:
    layers = bvlc(width)
    params = parameters(layers, (3, 227, 227))
    mean = (110 + 20 * normal(3, 256, 256) + np.arange(3)[:, None, None]).astype(np.float32)
    (image := tmp_path / "m.binaryproto").write_bytes(blob(mean, v1=v1))
    found = imported(tmp_path, layers, params, v1=v1, mean=image)
    run = assert_as_caffe(torch, tmp_path / "run", layers, params, 227)
    np.testing.assert_array_equal(run.mean, mean[::-1].transpose(1, 2, 0))
    if width == 1:
        assert found.spec.name == "alexnet" and found.net_args == {"preset": "caffe"}
        assert found.notes == ()
    else:
        assert "conv1 filters 12, not 96" in found.notes[0]


@pytest.mark.parametrize("v1", [False, True])
def test_its_layers_are_those_of_the_preset(v1: bool) -> None:
    """At full width, without numbers: in order, with every option, biases and everything else."""
    net = caffe_messages.message_classes()["NetParameter"].FromString(snapshot(bvlc(1), v1=v1))
    layers, weighted, _ = caffe_layers.told(net)
    usual = nets.alexnet(classes=CLASSES, preset="caffe").layers
    assert [type(one) for one in layers] == [type(one) for one in usual]
    for ours, expected in zip(layers, usual, strict=True):
        for name, value in vars(expected).items():
            assert getattr(ours, name) == value or name in ("std", "bias"), (name, value)
    assert [(ours.name, theirs.name) for ours, theirs in weighted] == [
        (one.name, one.name) for one in usual if isinstance(one, Conv | Linear)
    ]


def test_the_mean_without_a_file(tmp_path: Path) -> None:
    """The data layer's mean, and the one assumed if it names a file that is not given."""
    layers = bvlc()
    params = parameters(layers, (3, 227, 227))

    def mean(sentence: str, **transform: Any) -> list[float]:
        at(layers, "data")["transform_param"] = {"crop_size": 227} | transform
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        found = imported(folder, layers, params)
        assert not sentence or any(sentence in note for note in found.notes), found.notes
        assert found.mean.shape == (256, 256, 3) and np.all(found.mean == found.mean[0, 0])
        values: list[float] = found.mean[0, 0].tolist()
        return values

    assert mean(f"123, 117, 104; it was trained with {MEAN}", mean_file=MEAN) == [123, 117, 104]
    assert mean("", mean_value=[1.5, 2.5, 3.5]) == [3.5, 2.5, 1.5]
    assert mean("", mean_value=[7.0]) == [7, 7, 7]
    assert mean("subtracts no mean") == [0, 0, 0]
    (image := tmp_path / "m").write_bytes(blob(np.zeros((3, 256, 256), np.float32)))
    at(layers, "data")["transform_param"] = {"mean_value": [7.0]}
    with pytest.raises(ArgumentError, match=r"none was expected, as .* says mean_value 7"):
        imported(tmp_path, layers, params, mean=image)


# ---------------------------------------------------------------------- other networks


def other_norms(layers: Layers) -> None:
    told = {"local_size": 3, "alpha": 5e-5, "beta": 0.5, "k": 2.0}
    for name in ("norm1", "norm2"):
        at(layers, name)["lrn_param"] = told


def usual_norms(layers: Layers) -> None:
    """Caffe's defaults, not stated in the file."""
    at(layers, "norm1")["lrn_param"] = {}
    del at(layers, "norm2")["lrn_param"]


def norms_within_maps(layers: Layers) -> None:
    told = {"local_size": 3, "alpha": 0.01, "beta": 0.5, "norm_region": 1}
    at(layers, "norm2")["lrn_param"] = told


def caffenet(layers: Layers) -> None:
    """`models/bvlc_reference_caffenet`: pools, then normalises."""
    for stage, behind in ((1, "conv2"), (2, "conv3")):
        n, p = at(layers, f"norm{stage}"), at(layers, f"pool{stage}")
        first = layers.index(n)
        layers[first : first + 2] = [p, n]
        p["bottom"], n["bottom"] = [f"conv{stage}"], [f"pool{stage}"]
        at(layers, behind)["bottom"] = [f"norm{stage}"]


def no_groups(layers: Layers) -> None:
    for name in ("conv2", "conv4", "conv5"):
        options(layers, name)["group"] = 1


def other_pools(layers: Layers) -> None:
    for name in ("pool1", "pool2"):
        options(layers, name)["kernel_size"] = 2
    options(layers, "pool1")["round_mode"] = 1
    options(layers, "pool2")["pool"] = 1


def other_crop(layers: Layers) -> None:
    at(layers, "data")["transform_param"] |= {"crop_size": 195}


def other_scale(layers: Layers) -> None:
    at(layers, "data")["transform_param"] |= {"scale": 0.5}


def old_transformation(layers: Layers) -> None:
    """Before 2014 it was part of the data layer's options."""
    at(layers, "data").pop("transform_param")
    options(layers, "data").update({"scale": 0.5, "crop_size": 195, "mean_file": MEAN})


def no_biases(layers: Layers) -> None:
    for name in ("conv1", "fc6"):
        options(layers, name)["bias_term"] = 0


def turned_weights(layers: Layers) -> None:
    options(layers, "fc6")["transpose"] = options(layers, "fc8")["transpose"] = 1


def other_neurons(layers: Layers) -> None:
    at(layers, "relu2")["type"] = at(layers, "relu7")["type"] = "TanH"
    neuron = at(layers, "relu5")
    layers.remove(neuron)
    layers.insert(layers.index(at(layers, "pool5")) + 1, neuron)
    neuron["bottom"] = neuron["top"] = ["pool5"]


def fewer_layers(layers: Layers) -> None:
    for name in ("norm1", "norm2", "conv4", "relu4", "drop6"):
        layers.remove(at(layers, name))
    at(layers, "pool1")["bottom"], at(layers, "pool2")["bottom"] = ["conv1"], ["conv2"]
    at(layers, "conv5")["bottom"] = ["conv3"]


def more_layers(layers: Layers) -> None:
    """Another convolution, a scale, a flattening, a second pool."""
    place = layers.index(at(layers, "fc6"))
    told = {"scale": 0.75}
    layers[place:place] = [
        conv("conv5b", "pool5", 20, 1, stride_h=1, stride_w=2, pad_h=0, pad_w=1),
        {"name": "p", "type": "Power", "bottom": ["conv5b"], "top": ["p"], "power_param": told},
        {"name": "flat", "type": "Flatten", "bottom": ["p"], "top": ["flat"]},
    ]
    at(layers, "fc6")["bottom"] = ["flat"]


def other_names(layers: Layers) -> None:
    """As after fine-tuning; separate blobs instead of in place; accuracy beside the loss."""
    at(layers, "relu6")["top"] = ["six"]
    at(layers, "drop6")["bottom"], at(layers, "drop6")["top"] = ["six"], ["six, dropped"]
    at(layers, "fc7")["bottom"] = ["six, dropped"]
    at(layers, "fc8").update(name="fc8_flickr", top=["logits"])
    at(layers, "loss")["bottom"] = ["logits", "label"]
    accuracy = {"name": "accuracy", "type": "Accuracy", "bottom": ["logits", "label"], "top": ["a"]}
    layers.append(accuracy)


def dropout(layers: Layers) -> None:
    options(layers, "drop6")["dropout_ratio"] = 0.3
    del at(layers, "drop7")["dropout_param"]


OTHERS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "other norms": (
        other_norms,
        ("norm1 alpha 1.66667e-05, not 2e-05", "norm1 size 3, not 5", "norm2 k 2, not 1"),
    ),
    "usual norms": (usual_norms, ("norm1 alpha 0.2, not 2e-05",)),
    "norms within maps": (norms_within_maps, ("rnorm2 more", "no norm2")),
    "CaffeNet": (caffenet, ("the order conv1, pool1, norm1, conv2, pool2, norm2, conv3",)),
    "no groups": (no_groups, ("conv4 groups as usual, not 2",)),
    "other pools": (other_pools, ("pool1 size 2, not 3", "pool2 kind AvgPool, not MaxPool")),
    "another crop": (other_crop, ("input (195, 195, 3), not (227, 227, 3)",)),
    "another scale": (other_scale, ("scale more",)),
    "no biases": (no_biases, ()),
    "turned weights": (turned_weights, ()),
    "other neurons": (other_neurons, ("conv2 activation tanh, not relu", "relu5 more")),
    "fewer layers": (fewer_layers, ("no norm1", "no norm2", "no fc8")),
    "more layers": (more_layers, ("fc9 more",)),
    "other names": (other_names, ()),
    "dropout": (dropout, ("drop6 keep 0.7, not 0.5",)),
}

NOT_IN_V1 = ("other pools", "turned weights", "more layers")


@pytest.mark.every(6)
@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_another_network_is_imported_as_it_is(
    torch: Any, tmp_path: Path, name: str, v1: bool
) -> None:
    if v1 and name in NOT_IN_V1:
        return
    change, differences = OTHERS[name]
    layers = bvlc()
    change(layers)
    crop = at(layers, "data").get("transform_param", {}).get("crop_size", 195)
    params = parameters(layers, (3, crop, crop))
    found = imported(tmp_path, layers, params, v1=v1)
    assert found.spec.name == "imported" and found.net_args["crop"] == crop
    for said in differences:
        assert said in found.notes[0]
    assert_as_caffe(torch, tmp_path / "run", layers, params, crop)


def test_the_transformation_of_before_2014(torch: Any, tmp_path: Path) -> None:
    layers = bvlc()
    old_transformation(layers)
    params = parameters(layers, (3, 195, 195))
    imported(tmp_path, layers, params, v1=True)
    at(layers, "data")["transform_param"] = {"scale": 0.5}  # for the reference
    layers[0].pop("data_param")
    assert_as_caffe(torch, tmp_path / "run", layers, params, 195)


@pytest.mark.parametrize("form", ["input_dim", "input_shape"])
def test_a_net_for_deployment(torch: Any, tmp_path: Path, form: str) -> None:
    layers = bvlc()[1:-1]
    layers.append({"name": "prob", "type": "Softmax", "bottom": ["fc8"], "top": ["prob"]})
    shape = (10, 3, 195, 195)
    dims = b"".join(field(4, one) for one in shape)
    inputs = field(3, "data") + (
        dims if form == "input_dim" else field(8, field(1, b"".join(map(varint, shape))))
    )
    params = parameters(layers, (3, 195, 195))
    found = imported(tmp_path, layers, params, inputs=inputs)
    assert found.spec.input_shape == (195, 195, 3)
    assert_as_caffe(torch, tmp_path / "run", layers, params, 195)


def test_grey_images(torch: Any, tmp_path: Path) -> None:
    """LeNet, as in Caffe's example: pixels are scaled, no mean."""
    layers = [
        {
            "name": "mnist", "type": "Data", "top": ["data", "label"],
            "transform_param": {"scale": 0.00390625},
        },
        conv("c1", "data", 20, 5),
        pool("p1", "c1"),
        conv("c2", "p1", 50, 5),
        pool("p2", "c2"),
        linear("ip1", "p2", 64),
        inplace("r1", "ReLU", "ip1"),
        linear("ip2", "ip1", 10),
        {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip2", "label"], "top": ["loss"]},
    ]  # fmt: skip
    params = parameters(layers, (1, 28, 28))
    inputs = b"".join(field(4, one) for one in (64, 1, 28, 28))
    found = imported(tmp_path, layers, params, inputs=inputs)
    assert found.spec.input_shape == (28, 28, 1) and found.mean.shape == (28, 28, 1)
    assert [one.name for one in found.spec.layers][:4] == ["scale", "conv1", "pool1", "conv2"]
    assert_as_caffe(torch, tmp_path / "run", layers, params, 28)


def test_it_is_used_as_any_other_run(tmp_path: Path) -> None:
    """The command reports what it is; a run starts from it, on other classes, and is evaluated."""
    layers = bvlc(0.0625)
    caffenet(layers)
    params = parameters(layers, (3, 227, 227))
    (tmp_path / "a.caffemodel").write_bytes(snapshot(with_blobs(layers, params)))
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz",
        images=rng.integers(0, 256, (8, 256, 256, 3), np.uint8),
        labels=np.arange(8) % 4,
    )
    runs = str(tmp_path / "runs")

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, (result.output, result.exception)
        return " ".join(result.output.split())

    file, run, data = (str(tmp_path / name) for name in ("a.caffemodel", "run", "d.npz"))
    text = said("import", file, run)
    assert "note: The network is not bvlc_alexnet" in text and ": imported, " in text
    trained = ("--runs", runs, "--data", data, "--backend", "cpu", "-b", "4", "--plain")
    text = said("train", "--init-from", run, *trained, "--steps", "1")
    assert "with the parameters of" in text and "fc8 anew" in text
    assert "layers conv1,pool1,norm1,conv2" in text
    settings = tomllib.loads(next(Path(runs).glob("*imported*/config.toml")).read_text())
    begun = Trained.load("latest", backend="cpu", runs=Path(runs))
    assert settings["net"] == "imported" and len(settings["net_args"]["layers"]) == 15
    assert [one.name for one in begun.net.spec.layers][:3] == ["conv1", "pool1", "norm1"]
    said("train", "--resume", "latest", "--runs", runs, "--steps", "2", "--plain")
    assert "top-1" in said("evaluate", str(begun.run), "--plain")


# ---------------------------------------------------------------------- numbers


def halves(value: Any) -> bytes:
    return shaped(value.shape) + field(10, 2) + field(12, value.astype("<f2").tobytes())


def raw(value: Any) -> bytes:
    return shaped(value.shape) + field(10, 1) + field(12, value.astype("<f4").tobytes())


def doubles(value: Any) -> bytes:
    return shaped(value.shape) + field(8, value.astype("<f8").tobytes())


def one_by_one(value: Any) -> bytes:
    """As written by programs from before packed fields."""
    return shaped(value.shape) + b"".join(field(5, float(one)) for one in value.ravel())


def with_gradients(value: Any) -> bytes:
    return blob(value) + field(6, np.ones(value.size, "<f4").tobytes())


@pytest.mark.parametrize("written", [halves, raw, doubles, one_by_one, with_gradients])
def test_numbers_in_any_field(tmp_path: Path, written: Callable[[Any], bytes]) -> None:
    layers = bvlc(0.0625)
    params = parameters(layers, (3, 227, 227))
    (tmp_path / "plain").mkdir()
    plain = imported(tmp_path / "plain", layers, params)
    changed = ("conv1.w", "conv1.b", "fc8.w", "fc8.b")
    found = imported(tmp_path, layers, params | {name: written(params[name]) for name in changed})
    for name, value in plain.params.items():
        if written is halves and name in changed:
            value = value.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found.params[name], value, strict=True)


# ---------------------------------------------------------------------- refusals


def option(name: str, **values: Any) -> Change:
    return lambda layers: options(layers, name).update(values)


def insert(before: str, **fields: Any) -> Change:
    """Insert a layer that works in place on the input of the layer `before`."""

    def change(layers: Layers) -> None:
        place = layers.index(at(layers, before))
        read = at(layers, before)["bottom"]
        layers.insert(place, {"name": "new", "bottom": read, "top": read} | fields)

    return change


def field_of(of: str, **values: Any) -> Change:
    return lambda layers: at(layers, of).update(values)


REFUSED: dict[str, tuple[Change, str]] = {
    "dilation": (option("conv3", dilation=[2]), r"'conv3' \(Convolution\) has dilation 2; 1"),
    "axis": (option("conv3", axis=2), "'conv3' .* has axis 2; 1 was expected"),
    "kernel": (option("conv3", kernel_size=[3, 5]), "kernel_size 3 x 5; the same in both ways"),
    "three kernels": (option("conv3", kernel_size=[3, 3, 3]), "has 3 numbers in kernel_size"),
    "two spellings": (option("conv3", kernel_h=3, kernel_w=3), "kernel_size and kernel_h"),
    "no such option": (option("conv3", novel=1), "a field 77 in convolution_param"),
    "no such parameter": (field_of("conv3", novel_param=b""), "a field 177 in the layer"),
    "no such transform": (
        lambda layers: at(layers, "data")["transform_param"].update(novel=1),
        r"'data' \(Data\) has a field 77 in transform_param",
    ),
    "groups": (option("conv3", group=5), "48 filters do not divide into 5 groups"),
    "window": (option("norm2", local_size=4), r"'norm2' \(LRN\) has local_size 4; an odd one"),
    "region": (option("norm2", norm_region=2), "has norm_region 2; 1 was expected"),
    "stochastic": (option("pool1", pool=2), r"has pool 2; 0 \(MAX\) or 1 \(AVE\)"),
    "pool's pad": (option("pool1", pad=1), "'pool1' .* has pad 1; 0 was expected"),
    "pool's stride": (option("pool1", stride=4), "has stride 4; at most its kernel_size 3"),
    "global pool": (option("pool1", global_pooling=1), "has global_pooling True; False"),
    "leak": (field_of("relu1", relu_param={"negative_slope": 0.1}), "has negative_slope 0.1; 0.0"),
    "power": (
        insert("conv2", type="Power", power_param={"power": 2.0, "scale": 1.0}),
        r"'new' \(Power\) has power 2.0; 1.0",
    ),
    "shift": (insert("conv2", type="Power", power_param={"shift": 1.0}), "has shift 1.0; 0.0"),
    "flattened": (
        insert("fc6", type="Flatten", flatten_param={"axis": 2}), "has axis 2; 1 was expected"
    ),
    "another type": (
        insert("conv2", type="BatchNorm"),
        r"'new' \(BatchNorm\) has no counterpart here; one of Convolution, .* was expected",
    ),
    "another loss": (field_of("loss", type="SigmoidCrossEntropyLoss"), "has no counterpart here"),
    "blobs": (field_of("norm1", blobs=[blob(np.zeros(1, np.float32))]), "'norm1' .* 1 blobs; none"),
    "blobs of a neuron": (
        field_of("relu1", blobs=[blob(np.zeros(1, np.float32))]), "'relu1' .* 1 blobs; none"
    ),
    "a branch": (
        field_of("conv3", bottom=["pool1"]), "'conv3' .* reads 'pool1'; 'pool2' of the layer be"
    ),
    "a sum": (field_of("conv3", bottom=["pool1", "pool2"]), "reads 2 blobs and writes 1; one of"),
    "a loss in the middle": (
        insert("conv5", type="SoftmaxWithLoss", top=["aux"]),
        r"'conv5' \(Convolution\) comes after the loss; no layer there was expected",
    ),
    "a loss of something else": (field_of("loss", bottom=["fc7"]), "reads 'fc7'; the logits 'fc8'"),
    "no logits": (
        lambda layers: layers.remove(at(layers, "fc8")) or field_of("loss", bottom=["fc7"])(layers),  # type: ignore[func-returns-value]
        "ends in drop7; an InnerProduct layer that gives a logit",
    ),
    "the same name": (field_of("fc7", name="fc6"), "has two layers 'fc6'"),
    "other width": (option("conv2", num_output=34), r"conv2.w has shape \(32, .*; \(34, "),
    "no width": (option("conv2", num_output=0), "do not fit its input .* filters is 0"),
    "two means": (
        lambda layers: at(layers, "data")["transform_param"].update(mean_value=[1.0]),
        "has mean_file and mean_value; one of the two",
    ),
    "a mean of no number": (
        lambda layers: at(layers, "data").update(transform_param={"mean_value": [1.0, math.nan]}),
        r"'data' \(Data\) has mean_value nan; a finite number was expected",
    ),
    "two preparations": (
        lambda layers: layers.insert(
            1,
            {"name": "data", "type": "Data", "top": ["data"], "transform_param": {"crop_size": 64}},
        ),
        "prepares images in another way",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, sentence = REFUSED[name]
    layers = bvlc()
    params = {
        name: shaped(value.shape) for name, value in parameters(layers, (3, 227, 227)).items()
    }
    layers = with_blobs(layers, params)
    change(layers)
    (tmp_path / "a.caffemodel").write_bytes(snapshot(layers))
    with pytest.raises(CheckpointError, match=sentence):
        import_run(tmp_path / "a.caffemodel", tmp_path / "run")
    assert_no_run(tmp_path, 1)


def claims(shape: tuple[int, ...], numbers: int) -> bytes:
    return shaped(shape) + field(5, bytes(4 * numbers))


@pytest.mark.parametrize(
    ("blobs", "sentence"),
    [
        ({"conv1.b": claims((97,), 97)}, r"conv1.b has shape \(97,\); \(12,\) was expected"),
        ({"conv1.b": claims((-3,), 3)}, r"conv1.b has shape \(-3,\); \(12,\) was expected"),
        ({"conv1.w": claims((2**40,), 3)}, r"conv1.w has shape \(1099511627776,\)"),
        ({"conv1.b": claims((12,), 11)}, "conv1.b has 11 numbers; 12 were expected"),
        ({"conv1.b": shaped((12,))}, "conv1.b has 0 numbers; 12 were expected"),
        (
            {"conv1.b": claims((12,), 12) + field(8, bytes(96))},
            "conv1.b has numbers in data and in double_data",
        ),
        (
            {"conv1.b": shaped((12,)) + field(10, 4) + field(12, bytes(48))},
            "conv1.b has 48 bytes of raw_data_type 4; 0",
        ),
        (
            {"conv1.b": shaped((12,)) + field(10, 2) + field(12, bytes(25))},
            "conv1.b has 25 bytes of raw_data_type 2",
        ),
        ({"conv1.b": blob(np.full(12, np.nan, np.float32))}, "conv1.b is not finite"),
        ({"conv1.b": shaped((12,)) + field(8, np.full(12, 1e300).tobytes())}, "b is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_blobs_that_do_not_fit(tmp_path: Path, blobs: dict[str, bytes], sentence: str) -> None:
    layers = bvlc()
    params = parameters(layers, (3, 227, 227)) | blobs
    with pytest.raises(CheckpointError, match=sentence):
        imported(tmp_path, layers, params)
    assert_no_run(tmp_path, 1)


def test_missing_and_surplus_blobs(tmp_path: Path) -> None:
    layers = bvlc()
    params = parameters(layers, (3, 227, 227))
    whole = with_blobs(layers, params)
    for blobs, sentence in (
        ([], "conv2.w is missing"),
        (at(whole, "conv2")["blobs"][:1], "conv2.b is missing"),
        (at(whole, "conv2")["blobs"] * 2, "'conv2' has 4 blobs; 2 were expected"),
    ):
        at(whole, "conv2")["blobs"] = blobs
        (tmp_path / "a.caffemodel").write_bytes(snapshot(whole))
        with pytest.raises(CheckpointError, match=sentence):
            import_run(tmp_path / "a.caffemodel", tmp_path / "run")


def test_files_of_something_else(tmp_path: Path) -> None:
    file = tmp_path / "a.caffemodel"
    both = snapshot(bvlc()) + layer(bvlc()[1], v1=True)
    for content, sentence in (
        (field(1, "a net"), "has no layers with weights"),
        (both, "24 layers of the present format and 1 of the one before"),
        (field(1, "a net") + field(2, field(1, b"")), "has the format used before 2014"),
        (field(100, field(1, b"\xff\x1b") + field(2, b"\xfe\n")), r"layer '\ufffd\?' \(\ufffd\?\)"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            import_run(file, tmp_path / "run", form="caffe")


def test_damaged_caffemodels(tmp_path: Path) -> None:
    file = tmp_path / "a.caffemodel"
    good = snapshot(with_blobs(bvlc(), {"conv1.b": claims((12,), 12)}))
    two_gb = b"\xa2\x06\x80\x80\x80\x80\x08"  # a layer of 2^31 bytes, none of which follow
    for content in (good[:-1], good[: len(good) // 2], two_gb, b"\xff" * 100, b"\x0b" * 200):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no sound protobuf"):
            import_run(file, tmp_path / "run", form="caffe")
    assert_no_run(tmp_path, 1)


def test_means_that_do_not_fit(tmp_path: Path) -> None:
    layers, mean = bvlc(), tmp_path / "m.binaryproto"
    params = parameters(layers, (3, 227, 227))
    for content, sentence in (
        (blob(np.zeros((3, 255, 256), np.float32), v1=True), r"the mean has shape \(3, 255, 256\)"),
        (blob(np.zeros((3, 200, 200), np.float32)), "at least 227 x 227 were expected"),
        (blob(np.zeros((1, 256, 256), np.float32)), "3 channels of at least"),
        (claims((3, 256, 256), 5), "the mean has 5 numbers"),
        (blob(np.full((3, 256, 256), np.inf, np.float32)), "the mean is not finite"),
    ):
        mean.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            imported(tmp_path, layers, params, mean=mean)
    at(layers, "data")["transform_param"] = {"mean_value": [1.0, 2.0]}
    with pytest.raises(CheckpointError, match="has 2 numbers in mean_value; 1 or 3"):
        imported(tmp_path, layers, params)


def test_a_caffemodel_needs_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(PyalexnetError, match=r"pip install 'pyalexnet\[caffe\]'"):
        caffe.read(tmp_path / "a.caffemodel", None)
