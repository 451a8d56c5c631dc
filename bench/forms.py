"""The forms of a run: what is timed on a CPU, on a GPU, and in a dry run of the latter."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyalexnet import data, nets
from pyalexnet.plan import Precision

from . import cases, ceilings, compiler, floors, lint, loader, loops, operations, whole
from .cards import PRECISIONS, Card
from .cases import Case
from .device import Device
from .peers import Peers
from .peers.torch_steps import COMPILED
from .results import Results
from .steps import OTHER_LOOP, WAYS, Gate, Ours, StepCase, Way
from .timing import Plan

_MEGABYTE = 2**20
_PEERS: Mapping[Precision, tuple[str, ...]] = {"fp32": ("fp32", "tf32"), "bf16": ("bf16",)}
_STRICT = ("fp32",)
_OURS = tuple(_PEERS)
_COMPILED_IN = "bf16"
_GIVEN = (
    "The batches of whole steps lie on the device as each side's loader would leave them: ours, "
    "where the plan is fused, in the blocks of pixels that conv1 reads, PyTorch's channels_last "
    "with conv1's uneven padding around them; in bf16 all as bfloat16."
)


@dataclass(frozen=True)
class Form:
    """What a run times.

    operations: networks and batch sizes whose operations are timed. fused: our precisions in which
    those are too that take layers together. precisions: ours, with those of
    the peers beside each. ways: how our side runs a step, the last beside the peers. modes: of the
    peers. compiled: steps, and the precisions, that torch.compile is timed on too. in_fp32x3: steps
    that are timed in fp32x3 too, fused, beside the peers' strict float32. sizes: of the products
    among the ceilings; copied: bytes of the copy.
    """

    name: str
    operations: tuple[StepCase, ...]
    fused: tuple[Precision, ...]
    steps: tuple[StepCase, ...]
    precisions: Mapping[Precision, tuple[str, ...]]
    ways: tuple[Way, ...]
    modes: tuple[str, ...]
    compiled: tuple[tuple[StepCase, str], ...]
    in_fp32x3: tuple[StepCase, ...]
    sizes: tuple[int, ...]
    copied: int
    plan: Plan
    step_plan: Plan
    notes: tuple[str, ...] = ()

    def ours(self, case: StepCase, hopper: bool = False) -> Iterator[list[Ours]]:
        """Every way in which our side runs a step, one precision after the other.

        hopper: whether Hopper's main loop is in use, which is then compared with the other.
        """
        for precision in self.precisions:
            *parts, whole = (Ours(precision, way) for way in self.ways)
            both = hopper and precision == "bf16"
            yield [*parts, *([Ours(precision, OTHER_LOOP)] if both else []), whole]
        if case in self.in_fp32x3:
            yield [Ours("fp32x3", way) for way in self.ways if way != "layer by layer"]

    def modes_of(self, case: StepCase, ours: Precision) -> dict[str, tuple[str, ...]]:
        """How PyTorch runs a step beside ours, by precision: see `torch_steps.Form.mode`."""
        return {
            precision: self.modes + (COMPILED if (case, precision) in self.compiled else ())
            for precision in self.precisions.get(ours, _STRICT)
        }

    @property
    def peer_precisions(self) -> tuple[str, ...]:
        """Those of the peers, whatever stands beside them."""
        return tuple(itertools.chain.from_iterable(self.precisions.values()))


def cpu(seconds: float) -> Form:
    """Small batches, for any machine; `seconds` for each case and all its forms together."""
    steps = (
        StepCase(nets.get("cifar-18pct")(), "cifar-18pct", 128),
        StepCase(nets.get("alexnet-tiny")(), "alexnet-tiny", 64),
    )
    return Form(
        "CPU",
        (paper(2), StepCase(nets.get("cifar-18pct")(), "cifar-18pct", 32)),
        (),
        steps,
        {"fp32": ("fp32",)},
        WAYS[:1],
        ("eager",),
        (),
        (),
        (1024,),
        64 * _MEGABYTE,
        Plan(seconds, 4, 20, warmups=1),
        Plan(4 * seconds, 4, 20, warmups=1),
        ("torch.compile is left to the GPU's form: it compiles for longer than this may take.",),
    )


def gpu(quick: bool) -> Form:
    """The paper's network and torchvision's, at the batch sizes that matter.

    quick: torch.compile on the first step alone and in one precision, fused operations in one,
    fp32x3 on the paper's network.
    """
    batches = (128,) if quick else (128, 256, 1024)
    step_batches = (128, 256) if quick else (32, 64, 128, 256, 512, 1024)
    steps = tuple(net(batch) for batch in step_batches for net in (paper, torchvision))
    compiled = tuple(itertools.product(steps, PRECISIONS))
    compile_note = (
        f"torch.compile in --quick: {steps[0].label}, batch {steps[0].batch}, {_COMPILED_IN} "
        "only, because max-autotune takes minutes a network."
    )
    return Form(
        "GPU, quick" if quick else "GPU",
        tuple(paper(batch) for batch in batches),
        ("bf16",) if quick else _OURS,
        steps,
        _PEERS,
        WAYS,
        ("eager", "graph"),
        ((steps[0], _COMPILED_IN),) if quick else compiled,
        tuple(step for step in steps if step.label == _label("caffe")) if quick else steps,
        (2048, 4096, 8192),
        1024 * _MEGABYTE,
        Plan(0.2 if quick else 0.5, 20, 100, warmups=3),
        Plan(0.5 if quick else 2.0, 20, 100, warmups=3),
        (_GIVEN, compile_note) if quick else (_GIVEN,),
    )


def dry() -> Form:
    """Everything that the GPU's form goes through, on the CPU and as small as it can be."""
    small = nets.alexnet(10, "caffe", width=1 / 32, input_shape=(67, 67, 3))
    other = nets.alexnet(10, "owt", width=1 / 32, input_shape=(64, 64, 3))
    steps = (
        StepCase(small, f"{_label('caffe')}, tiny", 3),
        StepCase(other, f"{_label('owt')}, tiny", 3),
    )
    plan = Plan(0.0, 2, 2, warmups=0)
    return Form(
        "dry run of the GPU's form, on the CPU: its times mean nothing",
        steps[:1],
        _OURS,
        steps,
        _PEERS,
        WAYS,
        ("eager",),
        (),
        steps[:1],
        (32,),
        _MEGABYTE,
        plan,
        plan,
        (_GIVEN,),
    )


def paper(batch: int) -> StepCase:
    """AlexNet with the paper's layers, on 227 pixels without padding: fair to every peer."""
    return StepCase(nets.alexnet(preset="caffe"), _label("caffe"), batch)


def torchvision(batch: int) -> StepCase:
    """One tower without norms: torchvision's."""
    return StepCase(nets.alexnet(preset="owt"), _label("owt"), batch)


def _label(preset: str) -> str:
    return f"AlexNet ({preset} preset)"


def run(
    form: Form,
    device: Device,
    peers: Peers,
    results: Results,
    only: str | None,
    pack: Path | None,
    done: Callable[[str], None],
) -> None:
    """Fill `results`; `done` is called with a line after each row.

    only: part of the names of the operations and steps to time. pack: a data set whose images are
    fed from the host.
    """
    results.notes += [*form.notes, *(f"{name}: {why}." for name, why in peers.missing.items())]
    for one in ceilings.measured(device, peers, form.sizes, form.copied, form.peer_precisions):
        results.ceilings.append(one)
        done(f"ceiling: {one.name}")
    ceiling = ceilings.as_card(device.name, results.ceilings)
    wanted = [case for case in _cases(form) if only is None or only in case.name]
    timed = operations.rows(device, wanted, peers, form.precisions, form.plan, ceiling)
    for row in timed:
        results.operations.append(row)
        done(f"{row.net} {row.case}, batch {row.batch}")
    for product in loops.rows(device, wanted, form.plan):
        results.loops.append(product)
        done(f"{product.net} {product.case}, batch {product.batch}, both loops")
    if only is None or only in "loader":
        results.loader += loader.rows(device.backend, form.step_plan, pack)
        done("loader")
    gate = Gate()
    for case in form.steps:
        if only is None or only in f"step {case.label}":
            _steps(form, device, peers, results, case, gate, ceiling, pack)
            done(f"step {case.label}, batch {case.batch}")


def compute(card: Card, results: Results) -> None:
    """The floors of the paper's and torchvision's network on a named card."""
    for net in (paper, torchvision):
        for precision in PRECISIONS:
            for batch in (128, 256, 1024):
                case = net(batch)
                one = floors.floor(case.spec, batch, precision, card)
                results.floors.append(floors.named(one, case.label))
    rates = ", ".join(f"{name} {rate / 1e12:g}" for name, rate in card.flops.items())
    results.notes.append(
        f"Floors are computed for one {card.name} at {rates} TFLOP/s and "
        f"{card.bandwidth / 1e12:g} TB/s ({card.source}); no operation overlaps another."
    )


def inspect(kernels: Path, results: Results) -> None:
    """What the compiler and the emulation say of the kernels, or why they do not."""
    try:
        results.resources += compiler.resources(kernels)
    except RuntimeError as error:
        results.notes.append(f"Registers, spills and shared memory are not listed: {error}.")
    try:
        results.requests += lint.requests()
    except RuntimeError as error:
        results.notes.append(f"Sectors a request and bank conflicts are not listed: {error}.")


def _cases(form: Form) -> Iterator[Case]:
    for net in form.operations:
        for precision in form.precisions:
            made = [*cases.of(net.spec, net.batch, precision)]
            if precision in form.fused:
                made += cases.fused(net.spec, net.batch, precision)
            for case in made:
                yield dataclasses.replace(case, net=net.label)


def _steps(
    form: Form,
    device: Device,
    peers: Peers,
    results: Results,
    case: StepCase,
    gate: Gate,
    ceiling: Card | None,
    pack: Path | None,
) -> None:
    for ways in form.ours(case, loops.is_hopper(device.backend)):
        modes = form.modes_of(case, ways[-1].precision)
        results.steps += whole.rows(device, case, ways, gate, peers, modes, form.step_plan, ceiling)
        if pack is not None:
            dataset = data.load(pack, image_size=case.spec.input_shape[:2])
            results.steps.append(whole.fed(device, case, ways[-1], dataset, form.step_plan))
