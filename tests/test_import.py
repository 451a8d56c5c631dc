"""AlexNets of torchvision and Caffe: brought here, compared with PyTorch's own, and sent back."""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
import tomllib
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import typer
from typer.testing import CliRunner

from pyalexnet import checkpoint, nets
from pyalexnet.classes import Classes
from pyalexnet.commands import import_
from pyalexnet.errors import ArgumentError, CheckpointError, PyalexnetError, RunError
from pyalexnet.export_onnx import pixels
from pyalexnet.foreign import caffe, torchvision, weights
from pyalexnet.import_weights import import_run
from pyalexnet.rounding import rounding
from pyalexnet.trained import Trained
from samples import normal
from trained_nets import lively, named

CLASSES = 11

# Where torchvision keeps each layer, written down anew.
TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


# The full networks take half a minute to draw, write and read.
SMALL = 0.125


def at_width(monkeypatch: pytest.MonkeyPatch, width: float) -> None:
    """Expect of files networks of that width instead of the full ones."""
    for module, preset in ((torchvision, "owt"), (caffe, "caffe")):
        monkeypatch.setattr(module, "NET_ARGS", {"preset": preset, "width": width})


def in_torch_order(preset: str, width: float) -> dict[str, Any]:
    """Random parameters by our names, in the shapes of other programs; signals keep their size."""
    spec = nets.alexnet(classes=CLASSES, preset=preset, width=width)
    found = {}
    for name, shape in weights.foreign_shapes(spec).items():
        draws = normal(*shape)
        gain = math.sqrt(2 / math.prod(shape[1:])) if name.endswith(".w") else 0.1
        found[name] = draws * np.float32(gain)
    return found


def torchvision_names(params: dict[str, Any]) -> dict[str, Any]:
    kinds = {"w": "weight", "b": "bias"}
    parts = {name: name.split(".") for name in params}
    return {
        f"{TORCHVISION[layer]}.{kinds[kind]}": params[name] for name, (layer, kind) in parts.items()
    }


def assert_no_run(folder: Path, files: int) -> None:
    """Nothing was made beside the `files` that were there."""
    assert len(list(folder.iterdir())) == files


# ---------------------------------------------------------------------- orders of axes


def test_orders_of_axes() -> None:
    """One number of a filter, one of the columns that read maps, and the way back."""
    spec = nets.alexnet(classes=5, preset="caffe", width=0.0625)
    params = lively(spec)
    found = weights.theirs(spec, params)
    assert {name: value.shape for name, value in found.items()} == weights.foreign_shapes(spec)
    k, r, s, c = 5, 1, 3, 2
    assert found["conv2.w"][k, c, r, s] == params["conv2.w"][k, r, s, c]
    channels = params["conv5.b"].size
    h, w, c = 4, 1, channels - 2
    column, ours = (c * 6 + h) * 6 + w, (h * 6 + w) * channels + c
    assert found["fc6.w"][3, column] == params["fc6.w"][3, ours]
    np.testing.assert_array_equal(found["fc7.w"], params["fc7.w"])
    back = weights.ours(Path("file"), spec, found)
    for name, value in params.items():
        np.testing.assert_array_equal(back[name], value, strict=True)


# ---------------------------------------------------------------------- torchvision


def torchvision_alexnet(torch: Any, params: dict[str, Any]) -> Callable[[Any], Any]:
    """torchvision's model and transforms in float64: logits of (n, 256, 256, 3) pixels."""
    nn = torch.nn
    k1, k2, k3, k4, k5 = (
        len(params[f"{TORCHVISION[name]}.bias"])
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5")
    )
    units = len(params["classifier.1.bias"])
    features = nn.Sequential(
        nn.Conv2d(3, k1, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(k1, k2, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(k2, k3, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(k3, k4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(k4, k5, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(k5 * 6 * 6, units),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Linear(units, CLASSES),
    )
    model = nn.ModuleDict({"features": features, "classifier": classifier})
    model.load_state_dict({name: torch.tensor(value) for name, value in params.items()})
    model.double().eval()
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64)[:, None, None]
        for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def logits(stored: Any) -> Any:
        crop = torch.tensor(stored[:, 16:240, 16:240].transpose(0, 3, 1, 2)).double() / 255
        with torch.no_grad():
            maps = model["features"]((crop - mean) / std)
            return model["classifier"](maps.flatten(1)).numpy()

    return logits


def assert_same_logits(run: Path, theirs: Callable[[Any], Any]) -> Trained:
    """The run and the other program's model see the same photographs alike."""
    net = Trained.load(str(run), backend="numpy")
    stored = pixels(4, (256, 256, 3), seed=3)
    ours, expected = net.logits(stored), theirs(stored)
    tolerance = rounding(net.net, net.net.backend.to_numpy(net.look(stored)))
    assert np.max(np.abs(ours - expected)) <= tolerance < 1e-3 * np.max(np.abs(expected))
    return net


@pytest.mark.peer
@pytest.mark.parametrize(
    ("suffix", "width"), [(".safetensors", 1.0), (".pth", SMALL), (".old.pth", SMALL)]
)
def test_torchvision_there_and_back(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, width: float
) -> None:
    at_width(monkeypatch, width)
    params = torchvision_names(in_torch_order("owt", width))
    file, run, back = (tmp_path / name for name in (f"a{suffix}", "run", "back.safetensors"))
    if suffix == ".safetensors":
        safetensors.numpy.save_file(params, file)
    else:
        tensors = {name: torch.tensor(value) for name, value in params.items()}
        torch.save(tensors, file, _use_new_zipfile_serialization=suffix == ".pth")
    import_run(file, run)
    net = assert_same_logits(run, torchvision_alexnet(torch, params))
    assert net.class_names == tuple(str(number) for number in range(CLASSES))
    np.testing.assert_allclose(net.mean[100, 7], [123.675, 116.28, 103.53], rtol=1e-6)

    torchvision.write(net, back)
    returned = safetensors.numpy.load_file(back)
    assert returned.keys() == params.keys()
    for name, value in params.items():
        # conv1 is divided and multiplied, and rounded twice.
        error = 2 * 2.0**-24 if name == "features.0.weight" else 0.0
        np.testing.assert_allclose(returned[name], value, rtol=error, atol=0, strict=True)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("module.{}", lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}),
        ("{}", lambda state: {"model": state, "epoch": 3}),
        ("module.{}", lambda state: state),
    ],
)
def test_state_dicts_as_training_scripts_write_them(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrap: Any
) -> None:
    at_width(monkeypatch, SMALL)
    params = torchvision_names(in_torch_order("owt", SMALL))
    state = {name.format(key): torch.tensor(value) for key, value in params.items()}
    torch.save(wrap(state), tmp_path / "a.pth")
    found = import_run(tmp_path / "a.pth", tmp_path / "run")
    np.testing.assert_array_equal(found.params["fc7.w"], params["classifier.4.weight"])


def test_names_that_data_parallel_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the whole model, or the convolutions alone, as PyTorch's ImageNet example does."""
    at_width(monkeypatch, SMALL)
    params = torchvision_names(in_torch_order("owt", SMALL))
    inner = {name.replace("features.", "features.module."): v for name, v in params.items()}
    safetensors.numpy.save_file(inner, tmp_path / "a.safetensors")
    import_run(tmp_path / "a.safetensors", tmp_path / "run")
    twice = params | {"module.features.0.bias": params["features.0.bias"]}
    safetensors.numpy.save_file(twice, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"module\.features\.0\.bias is no parameter"):
        import_run(tmp_path / "a.safetensors", tmp_path / "other")


def test_torchvision_takes_no_other_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, SMALL)
    for net, sentence in (
        (named("alexnet", preset="caffe", classes=3, width=0.0625), "no network of preset owt"),
        (named("alexnet", preset="owt", classes=3, width=0.0625), "at full width"),
        (named("alexnet", preset="owt", classes=3, width=SMALL, activation="tanh"), "owt at full"),
        (named("alexnet", preset="owt", classes=3, width=SMALL), r"the mean .* of its own data"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            torchvision.write(net, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def small(name: str, *shape: int, dtype: Any = np.float32) -> dict[str, Any]:
    """A state dict of the first layers, `name` with a shape or type of its own."""
    found = {
        "features.0.weight": np.zeros((64, 3, 11, 11), np.float32),
        "features.0.bias": np.zeros(64, np.float32),
        "classifier.6.bias": np.zeros(CLASSES, np.float32),
    }
    return found | {name: np.zeros(shape, dtype)}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (
            small("features.0.weight", 64, 3, 11, 10),
            r"has shape \(64, 3, 11, 10\); \(64, 3, 11, 11\)",
        ),
        (small("features.0.bias", 64), "features.3.weight is missing"),
        (small("features.1.weight", 2), "features.1.weight is no parameter"),
        (small("classifier.6.bias", 2, 2), "classifier.6.bias is missing or no vector"),
        (small("classifier.6.bias", 0), "classifier.6.bias is missing or no vector"),
        (small("features.0.bias", 64, dtype=np.int32), "is int32; floats"),
        ({"model": np.zeros(3, np.float32)}, "classifier.6.bias is missing"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, params: dict[str, Any], sentence: str) -> None:
    file = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(params, file)
    with pytest.raises(CheckpointError, match=sentence):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)


def header(text: str, length: int | None = None) -> bytes:
    """The beginning of a safetensors file."""
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


TWO_GB = '{"classifier.6.bias":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147483648]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        header("{}", 2**63 - 1),
        header('{"a":'),
        header(TWO_GB),
        header(TWO_GB.replace("2147483648", "0")),
        safetensors.numpy.save(small("features.0.bias", 64))[:-1],
    ],
)
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is no sound safetensors file"):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)


@pytest.mark.parametrize(
    "suffix", [".safetensors", pytest.param(".caffemodel", marks=pytest.mark.peer)]
)
def test_a_file_of_two_gigabytes_is_not_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    with file.open("wb") as stream:
        stream.truncate(2 * 2**30)  # takes no space on the disk
    with pytest.raises(CheckpointError, match="has 2147483648 bytes; at most 1073741824"):
        import_run(file, tmp_path / "run")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, sentence in (
        ("pipe", "is no regular file"),
        ("folder", "Is a directory"),
        ("missing", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            import_run(tmp_path / f"{name}.safetensors", tmp_path / "run")


def test_as_many_classes_as_fit_into_memory(tmp_path: Path) -> None:
    spec = nets.alexnet(classes=70_000, preset="owt")
    shapes = weights.foreign_shapes(spec)
    with pytest.raises(CheckpointError, match="says that it has 70000 classes"):
        weights.check(tmp_path / "a", shapes, spec, {name: name for name in shapes})


# ---------------------------------------------------------------------- pickles


class Code:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.peer
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_code_is_not_carried_out(torch: Any, tmp_path: Path, new: bool) -> None:
    file, trace = tmp_path / "a.pth", tmp_path / "trace"
    state = {"classifier.6.bias": Code(trace)}
    torch.save(state, file, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="PyTorch refused it"):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)
    torch.load(file, weights_only=False)
    assert trace.is_dir()  # so it would have run


@pytest.mark.peer
def test_a_bare_pickle_with_code_is_not_carried_out(tmp_path: Path) -> None:
    file, trace = tmp_path / "a.pth", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(CheckpointError, match="PyTorch refused it"):
        import_run(file, tmp_path / "run")
    assert not trace.exists()


@pytest.mark.peer
def test_odd_tensors_in_a_pth(torch: Any, tmp_path: Path) -> None:
    """Not dense, not floats, no tensors, or many numbers out of one."""
    file, bias = tmp_path / "a.pth", torch.zeros(CLASSES)
    weight = torch.zeros(64, 3, 11, 11)
    for state, sentence in (
        ({"classifier.6.bias": bias.to_sparse()}, "dense tensors of floats"),
        ({"classifier.6.bias": bias.int()}, "dense tensors of floats"),
        ({"classifier.6.bias": bias.to("meta")}, "dense tensors of floats"),
        ({"weights": {"classifier.6.bias": bias}}, "'weights' is a dict"),
        ({3: bias}, "3 is a Tensor"),
        ([bias], "holds a list"),
        ({"features.0.weight": weight, "classifier.6.bias": bias}, "features.0.bias is missing"),
        ({"classifier.6.bias": torch.zeros(1).expand(2**40)}, "features.0.weight is missing"),
    ):
        torch.save(state, file)
        with pytest.raises(CheckpointError, match=sentence):
            import_run(file, tmp_path / "run")


@pytest.mark.peer
def test_a_compressed_pth_is_not_unfolded(torch: Any, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.pth", tmp_path / "a.pth"
    torch.save({"classifier.6.bias": torch.zeros(2**20)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(CheckpointError, match="is compressed"):
        import_run(file, tmp_path / "run")


@pytest.mark.peer
@pytest.mark.parametrize("part", [0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("new", [True, False])
def test_a_cut_pth(torch: Any, tmp_path: Path, part: float, new: bool) -> None:
    file = tmp_path / "a.pth"
    state = {name: torch.tensor(value) for name, value in small("features.0.bias", 64).items()}
    torch.save(state, file, _use_new_zipfile_serialization=new)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)


@pytest.mark.parametrize("version", [None, "2.9.1", "1.13.0+cpu"])
def test_a_pth_needs_a_safe_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    module = None if version is None else types.ModuleType("torch")
    if module is not None:
        module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", module)
    with pytest.raises(ArgumentError, match=r"PyTorch 2\.10 or newer .* convert the file .*python"):
        import_run(tmp_path / "a.pth", tmp_path / "run")


# ---------------------------------------------------------------------- Caffe

CAFFE_ORDER = (
    ("data", "Data"),
    ("conv1", "Convolution"),
    ("relu1", "ReLU"),
    ("norm1", "LRN"),
    ("pool1", "Pooling"),
    *((name, "Convolution") for name in ("conv2", "conv3", "conv4", "conv5")),
    *((name, "InnerProduct") for name in ("fc6", "fc7", "fc8")),
)
V1_TYPES = {"Data": 5, "Convolution": 4, "ReLU": 18, "LRN": 15, "Pooling": 17, "InnerProduct": 14}


def caffe_net(blobs: dict[str, Any], order: Any = CAFFE_ORDER, *, v1: bool = False) -> Any:
    """A NetParameter of these blobs (BlobProto by our names) and layers (name, type)."""
    net = caffe.message_classes()["NetParameter"](name="AlexNet")
    for name, kind in order:
        layer = (net.layers if v1 else net.layer).add(
            name=name, type=V1_TYPES[kind] if v1 else kind
        )
        for key in (f"{name}.w", f"{name}.b"):
            if key in blobs:
                layer.blobs.add().ParseFromString(blobs[key].SerializeToString())
    return net


def blob(value: Any, *, v1: bool = False) -> Any:
    """An array as a BlobProto; before 2015 all had four axes, ones in front."""
    message = caffe.message_classes()["BlobProto"]()
    message.data.extend(value.ravel())
    if not v1:
        message.shape.dim.extend(value.shape)
        return message
    four = (1,) * (4 - value.ndim) + value.shape
    message.num, message.channels, message.height, message.width = four
    return message


def caffe_alexnet(torch: Any, params: dict[str, Any], mean: Any) -> Callable[[Any], Any]:
    """`models/bvlc_alexnet/deploy.prototxt` in float64; mean (3, 256, 256) BGR."""
    f = torch.nn.functional
    p = {name: torch.tensor(value).double() for name, value in params.items()}

    def norm(x: Any) -> Any:
        return f.local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=1.0)

    def pool(x: Any) -> Any:
        return f.max_pool2d(x, 3, 2, ceil_mode=True)

    def conv(x: Any, name: str, **geometry: Any) -> Any:
        return f.relu(f.conv2d(x, p[f"{name}.w"], p[f"{name}.b"], **geometry))

    def logits(stored: Any) -> Any:
        bgr = torch.tensor(stored[..., ::-1].transpose(0, 3, 1, 2).copy()).double()
        x = (bgr - torch.tensor(mean).double())[:, :, 14:241, 14:241]
        x = pool(norm(conv(x, "conv1", stride=4)))
        x = pool(norm(conv(x, "conv2", padding=2, groups=2)))
        x = conv(x, "conv3", padding=1)
        x = conv(x, "conv4", padding=1, groups=2)
        x = pool(conv(x, "conv5", padding=1, groups=2)).flatten(1)
        for name in ("fc6", "fc7"):
            x = f.relu(f.linear(x, p[f"{name}.w"], p[f"{name}.b"]))
        return f.linear(x, p["fc8.w"], p["fc8.b"]).numpy()

    return logits


def bvlc(width: float) -> dict[str, Any]:
    """Parameters for Caffe; pixels shrink on their way in, as its trained filters make them."""
    params = in_torch_order("caffe", width)
    params["conv1.w"] *= np.float32(0.5)
    return params


@pytest.mark.peer
@pytest.mark.parametrize(
    ("v1", "width"),
    [(True, SMALL), (False, SMALL), pytest.param(False, 1.0, marks=pytest.mark.slow)],
)
def test_caffe(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, v1: bool, width: float
) -> None:
    at_width(monkeypatch, width)
    params = bvlc(width)
    file, run, mean_file = (tmp_path / name for name in ("a.caffemodel", "run", "m.binaryproto"))
    net = caffe_net({name: blob(value, v1=v1) for name, value in params.items()}, v1=v1)
    file.write_bytes(net.SerializeToString())
    mean = (110 + 20 * normal(3, 256, 256) + np.arange(3)[:, None, None]).astype(np.float32)
    if v1:
        mean_file.write_bytes(blob(mean, v1=True).SerializeToString())
        found = import_run(file, run, mean=mean_file)
        assert found.notes == ()
    else:
        found = import_run(file, run)
        assert len(found.notes) == 1 and "Without --mean" in found.notes[0]
        mean = np.array([104, 117, 123], np.float32)[:, None, None]
    seen = assert_same_logits(run, caffe_alexnet(torch, params, mean))
    np.testing.assert_array_equal(
        seen.mean, np.broadcast_to(mean, (3, 256, 256))[::-1].transpose(1, 2, 0)
    )


@pytest.mark.peer
def test_field_numbers() -> None:
    """Bytes put together by hand from caffe.proto: wire type and number of every field."""
    messages = caffe.message_classes()
    two = b"\x2a\x08" + np.array([1, 2], "<f4").tobytes()  # data = 5, packed
    one = messages["BlobProto"].FromString(two + b"\x3a\x03\x0a\x01\x02")  # shape = 7, dim = 1
    assert list(one.data) == [1, 2] and list(one.shape.dim) == [2]
    old = messages["BlobProto"].FromString(b"\x08\x01\x10\x02\x18\x03\x20\x04")
    assert (old.num, old.channels, old.height, old.width) == (1, 2, 3, 4)
    layer = b"\x0a\x02c1\x12\x03LRN\x3a\x0a" + two  # name = 1, type = 2, blobs = 7
    v1 = b"\x22\x02c2\x28\x0f\x32\x0a" + two  # name = 4, type = 5, blobs = 6
    net = messages["NetParameter"].FromString(
        b"\x0a\x01n\x12" + bytes([len(v1)]) + v1 + b"\xa2\x06" + bytes([len(layer)]) + layer
    )  # name = 1, layers = 2, layer = 100
    assert net.name == "n"
    assert (net.layer[0].name, net.layer[0].type) == ("c1", "LRN")
    assert (net.layers[0].name, net.layers[0].type) == ("c2", 15)
    assert [list(x.blobs[0].data) for x in (net.layer[0], net.layers[0])] == [[1, 2], [1, 2]]


def begun(**changed: Any) -> dict[str, Any]:
    """Blobs of the first and last layer, some changed or, where None, missing."""
    arrays = {
        "conv1.w": np.zeros((96, 3, 11, 11), np.float32),
        "conv1.b": np.zeros(96, np.float32),
        "fc8.b": np.zeros(CLASSES, np.float32),
        "fc8.w": np.zeros((1, 1), np.float32),
    }
    blobs = {name: blob(value) for name, value in arrays.items()}
    blobs |= {name.replace("_", "."): value for name, value in changed.items()}
    return {name: value for name, value in blobs.items() if value is not None}


def claims(shape: tuple[int, ...], numbers: int) -> Any:
    message = blob(np.zeros(numbers, np.float32))
    message.shape.dim[:] = shape
    return message


CAFFENET = tuple(CAFFE_ORDER[i] for i in (0, 1, 2, 4, 3, *range(5, len(CAFFE_ORDER))))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: caffe_net(begun(), CAFFENET), "pools before it normalises"),
        (lambda: caffe_net(begun(), CAFFENET, v1=True), "pools before it normalises"),
        (lambda: caffe_net(begun()), "conv2.w is missing"),
        (lambda: caffe_net({}), "no biases of a layer fc8"),
        (lambda: caffe_net(begun(fc8_b=None)), "no biases of a layer fc8"),
        (lambda: caffe_net(begun(fc8_b=claims((-3,), 3))), "no biases of a layer fc8"),
        (lambda: caffe_net(begun(fc8_b=claims((2**40,), 3))), "conv2.w is missing"),
        (
            lambda: caffe_net(begun(conv1_b=claims((97,), 97))),
            r"conv1.b has shape \(97,\); \(96,\)",
        ),
        (
            lambda: caffe_net(begun(), (*CAFFE_ORDER, ("conv1", "Convolution"))),
            "two layers 'conv1'",
        ),
    ],
)
def test_another_caffemodel_is_refused(
    tmp_path: Path, make: Callable[[], Any], sentence: str
) -> None:
    file = tmp_path / "a.caffemodel"
    file.write_bytes(make().SerializeToString())
    with pytest.raises(CheckpointError, match=sentence):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)


@pytest.mark.peer
def test_damaged_caffemodels(tmp_path: Path) -> None:
    file = tmp_path / "a.caffemodel"
    good = caffe_net(begun()).SerializeToString()
    two_gb = b"\xa2\x06\x80\x80\x80\x80\x08"  # a layer of 2^31 bytes, of which none follows
    for content in (good[:-1], good[: len(good) // 2], two_gb, b"\xff" * 100, b"\x0b" * 200):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no sound protobuf"):
            import_run(file, tmp_path / "run")
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no biases of a layer fc8"):
        import_run(file, tmp_path / "run")
    assert_no_run(tmp_path, 1)


@pytest.mark.peer
def test_a_caffemodel_of_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults that only a file with all layers gets as far as; then one without any."""
    at_width(monkeypatch, SMALL)
    file, mean = tmp_path / "a.caffemodel", tmp_path / "m.binaryproto"
    blobs = {name: blob(value) for name, value in bvlc(SMALL).items()}
    order = tuple(one for one in CAFFE_ORDER if one[1] not in ("LRN", "Pooling"))

    def refused(sentence: str, **choices: Any) -> None:
        file.write_bytes(caffe_net(blobs, order).SerializeToString())
        with pytest.raises(CheckpointError, match=sentence):
            import_run(file, tmp_path / "run", **choices)

    good = blobs["conv3.b"]
    blobs["conv3.b"] = claims((48,), 47)
    refused("conv3.b has 47 numbers; 48 were expected")
    blobs["conv3.b"] = blob(np.full(48, np.nan, np.float32))
    refused("conv3.b is not finite")
    blobs["conv3.b"] = good
    for bad, sentence in (
        (blob(np.zeros((3, 255, 256), np.float32), v1=True), "the mean has shape"),
        (claims((3, 256, 256), 5), "the mean has 5 numbers"),
        (blob(np.full((3, 256, 256), np.inf, np.float32)), "the mean is not finite"),
    ):
        mean.write_bytes(bad.SerializeToString())
        refused(sentence, mean=mean)
    found = import_run(file, tmp_path / "run")
    assert "does not tell the order of its layers" in found.notes[0]


def test_a_caffemodel_needs_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(PyalexnetError, match=r"pip install 'pyalexnet\[caffe\]'"):
        import_run(tmp_path / "a.caffemodel", tmp_path / "run")


# ---------------------------------------------------------------------- the run


def found(classes: int = 3) -> weights.Found:
    """A small network as if it had come out of a file."""
    spec = nets.alexnet(classes=classes, preset="owt", width=0.0625)
    mean = np.full((256, 256, 3), 120, np.float32)
    return weights.Found(spec, {"preset": "owt", "width": 0.0625}, lively(spec), mean, ("A note.",))


@pytest.fixture
def imports_a_small_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision, "read", lambda _: found())


@pytest.mark.usefixtures("imports_a_small_net")
def test_the_run_is_as_one_of_training(tmp_path: Path) -> None:
    (names := tmp_path / "names.txt").write_text("cat\n dog\nné Hund \n\n", encoding="utf-8")
    (run := tmp_path / "runs" / "imported").parent.mkdir()
    import_run(tmp_path / "a.safetensors", run, class_names=names)
    assert [entry.name for entry in run.parent.iterdir()] == ["imported"]
    assert {"config.toml", "env.json", "checkpoints"} <= {entry.name for entry in run.iterdir()}
    settings = tomllib.loads((run / "config.toml").read_text())
    assert settings["net_args"] == {"preset": "owt", "width": 0.0625}
    assert json.loads((run / "env.json").read_text())["starts"]

    saved = checkpoint.load(checkpoint.newest(run))
    assert saved.meta.step == 0 and not any(value.any() for value in saved.momentum.values())
    net = Trained.load(str(run), backend="numpy")
    assert net.class_names == ("cat", "dog", "né Hund")
    assert net.stored == (256, 256) and net.size == (224, 224)
    for name, value in lively(net.net.spec).items():
        np.testing.assert_array_equal(net.net.params[name], value)
    with pytest.raises(PyalexnetError, match="--data was expected"):
        net.dataset()


INDEX = {"0": ["n01440764", "tench"], "2": ["n03", "dog"], "1": ["n01443537", "goldfish"]}


@pytest.mark.usefixtures("imports_a_small_net")
@pytest.mark.parametrize(
    ("text", "ids", "names"),
    [
        (None, "0 1 2", "0 1 2"),
        ("black bear\nbear\ncat\n", "0 1 2", "black bear,bear,cat"),
        (
            "n01440764 tench, Tinca\nn01443537 goldfish\nn01484850 great white shark\n",
            "n01440764 n01443537 n01484850",
            "tench, Tinca|goldfish|great white shark",
        ),
        (
            "n01440764\nn01443537\nn01484850\n",
            "n01440764 n01443537 n01484850",
            "n01440764,n01443537,n01484850",
        ),
        ("10\tblack bear\n2\tcat\n30\tdog\n", "10 2 30", "black bear,cat,dog"),
        (json.dumps(INDEX), "n01440764 n01443537 n03", "tench,goldfish,dog"),
        ("\ufeffcat\r\ndog\r\ncat\r\n", "0 1 2", "cat,dog,cat"),
    ],
)
def test_what_classes_are_called(tmp_path: Path, text: str | None, ids: str, names: str) -> None:
    (file := tmp_path / "names.txt").write_text(text or "", encoding="utf-8")
    import_run(tmp_path / "a.pth", tmp_path / "run", class_names=file if text else None)
    net = Trained.load(tmp_path / "run", backend="numpy")
    expected = names.split("|" if "|" in names else "," if "," in names else " ")
    assert net.classes == Classes(tuple(ids.split()), tuple(expected))


@pytest.mark.usefixtures("imports_a_small_net")
def test_class_names_have_to_fit(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    for content, sentence in (
        (b"cat\ndog\n", "has 2 names; 3 were expected"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"n1\tcat\nn2\tdog\nn1\tcow\n", "the id 'n1' is there twice"),
        (b'{"0": ["a", "b"], "1": ["c", "d"], "3": ["e", "f"]}', "no index of classes .'2'"),
        (b'{"0": "a", "1": "b", "2": "c"}', "two texts for each class"),
        (b'{"0": ', "no index of classes"),
    ):
        names.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            import_run(tmp_path / "a.pth", tmp_path / "run", class_names=names)
    assert_no_run(tmp_path, 1)


@pytest.mark.usefixtures("imports_a_small_net")
def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (run := tmp_path / "run").mkdir()
    import_run(tmp_path / "a.pth", run)  # an empty folder will do
    with pytest.raises(RunError, match="exists"):
        import_run(tmp_path / "a.pth", run)


@pytest.mark.usefixtures("imports_a_small_net")
def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        import_run(tmp_path / "a.pth", tmp_path / "file" / "run")
    assert_no_run(tmp_path, 1)


@pytest.mark.usefixtures("imports_a_small_net")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *_: Any) -> None:
        folder.mkdir(exist_ok=True)
        raise CheckpointError("No space left on device.")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(CheckpointError, match="No space"):
        import_run(tmp_path / "a.pth", tmp_path / "run")
    assert_no_run(tmp_path, 0)


def test_formats(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"a\.h5: the ending \.h5 is not known; one of \.saf"):
        import_run(tmp_path / "a.h5", tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"weights: has no ending; one of \.safetensors, \.pth"):
        import_run(tmp_path / "weights", tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"format is 'h5' for .*a\.pth; torchvision"):
        import_run(tmp_path / "a.pth", tmp_path / "run", form="h5")
    with pytest.raises(ArgumentError, match="format is 'keras'"):
        import_run(tmp_path / "a.pth", tmp_path / "run", form="keras")
    with pytest.raises(ArgumentError, match="torchvision's is known"):
        import_run(tmp_path / "a.pth", tmp_path / "run", mean=tmp_path / "m.binaryproto")


@pytest.mark.usefixtures("imports_a_small_net")
def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(import_.import_weights)
    result = CliRunner().invoke(app, [str(tmp_path / "a.safetensors"), str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "note: A note." in said and "preset owt" in said and "3 classes" in said
