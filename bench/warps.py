"""How long warps take for instructions, from their control codes and from what they wait for.

A scheduler issues one instruction a clock, of the warp that has waited longest among those that can
go on. A warp goes on when the stall of its last instruction is over and the barriers that the next
one waits for are free: latencies end them. Instructions on memory pass through a pipe that the four
schedulers of a multiprocessor share, and products through the scheduler's tensor core, in order.
Not modelled: misses of the instruction cache, conflicts of banks or of registers, a taken branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .sass import Instruction

LANES = 32
# Clocks until a result can be used. Shared memory: 29 in a chain of loads (H100; arXiv 2402.13499),
# one more for the issue. LDSM: as Ampere's (arXiv 2208.11174). Others: as Volta's (arXiv
# 1804.06826).
_LATENCY = {"LDS": 30, "LDSM": 33, "SYNCS": 30, "BAR": 30}
_OTHER = 24
_READ = 12  # until a memory instruction has read its registers: assumed
_MEMORY = {"LDS", "LDSM", "LDG", "STS", "STG", "LDGSTS", "SYNCS", "LD", "ST"}
# m16n8k16 reaches 2,680 of 4,096 operations a clock on Hopper (device probes of mma.sync; about two
# thirds, arXiv 2501.12084): 1.53 clocks of a multiprocessor, whose schedulers have a fourth each.
MMA = 4096 / 2680 * 4
_WIDTHS = (("128", 16), ("64", 8), ("U16", 2), ("U8", 1), ("S8", 1))


@dataclass(frozen=True)
class Pace:
    """sharing: schedulers that use the memory pipe as much as this one. l2: bytes a clock that a
    multiprocessor gets from the L2 cache when all ask for them. load: latency of global memory.
    apart: whether blocks that share a multiprocessor are out of step, so that one multiplies while
    another begins or ends; otherwise they are as chance has it.
    """

    sharing: int
    l2: float
    load: int = 263  # from the L2 cache (H100; arXiv 2402.13499)
    apart: bool = True


# Between these a card is expected to be. Alone, no instruction queues behind another scheduler's.
# An H100's L2 cache delivers some 4,500 bytes a clock to 114 multiprocessors (arXiv 2402.13499).
FAST, SLOW = Pace(1, 40), Pace(4, 32, apart=False)


def nbytes(one: Instruction) -> int:
    """What a lane loads or stores."""
    kind = one.rest.partition(" ")[0]
    return next((size for text, size in _WIDTHS if f".{text}" in kind), 4)


def passes(one: Instruction) -> int:
    """Clocks of the memory pipe, which takes 128 bytes a clock."""
    if "[RZ]" in one.rest:  # @!PT LDS RZ, [RZ]: spaces between instructions
        return 0
    if one.name == "LDSM":
        return 4 if ".4 " in one.rest else 2  # .M88.4, .MT88.4
    return max(1, LANES * nbytes(one) // 128) if one.name in _MEMORY else 0


@dataclass
class _Warp:
    run: Sequence[Instruction]
    next: int = 0
    ready: float = 0.0
    barriers: dict[int, float] = field(default_factory=dict)

    def soonest(self) -> float:
        waits = self.run[self.next].waits
        awaited = (end for barrier, end in self.barriers.items() if waits >> barrier & 1)
        return max(self.ready, *awaited, 0.0)


def clocks(runs: Sequence[Sequence[Instruction]], pace: Pace) -> float:
    """Until a scheduler's warps, each with its instructions, have run them all."""
    warps = [_Warp(run) for run in runs if run]
    issued = piped = multiplied = end = 0.0
    while warps:
        warp = min(warps, key=_Warp.soonest)
        one = warp.run[warp.next]
        at = max(issued, warp.soonest())
        issued = at + 1
        warp.ready = at + max(1, one.stall)
        began = at
        if one.name in _MEMORY:
            began = max(at, piped)
            piped = began + passes(one) * pace.sharing
        elif one.name == "HMMA":
            began = max(at, multiplied)
            multiplied = began + MMA
            warp.ready = max(warp.ready, began + one.stall)
        latency = pace.load if one.name == "LDG" else _LATENCY.get(one.name, _OTHER)
        for barrier, later in ((one.ends, latency), (one.frees, _READ)):
            if barrier is not None:
                warp.barriers[barrier] = max(warp.barriers.get(barrier, 0.0), began + later)
        end = max(end, warp.ready, piped, multiplied)
        warp.next += 1
        if warp.next == len(warp.run):
            warps.remove(warp)
    return end


def steady(body: Sequence[Instruction], warps: int, pace: Pace) -> float:
    """Clocks of one round of a loop that so many of a scheduler's warps run side by side."""
    few, many = 2, 6
    longer, shorter = (clocks([[*body] * rounds] * warps, pace) for rounds in (many, few))
    return (longer - shorter) / (many - few)
