"""What the published AlexNets disagree on; `alexnet` builds any of them from its `Preset`.

source  the 2012 program with `layers-145.cfg`, which made the paper's numbers
paper   the paper's text, where it differs from them
caffe   BVLC's reference model, `models/bvlc_alexnet`
owt     the single tower of "One weird trick" (arXiv:1404.5997) as torchvision has it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyalexnet.backends.base import Activation
from pyalexnet.backends.checks import positive
from pyalexnet.backends.geometry import Pad
from pyalexnet.errors import ArgumentError
from pyalexnet.layers import LRN, Dropout, Layer, Relu, RNorm, Start
from pyalexnet.recipe import Rate, Recipe, Steps

_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@dataclass(frozen=True)
class Preset:
    """The conventions, all of which `_source` has and the others change.

    Attributes:
        input_size: height and width of the crop that the network sees.
        pad: zeros around it, for conv1: a number or (top, bottom, left, right).
        maps: filters of the five convolutions, all towers together.
        units: outputs of fc6 and fc7.
        towers: groups of conv2, conv4 and conv5.
        std, bias: initial weights and biases by layer.
        relu_after_pool: conv1 and conv5 have their ReLU behind the pool, and norm1 so before it.
        lrn_alpha: weight of each square in the two LRN layers; None: there are none.
        lrn_k: their constant.
        lrn_per_tower: whether their windows end at a tower's edge.
        same_map_norm: whether a norm within each map follows norm2.
        inverted_dropout: whether dropout rescales in training instead of evaluation.
        dropout_before: on the inputs of fc6 and fc7 instead of their outputs.
        recipe: how it was trained.
    """

    input_size: int
    pad: Pad
    maps: tuple[int, int, int, int, int]
    units: int
    towers: int
    std: Mapping[str, Start]
    bias: Mapping[str, Start]
    relu_after_pool: bool
    lrn_alpha: float | None
    lrn_k: float
    lrn_per_tower: bool
    same_map_norm: bool
    inverted_dropout: bool
    dropout_before: bool
    recipe: Recipe

    def sized(self, width: float, one_tower: bool) -> Preset:
        """This preset with `width` times the maps and units, or with a single tower.

        one_tower: half the maps in conv1 to conv4. conv5, fc6 and fc7 keep theirs, so that the
        paper could compare fairly (its footnote in section 3.2).
        """
        if one_tower and self.towers == 1:
            raise ArgumentError("alexnet: one_tower is set; a preset of two towers was expected.")
        positive("alexnet", "width", width)
        towers = 1 if one_tower else self.towers
        k1, k2, k3, k4, k5 = (
            max(1, round(maps * width / self.towers)) * (towers if stage < 4 else self.towers)
            for stage, maps in enumerate(self.maps)
        )
        return dataclasses.replace(
            self,
            maps=(k1, k2, k3, k4, k5),
            units=max(1, round(self.units * width)),
            towers=towers,
        )

    def start(self, layer: str) -> dict[str, Any]:
        """Initial values of a layer's parameters, as its arguments."""
        return {"std": self.std[layer], "bias": self.bias[layer]}

    @property
    def stage_activation(self) -> Activation:
        """What conv1 and conv5 compute in their own op."""
        return None if self.relu_after_pool else "relu"

    def stage_relu(self, name: str) -> list[Layer]:
        """What follows pool1 and pool5."""
        return [Relu(name)] if self.relu_after_pool else []

    def norm(self, name: str) -> list[Layer]:
        """The norm across channels behind conv1 and conv2."""
        groups = self.towers if self.lrn_per_tower else 1
        if self.lrn_alpha is None:
            return []
        return [LRN(name, 5, self.lrn_alpha, beta=0.75, k=self.lrn_k, groups=groups)]

    def norm_within_maps(self, name: str) -> list[Layer]:
        """The norm behind norm2 that the paper does not mention (`cnorm2` in the source)."""
        return [RNorm(name, 5, alpha=0.001 / 25, beta=0.75, k=1.0)] if self.same_map_norm else []

    def drop(self, name: str, probability: float, *, before: bool) -> list[Layer]:
        """Dropout, if it has its place `before` (or behind) a linear layer."""
        if before != self.dropout_before or probability == 0:
            return []
        return [Dropout(name, 1 - probability, self.inverted_dropout)]


def names() -> tuple[str, ...]:
    """Names that `get` knows; the first is the default."""
    return ("source", "paper", "caffe", "owt")


def get(name: str) -> Preset:
    """The preset called `name`."""
    if name not in names():
        raise ArgumentError(
            f"alexnet: preset is {name!r}; one of {', '.join(names())} was expected."
        )
    return {"source": _source, "paper": _paper, "caffe": _caffe, "owt": _owt}[name]()


def _source() -> Preset:
    # The rates were changed by hand on the run for ILSVRC-2012 (`layer-params-145.cfg`): only the
    # weights' fell with the schedule, and conv1 was frozen, biases included, at epoch 72.
    conv1_w = Steps(((25, 0.1), (51, 0.01), (67, 0.001), (72, 0)))
    conv1 = Rate(0.01, 0.02, 5e-4, schedule_w=conv1_w, schedule_b=Steps(((72, 0),)))
    return Preset(
        input_size=224,
        # Its outputs are rounded up to 55 x 55, and pixels outside the crop read as 0.
        pad=(0, 3, 0, 3),
        maps=(96, 256, 384, 384, 256),
        units=4096,
        towers=2,
        std=_each(0.01, conv3=0.03, conv4=0.03, conv5=0.03),
        bias=_each(0.0, conv2=1.0, conv4=1.0, conv5=1.0, fc6=1.0, fc7=1.0),
        relu_after_pool=True,
        lrn_alpha=1e-4 / 5,
        lrn_k=2.0,
        lrn_per_tower=True,
        same_map_norm=True,
        inverted_dropout=False,
        dropout_before=False,
        recipe=Recipe(
            epochs=90,
            batch_size=128,
            momentum=0.9,
            rate=Rate(0.01, 0.02, 5e-4, schedule_b=Steps()),
            schedule=Steps(((25, 0.1), (51, 0.01), (79, 0.001))),
            rates={"conv1": conv1},
        ),
    )


def _paper() -> Preset:
    # Section 5: one rate for all, divided by 10 three times when validation stopped improving;
    # here at the epochs at which that happened in `source`.
    source = _source()
    rate = Rate(0.01, 0.01, 5e-4)
    return dataclasses.replace(
        source,
        std=_each(0.01),
        relu_after_pool=False,
        lrn_alpha=1e-4,
        lrn_per_tower=False,
        same_map_norm=False,
        recipe=dataclasses.replace(source.recipe, rate=rate, rates={}),
    )


def _caffe() -> Preset:
    # `solver.prototxt` divides by 10 every 100,000 of 450,000 batches of 256: every 20 epochs.
    return dataclasses.replace(
        _paper(),
        input_size=227,
        pad=0,
        std=_each(0.01, fc6=0.005, fc7=0.005),
        bias=_each(0.0, conv2=0.1, conv4=0.1, conv5=0.1, fc6=0.1, fc7=0.1),
        lrn_alpha=1e-4 / 5,
        lrn_k=1.0,
        inverted_dropout=True,
        recipe=Recipe(
            epochs=90,
            batch_size=256,
            momentum=0.9,
            rate=Rate(0.01, 0.02, 5e-4),
            schedule=Steps(((20, 0.1), (40, 0.01), (60, 0.001), (80, 0.0001))),
        ),
    )


def _owt() -> Preset:
    # The recipe is that of torchvision's `references/classification`, 8 devices with 32 images
    # each; its optimiser decays biases too.
    return dataclasses.replace(
        _caffe(),
        input_size=224,
        pad=2,
        maps=(64, 192, 384, 256, 256),
        towers=1,
        std=_each("fan_in"),
        bias=_each("fan_in"),
        lrn_alpha=None,
        dropout_before=True,
        recipe=Recipe(
            epochs=90,
            batch_size=256,
            momentum=0.9,
            rate=Rate(0.01, 0.01, 1e-4, 1e-4),
            schedule=Steps(((30, 0.1), (60, 0.01))),
        ),
    )


def _each(value: Start, **others: Start) -> dict[str, Start]:
    """`value` for every layer but those named."""
    return {layer: others.get(layer, value) for layer in _LAYERS}
