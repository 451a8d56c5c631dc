"""Sectors a request and bank conflicts of the kernels, as the checked emulation counts them."""

from __future__ import annotations

from pyalexnet.lint import BOUND, examples, lint

from .results import MemoryRequests


def requests() -> list[MemoryRequests]:
    """Accesses that cost more than they need, in a call of every operation, the worst first.

    Raises:
        BackendUnavailable: this build of pyalexnet has no checked emulation.
    """
    return [
        MemoryRequests(
            row.line, row.array, row.access, row.space, row.requests, row.each, row.ratio
        )
        for row in lint(examples().values())
        if row.ratio > BOUND
    ]
