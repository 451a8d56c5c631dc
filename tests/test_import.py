"""AlexNets of torchvision and Caffe: imported, compared with PyTorch's own, and exported again."""

from __future__ import annotations

import argparse
import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import sys
import tomllib
import types
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import typer
from typer.testing import CliRunner

from foreign_files import CLASSES, SMALL, assert_no_run, assert_same_logits, in_torch_order
from pyalexnet import nets
from pyalexnet.commands import import_
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError, PyalexnetError, RunError
from pyalexnet.foreign import import_weights, torchvision, weights
from pyalexnet.foreign.import_weights import import_run
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.runs import checkpoint
from pyalexnet.trained.load import Trained
from trained_nets import lively, named

# Where torchvision keeps each layer, written independently.
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


TINY = 1 / 32


def at_width(monkeypatch: pytest.MonkeyPatch, width: float) -> None:
    """Expect networks of that width, not full width, in torchvision's files."""
    monkeypatch.setattr(torchvision, "NET_ARGS", {"preset": "owt", "width": width})


def torchvision_names(params: dict[str, Any]) -> dict[str, Any]:
    kinds = {"w": "weight", "b": "bias"}
    parts = {name: name.split(".") for name in params}
    return {
        f"{TORCHVISION[layer]}.{kinds[kind]}": params[name] for name, (layer, kind) in parts.items()
    }


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
    tensors = {
        name: weights.Tensor(value.shape, "float32", partial(np.copy, value))
        for name, value in found.items()
    }
    back = weights.ours(spec, tensors, {name: name for name in found})
    for name, value in params.items():
        np.testing.assert_array_equal(back[name], value, strict=True)


# ---------------------------------------------------------------------- torchvision


def torchvision_alexnet(
    torch: Any,
    params: dict[str, Any],
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
) -> Callable[[Any], Any]:
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
    colours, spread = (
        torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (mean, std)
    )

    def logits(stored: Any) -> Any:
        crop = torch.tensor(stored[:, 16:240, 16:240].transpose(0, 3, 1, 2)).double() / 255
        with torch.no_grad():
            maps = model["features"]((crop - colours) / spread)
            return model["classifier"](maps.flatten(1)).numpy()

    return logits


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
        # conv1 is divided and multiplied again, and so rounded twice.
        error = 2 * 2.0**-24 if name == "features.0.weight" else 0.0
        np.testing.assert_allclose(returned[name], value, rtol=error, atol=0, strict=True)


def options(**changed: Any) -> Any:
    """The command line as kept by scripts, with all sorts of values in it."""
    return argparse.Namespace(
        data_path=Path("/data"),
        other_path=PureWindowsPath("C:/data"),
        lr=np.float64(0.01),
        means=np.arange(3.0),
        dtype=np.dtype("f4"),
        steps=collections.defaultdict(list, {1: 2}),
        tables=collections.OrderedDict(a=1),
        **changed,
    )


def behind(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def of_the_example(name: str) -> str:
    """PyTorch's ImageNet example wraps only AlexNet's convolutions."""
    return name.replace("features.", "features.module.")


Wrap = Callable[[dict[str, Any], Any], Any]

# How names are written, and what surrounds a state dict, with a tensor that is not part of it.
SCRIPTS: dict[str, tuple[Callable[[str], str], Wrap]] = {
    "PyTorch's ImageNet example": (
        of_the_example,
        lambda state, x: {"epoch": 3, "arch": "alexnet", "state_dict": state, "best_acc1": x},
    ),
    "torchvision's references": (
        behind(""),
        lambda state, x: {
            "model": state,
            "optimizer": {"state": {0: {"momentum_buffer": x}}, "param_groups": [{"lr": 0.1}]},
            "lr_scheduler": {"milestones": collections.Counter([30])},
            "epoch": 3,
            "args": options(model="alexnet", val_crop_size=224),
        },
    ),
    "NVIDIA's": (
        behind("module."),
        lambda state, x: {"arch": "alexnet", "state_dict": state, "best_prec1": x},
    ),
    "timm": (
        behind("_orig_mod."),
        lambda state, x: {"arch": "alexnet", "state_dict": state, "args": options(), "metric": x},
    ),
    "timm, distributed": (behind("module._orig_mod."), lambda state, x: {"state_dict": state}),
    "compiled in DataParallel": (behind("_orig_mod.module."), lambda state, x: state),
    "Lightning": (
        behind("model."),
        lambda state, x: {
            "state_dict": state,
            "hyper_parameters": {"arch": "AlexNet", "model": "mine", "options": options()},
            "callbacks": {"ModelCheckpoint": {"best_model_score": x}},
        },
    ),
    "Lightning, compiled": (behind("net._orig_mod."), lambda state, x: {"state_dict": state}),
    "OpenMMLab's": (behind("backbone."), lambda state, x: {"meta": {"t": x}, "state_dict": state}),
    "DeepSpeed": (behind(""), lambda state, x: {"module": state, "global_steps": 3}),
    "names of their own": (behind(""), lambda state, x: {"model_state_dict": state, "loss": x}),
    "nested": (behind(""), lambda state, x: {"checkpoint": {"net": {"weights": state}}, "l": [x]}),
    "an optimizer's tensors, by the same names": (
        behind(""),
        lambda state, x: {
            "optimizer": {"state": {"momentum_buffer": dict.fromkeys(state, x)}},
            "opt": dict(state),
            "model": state,
        },
    ),
    "beside what counts and keeps": (
        behind(""),
        lambda state, x: {
            "state_dict": state,
            "counts": collections.defaultdict(int, seen=3),  # protocol 2 calls it long
            "epochs": range(3),  # and this xrange
            "losses": collections.deque([1.0, 2.0], maxlen=20),
        },
    ),
    "beside plain values": (behind(""), lambda state, x: state | {"epoch": 3, "note": "best"}),
    "averaged, alone": (behind("module."), lambda state, x: state | {"n_averaged": x[0].long()}),
    "the state dict alone": (behind("module."), lambda state, x: state),
}


@pytest.mark.peer
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("script", SCRIPTS)
def test_checkpoints_as_training_scripts_write_them(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, new: bool
) -> None:
    """In PyTorch's present format and in the one from before 2020."""
    at_width(monkeypatch, TINY)
    named, wrap = SCRIPTS[script]
    params = torchvision_names(in_torch_order("owt", TINY))
    state = {named(name): torch.tensor(value) for name, value in params.items()}
    file = tmp_path / "model_best.pth.tar"
    torch.save(wrap(state, torch.ones(2)), file, _use_new_zipfile_serialization=new)
    found = import_run(file, tmp_path / "run")
    assert found.notes == ()
    np.testing.assert_array_equal(found.params["fc7.w"], params["classifier.4.weight"])
    np.testing.assert_array_equal(found.params["conv5.b"], params["features.10.bias"])


NAMED = [f"class {number}" for number in range(CLASSES)]
NUMBERS = {name: number for number, name in reversed(list(enumerate(NAMED)))}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("told", "not_used"),
    [
        ({"class_to_idx": NUMBERS}, None),
        ({"args": options(class_to_idx=NUMBERS, classes=CLASSES)}, None),
        ({"hyper_parameters": {"class_names": NAMED}}, None),
        ({"classes": NAMED[1:], "meta": {"CLASSES": tuple(NAMED)}}, None),
        ({"args": options(class_ids=[3, 5])}, []),
        ({"class_to_idx": {**NUMBERS, "class 3": 5}}, ["class_to_idx"]),
        (
            {"class_to_idx": {**NUMBERS, "class 3": 99}, "classes": NAMED[1:]},
            ["class_to_idx", "classes"],
        ),
        ({"class_to_idx": [3], "classes": CLASSES, "class_names": [1], "CLASSES": ()}, []),
    ],
)
def test_what_a_training_script_calls_its_classes(
    torch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    not_used: list[str] | None,
) -> None:
    """It is used if it fits; if not, that is reported."""
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    state = {name: torch.tensor(value) for name, value in params.items()}
    torch.save({"state_dict": state} | told, tmp_path / "a.pth")
    found = import_run(tmp_path / "a.pth", tmp_path / "run")
    fits = not_used is None
    assert found.classes == (Classes.named(NAMED) if fits else None)
    assert Trained.load(tmp_path / "run", backend="cpu").classes == (
        Classes.named(NAMED) if fits else Classes.numbered(CLASSES)
    )
    assert found.notes == tuple(
        f"Its {name} does not name {CLASSES} classes, one for each output, and is not used."
        for name in not_used or ()
    )


@pytest.mark.peer
@pytest.mark.parametrize(
    ("first", "second", "prefix"),
    [("model", "model_ema", "module."), ("state_dict", "state_dict_ema", ""), ("ema", "net", "")],
)
def test_averaged_weights_beside_the_others(
    torch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    second: str,
    prefix: str,
) -> None:
    """The last ones are used, which is reported; the average can be chosen by name."""
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    state = {name: torch.tensor(value) for name, value in params.items()}
    other = {prefix + name: value + 1 for name, value in state.items()}
    saved = {first: state, second: other | {"n_averaged": torch.tensor(7)}}
    torch.save(saved, tmp_path / "a.pth")
    plain, average = (second, first) if first == "ema" else (first, second)
    found = import_run(tmp_path / "a.pth", tmp_path / "run")
    said = f"has the state dicts {plain} and {average}; {plain} is taken, and --state-dict takes"
    assert len(found.notes) == 1 and said in found.notes[0]
    np.testing.assert_array_equal(found.params["fc7.b"], saved[plain]["classifier.4.bias"])
    found = import_run(tmp_path / "a.pth", tmp_path / "other", state_dict=second)
    assert found.notes == ()
    np.testing.assert_array_equal(found.params["fc7.b"], other[f"{prefix}classifier.4.bias"])
    with pytest.raises(
        ArgumentError, match=f"state_dict is 'x'; one that .* has .*{first}, {second}"
    ):
        import_run(tmp_path / "a.pth", tmp_path / "third", state_dict="x")


def test_averaged_weights_in_one_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a Lightning module that has both."""
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    both = {f"ema_model.{name}": value + 1 for name, value in params.items()}
    both |= {f"model.{name}": value for name, value in params.items()}
    safetensors.numpy.save_file(both, tmp_path / "a.safetensors")
    for which, added in ((None, 0), ("ema_model", 1)):
        found = import_run(tmp_path / "a.safetensors", tmp_path / str(which), state_dict=which)
        np.testing.assert_array_equal(found.params["fc8.b"], params["classifier.6.bias"] + added)
    both["head.weight"] = np.ones(3, np.float32)
    safetensors.numpy.save_file(both, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.weight is no parameter"):
        import_run(tmp_path / "a.safetensors", tmp_path / "run")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"arch": "vgg16"}, "it says that its arch is 'vgg16'; alexnet was expected"),
        ({"args": options(model="vgg16")}, "args says that its model is 'vgg16'"),
        ({"args": options(arch="resnet50")}, "args says that its arch is 'resnet50'"),
        ({"args": {"model": "resnet50"}}, "args says that its model is 'resnet50'"),
        ({"hyper_parameters": {"arch": "vgg11"}}, "hyper_parameters says that its arch is 'vgg11'"),
    ],
)
def test_another_architecture_is_refused_by_name(
    torch: Any, tmp_path: Path, told: dict[str, Any], sentence: str
) -> None:
    state = {"features.0.weight": torch.zeros(64, 3, 3, 3)}
    torch.save({"state_dict": state} | told, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=sentence):
        import_run(tmp_path / "a.pth", tmp_path / "run")


def test_what_a_safetensors_file_says_of_itself(tmp_path: Path) -> None:
    weights = small("features.0.bias", 64)
    safetensors.numpy.save_file(weights, tmp_path / "a", {"format": "pt", "architecture": "vgg16"})
    with pytest.raises(CheckpointError, match="its architecture is 'vgg16'; alexnet was expected"):
        import_run(tmp_path / "a", tmp_path / "run")


@pytest.mark.peer
def test_another_size_in_testing_is_said(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    state = {name: torch.tensor(value) for name, value in params.items()}
    args = argparse.Namespace(model="alexnet", val_crop_size=192, val_resize_size=256)
    torch.save({"model": state, "args": args}, tmp_path / "a.pth")
    found = import_run(tmp_path / "a.pth", tmp_path / "run")
    assert len(found.notes) == 1 and "evaluated with val_crop_size 192, and" in found.notes[0]


@pytest.mark.peer
def test_other_pixels(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As given by timm's options --mean and --std; otherwise they are torchvision's."""
    at_width(monkeypatch, SMALL)
    params = torchvision_names(in_torch_order("owt", SMALL))
    state = {name: torch.tensor(value) for name, value in params.items()}
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.3, 0.7)
    args = argparse.Namespace(model="alexnet", mean=mean, std=list(std))
    torch.save({"state_dict": state, "args": args}, tmp_path / "a.pth")
    import_run(tmp_path / "a.pth", tmp_path / "run")
    assert_same_logits(tmp_path / "run", torchvision_alexnet(torch, params, mean, std))
    for bad in ((0.5, 0.5), "0.5", (0.5, 0.5, 0.0), (0.5, 0.5, float("nan"))):
        args.std = bad
        torch.save({"state_dict": state, "args": args}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=r"args says that its std is .*; three numbers"):
            import_run(tmp_path / "a.pth", tmp_path / "other")


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64])
def test_safetensors_of_other_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    other = {name: value.astype(dtype) for name, value in params.items()}
    safetensors.numpy.save_file(other, tmp_path / "a.safetensors")
    found = import_run(tmp_path / "a.safetensors", tmp_path / "run")
    for ours, theirs in (("fc7.w", "classifier.4.weight"), ("conv2.b", "features.3.bias")):
        expected = other[theirs].astype(np.float32)
        np.testing.assert_array_equal(found.params[ours], expected, strict=True)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_pth_of_other_floats(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    other = {name: torch.tensor(value).to(getattr(torch, dtype)) for name, value in params.items()}
    torch.save(other, tmp_path / "a.pth")
    found = import_run(tmp_path / "a.pth", tmp_path / "run")
    expected = other["classifier.4.weight"].float().numpy()
    np.testing.assert_array_equal(found.params["fc7.w"], expected, strict=True)


@pytest.mark.parametrize(
    "name", ["a.safetensors", "model_best.pth.tar", "a.pt", "a.bin", "a.ckpt", "a.caffemodel", "a"]
)
def test_a_name_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    safetensors.numpy.save_file(params, tmp_path / name)
    found = import_run(tmp_path / name, tmp_path / "run")
    np.testing.assert_array_equal(found.params["fc8.b"], params["classifier.6.bias"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "is HDF5, as Keras and some Caffe write"),
        (gzip.compress(b"weights"), "is compressed by gzip"),
        (bz2.compress(b"weights"), "is compressed by bzip2"),
        (lzma.compress(b"weights"), "is compressed by xz"),
        (bytes(257) + b"ustar\x0000", "is a tar archive; the file in it was expected"),
        (b"\x93NUMPY\x01\x00", "is a NumPy array"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html>", r"is a web page that begins '<!DOCTYPE html> <html>'"),
        (b"name: 'AlexNet'\nlayer {", "is a text that begins \"name: 'AlexNet' layer"),
        ("größer".encode()[:-1] + b"\xc3", "is a text"),
        (b"\x08\x08\x12\x07pytorch", "begins as an ONNX model, or as a mean image"),
        (b"\x3a\x04\x0a\x02\x01\x02", "begins as an ONNX model, or as a mean image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "begins with the bytes ff d8 ff e0 00 10 4a 46, as no"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: bytes, sentence: str) -> None:
    """Each is recognised for what it is, under any name and format."""
    for name, form in (("a.pth", "auto"), ("a.bin", "auto"), ("a", "torchvision")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            import_run(tmp_path / name, tmp_path / "run", form=form)


@pytest.mark.usefixtures("imports_a_small_net")
def test_what_is_pyalexnets_own(tmp_path: Path) -> None:
    import_run(tmp_path / "a.safetensors", tmp_path / "run")
    saved = checkpoint.newest(tmp_path / "run")
    for path in (tmp_path / "run", saved):
        with pytest.raises(ArgumentError, match="is a run or checkpoint of pyalexnet, which every"):
            import_run(path, tmp_path / "other")


def test_a_file_of_pyalexnets_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_folder = tmp_path / "step-00000000"
    checkpoint_folder.mkdir()
    params = lively(nets.alexnet(classes=3, width=0.0625))
    safetensors.numpy.save_file(params, checkpoint_folder / checkpoint.PARAMS)
    with pytest.raises(CheckpointError, match="of pyalexnet's own, whose folder is taken as it is"):
        import_run(checkpoint_folder / checkpoint.PARAMS, tmp_path / "other")


def test_names_that_data_parallel_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the whole model, or the convolutions alone, as PyTorch's ImageNet example does."""
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    inner = {name.replace("features.", "features.module."): v for name, v in params.items()}
    safetensors.numpy.save_file(inner, tmp_path / "a.safetensors")
    import_run(tmp_path / "a.safetensors", tmp_path / "run")
    twice = params | {"module.features.0.bias": params["features.0.bias"]}
    safetensors.numpy.save_file(twice, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"features\.0\.bias is there twice, as "):
        import_run(tmp_path / "a.safetensors", tmp_path / "other")


def test_torchvision_takes_no_other_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_width(monkeypatch, SMALL)
    for net, sentence in (
        (named("alexnet", preset="caffe", classes=3, width=0.0625), "no network of preset owt"),
        (named("alexnet", preset="owt", classes=3, width=0.0625), "at full width"),
        (named("alexnet", preset="owt", classes=3, width=SMALL, activation="tanh"), "owt at full"),
        (
            named("alexnet", preset="owt", classes=3, width=SMALL),
            "subtracts a mean image",
        ),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            torchvision.write(net, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def small(name: str, *shape: int, dtype: Any = np.float32) -> dict[str, Any]:
    """A state dict of the first layers, with the given shape or type for `name`."""
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
        (small("classifier.6.bias", 2, 2), "classifier.6.bias is missing or not a vector"),
        (small("classifier.6.bias", 0), "classifier.6.bias is missing or not a vector"),
        (small("features.0.bias", 64, dtype=np.int32), "is I32; a dense tensor of floats"),
        ({"model": np.zeros(3, np.float32)}, "model is no parameter of torchvision's AlexNet"),
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
    form = "caffe" if suffix == ".caffemodel" else "torchvision"
    for how in (form, "auto"):
        with pytest.raises(CheckpointError, match="2147483648 bytes, more than the 1073741824"):
            import_run(file, tmp_path / "run", form=how)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, sentence in (
        ("pipe", "not a regular file"),
        ("folder", "not a regular file"),
        ("missing", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            import_run(tmp_path / f"{name}.safetensors", tmp_path / "run")


def test_as_many_classes_as_fit_into_memory() -> None:
    spec = nets.alexnet(classes=70_000, preset="owt")
    shapes = weights.foreign_shapes(spec)
    tensors = {name: weights.Tensor(shape, "float32", None) for name, shape in shapes.items()}
    with pytest.raises(CheckpointError, match="says that it has 70000 classes"):
        weights.ours(spec, tensors, {name: name for name in shapes})


# ---------------------------------------------------------------------- pickles


class Code:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Opens(Code):
    """The same, by a function unknown to PyTorch, and so blocked only by default."""

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


class Touches:
    """An object whose class acts when it is created, and when it gets its attributes."""

    def __init__(self, path: Path) -> None:
        self.model, self.path = "alexnet", path

    def __getnewargs__(self) -> Any:
        return (self.path,)

    def __new__(cls, path: Path) -> Touches:
        (path / "made").touch()
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        (state["path"] / "told").touch()


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
@pytest.mark.parametrize("new", [True, False])
def test_neither_the_file_nor_its_classes_run(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    """Beside sound tensors, which are used."""
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    (traces := tmp_path / "traces").mkdir()
    saved = {
        "model": {name: torch.tensor(value) for name, value in params.items()},
        "args": Touches(traces),
        "code": Opens(traces / "opened"),
    }
    (traces / "made").unlink()
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    allowed = set(torch.serialization.get_safe_globals())
    import_run(tmp_path / "a.pth", tmp_path / "run")
    assert not list(traces.iterdir())
    assert set(torch.serialization.get_safe_globals()) == allowed
    torch.load(tmp_path / "a.pth", weights_only=False)["code"].close()
    assert {entry.name for entry in traces.iterdir()} == {"made", "told", "opened"}  # would have


def renamed(content: bytes, old: str, new: str) -> bytes:
    """A PyTorch zip with a class in it renamed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(whole, "w") as after:
        for member in before.namelist():
            after.writestr(member, before.read(member).replace(old.encode(), new.encode()))
    return whole.getvalue()


@pytest.mark.peer
@pytest.mark.parametrize(
    "name",
    [
        "pathlib._local\nPosixPath",  # Python 3.13's
        "pathlib\nWindowsPath",
        "mmengine.logging.history_buffer\nHistoryBuffer",
        "no such\nthing",
        "\x01\nx",
    ],
)
def test_classes_that_are_not_here(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    at_width(monkeypatch, TINY)
    params = torchvision_names(in_torch_order("owt", TINY))
    state = {name: torch.tensor(value) for name, value in params.items()}
    content = io.BytesIO()
    torch.save({"state_dict": state, "path": Path("/a")}, content)
    changed = renamed(content.getvalue(), "pathlib\nPosixPath", name)
    (tmp_path / "a.pth").write_bytes(changed)
    import_run(tmp_path / "a.pth", tmp_path / "run")


@pytest.mark.peer
def test_pytorchs_reason_is_told(torch: Any, tmp_path: Path) -> None:
    """The type, and what to do about it, without PyTorch's advice to be less safe."""
    file, bias = tmp_path / "a.pth", torch.zeros(CLASSES)
    program = io.BytesIO()
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("a/code/__torch__/net.py", "")
    buffers = {
        "code": ({"classifier.6.bias": Code(tmp_path)}, "unsupported GLOBAL posix.mkdir whose mod"),
        "protocol": ({"classifier.6.bias": bias}, r"Unsupported operand 149 \(UnpicklingError\)"),
    }
    for name, (state, sentence) in buffers.items():
        torch.save(state, file, pickle_protocol=4 if name == "protocol" else 2)
        with pytest.raises(CheckpointError, match=sentence) as caught:
            import_run(file, tmp_path / "run")
        assert "add_safe_globals" not in str(caught.value) and "\n" not in str(caught.value)
    for content, sentence in (
        (program.getvalue(), r"is a TorchScript program, .*torch\.jit\.load"),
        (zipped("conv1.npy"), r"a zip archive of 1 files, the first called 'conv1.npy'; one"),
        (b"\x80\x02}q\x00.", "PyTorch refused it: Invalid magic number"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=sentence):
            import_run(file, tmp_path / "run")


@pytest.mark.peer
def test_damage_that_python_sees_first(torch: Any, tmp_path: Path) -> None:
    """Members declared as encrypted, or as beginning past the end."""
    content = io.BytesIO()
    torch.save({"classifier.6.bias": torch.zeros(CLASSES)}, content)
    file, good = tmp_path / "a.pth", content.getvalue()
    for place, value in ((8, 1), (42, 0xFF), (45, 0xFF)):
        bad = bytearray(good)
        bad[good.index(b"PK\x01\x02") + place] = value
        file.write_bytes(bad)
        with pytest.raises(CheckpointError):
            import_run(file, tmp_path / "run")


def test_names_are_shown_without_control_codes(tmp_path: Path) -> None:
    names = {"\x1b[31mred\n": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(names, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"\?\[31mred\? is no parameter"):
        import_run(tmp_path / "a.safetensors", tmp_path / "run")


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, b"")
    return content.getvalue()


@pytest.mark.peer
def test_tables_in_tables_without_end(torch: Any, tmp_path: Path) -> None:
    """A table that contains itself many times is searched once."""
    endless: dict[str, Any] = {"features.0.bias": torch.zeros(64)}
    endless |= {str(number): endless for number in range(100)}
    torch.save(endless, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"classifier\.6\.bias is missing or not a vector"):
        import_run(tmp_path / "a.pth", tmp_path / "run")


@pytest.mark.peer
def test_a_bare_pickle_with_code_is_not_carried_out(tmp_path: Path) -> None:
    file, trace = tmp_path / "a.pth", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(CheckpointError, match="PyTorch refused it"):
        import_run(file, tmp_path / "run")
    assert not trace.exists()


@pytest.mark.peer
def test_odd_tensors_in_a_pth(torch: Any, tmp_path: Path) -> None:
    """Not dense, not floats, not tensors, or many numbers expanded from one."""
    file, bias = tmp_path / "a.pth", torch.zeros(CLASSES)
    weight = torch.zeros(64, 3, 11, 11)
    for state, sentence in (
        ({"classifier.6.bias": bias.to_sparse()}, "a dense tensor of floats"),
        ({"classifier.6.bias": bias.int()}, "a dense tensor of floats"),
        ({"classifier.6.bias": bias.to("meta")}, "a dense tensor of floats"),
        ({"classifier.6.bias": Path("/a")}, "has no tensors, but 'classifier.6.bias' a pathlib"),
        (
            {"features.0.bias": bias, "classifier.6.bias": Path("/a")},
            "classifier.6.bias is a pathlib.PosixPath; a dense tensor of floats",
        ),
        ({3: bias}, "has no tensors, but nothing; a state dict was expected"),
        ({"epoch": 3}, "has no tensors, but 'epoch' a int; a state dict was expected"),
        ([bias], "holds a list; a state dict was expected"),
        (torch.nn.Linear(2, 2), r"holds a torch.nn.modules.linear.Linear; .* torch.save\(model"),
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
    (tmp_path / "a.pth").write_bytes(pickle.dumps({}))
    with pytest.raises(ArgumentError, match=r"PyTorch 2\.10 or newer .* convert the file .*python"):
        import_run(tmp_path / "a.pth", tmp_path / "run")


# ---------------------------------------------------------------------- the run


def found(classes: int = 3) -> weights.ForeignNet:
    """A small network as if found in a file."""
    spec = nets.alexnet(classes=classes, preset="owt", width=0.0625)
    mean = np.full((256, 256, 3), 120, np.float32)
    return weights.ForeignNet(
        spec, {"preset": "owt", "width": 0.0625}, lively(spec), mean, ("A note.",)
    )


@pytest.fixture
def imports_a_small_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision, "read", lambda *_: found())
    monkeypatch.setattr(import_weights, "_form", lambda *_: "torchvision")


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
    net = Trained.load(str(run), backend="cpu")
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
        (json.dumps({"0": "black bear", "2": "dog", "1": "cat"}), "0 1 2", "black bear,cat,dog"),
        (json.dumps({"10": 2, "2": 1, "0": 0}), "0 2 10", "0 2 10"),
        (json.dumps(["black bear", "cat", "dog"]), "0 1 2", "black bear,cat,dog"),
        (
            json.dumps([["n1", "black bear"], ["n2", "cat"], ["n3", "dog"]]),
            "n1 n2 n3",
            "black bear,cat,dog",
        ),
        ("{0: 'black bear',\n 1: \"cat\",\n 2: 'dog'}\n", "0 1 2", "black bear,cat,dog"),
    ],
)
def test_what_classes_are_called(tmp_path: Path, text: str | None, ids: str, names: str) -> None:
    (file := tmp_path / "names.txt").write_text(text or "", encoding="utf-8")
    import_run(tmp_path / "a.pth", tmp_path / "run", class_names=file if text else None)
    net = Trained.load(tmp_path / "run", backend="cpu")
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
        (b'{"0": "a", "1": ["b", "c"], "2": ["d", "e"]}', "no index of classes"),
        (b'["ab", ["c", "d"], ["e", "f"]]', "a name, or an id and a name, was expected"),
        (b'[["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]]', "no index of classes"),
        (b"[1, 2, 3]", "no index of classes"),
        (b'[["a", 1], ["b", 2], ["c", 3]]', "a name, or an id and a name, was expected"),
        (b'{"a": 0, "b": 1, "c": 1}', "no index of classes"),
        (b"{}", "has 0 names; 3 were expected"),
        (b'{"0": ', "no index of classes"),
        (b"[" * 10**5, "no index of classes"),
        (b"", "cannot be read .an empty file"),
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
    for name in ("a.pth", "a.h5"):
        (tmp_path / name).write_bytes(header("{}"))
    with pytest.raises(ArgumentError, match=r"format is 'h5' for .*a\.pth; torchvision"):
        import_run(tmp_path / "a.pth", tmp_path / "run", form="h5")
    with pytest.raises(ArgumentError, match="torchvision's is known"):
        import_run(tmp_path / "a.pth", tmp_path / "run", mean=tmp_path / "m.binaryproto")
    (tmp_path / "a.pth").write_bytes(b"\x0a\x01\x00")
    with pytest.raises(
        ArgumentError, match=r"state_dict is 'ema'; none was expected, as a \.caffe"
    ):
        import_run(tmp_path / "a.pth", tmp_path / "run", state_dict="ema")
    with pytest.raises(CheckpointError, match=r"begins as a \.caffemodel does; a \.safetensors"):
        import_run(tmp_path / "a.pth", tmp_path / "run", form="torchvision")


@pytest.mark.usefixtures("imports_a_small_net")
def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(import_.import_weights)
    result = CliRunner().invoke(app, [str(tmp_path / "a.safetensors"), str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "note: A note." in said and "preset owt" in said and "3 classes" in said
