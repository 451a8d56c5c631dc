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
from .cases import Arrays
from .device import Device, Gpu
from .operations import sentence
from .peers import Peers, jax_steps, torch_steps
from .peers.jax_steps import JaxStep
from .peers.torch_steps import TorchStep
from .results import Costs, KernelTime, PeerTime, StepRow
from .steps import Batch, Gate, Ours, Step, StepCase
from .timing import Plan, Run, Timing, finish, interleaved

_SELF = "ours"
_LEARNING_STEPS = 5
_ENQUEUED = 10
# How far a peer's first loss may be from ours, by precision: net and weights are the same.
_LOSS = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


_Checked: TypeAlias = tuple[float, str | None]
"""For one of our ways: its first loss, and what is wrong with it."""


def rows(
    device: Device,
    case: StepCase,
    ways: Sequence[Ours],
    gate: Gate,
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    plan: Plan,
    ceiling: Card | None,
) -> Iterator[StepRow]:
    """A step on synthetic batches that are on the device, in one precision.

    Each of `ways` is a row of its own. The last is compared with every form of the peers, and so
    are those run in the same way with other arithmetic; the others are compared with it, to show
    its gain.

    Rows compared with the peers are yielded again after every group of their forms, and replace the
    earlier version: what has been timed is reported even if the next group never ends.

    modes: by the peers' precision, how PyTorch runs; those after "eager" use the form of the
    network that was the fastest in eager mode.
    """
    batches, initial = steps.synthetic(case), gate.initial(case)
    checked = {ours: _checked(device, case, ours, gate, batches) for ours in ways}
    wholes = [ours for ours in reversed(ways) if ours.way == ways[-1].way]
    parts = [ours for ours in ways if ours not in wholes]
    if parts:
        yield from _parts(
            device, case, [*parts, wholes[0]], checked, peers, batches, initial, plan, ceiling
        )
    yield from _whole(device, case, wholes, checked, peers, modes, batches, initial, plan, ceiling)


def _whole(
    device: Device,
    case: StepCase,
    wholes: Sequence[Ours],
    checked: Mapping[Ours, _Checked],
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    batches: list[Batch],
    initial: Arrays,
    plan: Plan,
    ceiling: Card | None,
) -> Iterator[StepRow]:
    """Our side in one way, by one arithmetic or several, with one group of peers after another."""
    right = [ours for ours in wholes if not checked[ours][1]]
    for ours in wholes:
        if ours not in right:
            yield StepRow(*_about(case, ours), None, checked[ours][1], (), form=ours.form)
    if not right:
        return
    first_loss, _ = checked[right[0]]
    mine = {ours: _made(device, case, ours, batches, initial) for ours in right}
    found: list[PeerTime] = []
    others: dict[Ours, list[PeerTime]] = {ours: [] for ours in right}
    timed: dict[Ours, list[Timing]] = {ours: [] for ours in right}
    costs: dict[Ours, Costs] = {}
    for group in _groups(device, case, peers, modes, initial, batches, found):
        runs: dict[str, Run] = {str(ours): run for ours, (run, _) in mine.items()}
        before = len(found)
        memory: dict[str, int | None] = {}
        for name, (precision, make) in group.items():
            try:
                step = make()
                loss = step.first_loss
            except Exception as error:  # a peer's compiler may fail in ways of its own
                found.append(PeerTime(name, precision, None, sentence(error)))
                continue
            if abs(loss - first_loss) > _LOSS[precision] * abs(first_loss):
                text = f"its first loss is {loss:.4f}, ours {first_loss:.4f}"
                found.append(PeerTime(name, precision, None, text))
                continue
            runs[name], memory[name] = _turning(step.run), step.memory
        timings = interleaved(device.step_stopwatch, runs, plan)
        beside = {ours: timings.pop(str(ours)) for ours in right}
        for name, timing in timings.items():
            theirs = _costs(device, peers.torch, runs[name], memory[name])
            found.append(PeerTime(name, group[name][0], timing, None, theirs))
        for ours, (run, taken) in mine.items():
            timed[ours].append(beside[ours])
            others[ours] += [dataclasses.replace(p, beside=beside[ours]) for p in found[before:]]
            if ours not in costs:
                costs[ours] = _costs(device, peers.torch, run, taken)
            least_doubted = min(timed[ours], key=lambda timing: timing.doubt)
            about = (*_about(case, ours), least_doubted, None, tuple(others[ours]))
            yield StepRow(*about, _floor(case, ours, ceiling), costs[ours], ours.form)


def _parts(
    device: Device,
    case: StepCase,
    ways: Sequence[Ours],
    checked: Mapping[Ours, _Checked],
    peers: Peers,
    batches: list[Batch],
    initial: Arrays,
    plan: Plan,
    ceiling: Card | None,
) -> Iterator[StepRow]:
    """Our other ways, each compared with the last, which is the whole."""
    *parts, whole = ways
    wrong = {ours: error for ours, (_, error) in checked.items() if error}
    runs: dict[str, Run] = {}
    taken: dict[Ours, int | None] = {}
    for ours in ways:
        if ours not in wrong:
            runs[ours.form], taken[ours] = _made(device, case, ours, batches, initial)
    timings = interleaved(device.step_stopwatch, runs, plan) if runs else {}
    beside = timings.get(whole.form)
    others = (PeerTime(f"ours, {whole.form}", whole.precision, beside),) if beside else ()
    for ours in parts:
        if ours in wrong:
            yield StepRow(*_about(case, ours), None, wrong[ours], (), form=ours.form)
            continue
        costs = _costs(device, peers.torch, runs[ours.form], taken[ours])
        floor = _floor(case, ours, ceiling)
        about = (*_about(case, ours), timings[ours.form], None)
        yield StepRow(*about, others, floor, costs, ours.form)


def _about(case: StepCase, ours: Ours) -> tuple[str, str, int, str]:
    return case.label, "synthetic", case.batch, ours.precision


def _checked(
    device: Device, case: StepCase, ours: Ours, gate: Gate, batches: list[Batch]
) -> _Checked:
    """The first loss, and what is wrong.

    By a step of its own: evaluation needs memory that training does not.
    """
    step = Step(device.backend, case, batches[:1], ours, params=gate.initial(case))
    first_loss = step.loss()
    wrong = gate.check(device.backend, case, ours) or steps.check_learning(step, _LEARNING_STEPS)
    return first_loss, wrong


def _made(
    device: Device, case: StepCase, ours: Ours, batches: list[Batch], initial: Arrays
) -> tuple[Run, int | None]:
    """A call that trains on one batch after another, and the bytes that it takes at the peak."""
    before = device.memory()
    run = _turning(Step(device.backend, case, batches, ours, params=initial).run)
    peak = device.peak_memory(run)
    return run, None if peak is None or before is None else peak - before


def _floor(case: StepCase, ours: Ours, ceiling: Card | None) -> float | None:
    """Seconds of the fused plan; None where a rate is not known."""
    if ceiling is None or ours.precision not in ceiling.flops:
        return None
    return floors.floor(case.spec, case.batch, ours.precision, ceiling).fused


def fed(device: Device, case: StepCase, ours: Ours, dataset: Dataset, plan: Plan) -> StepRow:
    """A step whose batches come from the host, as a loader delivers those of a dataset."""
    step = Step(device.backend, case, steps.packed(case, dataset), ours, feed=True)
    timings = interleaved(device.step_stopwatch, {_SELF: _turning(step.run)}, plan)
    about = (case.label, "from the host", case.batch, ours.precision)
    return StepRow(*about, timings[_SELF], None, (), form=ours.form)


_Group = dict[str, tuple[str, Callable[[], Any]]]


def _groups(
    device: Device,
    case: StepCase,
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    initial: Arrays,
    batches: list[Batch],
    found: list[PeerTime],
) -> Iterator[_Group]:
    """Peers to be timed together with ours: precision and factory, by name.

    Eager forms first; `found` then tells which of them the other modes use.
    """
    for precision, (_, *later_modes) in modes.items():
        group: _Group = {}
        given = (case.spec, initial, batches)
        forms = torch_steps.forms(case.spec, precision, device.layouts)
        written = {f"PyTorch {form}": form for form in forms}
        torch_step = partial(TorchStep, peers.torch, device.torch, *given)
        if peers.torch:
            group |= {n: (precision, partial(torch_step, form)) for n, form in written.items()}
        if peers.jax:
            for form in jax_steps.forms(case.spec, precision):
                make = partial(JaxStep, peers.jax, *given, form)
                group[f"JAX {form}"] = (precision, make)
        yield group
        eager = {peer.name: peer.timing.median for peer in found if peer.timing}
        for mode, layout in itertools.product(later_modes, device.layouts):
            alike = [name for name in eager if name in written and written[name].layout == layout]
            if alike:
                fastest = written[min(alike, key=eager.__getitem__)]
                later = dataclasses.replace(fastest, mode=mode)
                yield {f"PyTorch {later}": (precision, partial(torch_step, later))}


def _turning(run: Callable[[int], Any]) -> Run:
    """`run` on one batch after another."""
    count = 0

    def turn() -> Any:
        nonlocal count
        count += 1
        return run(count)

    return turn


def _costs(device: Device, torch: Any, run: Run, memory: int | None) -> Costs:
    """Of a step that has been timed. On a CPU the host does all the work: nothing to separate."""
    if not isinstance(device, Gpu):
        return Costs(memory=memory)
    # One at a time: the queue to the GPU holds about a thousand kernels, and then the host waits.
    host = statistics.median(device.enqueue_seconds(run, 1) for _ in range(_ENQUEUED))
    kernels = sum(one.seconds for one in kernel_times(torch, run)) if torch else None
    return Costs(host, kernels, memory)


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
