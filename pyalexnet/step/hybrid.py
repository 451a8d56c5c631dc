"""A network over several ranks as in "One weird trick" (Krizhevsky, 2014).

Convolutions have nine tenths of the arithmetic and a twentieth of the parameters, so every rank has
all of them and computes its own images. From the first linear layer on, a rank computes a part of
each layer's outputs for all images: ranks exchange maps, not gradients of weights. If the classes
do not divide, the last layer is whole on every rank.

The three schemes of section 4 take the images all at once ("whole"), those of one rank after those
of another ("turns"), or a slice of every rank's at a time ("slices"). They send the same bytes and
give the same gradients: weights learn after the last turn, from the whole batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Step, Turn, View
from pyalexnet.nets.layers import Dropout, Layer, Linear
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.epilogue import MOST_TOWERS
from pyalexnet.step.shards import Shards
from pyalexnet.step.towers import Source, Stage

Scheme: TypeAlias = Literal["whole", "turns", "slices"]
SCHEMES: tuple[Scheme, ...] = ("whole", "turns", "slices")
# How ranks divide layers: as the paper's two towers, or by a scheme.
Division: TypeAlias = Literal["towers", "whole", "turns", "slices"]


@dataclass(frozen=True)
class Piece:
    """Images exchanged together: their part, and their places in the part and in the batch."""

    part: int
    own: Turn
    whole: Turn


Pieces: TypeAlias = Sequence[Piece]


def turns(scheme: Scheme, parts: int) -> list[Pieces]:
    """For each turn, the images exchanged; the batch is in the order of the turns."""
    if scheme == "slices":
        every = range(parts)
        return [[Piece(p, (t, parts), (t * parts + p, parts**2)) for p in every] for t in every]
    pieces = [Piece(part, (0, 1), (part, parts)) for part in range(parts)]
    return [pieces] if scheme == "whole" else [[each] for each in pieces]


def taken(step: Step, turns: Sequence[Pieces]) -> Iterator[Pieces]:
    """The turns; during each, the step's calls work on its images."""
    for number, turn in enumerate(turns):
        step.turn = number, len(turns)
        yield turn
        step.turn = 0, 1


def shards(division: Division, ranks: int, shards: Shards) -> Shards:
    """How ranks divide a batch; each of two towers takes all of it."""
    if division == "towers":
        return shards
    return replace(shards, ranks=ranks, slices=ranks if division == "slices" else 1)


def stages(spec: NetSpec, parts: int) -> tuple[list[Stage], list[Stage]]:
    """The layers of `spec` in which a part sees its own images, and those in which it sees all.

    Raises:
        ArgumentError: the network cannot be divided.
    """
    first, last = _bounds(spec)
    every = tuple(range(parts))
    near = [Stage(layer, every, sharded=True) for layer in spec.layers[:first]]
    far: list[Stage] = []
    towers = 1  # how many the maps are divided between so far
    for index, layer in enumerate(spec.layers[first:], first):
        if not isinstance(layer, Linear):
            far.append(Stage(layer, every, towers=towers))
            continue
        source: Source = "both" if towers > 1 else "own"
        towers = 1 if index == last and spec.classes % parts else parts
        if layer.outputs % towers:
            said = f"{layer.name}: {layer.outputs} outputs do not divide among {parts} ranks"
            raise ArgumentError(f"{said}; a multiple was expected.")
        far.append(Stage(layer.share(towers), every, source, towers))
    if towers > 1:
        far.append(Stage(Logits("logits"), every, "both"))
    return near, far


@dataclass(frozen=True)
class Logits(Layer):
    """The logits from the parts of the last layer, side by side."""

    name: str

    def forward(self, step: Step, x: str) -> str:
        return x

    def backward(self, step: Step, x: str, y: str, dy: str) -> None:
        raise AssertionError("it changes nothing")


def rows(spec: NetSpec, parts: int) -> tuple[dict[str, slice], ...]:
    """For each part, the rows (filters, outputs) of each parameter that it has."""
    near, far = stages(spec, parts)
    found: tuple[dict[str, slice], ...] = tuple({} for _ in range(parts))
    for stage, (layer, in_shape, _) in zip([*near, *far], spec.walk(), strict=False):
        for name, shape in layer.param_shapes(in_shape).items():
            share = shape[0] // (stage.towers if isinstance(layer, Linear) else 1)
            for part, own in enumerate(found):
                start = part * share if share < shape[0] else 0
                own[name] = slice(start, start + share)
    return found


def _bounds(spec: NetSpec) -> tuple[int, int]:
    """Indices of the first layer that sees all images, and of the last linear one."""
    linear = [index for index, layer in enumerate(spec.layers) if isinstance(layer, Linear)]
    weights = [bool(layer.param_shapes(shape)) for layer, shape, _ in spec.walk()]
    if not any(weights[: linear[0]]):
        said = f"{spec.name}: no convolution comes before {spec.layers[linear[0]].name}"
        raise ArgumentError(f"{said}; one was expected in a hybrid.")
    for layer in spec.layers:
        if isinstance(layer, Linear) and layer.groups > 1:
            wanted = "1 was expected where ranks divide its outputs"
            raise ArgumentError(f"{layer.name}: groups is {layer.groups}; {wanted}.")
    first = linear[0]
    while isinstance(spec.layers[first - 1], Dropout):
        first -= 1
    return first, linear[-1]


def common(spec: NetSpec) -> list[str]:
    """The parameters that every rank has, with gradients summed over the ranks."""
    layers = itertools.islice(spec.walk(), _bounds(spec)[0])
    return [name for layer, in_shape, _ in layers for name in layer.param_shapes(in_shape)]


def check(spec: NetSpec, division: Division, ranks: int, *, divides: bool = False) -> None:
    """Refuse what a division does not support: a number of ranks, parameters whose momentum they
    may divide, masks of images out of order.
    """
    if division == "towers" and ranks != 2:
        said = f"run: parallel is towers and the number of ranks {ranks}"
        raise ArgumentError(f"{said}; 2 was expected.")
    if division == "towers" and divides:
        said = "run: divide_momentum was given and parallel is towers, which share no parameters"
        raise ArgumentError(f"{said}; data or hybrid was expected.")
    if ranks > MOST_TOWERS:
        said = f"run: parallel is hybrid and the number of ranks {ranks}"
        raise ArgumentError(f"{said}; at most {MOST_TOWERS} was expected.")
    if division == "slices":
        for layer in spec.layers[: _bounds(spec)[0]]:
            if isinstance(layer, Dropout):
                said = f"run: scheme is slices and {layer.name} drops before a convolution"
                raise ArgumentError(f"{said}; whole or turns was expected.")


def gathered(step: Step, turns: Sequence[Pieces], parts: Sequence[str]) -> list[str]:
    """Write the calls that bring images to all parts; returns the arrays of all images."""
    wholes = []
    for part in range(len(parts) if turns else 0):
        step.shares = len(parts)
        wholes.append(step.on(part).array(f"{parts[0]}.whole", step.shape(parts[0])))
    for turn in turns:
        _spread(step, turn, parts, wholes, near=True)
        _spread(step, turn, parts, wholes, near=False)
    return wholes


def _spread(
    step: Step, turn: Pieces, parts: Sequence[str], wholes: Sequence[str], *, near: bool
) -> None:
    """Write the calls that bring a turn's images to their own part, or to all others."""
    for each, (part, whole) in itertools.product(turn, enumerate(wholes)):
        if near == (part == each.part):
            own, place = (
                View(name, step.shape(name), turn=images)
                for name, images in ((parts[each.part], each.own), (whole, each.whole))
            )
            step.on(part).call("sum_parts", {"0": own}, place)


def returned(step: Step, turn: Pieces, wholes: Sequence[str], parts: Sequence[str]) -> None:
    """Write for each part the gradient of its images of a turn, summed over all parts."""
    shape, step.turn = step.shape(parts[0]), (0, 1)
    for each in turn:
        own = step.on(each.part).new_grad(parts[each.part])
        found = [View(step.grads[whole], shape, turn=each.whole) for whole in wholes]
        reads = {str(part): view for part, view in enumerate(found)}
        step.call("sum_parts", reads, View(own, shape, turn=each.own))


def labelled(step: Step, turns: Sequence[Pieces], labels: Sequence[str]) -> None:
    """Write the calls that bring each part's labels to all others."""
    everyone = [replace(each, own=each.whole) for turn in turns for each in turn]
    _spread(step, everyone, labels, labels, near=False)
