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
from pyalexnet.data.classes import Classes
from pyalexnet.errors import ArgumentError, CheckpointError
from pyalexnet.files import ODD_JSON, printable, refused
from pyalexnet.foreign import formats, pth, state_dicts, weights
from pyalexnet.foreign.state_dicts import table_of
from pyalexnet.foreign.weights import ForeignNet, Tensor
from pyalexnet.nets.layers import Dropout, Layer, Scale
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.runs import tensors
from pyalexnet.trained.load import Trained

# Arguments with which `nets.alexnet` makes the network, besides the number of classes.
NET_ARGS: dict[str, Any] = {"preset": "owt"}

_LAYERS = {f"conv{number}": f"features.{at}" for number, at in enumerate((0, 3, 6, 8, 10), 1)} | {
    f"fc{number}": f"classifier.{at}" for number, at in enumerate((1, 4, 6), 6)
}
_NAMES = {
    f"{ours}.{kind[0]}": f"{theirs}.{kind}"
    for ours, theirs in _LAYERS.items()
    for kind in ("weight", "bias")
}

_Colours = npt.NDArray[np.float64]

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Float types of safetensors.
_TYPES: dict[str, Any] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16}

# Names under which scripts say which network they trained.
_ARCHITECTURES = ("arch", "architecture", "model_name", "model")

# Names under which they keep their options.
_OPTIONS = ("args", "hyper_parameters", "hparams", "opt", "cfg", "config")

# Names under which OpenMMLab's scripts describe the data.
_METAS = ("meta", "dataset_meta")

# Names under which they list the classes in output order; class_to_idx maps names to numbers.
_CLASSES = ("class_names", "classes", "CLASSES")

# Defaults of torchvision's references: the shorter side of an image, and the side of the crop.
_SIZES = {"val_resize_size": 256, "val_crop_size": 224}


def read(path: Path, state_dict: str | None = None) -> ForeignNet:
    """The network in a state dict, .safetensors or .pth, or in a training script's checkpoint.

    state_dict: which of its state dicts, if it has several, such as averaged weights. An
    ArgumentError if there is none of that name, or no PyTorch that reads a .pth safely.
    """
    with weights.opened(path) as raw:
        form = formats.of(raw)
        if form == "caffe":
            said = "begins as a .caffemodel does; a .safetensors or .pth was expected."
            raise CheckpointError(said)
        contents = _safetensors(raw) if form == "safetensors" else pth.read(raw)
        return _found(contents, state_dict)


def _found(contents: Any, state_dict: str | None) -> ForeignNet:
    about = table_of(contents)
    args = table_of(about.get("args"))
    notes = tuple(_notes(about))
    parameters, more = state_dicts.chosen(contents, _NAMES.values(), state_dict)
    last = parameters.get(_NAMES["fc8.b"])
    if last is None or len(last.shape) != 1 or last.shape[0] < 1:
        raise CheckpointError(
            f"{_NAMES['fc8.b']} is missing or not a vector; torchvision's AlexNet was expected."
        )
    spec = _spec(last.shape[0])
    params = weights.ours(spec, parameters, _NAMES)
    colours, std = _colours(args, "mean", _MEAN, 0), _colours(args, "std", _STD, 1e-6)
    params["conv1.w"] = (params["conv1.w"] / _factors(spec, std)).astype(np.float32)
    augment = spec.recipe.augment
    assert augment is not None
    mean = np.broadcast_to((255 * colours).astype(np.float32), (augment.stored, augment.stored, 3))
    classes, left = _classes(about, args, spec.classes)
    return ForeignNet(spec, dict(NET_ARGS), params, mean.copy(), (*more, *left, *notes), classes)


def write(trained: Trained, path: Path) -> str:
    """Write a network of preset `owt` as torchvision's state dict, a .safetensors.

    Returns the transform needed for its pixels, 0 to 1; its numbers are in the metadata too. An
    ArgumentError if torchvision's AlexNet cannot compute this network, or sees other pixels.
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
    params = trained.params
    params["conv1.w"] = (params["conv1.w"] * _factors(spec, np.array(_STD))).astype(np.float32)
    found = {_NAMES[name]: value for name, value in weights.theirs(spec, params).items()}
    pixels = {"mean": json.dumps(colours), "std": json.dumps(_STD)}
    tensors.write(path, found, {"format": "pt"} | pixels | trained.classes.described())
    return f"Normalize(mean={[round(one, 4) for one in colours]}, std={_STD})"


def _classes(
    about: Mapping[str, Any], args: Mapping[str, Any], count: int
) -> tuple[Classes | None, tuple[str, ...]]:
    """The classes that `write` or a script recorded, else None; notes on impossible lists."""
    if isinstance(args.get("class_ids"), str):  # not a script's option of that name
        with refused(CheckpointError, "what it calls its classes cannot be read", *ODD_JSON):
            classes = Classes.read(args)
        if len(classes) != count:
            raise CheckpointError(f"calls {len(classes)} classes by name; {count} were expected.")
        return classes, ()
    left: dict[str, None] = {}
    for table in (about, *(table_of(about.get(name)) for name in (*_OPTIONS, *_METAS))):
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
    """torchvision's filters of conv1 divided by ours, (C,)."""
    return 255 * std * next(layer.factor for layer in spec.layers if isinstance(layer, Scale))


# ---------------------------------------------------------------------- files


def _safetensors(raw: bytes) -> dict[str, Any]:
    """The tensors, and the file's metadata as `args`."""
    import safetensors

    deserialize: Any = safetensors.deserialize
    # SafetensorError, or anything else that bad bytes cause.
    with refused(CheckpointError, "is no sound safetensors file", Exception):
        found = dict(deserialize(raw))
    if _NAMES.keys() <= found.keys():
        raise CheckpointError(
            "is of a checkpoint of pyalexnet's own, whose folder is taken as it is by every "
            "command; torchvision's names were expected."
        )
    length = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    return {"args": about} | {printable(name): _tensor(value) for name, value in found.items()}


def _tensor(value: Mapping[str, Any]) -> Tensor:
    kind, shape, data = value["dtype"], tuple(value["shape"]), value["data"]
    if kind not in _TYPES:
        return Tensor(shape, kind, None)
    dtype = np.dtype(_TYPES[kind])
    return Tensor(shape, kind, lambda: np.frombuffer(data, dtype).astype(np.float32).reshape(shape))


# ---------------------------------------------------------------------- what scripts say


def _notes(about: Mapping[str, Any]) -> Iterator[str]:
    """Notes on a training script's options; another network is refused by its name."""
    options = [table_of(about.get(name)) for name in _OPTIONS]
    for where, table in [("it", about), *zip(_OPTIONS, options, strict=True)]:
        # Elsewhere than in these two, a model's name is up to its author.
        for name in _ARCHITECTURES if where in ("it", "args") else _ARCHITECTURES[:2]:
            said = table.get(name)
            if isinstance(said, str) and "alexnet" not in said.lower():
                raise CheckpointError(
                    f"{where} says that its {name} is {said[:80]!r}; alexnet was expected."
                )
    for table in options:
        for name, usual in _SIZES.items():
            if table.get(name, usual) != usual:
                yield (
                    f"It was evaluated with {name} {printable(table[name])}, and sees images here "
                    f"with {usual}, as torchvision's weights do."
                )


def _colours(args: Mapping[str, Any], name: str, usual: list[float], low: float) -> _Colours:
    """Mean or deviation of each channel, for pixels from 0 to 1, as in timm's options."""
    said: Any = usual if args.get(name) is None else args[name]
    if isinstance(said, str):  # as in the metadata of a .safetensors
        with contextlib.suppress(ValueError):
            said = json.loads(said)
    numbers = isinstance(said, list | tuple) and all(type(one) in (int, float) for one in said)
    if not numbers or len(said) != 3 or not all(low <= one <= 255 for one in said):
        raise CheckpointError(
            f"args says that its {name} is {printable(said)}; three numbers were expected."
        )
    return np.array(said, np.float64)
