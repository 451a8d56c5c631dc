"""The plan of a step: which operations make it up, as data.

A plan is a list of calls of a backend's operations on named arrays (`calls`). It follows from the
network alone: each layer writes its own, forward and backward. Layer by layer in float32, this is
the trivial plan; `fused` names the layers that one operation computes together, `towers` divides
layers between two devices, `shards` the batch, `hybrid` both; `ranked` extracts one rank's calls.
Nothing is computed here; `program` runs a plan.

Fusing saves reads and writes of maps. Memory time saved on an H100 (paper's network, bfloat16,
batch 256, computed): bias and ReLU after a product and before its gradient 876 us, LRN with
pooling 570, the update after a linear layer's gradient 156.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Plan, Source, Step, at
from pyalexnet.nets.layers import Conv, Scale
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.step import hybrid
from pyalexnet.step import shards as sharding
from pyalexnet.step import towers as division
from pyalexnet.step.fused import Converted, ConvInBlocks, converted, together
from pyalexnet.step.shards import WHOLE, Shards

Precision: TypeAlias = Literal["fp32", "fp32x3", "bf16"]
# float32 throughout; the same with products on tensor cores, each number as the sum of three
# bfloat16; and maps and products in bfloat16.
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp32x3", "bf16")

SCORES = ("loss", "top1_error", "top5_error")
"""Numbers that are adjacent in one array, "scores"."""

# How far a plan goes: forward only, with backward, or with the update as well.
Goal: TypeAlias = Literal["logits", "gradients", "update"]


def element(precision: Precision) -> np.dtype[Any]:
    """The type of maps and of the weights that products read."""
    return BFLOAT16 if precision == "bf16" else FLOAT32


def check_precision(who: str, precision: str, towers: int = 1) -> None:
    """Refuse an unknown precision, or one not available in towers; `who` begins the sentence."""
    if precision not in PRECISIONS:
        wanted = f"one of {', '.join(PRECISIONS)} was expected"
        raise ArgumentError(f"{who}: precision is {precision!r}; {wanted}.")
    if towers > 1 and precision == "bf16":
        wanted = "fp32 or fp32x3 was expected, since towers exchange float32"
        raise ArgumentError(f"{who}: precision is bf16 and there are {towers} towers; {wanted}.")


def make(
    spec: NetSpec,
    *,
    goal: Goal,
    precision: Precision = "fp32",
    fused: bool = True,
    train: bool = True,
    source: Source = "pixels",
    towers: int = 1,
    shards: Shards = WHOLE,
    scheme: hybrid.Scheme | None = None,
) -> Plan:
    """The plan of a network.

    precision: of maps and products; sums, parameters and momentum are float32 in any. fused: False
    makes every layer a separate operation. train: whether dropout drops. source: whether images
    have the network's input shape, or are converted: see `converted`. towers: how many devices the
    layers are divided between, 1 or 2. shards: how the batch is divided, if towers is 1. scheme: of
    a hybrid of both, for so many ranks as there are towers.

    Raises:
        ArgumentError: the network has no plan in this precision, or cannot be divided.
    """
    check_precision("plan", precision, towers)
    last, learns = spec.layers[-1].name, goal == "update"
    how: dict[str, Any] = {"tensor": precision == "fp32x3", "fused": fused, "train": train}
    step = Step(masks=spec.masks, logits=last, element=element(precision), learns=learns, **how)
    shapes = spec.param_shapes()
    for tower, rows in enumerate((hybrid if scheme else division).rows(spec, towers)):
        for name, own in rows.items():
            step.on(tower).parameter(name, (own.stop - own.start, *shapes[name][1:]))
    seen = converted(spec, fused)
    stages, later = _stages(spec, towers, shards, scheme)
    if seen.block > 1:
        stages = _in_blocks(stages, seen.block)
    parts, turns = range(max(towers, shards.own)), hybrid.turns(scheme, towers) if scheme else []
    images = [_images(step.on(part), spec, seen, source) for part in parts]
    passed, joint = list(_forward(step, stages, images)), list[_Passed]()
    wholes = hybrid.gathered(step, turns, passed[-1].ys)
    for _ in hybrid.taken(step, turns):
        joint = list(_forward(step, later, wholes))
    ends = [*passed, *joint]
    if goal != "logits":
        _losses(step, ends[-1].ys, WHOLE if scheme else shards, turns)
        learning = _learning(step, passed)
        for turn in hybrid.taken(step, turns):
            _backward(step, joint, WHOLE)
            hybrid.returned(step, turn, wholes, passed[-1].ys)
        _backward(step, learning, shards)
        sharding.received(step)
        step.update()
    outputs = {one.stage.layer.name: tuple(one.ys[: one.stage.towers]) for one in ends}
    return Plan(tuple(step.calls), step.arrays, source, outputs)


def _stages(
    spec: NetSpec, towers: int, shards: Shards, scheme: hybrid.Scheme | None
) -> tuple[list[division.Stage], list[division.Stage]]:
    """The layers that see a part's own images, and those that see all, in turns."""
    if scheme:
        return hybrid.stages(spec, towers)
    if towers > 1:
        return division.stages(spec, towers), []
    return sharding.stages(spec, shards.own), []


def _in_blocks(stages: Sequence[division.Stage], block: int) -> list[division.Stage]:
    """The stages, with a first convolution that reads images in blocks."""
    first = next(i for i, one in enumerate(stages) if not isinstance(one.layer, Scale))
    conv = stages[first].layer
    assert isinstance(conv, Conv)
    deep = {"size": -(-conv.size // block), "stride": 1, "pad": 0, "block": block}
    changed = replace(stages[first], layer=ConvInBlocks(**vars(conv) | deep))
    return [*stages[:first], changed, *stages[first + 1 :]]


def _images(step: Step, spec: NetSpec, seen: Converted, source: Source) -> str:
    """Write the calls that convert the images, if they are not converted already."""
    if source == "images":
        return step.array("images", seen.shape)
    pixels = step.array("pixels", spec.input_shape, FLOAT32)
    if step.element == FLOAT32 and seen.block == 1:
        return pixels
    how = {"block": seen.block, "pad": seen.pad, "dtype": step.element}
    return step.output("images", seen.shape, "images_to_depth", {"x": pixels}, **how)


@dataclass(frozen=True)
class _Passed:
    """A stage whose forward calls are written: the outputs `parts` of the stage before, and the
    inputs and outputs of the parts that run it.
    """

    stage: division.Stage
    parts: list[str]
    xs: list[str]
    ys: list[str]


def _forward(step: Step, stages: Sequence[division.Stage], images: list[str]) -> Iterator[_Passed]:
    """Write the calls that lead from the images to the logits."""
    left, parts = [*stages], images
    while left:
        stage, length = left[0], 1
        xs = division.inputs(step, stage, parts)
        if step.fused:
            layer, length = together([one.layer for one in left], step, step.shape(xs[0]))
            stage = replace(stage, layer=layer)
        ys = [
            stage.layer.forward(stage.on(step, part), x)
            for part, x in zip(stage.parts, xs, strict=True)
        ]
        yield _Passed(stage, parts, xs, ys)
        parts = ys
        del left[:length]


def _losses(
    step: Step, logits: Sequence[str], shards: Shards, turns: Sequence[hybrid.Pieces]
) -> None:
    """Write the calls that compute each part's loss and its gradient, and the sum over shards.

    Of two towers, tower 0 has the logits.
    """
    how: dict[str, Any] = {} if step.element == FLOAT32 else {"dtype": step.element}
    parts, integer = range(len(logits)), np.dtype(np.int64)
    labels = [step.on(part).array("labels", (), integer) for part in parts]
    hybrid.labelled(step, turns, labels)
    found = []
    for part, own in enumerate(logits):
        step.on(part)
        loss, *errors = (step.array(name, (), FLOAT32, batch=False) for name in SCORES)
        found.append(step.array("scores", (len(SCORES),), FLOAT32, batch=False))
        reads = {"logits": own, "labels": labels[part]}
        step.call("softmax_cross_entropy", reads, loss, step.new_grad(own), *errors, **how)
        sharding.averaged(step, (step.grads[own], found[-1]), shards)
    sharding.reduced(step, found[: shards.own], shards, FLOAT32)


def _learning(step: Step, passed: Sequence[_Passed]) -> Sequence[_Passed]:
    """The stages from the first one with parameters on, below which no gradient is needed."""
    learns = [bool(_parameters(step, one)) for one in passed]
    first = learns.index(True) if True in learns else len(passed)
    for one in passed[: first + 1]:
        step.images.update(one.xs)
    return passed[first:]


def _parameters(step: Step, one: _Passed) -> Iterable[str]:
    return one.stage.layer.param_shapes(step.shape(one.xs[0]))


def _backward(step: Step, passed: Sequence[_Passed], shards: Shards) -> None:
    """Write the calls that lead from the gradient of the last outputs to those of parameters."""
    step.reduces = shards.all > 1
    for one in reversed(passed):
        stage = one.stage
        for part, x, y in zip(stage.parts, one.xs, one.ys, strict=True):
            if x != y:  # else a layer that changes nothing
                stage.layer.backward(stage.on(step, part), x, y, step.grads[y])
        if stage.source == "both":
            division.returned(step, stage, one.xs, one.parts)
        for name in _parameters(step, one) if step.reduces else ():
            shared: dict[str, list[str]] = {}  # gradients, by the parameter that they are of
            for part in stage.parts:
                own = shared.setdefault(step.on(part).here(name), [])
                own.append(f"{at(name, part)}.grad")
            for grads in shared.values():
                sharding.reduced(step, grads, shards, shards.sent, divides=shards.divides)
