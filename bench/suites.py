"""The suites: what is timed on a CPU, on a GPU, and in a dry run of the GPU's suite."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyalexnet import data, nets
from pyalexnet.step.plan import Precision

from . import (
    cases,
    ceilings,
    compiler,
    floors,
    kernels,
    lint,
    loader,
    loops,
    memory,
    operations,
    whole,
)
from .cards import PRECISIONS, Card
from .cases import Case
from .device import Device
from .peers import Peers
from .peers.torch_steps import COMPILED, UNTUNED
from .results import Results, label
from .steps import OTHER_LOOP, VARIANTS, Gate, Ours, StepCase, Variant
from .timing import Sampling

_MEGABYTE = 2**20
_REST = 0.05  # seconds
_PEERS: Mapping[Precision, tuple[str, ...]] = {"fp32": ("fp32", "tf32"), "bf16": ("bf16",)}
_STRICT = ("fp32",)
_OURS = tuple(_PEERS)
_COPIED = 1024 * _MEGABYTE
_GIVEN = (
    "The batches of whole steps lie on the device as each side's loader would leave them: ours, "
    "where the plan is fused, in the blocks of pixels that conv1 reads, PyTorch's channels_last "
    "with conv1's uneven padding around them; in bf16 all as bfloat16."
)


@dataclass(frozen=True)
class Suite:
    """What a run times, and for how long.

    operations: networks and batch sizes whose operations are timed. fused: our precisions in which
    fused operations are timed too. loops: those whose products are timed with both main loops.
    precisions: ours, each with the peers' that it is compared with. steps: whole steps to time;
    by_kernels: those to break down by kernel. variants: how our side runs a step, the last compared
    with the peers. others: more variants of ours to compare with them. memory: steps whose memory
    is measured. modes: of the peers. compiled: steps and precisions that torch.compile is timed on
    too. in_fp32x3: steps that are also timed in fp32x3, fused, against the peers' strict float32.
    sizes: of the products among the ceilings; copied: bytes of the copy, 0 for no ceilings.
    libraries: the peers. loader: whether it is timed. inspects: whether the compiler and the
    emulation report on the kernels.
    """

    name: str
    sampling: Sampling
    step_sampling: Sampling
    operations: tuple[StepCase, ...] = ()
    fused: tuple[Precision, ...] = ()
    loops: tuple[StepCase, ...] = ()
    precisions: Mapping[Precision, tuple[str, ...]] = field(default_factory=dict)
    steps: tuple[StepCase, ...] = ()
    by_kernels: tuple[StepCase, ...] = ()
    variants: tuple[Variant, ...] = VARIANTS[-1:]
    others: tuple[Ours, ...] = ()
    memory: tuple[StepCase, ...] = ()
    modes: tuple[str, ...] = ("eager",)
    compiled: tuple[tuple[StepCase, str], ...] = ()
    in_fp32x3: tuple[StepCase, ...] = ()
    sizes: tuple[int, ...] = ()
    copied: int = 0
    libraries: tuple[str, ...] = ("torch", "jax")
    loader: bool = False
    inspects: bool = False
    notes: tuple[str, ...] = ()

    def ours(self, case: StepCase, hopper: bool = False) -> Iterator[list[Ours]]:
        """Every variant of our side of a step, one precision after another.

        hopper: whether Hopper's main loop is in use; it is then compared with the other.
        """
        for precision in self.precisions:
            *parts, whole = (Ours(precision, variant) for variant in self.variants)
            both = hopper and precision == "bf16"
            other_loop = [Ours(precision, OTHER_LOOP)] if both else []
            yield [*parts, *other_loop, *self.others, whole]
        if case in self.in_fp32x3:
            yield [
                Ours("fp32x3", variant) for variant in self.variants if variant != "layer by layer"
            ]

    def modes_of(self, case: StepCase, ours: Precision) -> dict[str, tuple[str, ...]]:
        """How PyTorch runs a step beside ours, by precision: see `torch_steps.TorchForm.mode`."""
        return {
            precision: self.modes + (COMPILED if (case, precision) in self.compiled else ())
            for precision in self.precisions.get(ours, _STRICT)
        }

    @property
    def peer_precisions(self) -> tuple[str, ...]:
        """The peers' precisions, whatever they are compared with."""
        return tuple(itertools.chain.from_iterable(self.precisions.values()))


def cpu(seconds: float) -> Suite:
    """Small batches, for any machine; `seconds` for each case and all its candidates together."""
    fused = VARIANTS[1]
    return Suite(
        "CPU",
        Sampling(seconds, 4, 20, warmups=1, rest=_REST),
        Sampling(4 * seconds, 4, 20, warmups=1, rest=_REST),
        operations=(paper(2), _named("cifar-18pct", 32)),
        precisions={"fp32": ("fp32",)},
        steps=(_named("cifar-18pct", 128), _named("alexnet-tiny", 64)),
        variants=(fused,),
        others=(Ours("bf16", fused), Ours("fp32", fused, exact=True)),
        sizes=(2048,),
        copied=64 * _MEGABYTE,
        loader=True,
        inspects=True,
        notes=("--full adds what takes minutes: AlexNet at batch 32, torch.compile, memory.",),
    )


def cpu_full(seconds: float) -> Suite:
    """The batches that a CPU trains on, beside the peers' compilers too; an hour or two."""
    small = (_named(name, 128) for name in nets.names() if name not in ("alexnet", "alexnet-tiny"))
    tiny, source = _named("alexnet-tiny", 64), nets.alexnet(preset="source")
    return replace(
        cpu(seconds),
        name="CPU, full",
        sampling=Sampling(4 * seconds, 8, 40, warmups=1, rest=_REST),
        step_sampling=Sampling(20 * seconds, 6, 40, warmups=1, rest=_REST),
        operations=(paper(32), *small, tiny),
        fused=("fp32",),
        steps=(_named("cifar-18pct", 128), tiny, paper(32), StepCase(source, _label("source"), 32)),
        modes=("eager", UNTUNED, COMPILED[0]),
        memory=(paper(32),),
        sizes=(1024, 2048, 4096),
        copied=256 * _MEGABYTE,
        inspects=False,
        notes=(),
    )


def _named(name: str, batch: int) -> StepCase:
    return StepCase(nets.get(name)(), name, batch)


def gpu() -> dict[str, Suite]:
    """The parts of the GPU's suite by name, the most informative first.

    First the paper's network at one batch size: a step kernel by kernel, then beside the peers,
    PyTorch's bfloat16 before all. Then single operations, other batch sizes and torchvision's.
    """
    case, batches = paper(128), (32, 64, 128, 256, 512, 1024)
    steps = tuple(net(batch) for batch in batches for net in (paper, torchvision))
    # Short, for one step and for single operations; longer, for all steps.
    short, long = Sampling(0.2, 20, 100, warmups=3), Sampling(2.0, 20, 100, warmups=3)
    first = Suite("GPU", short, Sampling(0.5, 20, 60, warmups=3), notes=(_GIVEN,))
    all_steps = Suite("GPU", short, long, steps=steps, notes=(_GIVEN,))
    bf16, fp32 = ({one: _PEERS[one]} for one in ("bf16", "fp32"))
    torch, jax = ("torch",), ("jax",)
    part, both = replace, ("eager", "graph")
    return {
        "kernels": part(first, by_kernels=(case,), in_fp32x3=(case,), precisions={"bf16": ("bf16",),
                        "fp32": ("fp32",)}, sizes=(8192,), copied=_COPIED, libraries=torch),
        "bf16": part(first, steps=(case,), precisions=bf16, modes=both, libraries=torch),
        "fp32": part(first, steps=(case,), precisions=fp32, modes=both, libraries=torch,
                     in_fp32x3=(case,)),
        "compile": part(first, steps=(case,), precisions=bf16, compiled=((case, "bf16"),),
                        libraries=torch),
        "jax": part(first, steps=(case,), precisions=bf16, libraries=jax),
        "operations": part(first, operations=(case,), fused=_OURS, loops=(case,),
                           precisions=_PEERS),
        "steps": part(all_steps, precisions=_PEERS, variants=VARIANTS, modes=both, in_fp32x3=steps),
        "ceilings": part(first, precisions=_PEERS, sizes=(2048, 4096, 8192), copied=_COPIED,
                         libraries=torch),
        "loader": part(first, loader=True, libraries=()),
        "large operations": part(first, operations=(paper(256), paper(1024)), fused=_OURS,
                                 loops=(paper(256), paper(1024)), precisions=_PEERS),
        "compiled steps": part(all_steps, precisions=_PEERS, libraries=torch,
                               compiled=tuple(itertools.product(steps, PRECISIONS))),
        "compiler": part(first, libraries=(), inspects=True),
    }  # fmt: skip


def dry() -> Suite:
    """Everything that the GPU's suite runs, on the CPU and as small as possible."""
    small = nets.alexnet(10, "caffe", width=1 / 32, input_shape=(67, 67, 3))
    other = nets.alexnet(10, "owt", width=1 / 32, input_shape=(64, 64, 3))
    steps = (
        StepCase(small, f"{_label('caffe')}, tiny", 3),
        StepCase(other, f"{_label('owt')}, tiny", 3),
    )
    sampling = Sampling(0.0, 2, 2, warmups=0)
    return Suite(
        "dry run of the GPU's suite, on the CPU: its times mean nothing",
        sampling,
        sampling,
        operations=steps[:1],
        fused=_OURS,
        loops=steps[:1],
        precisions=_PEERS,
        steps=steps,
        by_kernels=steps[:1],
        variants=VARIANTS,
        in_fp32x3=steps[:1],
        sizes=(32,),
        copied=_MEGABYTE,
        loader=True,
        inspects=True,
        notes=(_GIVEN,),
    )


def paper(batch: int) -> StepCase:
    """AlexNet with the paper's layers, on 227 pixels without padding: fair to every peer."""
    return StepCase(nets.alexnet(preset="caffe"), _label("caffe"), batch)


def torchvision(batch: int) -> StepCase:
    """torchvision's AlexNet: one tower without norms."""
    return StepCase(nets.alexnet(preset="owt"), _label("owt"), batch)


def _label(preset: str) -> str:
    return f"AlexNet ({preset} preset)"


def run(
    suite: Suite,
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
    peers, threads = peers.only(suite.libraries), device.threads
    results.missing |= peers.missing
    results.notes += [note for note in suite.notes if note not in results.notes]
    _ceilings(suite, device, peers, results, done)
    reached = [one for one in results.ceilings if one.threads == threads]
    ceiling, gate = ceilings.as_card(device.name, reached), Gate()
    for case in suite.by_kernels:
        if only is None or only in f"step {case.label}":
            variants = [
                one for some in suite.ours(case, loops.is_hopper(device.backend)) for one in some
            ]
            for by_kernel in kernels.rows(device, case, variants, gate, peers.torch):
                results.kernels.append(by_kernel)
                done(label(by_kernel))
    for case in suite.steps:
        if only is None or only in f"step {case.label}":
            _steps(suite, device, peers, results, case, gate, ceiling, pack, done)
    wanted = [case for case in _cases(suite, suite.operations) if only is None or only in case.name]
    timed = operations.rows(device, wanted, peers, suite.precisions, suite.sampling, ceiling)
    for row in timed:
        results.operations.append(replace(row, threads=threads))
        done(label(row))
    wanted = [case for case in _cases(suite, suite.loops) if only is None or only in case.name]
    for product in loops.rows(device, wanted, suite.sampling):
        results.loops.append(product)
        done(label(product))
    for case in suite.memory:
        if only is None or only in f"memory of {case.label}":
            fused = [ours for (*others, whole) in suite.ours(case) for ours in (whole, *others)]
            for taken in memory.rows(case, fused, peers):
                results.memory.append(taken)
                done(f"memory: {taken.side}")
    if suite.loader and (only is None or only in "loader"):
        results.loader += loader.rows(device.backend, suite.step_sampling, pack)
        done("loader")


def _ceilings(
    suite: Suite, device: Device, peers: Peers, results: Results, done: Callable[[str], None]
) -> None:
    """Measure the suite's ceilings; they replace earlier ones."""
    if not suite.copied:
        return
    for one in ceilings.measured(device, peers, suite.sizes, suite.copied, suite.peer_precisions):
        new = replace(one, threads=device.threads)
        others = [
            old for old in results.ceilings if (old.name, old.threads) != (new.name, new.threads)
        ]
        results.ceilings = [*others, new]
        done(f"ceiling: {one.name}")


def compute(card: Card, results: Results) -> None:
    """The floors of the paper's and torchvision's networks on a card."""
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


def inspect(sources: Path, results: Results) -> None:
    """What the compiler and the emulation say about the kernels, or why they cannot."""
    try:
        results.resources += compiler.resources(sources)
    except RuntimeError as error:
        results.notes.append(f"Registers, spills and shared memory are not listed: {error}.")
    try:
        results.requests += lint.requests()
    except RuntimeError as error:
        results.notes.append(f"Sectors a request and bank conflicts are not listed: {error}.")


def _cases(suite: Suite, nets: tuple[StepCase, ...]) -> Iterator[Case]:
    for net in nets:
        for precision in suite.precisions:
            made = [*cases.of(net.spec, net.batch, precision)]
            if precision in suite.fused:
                made += cases.fused(net.spec, net.batch, precision)
            for case in made:
                yield dataclasses.replace(case, net=net.label)


def _steps(
    suite: Suite,
    device: Device,
    peers: Peers,
    results: Results,
    case: StepCase,
    gate: Gate,
    ceiling: Card | None,
    pack: Path | None,
    done: Callable[[str], None],
) -> None:
    for variants in suite.ours(case, loops.is_hopper(device.backend)):
        modes, before = suite.modes_of(case, variants[-1].precision), len(results.steps)
        for row in whole.rows(
            device, case, variants, gate, peers, modes, suite.step_sampling, ceiling
        ):
            kind = (row.precision, row.form)
            others = [one for one in results.steps[before:] if (one.precision, one.form) != kind]
            results.steps[before:] = [*others, replace(row, threads=device.threads)]
            done(label(row))
        if pack is not None:
            dataset = data.load(pack, image_size=case.spec.input_shape[:2])
            results.steps.append(
                whole.fed(device, case, variants[-1], dataset, suite.step_sampling)
            )
            done(label(results.steps[-1]))
