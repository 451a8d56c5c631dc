"""Whole training steps: first the gate, then ours and the peers' in turn."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from pyalexnet.data import Dataset

from . import floors, steps
from .cards import Card
from .device import Device, Gpu
from .operations import sentence
from .peers import Peers, jax_steps, torch_steps
from .peers.jax_steps import JaxStep
from .peers.torch_steps import TorchStep
from .results import Costs, KernelTime, PeerTime, StepRow
from .steps import Gate, Ours, Step, StepCase
from .timing import Run, Sampling, Timing, finish, interleaved

_SELF = "ours"
_LEARNING_STEPS = 5
_ENQUEUED = 10
# How far a peer's first loss may be from ours, by precision: net and weights are the same.
_LOSS = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


_Group: TypeAlias = dict[str, tuple[str, Callable[[], Any]]]


def rows(
    device: Device,
    case: StepCase,
    variants: Sequence[Ours],
    gate: Gate,
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    sampling: Sampling,
    ceiling: Card | None,
) -> Iterator[StepRow]:
    """A step on synthetic batches that are on the device, in one precision.

    Each of `variants` gets its own row. The last is compared with every form of the peers, and so
    are those of the same variant with other arithmetic; the others are compared with it, to show
    its gain.

    Rows compared with the peers are yielded again after every group of their forms, and replace the
    earlier version: what has been timed is reported even if the next group never ends.

    modes: by the peers' precision, how PyTorch runs; those after "eager" use the form of the
    network that was the fastest in eager mode.
    """
    timed = _Steps(device, case, gate, peers, sampling, ceiling)
    wrong = {ours: error for ours in variants if (error := timed.wrong(ours))}
    wholes = [ours for ours in reversed(variants) if ours.variant == variants[-1].variant]
    parts = [ours for ours in variants if ours not in wholes]
    failed = {
        ours: StepRow(*_about(case, ours), None, error, (), form=ours.form)
        for ours, error in wrong.items()
    }
    if parts:
        yield from timed.parts(parts, wholes[0], failed)
    yield from (failed[ours] for ours in wholes if ours in failed)
    if right := [ours for ours in wholes if ours not in failed]:
        yield from timed.beside_peers(right, modes)


class _Steps:
    """A network's training step on a device, in our variants and in the peers' forms."""

    def __init__(
        self,
        device: Device,
        case: StepCase,
        gate: Gate,
        peers: Peers,
        sampling: Sampling,
        ceiling: Card | None,
    ) -> None:
        self._device, self._case, self._gate, self._peers = device, case, gate, peers
        self._sampling, self._ceiling = sampling, ceiling
        self._batches, self._initial = steps.synthetic(case), gate.initial(case)
        self._first_losses: dict[Ours, float] = {}

    def wrong(self, ours: Ours) -> str | None:
        """What is wrong with one of our variants.

        It uses a separate step: evaluation needs memory that training does not.
        """
        step = Step(self._device.backend, self._case, self._batches[:1], ours, params=self._initial)
        self._first_losses[ours] = step.loss()
        return self._gate.check(self._device.backend, self._case, ours) or steps.check_learning(
            step, _LEARNING_STEPS
        )

    def parts(
        self, parts: Sequence[Ours], whole: Ours, failed: Mapping[Ours, StepRow]
    ) -> Iterator[StepRow]:
        """Our other variants, each compared with the whole."""
        made = {ours: self._made(ours) for ours in (*parts, whole) if ours not in failed}
        runs = {ours.form: run for ours, (run, _) in made.items()}
        timings = interleaved(self._device.step_stopwatch, runs, self._sampling)
        others: tuple[PeerTime, ...] = ()
        if whole in made:
            others = (PeerTime(f"ours, {whole.form}", whole.precision, timings[whole.form]),)
        for ours in parts:
            if ours in failed:
                yield failed[ours]
            else:
                yield self._row(ours, timings[ours.form], others, self._costs(*made[ours]))

    def beside_peers(
        self, right: Sequence[Ours], modes: Mapping[str, tuple[str, ...]]
    ) -> Iterator[StepRow]:
        """Our side in one variant, by one arithmetic or several, with one group of peers after
        another.
        """
        mine = {ours: self._made(ours) for ours in right}
        found: list[PeerTime] = []
        others: dict[Ours, list[PeerTime]] = {ours: [] for ours in right}
        timed: dict[Ours, list[Timing]] = {ours: [] for ours in right}
        costs: dict[Ours, Costs] = {}
        for group in self._groups(modes, found):
            before = len(found)
            runs: dict[str, Run] = {str(ours): run for ours, (run, _) in mine.items()}
            memory: dict[str, int | None] = {}
            for name, (precision, make) in group.items():
                made = self._peer(precision, make, self._first_losses[right[0]])
                if isinstance(made, str):
                    found.append(PeerTime(name, precision, None, made))
                else:
                    runs[name], memory[name] = made
            timings = interleaved(self._device.step_stopwatch, runs, self._sampling)
            beside = {ours: timings.pop(str(ours)) for ours in right}
            for name, timing in timings.items():
                theirs = self._costs(runs[name], memory[name])
                found.append(PeerTime(name, group[name][0], timing, None, theirs))
            for ours in right:
                timed[ours].append(beside[ours])
                others[ours] += [
                    dataclasses.replace(peer, beside=beside[ours]) for peer in found[before:]
                ]
                if ours not in costs:
                    costs[ours] = self._costs(*mine[ours])
                least_doubted = min(timed[ours], key=lambda timing: timing.doubt)
                yield self._row(ours, least_doubted, tuple(others[ours]), costs[ours])

    def _row(
        self, ours: Ours, timing: Timing, others: tuple[PeerTime, ...], costs: Costs
    ) -> StepRow:
        """A row with its floor: seconds of the fused plan, None where a rate is not known."""
        case, ceiling = self._case, self._ceiling
        floor = None
        if ceiling is not None and ours.precision in ceiling.flops:
            floor = floors.floor(case.spec, case.batch, ours.precision, ceiling).fused
        return StepRow(*_about(case, ours), timing, None, others, floor, costs, ours.form)

    def _made(self, ours: Ours) -> tuple[Run, int | None]:
        """A call that trains on one batch after another, and the bytes that it takes at the
        peak.
        """
        device = self._device
        before = device.memory()
        step = Step(device.backend, self._case, self._batches, ours, params=self._initial)
        run = _turning(step.run)
        peak = device.peak_memory(run)
        return run, None if peak is None or before is None else peak - before

    def _peer(
        self, precision: str, make: Callable[[], Any], first_loss: float
    ) -> tuple[Run, int | None] | str:
        """The same for a peer's step, or why it is not timed."""
        try:
            step = make()
            loss = step.first_loss
        except Exception as error:  # a peer's compiler may fail in ways of its own
            return sentence(error)
        if abs(loss - first_loss) > _LOSS[precision] * abs(first_loss):
            return f"its first loss is {loss:.4f}, ours {first_loss:.4f}"
        return _turning(step.run), step.memory

    def _costs(self, run: Run, memory: int | None) -> Costs:
        """The costs of a timed step. On a CPU the host does all the work, so there is nothing to
        separate.
        """
        device, torch = self._device, self._peers.torch
        if not isinstance(device, Gpu):
            return Costs(memory=memory)
        # One at a time: the queue to the GPU holds about a thousand kernels, then the host waits.
        host = statistics.median(device.enqueue_seconds(run, 1) for _ in range(_ENQUEUED))
        kernels = sum(one.seconds for one in kernel_times(torch, run)) if torch else None
        return Costs(host, kernels, memory)

    def _groups(
        self, modes: Mapping[str, tuple[str, ...]], found: list[PeerTime]
    ) -> Iterator[_Group]:
        """Peers to be timed together with ours: precision and factory, by name.

        Eager forms first; `found` then tells which of them the other modes use.
        """
        device, peers, spec = self._device, self._peers, self._case.spec
        given = (spec, self._initial, self._batches)
        torch_step = partial(TorchStep, peers.torch, device.torch, *given)
        for precision, (_, *later_modes) in modes.items():
            group: _Group = {}
            forms = torch_steps.forms(spec, precision, device.layouts)
            written = {f"PyTorch {form}": form for form in forms}
            if peers.torch:
                group |= {n: (precision, partial(torch_step, form)) for n, form in written.items()}
            if peers.jax:
                for form in jax_steps.forms(spec, precision):
                    make = partial(JaxStep, peers.jax, *given, form)
                    group[f"JAX {form}"] = (precision, make)
            yield group
            eager = {peer.name: peer.timing.median for peer in found if peer.timing}
            for mode, layout in itertools.product(later_modes, device.layouts):
                alike = [n for n in eager if n in written and written[n].layout == layout]
                if alike:
                    fastest = written[min(alike, key=eager.__getitem__)]
                    later = dataclasses.replace(fastest, mode=mode)
                    yield {f"PyTorch {later}": (precision, partial(torch_step, later))}


def _about(case: StepCase, ours: Ours) -> tuple[str, str, int, str]:
    return case.label, "synthetic", case.batch, ours.precision


def fed(
    device: Device, case: StepCase, ours: Ours, dataset: Dataset, sampling: Sampling
) -> StepRow:
    """A step whose batches come from the host, as a loader delivers those of a dataset."""
    step = Step(device.backend, case, steps.packed(case, dataset), ours, feed=True)
    timings = interleaved(device.step_stopwatch, {_SELF: _turning(step.run)}, sampling)
    about = (case.label, "from the host", case.batch, ours.precision)
    return StepRow(*about, timings[_SELF], None, (), form=ours.form)


def _turning(run: Callable[[int], Any]) -> Run:
    """`run` on one batch after another."""
    count = 0

    def turn() -> Any:
        nonlocal count
        count += 1
        return run(count)

    return turn


def kernel_times(torch: Any, run: Run) -> list[KernelTime]:
    """The kernels of one call, by PyTorch's profiler, which sees all kernels of a process."""
    profiler = torch.profiler
    known = inspect.signature(profiler.profile).parameters
    # 2.11 warns that it drops events at the end of its first cycle, unless told to keep them.
    kept = {"acc_events": True} if "acc_events" in known else {}
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA], **kept) as profile:
        finish(run())
        torch.cuda.synchronize()
    return [
        KernelTime(event.key, int(event.count), float(event.self_device_time_total) / 1e6)
        for event in profile.key_averages()
        if event.self_device_time_total
    ]
