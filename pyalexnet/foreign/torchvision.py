"""torchvision's AlexNet, the single tower of "One weird trick": its state dict, to and fro.

torchvision feeds its network (pixel / 255 - mean) / std, with a mean and a deviation for each
channel. Preset `owt` feeds (pixel - 255 mean) * factor, with one factor, so what is left of the
deviations goes into the filters of conv1.

Of all modules only this one imports torch, and only to read a .pth.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet import nets, tensors
from pyalexnet.classes import Classes
from pyalexnet.data.dataset import shown
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.foreign import weights
from pyalexnet.foreign.weights import Floats, Found
from pyalexnet.layers import Dropout, Layer, Scale
from pyalexnet.net import NetSpec
from pyalexnet.trained import Trained

NET_ARGS: dict[str, Any] = {"preset": "owt"}
"""What `nets.alexnet` makes the network of, beside the number of classes."""

_LAYERS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
_NAMES = {f"{ours}.w": f"{theirs}.weight" for ours, theirs in _LAYERS.items()} | {
    f"{ours}.b": f"{theirs}.bias" for ours, theirs in _LAYERS.items()
}

_MEAN = np.array([0.485, 0.456, 0.406])
_STD = np.array([0.229, 0.224, 0.225])

_WRAPPED = ("state_dict", "model")
"""What training scripts call the state dict beside the optimizer's and the epoch."""

_TORCH = (2, 10)
"""Before it, weights_only did not keep a hostile file from the heap (CVE-2026-24747)."""

_TO_CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], '
    'weights_only=True), sys.argv[2])" FILE.pth FILE.safetensors'
)

_Tensors = Mapping[str, Any]
"""Arrays or torch tensors by name; both have `shape`."""


def read(path: Path) -> Found:
    """The network in a state dict, .safetensors or .pth.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
        ArgumentError: it is a .pth, and there is no PyTorch that reads one safely.
    """
    found, array = _opened(path)
    spec = _spec(_classes(path, found))
    if unknown := sorted(found.keys() - set(_NAMES.values())):
        raise CheckpointError(
            f"{shown(path)}: {unknown[0]} is no parameter of torchvision's AlexNet."
        )
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    weights.check(path, shapes, spec, _NAMES)
    params = {ours: array(theirs) for ours, theirs in _NAMES.items()}
    params["conv1.w"] = params["conv1.w"] / _factors(spec)
    augment = spec.recipe.augment
    assert augment is not None
    mean = np.broadcast_to((255 * _MEAN).astype(np.float32), (augment.stored, augment.stored, 3))
    classes = _told(path, spec.classes) if path.suffix == ".safetensors" else None
    return Found(
        spec, dict(NET_ARGS), weights.ours(path, spec, params), mean.copy(), classes=classes
    )


def write(trained: Trained, path: Path) -> None:
    """Write a network of preset `owt` as torchvision's state dict, a .safetensors.

    Raises:
        ArgumentError: torchvision's AlexNet cannot do what the network does, or sees other pixels.
        RunError: the file cannot be written.
    """
    spec = trained.net.spec
    expected = _spec(spec.classes)
    if _without_dropout(spec) != _without_dropout(expected):
        raise ArgumentError(
            f"export: {trained.name} is no network of preset owt at full width; that was expected, "
            "as torchvision's AlexNet is one."
        )
    mean = trained.mean.reshape(-1, 3)
    if not np.allclose(mean, 255 * _MEAN, rtol=0, atol=1e-4):
        raise ArgumentError(
            f"export: {trained.name} subtracts the mean {mean.mean(axis=0).round(3).tolist()} of "
            f"its own data; torchvision's {(255 * _MEAN).round(3).tolist()} was expected."
        )
    params: dict[str, Floats] = {
        name: np.asarray(trained.net.backend.to_numpy(value), np.float32)
        for name, value in trained.net.params.items()
    }
    found = weights.theirs(spec, params)
    found["conv1.w"] = (found["conv1.w"] * _factors(spec)).astype(np.float32)
    told = {"format": "pt"} | trained.classes.described()
    tensors.write(path, {_NAMES[name]: value for name, value in found.items()}, told)


def _told(path: Path, count: int) -> Classes | None:
    """What `write` said that the classes are called; None of a file that another program wrote."""
    with tensors.reading(path) as file:
        metadata = file.metadata() or {}
    if "class_ids" not in metadata:
        return None
    try:
        classes = Classes.read(metadata)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{shown(path)}: what it calls its classes cannot be read ({error})."
        ) from error
    if len(classes) != count:
        raise CheckpointError(
            f"{shown(path)}: calls {len(classes)} classes by name; {count} were expected."
        )
    return classes


def _spec(classes: int) -> NetSpec:
    return nets.alexnet(classes=classes, **NET_ARGS)


def _without_dropout(spec: NetSpec) -> list[Layer]:
    return [layer for layer in spec.layers if not isinstance(layer, Dropout)]


def _factors(spec: NetSpec) -> npt.NDArray[np.float64]:
    """torchvision's filters of conv1 divided by ours, (1, C, 1, 1)."""
    ours = next(layer.factor for layer in spec.layers if isinstance(layer, Scale))
    return (255 * _STD * ours)[:, None, None]


def _classes(path: Path, found: _Tensors) -> int:
    name = _NAMES["fc8.b"]
    if name not in found or len(found[name].shape) != 1 or found[name].shape[0] < 1:
        raise CheckpointError(
            f"{shown(path)}: {name} is missing or no vector; torchvision's AlexNet was expected."
        )
    return int(found[name].shape[0])


def _opened(path: Path) -> tuple[_Tensors, Callable[[str], npt.NDArray[Any]]]:
    """What is in the file, by name, and what makes a float32 array of one of them."""
    if path.suffix == ".safetensors":
        arrays = _plain_names(_safetensors(path))
        return arrays, lambda name: arrays[name]
    found = _plain_names(_pth(path))
    return found, lambda name: np.asarray(found[name].detach().float().numpy(), np.float32)


def _plain_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """By name, without the `module` that DataParallel puts before what it wraps."""
    names = {name: ".".join(filter("module".__ne__, name.split("."))) for name in found}
    if len(set(names.values())) < len(names):  # what is there twice is refused by its own name
        return dict(found)
    return {names[name]: value for name, value in found.items()}


def _safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    import safetensors.numpy

    raw = weights.read(path)
    try:
        arrays = safetensors.numpy.load(raw)
    except Exception as error:  # SafetensorError, and what NumPy makes of types it lacks
        raise CheckpointError(f"{shown(path)}: is no sound safetensors file ({error}).") from error
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise CheckpointError(f"{shown(path)}: {name} is {array.dtype}; floats were expected.")
    return arrays


def _pth(path: Path) -> _Tensors:
    """The tensors of a .pth; nothing else that is in it is carried out."""
    torch = _torch(path)
    raw = io.BytesIO(weights.read(path))
    _refuse_compressed(path, raw)
    try:
        found = torch.load(raw, map_location="cpu", weights_only=True)
    except Exception as error:  # its readers raise whatever the bytes lead to
        raise CheckpointError(
            f"{shown(path)}: PyTorch refused it ({type(error).__name__}); a state dict of tensors "
            "and nothing else was expected."
        ) from error
    for wrapped in _WRAPPED:
        if isinstance(found, dict) and isinstance(found.get(wrapped), dict):
            found = found[wrapped]
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{shown(path)}: holds a {type(found).__name__}; a state dict was expected."
        )
    for name, value in found.items():
        if not isinstance(name, str) or not _is_plain(torch, value):
            raise CheckpointError(
                f"{shown(path)}: {name!r} is a {type(value).__name__}; dense tensors of floats "
                "were expected."
            )
    return found


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        installed = "none is installed"
    else:
        version = torch.__version__.split(".")
        if (int(version[0]), int(version[1])) >= _TORCH:
            return torch
        installed = f"this is {torch.__version__}"
    raise ArgumentError(
        f"{shown(path)} is a pickle, which only PyTorch 2.10 or newer reads without running code "
        f"out of it, and {installed}; install it, or convert the file where it is: {_TO_CONVERT}"
    )


def _refuse_compressed(path: Path, raw: io.BytesIO) -> None:
    """A .pth is a zip of plain members; one that unfolds into more memory is none."""
    try:
        with zipfile.ZipFile(raw) as archive:
            members = archive.infolist()
    except (ValueError, NotImplementedError, zipfile.BadZipFile):
        members = []  # the format of before 2020, or damaged, which torch says
    raw.seek(0)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > weights.LARGEST:
            raise CheckpointError(
                f"{shown(path)}: {member.filename!r} in it is compressed; plain members were "
                "expected, as PyTorch writes them."
            )


def _is_plain(torch: Any, value: Any) -> bool:
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
    )
