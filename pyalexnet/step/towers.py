"""A network in two towers, each on its own device, as the paper trained it (section 3.5).

A tower has half of every layer's filters or outputs, and so half of the maps. A layer in two groups
stays within its tower; a layer in one group first fetches the other tower's maps; the last layer
with weights, fc8 of AlexNet, runs on tower 0 alone and reads both. In the backward pass a tower
fetches the other's gradient of its maps and adds it to its own, tower 0's first.

In a plan each call of a divided layer appears twice, with half of its shapes, and `exchange_gather`
and `exchange_scatter_add` are called where towers read each other.

The initial parameters and the dropout masks are those of the network on one device. So are the
outputs, bit for bit if kernels compute them; gradients differ in the last bits, since sums over
the filters of a layer are taken in two halves.

Towers may also be two processes: `ranked` makes the plan of each.

One thread feeds both devices, layer by layer, and waits for neither: the exchanges keep the order
(`Backend.exchange_gather`). Both towers may share a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Plan, Step
from pyalexnet.nets.layers import Layer
from pyalexnet.nets.spec import NetSpec

# Where a layer's input comes from: "own", already in the tower; "both", the channels of the two
# towers side by side; "half", the tower's half of the channels of an image.
Source: TypeAlias = Literal["own", "both", "half"]


@dataclass(frozen=True)
class Stage:
    """A layer, or several that one operation computes, as each part of the step runs it.

    parts: those that run it; of two towers only 0 from the last weights on. source: of its input.
    towers: how many its output is divided between. sharded: whether each part has images of its
    own.
    """

    layer: Layer
    parts: tuple[int, ...] = (0,)
    source: Source = "own"
    towers: int = 1
    sharded: bool = False

    def on(self, step: Step, part: int) -> Step:
        """The step, set to write the next calls for a part."""
        return step.on(part, self.towers, part if self.sharded else step.turn[0])


def stages(spec: NetSpec, towers: int) -> list[Stage]:
    """The layers of `spec` as so many towers run them.

    Raises:
        ArgumentError: the network cannot be divided.
    """
    if towers == 1:
        return [Stage(layer) for layer in spec.layers]
    last = _last_weights(spec)
    found: list[Stage] = []
    divided = False
    for index, (layer, in_shape, _) in enumerate(spec.walk()):
        if index >= last:
            found.append(Stage(layer, source="both" if index == last else "own"))
            continue
        source: Source = "own"
        if layer.param_shapes(in_shape):
            if layer.reads_all and divided:
                source = "both"
            elif not (layer.reads_all or divided):
                source = "half"
            divided = True
        share, among = (layer.share(towers), towers) if divided else (layer, 1)
        found.append(Stage(share, tuple(range(towers)), source, among))
    return found


def rows(spec: NetSpec, towers: int) -> tuple[dict[str, slice], ...]:
    """For each tower, the rows (filters, outputs) of each parameter that it has."""
    found: tuple[dict[str, slice], ...] = tuple({} for _ in range(towers))
    last = _last_weights(spec) if towers > 1 else 0
    for index, (layer, in_shape, _) in enumerate(spec.walk()):
        for name, shape in layer.param_shapes(in_shape).items():
            readers = found if index < last else found[:1]
            share = shape[0] // len(readers)
            for tower, own in enumerate(readers):
                own[name] = slice(tower * share, (tower + 1) * share)
    return found


def _last_weights(spec: NetSpec) -> int:
    """Index of the last layer with weights, which is not divided."""
    layers = enumerate(spec.walk())
    weighted = [index for index, (layer, shape, _) in layers if layer.param_shapes(shape)]
    if len(weighted) < 2:
        wanted = "at least two were expected, since the last one is not divided between towers"
        raise ArgumentError(f"{spec.name}: {len(weighted)} of its layers have weights; {wanted}.")
    return weighted[-1]


def inputs(step: Step, stage: Stage, parts: Sequence[str]) -> list[str]:
    """Write the calls that bring a stage's input to its towers; returns their arrays."""
    if stage.source == "own":
        return list(parts)
    found = []
    for tower in stage.parts:
        step.on(tower)
        *pixels, channels = step.shape(parts[tower])
        if stage.source == "both":
            x = step.array(f"{stage.layer.name}.whole", (*pixels, channels * len(parts)))
            step.call("exchange_gather", _numbered(parts), x)
        else:
            own = channels // len(parts)
            x = step.array(f"{stage.layer.name}.half", (*pixels, own))
            reads = {"0": parts[tower]}
            step.call("exchange_scatter_add", reads, x, start=tower * own, channels=own)
        found.append(x)
    return found


def returned(step: Step, stage: Stage, xs: Sequence[str], parts: Sequence[str]) -> None:
    """Write for each tower the gradient of its part, summed over all that read `xs`, the whole.

    If several run a layer whole, each has all of its gradient.
    """
    dwholes = _numbered([step.grads[x] for x in xs])
    for tower, part in enumerate(parts):
        if stage.towers < len(xs):
            dwholes = _numbered([step.grads[xs[tower]]])
        channels = step.shape(part)[-1]
        places: dict[str, Any] = {"start": tower * channels, "channels": channels}
        step.on(tower).call("exchange_scatter_add", dwholes, step.new_grad(part), **places)


def _numbered(arrays: Sequence[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(arrays)}


def exchanged(plan: Plan, images: int) -> int:
    """Bytes that towers fetch from each other in a pass over so many images, in both directions."""
    total = 0
    for call in plan.calls:
        if call.exchanges:
            far = [each for each in call.reads.values() if plan.part(each) != call.part]
            if call.op == "exchange_scatter_add":  # a slice of each
                far = [call.writes[0]] * len(far)
            total += sum(plan.nbytes(one, images) for one in far)
    return total
