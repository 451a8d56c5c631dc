"""The conventions in which the presets of AlexNet may differ, in words, and where each is defined.

File names are those of the 2012 program that the Computer History Museum released, or of Caffe and
torchvision for their presets. Sections are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyalexnet.nets import presets
from pyalexnet.nets.layers import Start
from pyalexnet.nets.presets import Preset
from pyalexnet.nets.recipe import Augment
from pyalexnet.nets.schedule import Schedule
from pyalexnet.ops.records import Pad


@dataclass(frozen=True)
class Convention:
    """One convention, and the value of each preset."""

    name: str
    fields: tuple[str, ...]  # of a `Preset`, dotted below `recipe`
    words: Callable[[Any], str]  # for a preset, or its augmentation if the fields are of that
    where: Mapping[str, str]  # for each preset the paper's section or the original's file and line

    def value(self, preset: Preset) -> str:
        """A preset's value in words; "none" without augmentation, or norms across channels."""
        if self.fields[0].startswith("recipe.augment."):
            augment = preset.recipe.augment
            return "none" if augment is None else self.words(augment)
        absent = self.fields[0].startswith("lrn_") and not {"norm1", "norm2"} & set(preset.norms)
        return "none" if absent else self.words(preset)


def differences(first: str, second: str) -> tuple[Convention, ...]:
    """The conventions on which two presets differ."""
    one, other = presets.get(first), presets.get(second)
    return tuple(row for row in conventions() if row.value(one) != row.value(other))


def conventions() -> tuple[Convention, ...]:
    """All conventions, from pixels to loss, then the training's."""
    return tuple(
        Convention(name, tuple(fields.split()), words, _where(*_ORIGINS[name]))
        for name, (fields, words) in _VALUES.items()
    )


def _where(source: str, paper: str, caffe: str, owt: str) -> dict[str, str]:
    """Where each preset's value comes from; for `paper` the section."""
    sections = f"section{'s' if ', ' in paper or ' to ' in paper else ''} {paper}"
    return {"source": source, "paper": sections, "caffe": caffe, "owt": owt}


# Values in words


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _zeros(pad: Pad) -> str:
    if pad == 0:
        return ""
    if isinstance(pad, int):
        return f", {pad} zeros on each side"
    sides = zip(("above", "below", "left", "right"), pad, strict=True)
    return "".join(f", {count} zeros {side}" for side, count in sides if count)


def _pixels(preset: Preset) -> str:
    factor = preset.pixel_scale
    return "0 to 255, minus mean" + ("" if factor == 1 else f", times {factor:.4g}")


def _mean(augment: Augment) -> str:
    return {
        "centre": "centre of the mean image, for any crop",
        "pixel": "mean image where the crop was",
        "channel": "one number a channel",
    }[augment.mean]


def _crop(augment: Augment) -> str:
    return "one an image" if augment.chunk == 1 else f"one for {augment.chunk} images"


def _jitter(augment: Augment) -> str:
    if augment.jitter == 0:
        return "none"
    shrinks = f", then / {1 + augment.jitter:g}" if augment.jitter_shrinks else ""
    until = "" if augment.jitter_until is None else f", until epoch {augment.jitter_until:g}"
    return f"{augment.jitter:g} deviations along each axis{shrinks}{until}"


def _place(preset: Preset) -> str:
    return "behind the pool" if preset.activation_after_pool else "behind the convolution"


def _windows(preset: Preset) -> str:
    return "within a tower" if preset.lrn_per_tower else "all maps (within a tower where two run)"


def _factor(preset: Preset) -> str:
    return "1 / keep in training" if preset.dropout_inverted else "keep in evaluation"


def _dropped(preset: Preset) -> str:
    return f"{'inputs' if preset.dropout_before else 'outputs'} of fc6 and fc7"


def _by_layer(values: Mapping[str, Start]) -> str:
    """The most frequent value, and the layers that have another."""
    every = list(values.values())
    usual = max(every, key=every.count)
    layers: dict[Start, list[str]] = {}
    for layer, value in values.items():
        if value != usual:
            layers.setdefault(value, []).append(layer)
    others = (f"{_start(value)} in {', '.join(named)}" for value, named in layers.items())
    return "; ".join([_start(usual), *others])


def _start(value: Start) -> str:
    return "uniform within 1 / sqrt(inputs)" if value == "fan_in" else f"{value:g}"


def _course(lr: float, schedule: Schedule) -> str:
    return f"{lr:g}, {schedule}"


def _lr_of_weights(preset: Preset) -> str:
    rate = preset.recipe.rate
    return _course(rate.lr_w, rate.schedule_w or preset.recipe.schedule)


def _lr_of_biases(preset: Preset) -> str:
    rate = preset.recipe.rate
    own = rate.schedule_b
    return f"{rate.lr_b:g}, with the weights'" if own is None else _course(rate.lr_b, own)


def _decays(preset: Preset) -> str:
    return f"{preset.recipe.rate.decay_w:g}, {preset.recipe.rate.decay_b:g}"


def _rates(preset: Preset) -> str:
    usual = preset.recipe.schedule
    own = (
        f"{layer}: {_course(rate.lr_w, rate.schedule_w or usual)}; its biases: "
        f"{_course(rate.lr_b, rate.schedule_b or usual)}; decays {rate.decay_w:g}, {rate.decay_b:g}"
        for layer, rate in preset.recipe.rates.items()
    )
    return "; ".join(own) or "none"


_JITTERS = "recipe.augment.jitter recipe.augment.jitter_shrinks recipe.augment.jitter_until"
_WEIGHTS = "recipe.rate.lr_w recipe.rate.schedule_w recipe.schedule"

# By name: the fields, and their value in words.
_VALUES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "stored image": ("recipe.augment.stored", lambda a: f"{a.stored} x {a.stored}"),
    "input": ("input_size pad", lambda p: f"{p.input_size} x {p.input_size}{_zeros(p.pad)}"),
    "mean": ("recipe.augment.mean", _mean),
    "pixels": ("pixel_scale", _pixels),
    "crop": ("recipe.augment.chunk", _crop),
    "mirrored": ("recipe.augment.flip", lambda a: "every second" if a.flip else "never"),
    "colour jitter": (_JITTERS, _jitter),
    "maps of conv1 to conv5": ("maps", lambda p: _listed(p.maps)),
    "units of fc6 and fc7": ("units", lambda p: _listed(p.units)),
    "towers": ("towers", lambda p: str(p.towers)),
    "read both towers": ("exchange", lambda p: _listed(p.exchange)),
    "neuron": ("activation", lambda p: p.activation),
    "neuron's place in layers 1 and 5": ("activation_after_pool", _place),
    "pools": ("pool", lambda p: "{} wide, {} apart".format(*p.pool)),
    "zeros around inputs of conv2, conv5": ("pad2 pad5", lambda p: f"{p.pad2}, {p.pad5}"),
    "norms": ("norms", lambda p: _listed(p.norms)),
    "alpha of the LRN, a square": ("lrn_alpha", lambda p: f"{p.lrn_alpha:g}"),
    "k of the LRN": ("lrn_k", lambda p: f"{p.lrn_k:g}"),
    "windows of the LRN": ("lrn_per_tower", _windows),
    "dropout": ("dropout", lambda p: f"{p.dropout:g}"),
    "dropout's factor": ("dropout_inverted", _factor),
    "dropout's place": ("dropout_before", _dropped),
    "layers left out": ("without", lambda p: _listed(p.without)),
    "deviation of the first weights": ("std", lambda p: _by_layer(p.std)),
    "first biases": ("bias", lambda p: _by_layer(p.bias)),
    "batch": ("recipe.batch_size", lambda p: str(p.recipe.batch_size)),
    "epochs": ("recipe.epochs", lambda p: f"{p.recipe.epochs:g}"),
    "momentum": ("recipe.momentum", lambda p: f"{p.recipe.momentum:g}"),
    "learning rate of weights": (_WEIGHTS, _lr_of_weights),
    "learning rate of biases": ("recipe.rate.lr_b recipe.rate.schedule_b", _lr_of_biases),
    "weight decay, of weights and biases": ("recipe.rate.decay_w recipe.rate.decay_b", _decays),
    "layers with rates of their own": ("recipe.rates", _rates),
}

_CFG, _PARAMS = "layers-145.cfg", "layer-params-145.cfg"
_NET, _SOLVER = "bvlc_alexnet/train_val.prototxt", "bvlc_alexnet/solver.prototxt"
_DATA, _LRN, _PROTO = "data_transformer.cpp", "lrn_layer.cpp", "caffe.proto"
_OWT, _OWT_RECIPE = "torchvision/models/alexnet.py", "torchvision references/classification"
_CONV, _DROPOUT = "torch.nn.Conv2d", "torch.nn.Dropout"
_CHANGES, _STARTS = f"{_PARAMS}:176-181", f"{_CFG}:143,157,172,186,200,214"
_JITTER, _DECAY = f"convdata_jpeg.py:64-66,155-179; {_CHANGES}", f"{_SOLVER}; {_NET} (decay_mult)"

# By name: the 2012 program's file, the paper's section, Caffe's file and torchvision's.
_ORIGINS = {
    "stored image": ("make-data.py:40", "2", _DATA, _OWT_RECIPE),
    "input": ("layer.py:1004", "3.5", _NET, _OWT),
    "mean": ("convdata_jpeg.py:95,207-211", "2", f"{_DATA}:101-115", _OWT_RECIPE),
    "pixels": ("convdata_jpeg.py:207-211", "2", _DATA, _OWT_RECIPE),
    "crop": ("convdata_jpeg.py:77,238-246", "4.1", _DATA, _OWT_RECIPE),
    "mirrored": ("convdata_jpeg.py:244", "4.1", _NET, _OWT_RECIPE),
    "colour jitter": (_JITTER, "4.1 (eigenvalues read as deviations)", _NET, _OWT_RECIPE),
    "maps of conv1 to conv5": (_CFG, "3.5", _NET, _OWT),
    "units of fc6 and fc7": (_CFG, "3.5", _NET, _OWT),
    "towers": (_CFG, "3.2", f"{_NET} (groups)", _OWT),
    "read both towers": (f"{_CFG}:136-148", "3.2, 3.5", _NET, _OWT),
    "neuron": (_CFG, "3.1", _NET, _OWT),
    "neuron's place in layers 1 and 5": (f"{_CFG}:9-63", "3.3 to 3.5", _NET, _OWT),
    "pools": (_CFG, "3.4", _NET, _OWT),
    "zeros around inputs of conv2, conv5": (_CFG, "3.5 (not said)", _NET, _OWT),
    "norms": (f"{_CFG}:66-117", "3.3", _NET, _OWT),
    "alpha of the LRN, a square": ("layer.py:1183", "3.3", f"{_LRN}:115", _OWT),
    "k of the LRN": (f"layer.py:1186; {_PARAMS}", "3.3", f"{_PROTO}:879-888", _OWT),
    "windows of the LRN": (f"{_CFG}:9-107", "3.3", _LRN, _OWT),
    "dropout": (_CFG, "4.2", _NET, _OWT),
    "dropout's factor": ("layer.cu:1126-1135", "4.2", "dropout_layer.cpp:17-44", _DROPOUT),
    "dropout's place": (_CFG, "4.2", _NET, _OWT),
    "layers left out": (_CFG, "3.5", _NET, _OWT),
    "deviation of the first weights": (_STARTS, "5", _NET, _CONV),
    "first biases": (_CFG, "5", _NET, _CONV),
    "batch": ("convnet.py", "5", _NET, _OWT_RECIPE),
    "epochs": (f"{_PARAMS}:182", "5", _SOLVER, _OWT_RECIPE),
    "momentum": (_PARAMS, "5", _SOLVER, _OWT_RECIPE),
    "learning rate of weights": (_CHANGES, "5", _SOLVER, _OWT_RECIPE),
    "learning rate of biases": (_PARAMS, "5", f"{_NET} (lr_mult)", _OWT_RECIPE),
    "weight decay, of weights and biases": (f"{_PARAMS}; layer.cu:565", "5", _DECAY, _OWT_RECIPE),
    "layers with rates of their own": (_CHANGES, "5", _NET, _OWT_RECIPE),
}
