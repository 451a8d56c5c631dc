"""The launches of one training step, read off the fusion plan: computed, nothing is run.

A line is one operation: a kernel, and a second one if a product's depth is split over blocks and
the parts have to be added. The least time of each is the longer of its arithmetic and its traffic,
with every array read or written once; repeated reads by blocks and workspaces are not counted. A
product counts all its multiplications, including those with zeros around an image or, where conv1
reads blocks of pixels, in its filters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyalexnet import nets
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Plan
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.checks import integer
from pyalexnet.step import plan
from pyalexnet.step.listing import Line, lines
from pyalexnet.step.plan import Precision

from . import floors, tables
from .cards import Card

_MEGA, _GIGA, _MICRO = 1e6, 1e9, 1e-6
_DEFAULT_NET, _DEFAULT_PRESET = "alexnet", "caffe"


@dataclass(frozen=True)
class Choices:
    """The step to list; preset: of AlexNet, None for the one that the bench times."""

    net: str = _DEFAULT_NET
    preset: str | None = None
    batch: int = 128
    precision: Precision = "fp32"
    unfused: bool = False

    def spec(self) -> NetSpec:
        """The network.

        Raises:
            ArgumentError: there is none of that name.
        """
        make = nets.get(self.net)
        if self.net == _DEFAULT_NET:
            return make(preset=self.preset or _DEFAULT_PRESET)
        if self.preset is not None:
            raise ArgumentError(f"--preset is {self.preset!r}; {self.net} has none, only alexnet.")
        return make()


@dataclass(frozen=True)
class Launch(Line):
    """A line of the list. seconds: the least that a card takes."""

    seconds: float


def document(choices: Choices, card: Card) -> str:
    """The list with its sums, with the same step unfused and the floors of the bench.

    Raises:
        ArgumentError: a choice is refused.
    """
    images = integer("bench", "--batch", choices.batch, low=1)
    spec = choices.spec()
    mine, other = (
        list(launches(made, images, choices.precision, card))
        for made in (_plan(spec, choices, fused) for fused in _ways(choices))
    )
    return (
        "\n".join(
            [
                f"# One training step of {spec.name}, {images} images, {choices.precision}",
                "",
                f"Computed for one {card.name} ({card.source}); nothing was run.",
                "",
                _table(mine),
                "",
                *_sums(choices, spec, card, mine, other),
            ]
        )
        + "\n"
    )


def launches(made: Plan, images: int, precision: Precision, card: Card) -> Iterator[Launch]:
    """A plan's calls, in their order."""
    for line in lines(made, images):
        seconds = card.seconds(precision, line.flops, line.nbytes)
        yield Launch(**vars(line), seconds=seconds)


def _plan(spec: NetSpec, choices: Choices, fused: bool) -> Plan:
    """For images as the loader leaves them."""
    return plan.make(spec, goal="update", precision=choices.precision, fused=fused, source="images")


def _ways(choices: Choices) -> tuple[bool, bool]:
    """Fused or not: what is listed, and what it is compared with."""
    return not choices.unfused, choices.unfused


def _table(listed: list[Launch]) -> str:
    header = ["", "operation", "reads", "writes", "MB", "GFLOP", "least us"]
    rows = [
        [
            str(number),
            one.operation,
            ", ".join(one.reads),
            ", ".join(one.writes),
            f"{one.nbytes / _MEGA:,.1f}",
            f"{one.flops / _GIGA:,.1f}" if one.flops else "",
            f"{one.seconds / _MICRO:,.1f}",
        ]
        for number, one in enumerate(listed, 1)
    ]
    return tables.padded(header, rows, "><<<>>>")


def _sums(
    choices: Choices, spec: NetSpec, card: Card, mine: list[Launch], other: list[Launch]
) -> Iterator[str]:
    """Sums of the listed plan, the other plan, and the floors."""
    names = ("fused", "unfused")
    own, beside = reversed(names) if choices.unfused else names
    floor = floors.floor(spec, choices.batch, choices.precision, card)
    lines = (
        (f"this step, {own}", len(mine), _bytes(mine), _flops(mine), _seconds(mine)),
        (f"the same, {beside}", len(other), _bytes(other), _flops(other), _seconds(other)),
        ("bench/floors.py, fused", None, floor.fused_bytes, floor.flops, floor.fused),
        ("bench/floors.py, unfused", None, floor.unfused_bytes, floor.flops, floor.unfused),
    )
    least = _seconds(mine)
    rows = [
        [
            name,
            "" if count is None else str(count),
            f"{nbytes / _MEGA:,.0f}",
            f"{work / _GIGA:,.0f}",
            f"{seconds / _MICRO:,.0f}",
            f"{seconds / least:.2f}",
        ]
        for name, count, nbytes, work, seconds in lines
    ]
    header = ["sum", "launches", "MB", "GFLOP", "least us", "times this"]
    yield tables.padded(header, rows, "<>>>>>")
    yield ""
    yield (
        "(+low, v): changed with it, the bits that its bfloat16 lacks and its momentum. The floors "
        "follow from the layers' shapes alone; they count useful products only, and in them conv1 "
        "reads pixels as the bytes that they are."
    )


def _bytes(listed: list[Launch]) -> int:
    return sum(one.nbytes for one in listed)


def _flops(listed: list[Launch]) -> float:
    return sum(one.flops for one in listed)


def _seconds(listed: list[Launch]) -> float:
    return sum(one.seconds for one in listed)
