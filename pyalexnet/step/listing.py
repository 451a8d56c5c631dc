"""A plan as text: a line for each call, readable like the paper's section 3.5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyalexnet.backends.kernels import KernelBackend
from pyalexnet.nets.calls import Call, Operand, Plan, View, is_product, name_of


@dataclass(frozen=True)
class Line:
    """A call.

    operation: its launcher in `kernels/ops.h`, and what is fused with it. reads, writes: arrays
    with shapes. flops: of a product, else 0. choice: how kernels compute a product, if requested.
    """

    operation: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nbytes: int
    flops: float
    choice: str


def lines(plan: Plan, images: int, kernels: KernelBackend | None = None) -> Iterator[Line]:
    """A plan's calls in order, for so many images; `kernels` adds how they compute products."""
    for call in plan.calls:
        reads = tuple(_shown(plan, operand, images) for operand in call.reads.values())
        writes = [_shown(plan, operand, images) for operand in call.writes]
        writes += [_changed(plan, parameter, images) for parameter in call.learns.values()]
        moved, flops = plan.moved(call, images), plan.flops(call, images)
        choice = _choice(plan, call, images, kernels) if kernels and is_product(call.op) else ""
        yield Line(_described(call), reads, tuple(writes), moved, flops, choice)


def _choice(plan: Plan, call: Call, images: int, kernels: KernelBackend) -> str:
    """How kernels compute a product."""
    reads = call.reads
    x = reads.get("x") or call.writes[0]  # dgrad: dx
    w = reads.get("w") or call.learns.get("w") or call.writes[0]  # wgrad: dw
    rows = images * (x.rows if isinstance(x, View) else 1)
    dtype = plan.arrays[name_of(next(iter(reads.values())))].dtype
    return kernels.choice(call.op, (rows, *plan.shape(x)), plan.shape(w), dtype, call.settings)


def _described(call: Call) -> str:
    """The operation, and what is fused with it: `linear_fprop + relu + dropout`."""
    how = call.settings
    parts = (
        how.get("activation"),
        "relu" if how.get("relu") else None,
        "dropout" if "dropout" in how else None,
        "relu's gradient" if "gate" in call.reads or how.get("gated") else None,
    )
    return " + ".join([call.op, *filter(None, parts)])


def _shown(plan: Plan, operand: Operand, images: int) -> str:
    """`conv1 128x55x55x96`; for a number just the name."""
    shape = plan.shape(operand)
    if plan.arrays[name_of(operand)].per_image:
        shape = (images, *shape)
    return f"{name_of(operand)} {'x'.join(map(str, shape))}".strip()


def _changed(plan: Plan, parameter: str, images: int) -> str:
    """A parameter, and the arrays that change with it."""
    others = (name.removeprefix(f"{parameter}.") for name in plan.learned(parameter)[1:])
    return f"{_shown(plan, parameter, images)} (+{', '.join(others)})"
