"""A training step kernel by kernel: where its time goes, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from . import steps, whole
from .device import Device, Gpu
from .results import KernelRow
from .steps import Gate, Ours, Step, StepCase

_WARMUPS = 4


def rows(
    device: Device, case: StepCase, variants: Sequence[Ours], gate: Gate, torch: Any
) -> Iterator[KernelRow]:
    """One step in each of our variants; none without a GPU and PyTorch, whose profiler sees all
    kernels of a process.
    """
    if not isinstance(device, Gpu) or torch is None:
        return
    batches, params = steps.synthetic(case, 1), gate.initial(case)
    for ours in variants:
        about = (case.label, case.batch, ours.precision, ours.variant)
        if wrong := gate.check(device.backend, case, ours):
            yield KernelRow(*about, (), wrong)
            continue
        step = Step(device.backend, case, batches, ours, params=params)
        for index in range(_WARMUPS):
            step.run(index)
        found = whole.kernel_times(torch, partial(step.run, 0))
        yield KernelRow(*about, tuple(sorted(found, key=lambda one: -one.seconds)))
