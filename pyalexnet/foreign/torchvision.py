"""torchvision's AlexNet, the single tower of "One weird trick": reading and writing its state dict.

torchvision feeds its network (pixel / 255 - mean) / std, with a mean and a deviation for each
channel. Preset `owt` feeds (pixel - 255 mean) * factor, with one factor, so the rest of the
deviations goes into the filters of conv1.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalexnet import nets
from pyalexnet.backends.elements import BFLOAT16
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import printable, shown
from pyalexnet.foreign import formats, pth, state_dicts, weights
from pyalexnet.foreign.pth import Opaque
from pyalexnet.foreign.weights import Floats, Found, Tensor
from pyalexnet.nets.layers import Dropout, Layer, Scale
from pyalexnet.runs import tensors
from pyalexnet.step.net import NetSpec
from pyalexnet.trained.load import Trained

NET_ARGS: dict[str, Any] = {"preset": "owt"}
"""Arguments with which `nets.alexnet` makes the network, besides the number of classes."""

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

_Colours = npt.NDArray[np.float64]

_MEAN = np.array([0.485, 0.456, 0.406])
_STD = np.array([0.229, 0.224, 0.225])

_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
}
"""Float types of safetensors."""

_ARCHITECTURES = ("arch", "architecture", "model_name", "model")
"""Names under which scripts say which network they trained."""

_OPTIONS = ("args", "hyper_parameters", "hparams", "opt", "cfg", "config")
"""Names under which they keep their options."""

_CLASSES = ("class_names", "classes", "CLASSES")
"""Names under which they list the classes in output order; class_to_idx maps names to numbers."""

_SIZES = {"val_resize_size": 256, "val_crop_size": 224}
"""Defaults of torchvision's references: the shorter side of an image, and the side of the crop."""


def read(path: Path, state_dict: str | None = None) -> Found:
    """The network in a state dict, .safetensors or .pth, or in a training script's checkpoint.

    Args:
        path: of the file.
        state_dict: which of its state dicts, if it has several, such as averaged weights.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
        ArgumentError: it is a .pth, and no PyTorch is installed that reads one safely; or it has no
            such state dict.
    """
    found = _opened(path)
    notes = tuple(_notes(path, found))
    parameters, more = state_dicts.chosen(path, found, _NAMES.values(), state_dict)
    spec = _spec(_classes(path, parameters))
    weights.check(path, {name: one.shape for name, one in parameters.items()}, spec, _NAMES)
    params: dict[str, npt.NDArray[Any]] = {
        ours: _floats(parameters[theirs]) for ours, theirs in _NAMES.items()
    }
    colours, std = _statistics(path, found)
    params["conv1.w"] = params["conv1.w"] / _factors(spec, std)
    augment = spec.recipe.augment
    assert augment is not None
    mean = np.broadcast_to((255 * colours).astype(np.float32), (augment.stored, augment.stored, 3))
    new = weights.ours(path, spec, params)
    classes = _class_ids(path, found, spec.classes)
    if classes is None:
        classes, left = _named_classes(found, spec.classes)
        more = (*more, *left)
    return Found(spec, dict(NET_ARGS), new, mean.copy(), (*more, *notes), classes=classes)


def write(trained: Trained, path: Path) -> str:
    """Write a network of preset `owt` as torchvision's state dict, a .safetensors.

    Returns:
        The transform needed for its pixels, 0 to 1; its numbers are in the file's metadata too.

    Raises:
        ArgumentError: torchvision's AlexNet cannot compute this network, or sees other pixels.
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
    if (mean != mean[0]).any():
        raise ArgumentError(
            f"export: {trained.name} subtracts a mean image; one number a channel was expected, as "
            "torchvision's transforms subtract."
        )
    colours = [float(value) / 255 for value in mean[0]]
    params: dict[str, Floats] = {
        name: np.asarray(trained.net.backend.to_numpy(value), np.float32)
        for name, value in trained.net.params.items()
    }
    found = weights.theirs(spec, params)
    found["conv1.w"] = (found["conv1.w"] * _factors(spec, _STD)).astype(np.float32)
    pixels = {"mean": json.dumps(colours), "std": json.dumps(_STD.tolist())}
    told = {"format": "pt"} | pixels | trained.classes.described()
    tensors.write(path, {_NAMES[name]: value for name, value in found.items()}, told)
    return f"Normalize(mean={[round(one, 4) for one in colours]}, std={_STD.tolist()})"


def _class_ids(path: Path, found: Any, count: int) -> Classes | None:
    """The classes recorded by `write`; None for a file written by another program."""
    about = _table(found.get("args")) if isinstance(found, Mapping) else {}
    if not isinstance(about.get("class_ids"), str):  # e.g. a script's option of that name
        return None
    try:
        classes = Classes.read(about)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{shown(path)}: what it calls its classes cannot be read ({error})."
        ) from error
    if len(classes) != count:
        raise CheckpointError(
            f"{shown(path)}: calls {len(classes)} classes by name; {count} were expected."
        )
    return classes


def _named_classes(found: Any, count: int) -> tuple[Classes | None, tuple[str, ...]]:
    """The classes according to a training script, and a note if they cannot be right."""
    holders = (*_OPTIONS, "meta", "dataset_meta")
    tables = [_table(found), *(_table(_table(found).get(name)) for name in holders)]
    left: dict[str, None] = {}
    for table in tables:
        for where, names in _lists_of_classes(table):
            if len(names) == count:
                return Classes.named([printable(name) for name in names]), ()
            left[where] = None
    return None, tuple(
        f"Its {where} does not name {count} classes, one for each output, and is not used."
        for where in left
    )


def _lists_of_classes(table: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Lists of names in output order, and where they are; none if their numbers have gaps."""
    numbers = table.get("class_to_idx")
    if isinstance(numbers, Mapping) and numbers:
        by_number = {number: name for name, number in numbers.items() if type(number) is int}
        whole = sorted(by_number) == [*range(len(numbers))]
        yield "class_to_idx", [by_number[number] for number in sorted(by_number)] if whole else []
    for where in _CLASSES:
        said = table.get(where)
        if isinstance(said, list | tuple) and said and all(isinstance(one, str) for one in said):
            yield where, list(said)


def _spec(classes: int) -> NetSpec:
    return nets.alexnet(classes=classes, **NET_ARGS)


def _without_dropout(spec: NetSpec) -> list[Layer]:
    return [layer for layer in spec.layers if not isinstance(layer, Dropout)]


def _factors(spec: NetSpec, std: _Colours) -> _Colours:
    """torchvision's filters of conv1 divided by ours, (C, 1, 1)."""
    ours = next(layer.factor for layer in spec.layers if isinstance(layer, Scale))
    return (255 * std * ours)[:, None, None]


def _classes(path: Path, found: Mapping[str, Tensor]) -> int:
    name = _NAMES["fc8.b"]
    if name not in found or len(found[name].shape) != 1 or found[name].shape[0] < 1:
        raise CheckpointError(
            f"{shown(path)}: {name} is missing or no vector; torchvision's AlexNet was expected."
        )
    return found[name].shape[0]


def _floats(tensor: Tensor) -> Floats:
    assert tensor.floats is not None
    return tensor.floats()


# ---------------------------------------------------------------------- files


def _opened(path: Path) -> Any:
    """Tables by name, `Tensor`, and other values in the file."""
    raw = weights.read(path)
    form = formats.of(path, raw[: formats.HEAD])
    if form == "caffe":
        raise CheckpointError(
            f"{shown(path)}: begins as a .caffemodel does; a .safetensors or .pth was expected."
        )
    return _safetensors(path, raw) if form == "safetensors" else pth.read(path, raw)


def _safetensors(path: Path, raw: bytes) -> dict[str, Any]:
    """The tensors, and the file's metadata as `args`."""
    import safetensors

    deserialize: Any = safetensors.deserialize
    try:
        found = dict(deserialize(raw))
    except Exception as error:  # SafetensorError, or anything else that bad bytes cause
        raise CheckpointError(f"{shown(path)}: is no sound safetensors file ({error}).") from error
    if _NAMES.keys() <= found.keys():
        raise CheckpointError(
            f"{shown(path)}: is of a checkpoint of pyalexnet's own, whose folder is taken as it "
            f"is: pyalexnet evaluate {shown(path.parent)}; torchvision's names were expected."
        )
    length = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    return {"args": about} | {printable(name): _tensor(value) for name, value in found.items()}


def _tensor(value: Mapping[str, Any]) -> Tensor:
    kind, shape = value["dtype"], tuple(value["shape"])
    dtype = _TYPES.get(kind)
    if dtype is None:
        return Tensor(shape, kind, None)

    def floats() -> Floats:
        numbers: npt.NDArray[Any] = np.frombuffer(value["data"], dtype)
        return numbers.astype(np.float32).reshape(shape)

    return Tensor(shape, kind, floats)


# ---------------------------------------------------------------------- what scripts say


def _notes(path: Path, found: Any) -> Iterator[str]:
    """Notes on a training script's options; another network is refused by its name."""
    if not isinstance(found, Mapping):
        return
    options = [_table(found.get(name)) for name in _OPTIONS]
    for where, table in [("it", found), *zip(_OPTIONS, options, strict=True)]:
        # Elsewhere than in these two, a model's name is up to its author.
        for name in _ARCHITECTURES if where in ("it", "args") else _ARCHITECTURES[:2]:
            said = table.get(name)
            if isinstance(said, str) and "alexnet" not in said.lower():
                raise CheckpointError(
                    f"{shown(path)}: {where} says that its {name} is {said[:80]!r}; alexnet was "
                    "expected."
                )
    for table in options:
        for name, usual in _SIZES.items():
            if table.get(name, usual) != usual:
                said = printable(str(table[name]))
                yield (
                    f"It was evaluated with {name} {said}, and sees images here with {usual}, as "
                    "torchvision's weights do."
                )


def _statistics(path: Path, found: Any) -> tuple[_Colours, _Colours]:
    """Mean and deviation of each channel, for pixels from 0 to 1, as in timm's options."""
    table = _table(found.get("args")) if isinstance(found, Mapping) else {}
    values = []
    for name, usual in (("mean", _MEAN), ("std", _STD)):
        said: Any = table.get(name)
        if said is None:
            values.append(usual)
            continue
        if isinstance(said, str):  # as in the metadata of a .safetensors
            with contextlib.suppress(ValueError):
                said = json.loads(said)
        numbers = isinstance(said, list | tuple) and all(type(one) in (int, float) for one in said)
        low = 0 if name == "mean" else 1e-6
        if not numbers or len(said) != 3 or not all(low <= one <= 255 for one in said):
            raise CheckpointError(
                f"{shown(path)}: args says that its {name} is "
                f"{printable(str(said))}; three numbers were expected."
            )
        values.append(np.array(said, np.float64))
    return values[0], values[1]


def _table(value: Any) -> Mapping[str, Any]:
    """The options by name, whether held in a table or an object."""
    told = value.told if isinstance(value, Opaque) else value
    return told if isinstance(told, Mapping) else {}
