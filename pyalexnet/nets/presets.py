"""The differences between the published AlexNets; `alexnet` builds any from its `Preset`.

source  the 2012 program with `layers-145.cfg`, which made the paper's numbers
paper   the paper's text, where it differs from them
caffe   BVLC's reference model, `models/bvlc_alexnet`
owt     the single tower of "One weird trick" (arXiv:1404.5997) as torchvision has it

`conventions` says where each value is defined, `ablations` what a user may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import LRN, Dropout, Layer, Relu, RNorm, Scale, Start, Tanh
from pyalexnet.nets.recipe import Augment, Rate, Recipe
from pyalexnet.nets.schedule import Constant, Plateau, Steps
from pyalexnet.ops.checks import positive
from pyalexnet.ops.records import Pad

Neuron: TypeAlias = Literal["relu", "tanh"]

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

# Layers that are left out together with a layer, for either neuron.
_COMPANIONS = {"conv5": ("relu5", "tanh5"), "fc6": ("drop6",), "fc7": ("drop7",)}


@dataclass(frozen=True)
class Preset:
    """The conventions; `_source` sets all of them, the other presets change some."""

    input_size: int  # height and width of the crop that the network sees
    pad: Pad  # zeros around it, for conv1: a number or (top, bottom, left, right)
    pixel_scale: float  # factor of the pixels, 0 to 255 minus the mean, before conv1
    maps: tuple[int, ...]  # filters of the five convolutions, all towers together
    units: tuple[int, ...]  # outputs of fc6 and fc7
    towers: int  # parts of a layer, each on its own device
    # Layers that read all towers, conv1 aside; the others have `towers` groups.
    exchange: tuple[str, ...]
    activation: Neuron
    # Conv1 and conv5 have it after the pool, so norm1 comes before it.
    activation_after_pool: bool
    pool: tuple[int, int]  # size and stride
    pad2: int  # zeros around the maps that conv2 reads
    pad5: int  # and conv5
    norms: tuple[str, ...]  # norm1 and norm2 across channels, rnorm2 within each map
    lrn_alpha: float  # weight of each square in norm1 and norm2
    lrn_k: float  # their constant
    lrn_per_tower: bool  # whether their windows end at a tower's edge
    dropout: float  # probability of dropping, for fc6 and fc7
    dropout_inverted: bool  # whether it rescales in training instead of evaluation
    dropout_before: bool  # on the inputs of fc6 and fc7 instead of their outputs
    std: Mapping[str, Start]  # initial weights by layer
    bias: Mapping[str, Start]  # and biases
    without: tuple[str, ...]  # layers that are left out
    recipe: Recipe  # how it was trained

    def sized(self, width: float, one_tower: bool) -> Preset:
        """This preset with `width` times the maps and units, or with a single tower.

        one_tower: half the maps in conv1 to conv4. conv5, fc6 and fc7 keep theirs, so that the
        paper could compare fairly (its footnote in section 3.2).
        """
        if one_tower and self.towers == 1:
            raise ArgumentError("alexnet: one_tower is set; a preset of two towers was expected.")
        positive("alexnet", "width", width)
        towers = 1 if one_tower else self.towers

        def whole(count: int, parts: int) -> int:
            return max(1, round(count * width / self.towers)) * parts

        *early, last = self.maps
        maps = (*(whole(count, towers) for count in early), whole(last, self.towers))
        units = tuple(whole(count, self.towers) for count in self.units)
        return replace(self, maps=maps, units=units, towers=towers)

    # A layer's part of the conventions

    def of(self, layer: str) -> dict[str, Any]:
        """Arguments of a layer with weights: groups, activation and initial values."""
        own_tower = layer != "conv1" and layer not in self.exchange
        late = self.activation_after_pool and layer in ("conv1", "conv5")
        return {
            "groups": self.towers if own_tower else 1,
            "activation": None if late or layer == "fc8" else self.activation,
            "std": self.std[layer],
            "bias": self.bias[layer],
        }

    def scaled_pixels(self) -> list[Layer]:
        """The layers before conv1."""
        return [] if self.pixel_scale == 1 else [Scale("scale", self.pixel_scale)]

    def late_activation(self, stage: int) -> list[Layer]:
        """The layers after pool1 and pool5."""
        relu = self.activation == "relu"
        neuron: Layer = Relu(f"relu{stage}") if relu else Tanh(f"tanh{stage}")
        return [neuron] if self.activation_after_pool else []

    def norm(self, name: str) -> list[Layer]:
        """The norm across channels after conv1 or conv2, or rnorm2, the source's `cnorm2`.

        The paper does not mention the latter, which is within each map and comes after norm2.
        """
        if name not in self.norms:
            return []
        if name == "rnorm2":
            return [RNorm(name, 5, alpha=0.001 / 25, beta=0.75, k=1.0)]
        groups = self.towers if self.lrn_per_tower else 1
        return [LRN(name, 5, self.lrn_alpha, beta=0.75, k=self.lrn_k, groups=groups)]

    def drop(self, name: str, *, before: bool) -> list[Layer]:
        """Dropout, if the preset places it `before` (or else after) a linear layer."""
        here = before == self.dropout_before and self.dropout > 0
        return [Dropout(name, 1 - self.dropout, self.dropout_inverted)] if here else []

    def kept(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Those that are not left out."""
        gone = {name for one in self.without for name in (one, *_COMPANIONS.get(one, ()))}
        return tuple(layer for layer in layers if layer.name not in gone)


def _source() -> Preset:
    # In the run for ILSVRC-2012 (`layer-params-145.cfg`) the rates were changed by hand: only the
    # weights' fell with the schedule; at epoch 67 conv1's fell early and the colour jitter ended;
    # conv1 was frozen, biases included, at epoch 72.
    conv1_w = Steps(((25, 0.1), (51, 0.01), (67, 0.001), (72, 0)))
    conv1 = Rate(0.01, 0.02, 5e-4, schedule_w=conv1_w, schedule_b=Steps(((72, 0),)))
    return Preset(
        input_size=224,
        # Its outputs are rounded up to 55 x 55, and pixels outside the crop read as 0.
        pad=(0, 3, 0, 3),
        pixel_scale=1.0,
        maps=(96, 256, 384, 384, 256),
        units=(4096, 4096),
        towers=2,
        exchange=("conv3", "fc6", "fc7", "fc8"),
        activation="relu",
        activation_after_pool=True,
        pool=(3, 2),
        pad2=2,
        pad5=1,
        norms=("norm1", "norm2", "rnorm2"),
        lrn_alpha=1e-4 / 5,
        lrn_k=2.0,
        lrn_per_tower=True,
        dropout=0.5,
        dropout_inverted=False,
        dropout_before=False,
        std=_each(0.01, conv3=0.03, conv4=0.03, conv5=0.03),
        bias=_each(0.0, conv2=1.0, conv4=1.0, conv5=1.0, fc6=1.0, fc7=1.0),
        without=(),
        recipe=Recipe(
            epochs=90,
            batch_size=128,
            momentum=0.9,
            rate=Rate(0.01, 0.02, 5e-4, schedule_b=Constant()),
            schedule=Steps(((25, 0.1), (51, 0.01), (79, 0.001))),
            rates={"conv1": conv1},
            augment=Augment(chunk=32, jitter=0.1, jitter_shrinks=True, jitter_until=67),
        ),
    )


def _paper() -> Preset:
    # Section 5: one rate for all, divided by 10 when validation stops improving, three times.
    source = _source()
    rate, augment = Rate(0.01, 0.01, 5e-4), Augment(jitter=0.1)
    recipe = replace(source.recipe, rate=rate, schedule=Plateau(), rates={}, augment=augment)
    return replace(
        source,
        activation_after_pool=False,
        norms=("norm1", "norm2"),
        lrn_alpha=1e-4,
        lrn_per_tower=False,
        std=_each(0.01),
        recipe=recipe,
    )


def _caffe() -> Preset:
    # `solver.prototxt` divides by 10 every 100,000 of 450,000 batches of 256: every 20 epochs.
    schedule = Steps(((20, 0.1), (40, 0.01), (60, 0.001), (80, 0.0001)))
    rate, augment = Rate(0.01, 0.02, 5e-4), Augment(mean="pixel")
    epochs, batch_size, momentum = 90, 256, 0.9
    recipe = Recipe(epochs, batch_size, momentum, rate, schedule, augment=augment)
    return replace(
        _paper(),
        input_size=227,
        pad=0,
        lrn_alpha=1e-4 / 5,
        lrn_k=1.0,
        dropout_inverted=True,
        std=_each(0.01, fc6=0.005, fc7=0.005),
        bias=_each(0.0, conv2=0.1, conv4=0.1, conv5=0.1, fc6=0.1, fc7=0.1),
        recipe=recipe,
    )


def _owt() -> Preset:
    # The recipe is that of torchvision's `references/classification`, 8 devices with 32 images
    # each; its optimiser decays biases too. Its crops of random size and shape are not adopted.
    rate, schedule = Rate(0.01, 0.01, 1e-4, 1e-4), Steps(((30, 0.1), (60, 0.01)))
    epochs, batch_size, momentum = 90, 256, 0.9
    augment = Augment(mean="channel")
    recipe = Recipe(epochs, batch_size, momentum, rate, schedule, augment=augment)
    return replace(
        _caffe(),
        input_size=224,
        pad=2,
        # torchvision divides pixels by 255 and then by each channel's deviation, .226 on average;
        # its initial weights and rates assume the result.
        pixel_scale=1 / (255 * 0.226),
        maps=(64, 192, 384, 256, 256),
        towers=1,
        exchange=(),
        norms=(),
        dropout_before=True,
        std=_each("fan_in"),
        bias=_each("fan_in"),
        recipe=recipe,
    )


def _each(value: Start, **others: Start) -> dict[str, Start]:
    """`value` for every layer but those named."""
    return {layer: others.get(layer, value) for layer in LAYERS}


_PRESETS = {"source": _source, "paper": _paper, "caffe": _caffe, "owt": _owt}


def names() -> tuple[str, ...]:
    """Names that `get` knows; the first is the default."""
    return tuple(_PRESETS)


def get(name: str) -> Preset:
    if name not in _PRESETS:
        raise ArgumentError(
            f"alexnet: preset is {name!r}; one of {', '.join(_PRESETS)} was expected."
        )
    return _PRESETS[name]()
