"""Whole training steps: gate, then ours and the peers' in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyalexnet.data import Dataset

from . import floors, steps
from .cards import Card
from .device import Device, Gpu
from .operations import OURS, sentence
from .peers import Peers
from .peers.jax_steps import JaxStep
from .peers.torch_steps import Form, TorchStep, forms
from .results import Costs, PeerTime, StepRow
from .steps import Batch, Step, StepCase
from .timing import Plan, Run, Timing, finish, interleaved

_SELF = "ours"
_LEARNING_STEPS = 5
_ENQUEUED = 10
# How far a peer's first loss may lie from ours, by precision: the net and its weights are the same.
_LOSS = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


def row(
    device: Device,
    case: StepCase,
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    plan: Plan,
    ceiling: Card | None,
) -> StepRow:
    """A step on synthetic batches that lie on the device, beside every form of the peers.

    modes: by precision, how PyTorch runs; those after "eager" take the form of the network that
    was the fastest in it.
    """
    about = (case.label, "synthetic", case.batch, OURS)
    batches = steps.synthetic(case)
    before = device.memory()
    ours = Step(device.backend, case, batches)
    initial = {n: device.backend.to_numpy(w).copy() for n, w in ours.net.params.items()}
    first_loss = ours.loss()
    if wrong := steps.check(device.backend, case) or steps.check_learning(ours, _LEARNING_STEPS):
        return StepRow(*about, None, wrong, ())
    found: list[PeerTime] = []
    timed: list[Timing] = []
    for group in _groups(device, case, peers, modes, initial, batches, found):
        runs: dict[str, Run] = {_SELF: _turning(ours.run)}
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
        timed.append(timings.pop(_SELF))
        for name, timing in timings.items():
            costs = _costs(device, peers.torch, runs[name], memory[name])
            found.append(PeerTime(name, group[name][0], timing, None, costs))
    run = _turning(ours.run)
    peak = device.peak_memory(run)
    taken = None if peak is None or before is None else peak - before
    return StepRow(
        *about,
        min(timed, key=lambda timing: timing.doubt),
        None,
        tuple(found),
        floors.floor(case.spec, case.batch, OURS, ceiling).fused if ceiling else None,
        _costs(device, peers.torch, run, taken),
    )


def fed(device: Device, case: StepCase, dataset: Dataset, plan: Plan) -> StepRow:
    """A step whose batches come from the host, as a loader hands over those of a data set."""
    step = Step(device.backend, case, steps.packed(case, dataset), feed=True)
    timings = interleaved(device.step_stopwatch, {_SELF: _turning(step.run)}, plan)
    return StepRow(case.label, "from the host", case.batch, OURS, timings[_SELF], None, ())


_Group = dict[str, tuple[str, Callable[[], Any]]]


def _groups(
    device: Device,
    case: StepCase,
    peers: Peers,
    modes: Mapping[str, tuple[str, ...]],
    initial: dict[str, Any],
    batches: list[Batch],
    found: list[PeerTime],
) -> Iterator[_Group]:
    """Peers to be timed together with ours, by name, with what makes them.

    Eager forms first; `found` then says which of them the other modes take up.
    """
    for precision, (_, *later_modes) in modes.items():
        group: _Group = {}
        written = {f"PyTorch {form}": form for form in forms(case.spec, precision)}
        if peers.torch:

            def torch_step(form: Form) -> Callable[[], Any]:
                place = (peers.torch, device.torch, case.spec, initial, batches)
                return lambda: TorchStep(*place, form)

            group |= {name: (precision, torch_step(form)) for name, form in written.items()}
        if peers.jax:
            group[f"JAX jit, {precision}"] = (
                precision,
                _jax_step(peers, case, initial, batches, precision),
            )
        yield group
        eager = [peer for peer in found if peer.name in written and peer.timing]
        if not eager:
            continue
        fastest = written[
            min(eager, key=lambda peer: peer.timing.median if peer.timing else 0).name
        ]
        later = [Form(precision, fastest.split, fastest.shifted, mode) for mode in later_modes]
        for form in later:
            yield {f"PyTorch {form}": (precision, torch_step(form))}


def _jax_step(
    peers: Peers, case: StepCase, initial: dict[str, Any], batches: list[Batch], precision: str
) -> Callable[[], Any]:
    return lambda: JaxStep(peers.jax, case.spec, initial, batches, precision)


def _turning(run: Callable[[int], Any]) -> Run:
    """`run` on one batch after the other."""
    count = 0

    def turn() -> Any:
        nonlocal count
        count += 1
        return run(count)

    return turn


def _costs(device: Device, torch: Any, run: Run, memory: int | None) -> Costs:
    """Of a step that has been timed. On a CPU the host does all the work: nothing tells apart."""
    if not isinstance(device, Gpu):
        return Costs(memory=memory)
    # One at a time: the queue to the GPU holds about a thousand kernels, and then the host waits.
    host = statistics.median(device.enqueue_seconds(run, 1) for _ in range(_ENQUEUED))
    return Costs(host, _kernel_seconds(torch, run) if torch else None, memory)


def _kernel_seconds(torch: Any, run: Run) -> float:
    """Seconds that kernels ran in one step, by PyTorch's profiler, which sees all of a process."""
    profiler = torch.profiler
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        finish(run())
        torch.cuda.synchronize()
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e6
