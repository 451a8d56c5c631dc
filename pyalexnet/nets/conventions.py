"""The conventions in which the presets of AlexNet may differ, in words, and where each is defined.

File names are those of the 2012 program that the Computer History Museum released, or of Caffe and
torchvision for their presets. Sections are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyalexnet.nets import presets
from pyalexnet.nets.layers import Start
from pyalexnet.nets.presets import Preset
from pyalexnet.nets.recipe import Augment, Rate
from pyalexnet.nets.schedule import Schedule
from pyalexnet.ops.records import Pad

_CAFFE_NET = "bvlc_alexnet/train_val.prototxt"
_CAFFE_SOLVER = "bvlc_alexnet/solver.prototxt"
_OWT_NET = "torchvision/models/alexnet.py"
_OWT_RECIPE = "torchvision references/classification"


@dataclass(frozen=True)
class Convention:
    """One convention.

    name: in words. fields: those of a `Preset` that it covers, dotted below `recipe`. value: a
    preset's value, in words. where: for each preset the paper's section or the original's file and
    line.
    """

    name: str
    fields: tuple[str, ...]
    value: Callable[[Preset], str]
    where: Mapping[str, str]


def differences(first: str, second: str) -> tuple[Convention, ...]:
    """The conventions on which two presets differ.

    Raises:
        ArgumentError: there is no such preset.
    """
    one, other = presets.get(first), presets.get(second)
    return tuple(row for row in conventions() if row.value(one) != row.value(other))


def conventions() -> tuple[Convention, ...]:
    """All conventions, from pixels to loss, then the training's."""
    return (
        *_of_pixels(),
        *_of_layers(),
        *_of_norms(),
        *_of_dropout(),
        *_of_start(),
        *_of_training(),
    )


def _of_pixels() -> tuple[Convention, ...]:
    return (
        Convention(
            "stored image",
            ("recipe.augment.stored",),
            _augment(lambda a: f"{a.stored} x {a.stored}"),
            _where("make-data.py:40", "2", "data_transformer.cpp", _OWT_RECIPE),
        ),
        Convention(
            "input",
            ("input_size", "pad"),
            lambda p: f"{p.input_size} x {p.input_size}{_zeros(p.pad)}",
            _where("layer.py:1004", "3.5", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "mean",
            ("recipe.augment.mean",),
            _augment(
                lambda a: {
                    "centre": "centre of the mean image, for any crop",
                    "pixel": "mean image where the crop was",
                    "channel": "one number a channel",
                }[a.mean]
            ),
            _where("convdata_jpeg.py:95,207-211", "2", "data_transformer.cpp:101-115", _OWT_RECIPE),
        ),
        Convention(
            "pixels",
            ("pixel_scale",),
            lambda p: f"0 to 255, minus mean{_times(p.pixel_scale)}",
            _where("convdata_jpeg.py:207-211", "2", "data_transformer.cpp", _OWT_RECIPE),
        ),
        Convention(
            "crop",
            ("recipe.augment.chunk",),
            _augment(lambda a: "one an image" if a.chunk == 1 else f"one for {a.chunk} images"),
            _where("convdata_jpeg.py:77,238-246", "4.1", "data_transformer.cpp", _OWT_RECIPE),
        ),
        Convention(
            "mirrored",
            ("recipe.augment.flip",),
            _augment(lambda a: "every second" if a.flip else "never"),
            _where("convdata_jpeg.py:244", "4.1", _CAFFE_NET, _OWT_RECIPE),
        ),
        Convention(
            "colour jitter",
            (
                "recipe.augment.jitter",
                "recipe.augment.jitter_shrinks",
                "recipe.augment.jitter_until",
            ),
            _augment(_jitter),
            _where(
                "convdata_jpeg.py:64-66,155-179; layer-params-145.cfg:176-181",
                "4.1 (eigenvalues read as deviations)",
                _CAFFE_NET,
                _OWT_RECIPE,
            ),
        ),
    )


def _of_layers() -> tuple[Convention, ...]:
    return (
        Convention(
            "maps of conv1 to conv5",
            ("maps",),
            lambda p: ", ".join(map(str, p.maps)),
            _where("layers-145.cfg", "3.5", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "units of fc6 and fc7",
            ("units",),
            lambda p: ", ".join(map(str, p.units)),
            _where("layers-145.cfg", "3.5", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "towers",
            ("towers",),
            lambda p: str(p.towers),
            _where("layers-145.cfg", "3.2", f"{_CAFFE_NET} (groups)", _OWT_NET),
        ),
        Convention(
            "read both towers",
            ("exchange",),
            lambda p: ", ".join(p.exchange) or "none",
            _where("layers-145.cfg:136-148", "3.2, 3.5", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "neuron",
            ("activation",),
            lambda p: p.activation,
            _where("layers-145.cfg", "3.1", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "neuron's place in layers 1 and 5",
            ("activation_after_pool",),
            lambda p: "behind the pool" if p.activation_after_pool else "behind the convolution",
            _where("layers-145.cfg:9-63", "3.3 to 3.5", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "pools",
            ("pool",),
            lambda p: "{} wide, {} apart".format(*p.pool),
            _where("layers-145.cfg", "3.4", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "zeros around inputs of conv2, conv5",
            ("pad2", "pad5"),
            lambda p: f"{p.pad2}, {p.pad5}",
            _where("layers-145.cfg", "3.5 (not said)", _CAFFE_NET, _OWT_NET),
        ),
    )


def _of_norms() -> tuple[Convention, ...]:
    return (
        Convention(
            "norms",
            ("norms",),
            lambda p: ", ".join(p.norms) or "none",
            _where("layers-145.cfg:66-117", "3.3", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "alpha of the LRN, a square",
            ("lrn_alpha",),
            _lrn(lambda p: f"{p.lrn_alpha:g}"),
            _where("layer.py:1183", "3.3", "lrn_layer.cpp:115", _OWT_NET),
        ),
        Convention(
            "k of the LRN",
            ("lrn_k",),
            _lrn(lambda p: f"{p.lrn_k:g}"),
            _where("layer.py:1186; layer-params-145.cfg", "3.3", "caffe.proto:879-888", _OWT_NET),
        ),
        Convention(
            "windows of the LRN",
            ("lrn_per_tower",),
            _lrn(
                lambda p: (
                    "within a tower"
                    if p.lrn_per_tower
                    else "all maps (within a tower where two run)"
                )
            ),
            _where("layers-145.cfg:9-107", "3.3", "lrn_layer.cpp", _OWT_NET),
        ),
    )


def _of_dropout() -> tuple[Convention, ...]:
    return (
        Convention(
            "dropout",
            ("dropout",),
            lambda p: f"{p.dropout:g}",
            _where("layers-145.cfg", "4.2", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "dropout's factor",
            ("dropout_inverted",),
            lambda p: "1 / keep in training" if p.dropout_inverted else "keep in evaluation",
            _where("layer.cu:1126-1135", "4.2", "dropout_layer.cpp:17-44", "torch.nn.Dropout"),
        ),
        Convention(
            "dropout's place",
            ("dropout_before",),
            lambda p: f"{'inputs' if p.dropout_before else 'outputs'} of fc6 and fc7",
            _where("layers-145.cfg", "4.2", _CAFFE_NET, _OWT_NET),
        ),
        Convention(
            "layers left out",
            ("without",),
            lambda p: ", ".join(p.without) or "none",
            _where("layers-145.cfg", "3.5", _CAFFE_NET, _OWT_NET),
        ),
    )


def _of_start() -> tuple[Convention, ...]:
    return (
        Convention(
            "deviation of the first weights",
            ("std",),
            lambda p: _by_layer(p.std),
            _where("layers-145.cfg:143,157,172,186,200,214", "5", _CAFFE_NET, "torch.nn.Conv2d"),
        ),
        Convention(
            "first biases",
            ("bias",),
            lambda p: _by_layer(p.bias),
            _where("layers-145.cfg", "5", _CAFFE_NET, "torch.nn.Conv2d"),
        ),
    )


def _of_training() -> tuple[Convention, ...]:
    return (
        Convention(
            "batch",
            ("recipe.batch_size",),
            lambda p: str(p.recipe.batch_size),
            _where("convnet.py", "5", _CAFFE_NET, _OWT_RECIPE),
        ),
        Convention(
            "epochs",
            ("recipe.epochs",),
            lambda p: f"{p.recipe.epochs:g}",
            _where("layer-params-145.cfg:182", "5", _CAFFE_SOLVER, _OWT_RECIPE),
        ),
        Convention(
            "momentum",
            ("recipe.momentum",),
            lambda p: f"{p.recipe.momentum:g}",
            _where("layer-params-145.cfg", "5", _CAFFE_SOLVER, _OWT_RECIPE),
        ),
        Convention(
            "learning rate of weights",
            ("recipe.rate.lr_w", "recipe.rate.schedule_w", "recipe.schedule"),
            lambda p: _course(p.recipe.rate.lr_w, p.recipe.rate.schedule_w or p.recipe.schedule),
            _where("layer-params-145.cfg:176-181", "5", _CAFFE_SOLVER, _OWT_RECIPE),
        ),
        Convention(
            "learning rate of biases",
            ("recipe.rate.lr_b", "recipe.rate.schedule_b"),
            _lr_of_biases,
            _where("layer-params-145.cfg", "5", f"{_CAFFE_NET} (lr_mult)", _OWT_RECIPE),
        ),
        Convention(
            "weight decay, of weights and biases",
            ("recipe.rate.decay_w", "recipe.rate.decay_b"),
            lambda p: f"{p.recipe.rate.decay_w:g}, {p.recipe.rate.decay_b:g}",
            _where(
                "layer-params-145.cfg; layer.cu:565",
                "5",
                f"{_CAFFE_SOLVER}; {_CAFFE_NET} (decay_mult)",
                _OWT_RECIPE,
            ),
        ),
        Convention(
            "layers with rates of their own",
            ("recipe.rates",),
            _rates,
            _where("layer-params-145.cfg:176-181", "5", _CAFFE_NET, _OWT_RECIPE),
        ),
    )


def _where(source: str, paper: str, caffe: str, owt: str) -> dict[str, str]:
    """Where each preset's value comes from; for `paper` the section."""
    sections = f"section{'s' if ', ' in paper or ' to ' in paper else ''} {paper}"
    return {"source": source, "paper": sections, "caffe": caffe, "owt": owt}


# Values in words


def _augment(words: Callable[[Augment], str]) -> Callable[[Preset], str]:
    """`words` of the augmentation, or "none" without one."""

    def value(preset: Preset) -> str:
        augment = preset.recipe.augment
        return "none" if augment is None else words(augment)

    return value


def _lrn(words: Callable[[Preset], str]) -> Callable[[Preset], str]:
    """`words` of the preset, or "none" without norms across channels."""

    def value(preset: Preset) -> str:
        return words(preset) if {"norm1", "norm2"} & set(preset.norms) else "none"

    return value


def _zeros(pad: Pad) -> str:
    if pad == 0:
        return ""
    if isinstance(pad, int):
        return f", {pad} zeros on each side"
    sides = zip(("above", "below", "left", "right"), pad, strict=True)
    return "".join(f", {count} zeros {side}" for side, count in sides if count)


def _times(factor: float) -> str:
    return "" if factor == 1 else f", times {factor:.4g}"


def _jitter(augment: Augment) -> str:
    if augment.jitter == 0:
        return "none"
    shrinks = f", then / {1 + augment.jitter:g}" if augment.jitter_shrinks else ""
    until = "" if augment.jitter_until is None else f", until epoch {augment.jitter_until:g}"
    return f"{augment.jitter:g} deviations along each axis{shrinks}{until}"


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


def _lr_of_biases(preset: Preset) -> str:
    rate = preset.recipe.rate
    if rate.schedule_b is None:
        return f"{rate.lr_b:g}, with the weights'"
    return _course(rate.lr_b, rate.schedule_b)


def _rates(preset: Preset) -> str:
    recipe = preset.recipe
    own = (_own(layer, rate, recipe.schedule) for layer, rate in recipe.rates.items())
    return "; ".join(own) or "none"


def _own(layer: str, rate: Rate, schedule: Schedule) -> str:
    weights = _course(rate.lr_w, rate.schedule_w or schedule)
    biases = _course(rate.lr_b, rate.schedule_b or schedule)
    return f"{layer}: {weights}; its biases: {biases}; decays {rate.decay_w:g}, {rate.decay_b:g}"
