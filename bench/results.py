"""The results of a bench run: plain data, as stored in bench.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from .floors import Floor
from .timing import Timing, verdict


@dataclass(frozen=True)
class Costs:
    """What a training step takes besides time; None where the device or library cannot tell.

    host: seconds that the host needs to enqueue a step; kernels: seconds in which its kernels ran;
    memory: bytes at the peak, batches and parameters included.
    """

    host: float | None = None
    kernels: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class PeerTime:
    """One form of a peer: its time, or why there is none; for a whole step its costs too.

    beside: our time in the same turns; None if it is the row's own.
    """

    name: str
    precision: str
    timing: Timing | None
    failed: str | None = None
    costs: Costs = Costs()
    beside: Timing | None = None


@dataclass(frozen=True)
class Check:
    """A case of a family of kernels, once against float64; wrong: what is wrong, in words."""

    family: str
    case: str
    wrong: str | None
    seconds: float


@dataclass(frozen=True)
class StageRow:
    """A stage of `make gpu`.

    state: "done"; "stopped" at its limit or with the run; "left out". seconds: its time, at most
    `limit`. wrong: what it found, in sentences. left_out: what it did not reach, and why.
    """

    name: str
    state: str
    seconds: float = 0.0
    limit: float = 0.0
    wrong: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelTime:
    """A kernel's time in one training step: seconds, of all its launches together."""

    kernel: str
    launches: int
    seconds: float


@dataclass(frozen=True)
class KernelRow:
    """A training step kernel by kernel, in one of our variants; the longest first."""

    net: str
    batch: int
    precision: str
    form: str
    kernels: tuple[KernelTime, ...]
    failed: str | None = None


@dataclass(frozen=True)
class OperationRow:
    """One operation at one batch size. share: of what the ceilings of the same run allow. threads:
    how many it and the peers may use, on a CPU.
    """

    case: str
    net: str
    batch: int
    precision: str
    flops: float
    nbytes: int
    ours: Timing | None
    failed: str | None
    peers: tuple[PeerTime, ...]
    share: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class LoopRow:
    """A bfloat16 product by both main loops of the tensor cores: any card's, and Hopper's."""

    case: str
    net: str
    batch: int
    flops: float
    mma: Timing | None
    wgmma: Timing | None
    failed: str | None


@dataclass(frozen=True)
class StepRow:
    """A whole training step. floor: seconds of the fused plan at this run's ceilings. form: how it
    was run: see `steps.Ours.form`. threads: how many it and the peers may use, on a CPU.
    """

    net: str
    data: str
    batch: int
    precision: str
    ours: Timing | None
    failed: str | None
    peers: tuple[PeerTime, ...]
    floor: float | None = None
    costs: Costs = Costs()
    form: str = ""
    threads: int | None = None


@dataclass(frozen=True)
class MemoryRow:
    """Bytes that training steps take in a process of their own on a CPU.

    peak: at once, batches and parameters included. fresh: in pages that a step takes from the
    system, after the first steps. arrays: the most that a step newly allocates at once, as Python
    objects and NumPy arrays; None for a peer, which uses neither.
    """

    net: str
    batch: int
    side: str
    peak: int
    fresh: int
    arrays: int | None


TimedRow: TypeAlias = OperationRow | LoopRow | StepRow | KernelRow


@dataclass(frozen=True)
class LoaderRow:
    """The loader with `workers`: seconds for `images`; core: one core only decoding them."""

    workers: int
    images: int
    timing: Timing
    core: Timing


@dataclass(frozen=True)
class Ceiling:
    """What the device reached: `value` in `unit`, or why it was not measured. threads: of a CPU,
    how many shared the work.
    """

    name: str
    value: float | None
    unit: str
    failed: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class KernelResources:
    """The resources that the compiler allotted to a kernel.

    registers: of a thread. spilled, stack: bytes of a thread's local memory (records of November
    2026 lack the stack). shared: bytes of a block, without those that a launch requests.
    """

    kernel: str
    registers: int
    spilled: int
    stack: int = 0
    shared: int = 0


@dataclass(frozen=True)
class MemoryRequests:
    """Accesses to one array by one source line, by warps, as the emulation counted them.

    space: "global" or "shared". each: 32-byte sectors a request, or passes over the banks. ratio:
    that as a multiple of the fewest possible.
    """

    line: str
    array: str
    access: str
    space: str
    requests: int
    each: float
    ratio: float


@dataclass
class Results:
    """Everything of one run. missing: libraries not compared with, and why not."""

    form: str
    command: str
    environment: dict[str, str]
    stages: list[StageRow] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    kernels: list[KernelRow] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    operations: list[OperationRow] = field(default_factory=list)
    loops: list[LoopRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    loader: list[LoaderRow] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    resources: list[KernelResources] = field(default_factory=list)
    requests: list[MemoryRequests] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Our wrong answers, and what the stages found, each in a sentence."""
        rows: list[TimedRow] = [*self.operations, *self.loops, *self.steps, *self.kernels]
        return [
            *(sentence for stage in self.stages for sentence in stage.wrong),
            *(f"{one.family}, {one.case}: {one.wrong}." for one in self.checks if one.wrong),
            *(f"{label(row)}: {row.failed}." for row in rows if row.failed),
        ]

    @property
    def left_out(self) -> list[str]:
        """What was not done, and why, each in a sentence."""
        names = {"torch": "PyTorch", "jax": "JAX"}
        peers = (
            f"Nothing is timed beside {names[one]}: {why}." for one, why in self.missing.items()
        )
        return [*peers, *(text for stage in self.stages for text in stage.left_out)]


def label(row: TimedRow) -> str:
    """A row's name with its network and batch size."""
    if isinstance(row, KernelRow):
        return f"{row.net} step by kernels, batch {row.batch}, {row.precision}, {row.form}"
    if isinstance(row, LoopRow):
        return f"{row.net} {row.case}, batch {row.batch}, both loops"
    if isinstance(row, OperationRow):
        about = [f"{row.net} {row.case}", f"batch {row.batch}", row.precision]
    else:
        about = [f"{row.net} step", row.data, f"batch {row.batch}", row.precision, row.form]
    return ", ".join(part for part in (*about, on(row.threads)) if part)


def on(threads: int | None) -> str:
    """The number of threads in words; empty on a GPU."""
    return f"{threads} thread{'s' * (threads != 1)}" if threads else ""


def best(row: OperationRow | StepRow, precision: str | None = None) -> PeerTime | None:
    """The fastest form of any peer, of one precision or of any."""
    # With three bfloat16 to a number, the equally accurate peers are those in strict float32.
    alike = (precision, "fp32") if precision == "fp32x3" else (precision,)
    timed = [
        peer for peer in row.peers if peer.timing and (not precision or peer.precision in alike)
    ]
    return min(timed, key=_median, default=None)


def compared(row: OperationRow | StepRow) -> str:
    """Which is faster: ours, or the best peer of the same accuracy."""
    if row.failed or row.ours is None:
        return "FAILED"
    peer = best(row, row.precision)
    return verdict(peer.beside or row.ours, peer.timing) if peer and peer.timing else "no peer"


def ratios(row: OperationRow | StepRow) -> tuple[float, float] | None:
    """Best peer / ours, both in the same turns: the ratio of medians, and that of minima."""
    peer = best(row, row.precision)
    if row.ours is None or peer is None or peer.timing is None:
        return None
    ours = peer.beside or row.ours
    return peer.timing.median / ours.median, peer.timing.least / ours.least


def geometric_mean(rows: list[OperationRow]) -> float | None:
    """Geometric mean of the ratios peer / ours of medians, over the rows that have both."""
    logs = [math.log(both[0]) for both in map(ratios, rows) if both]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _median(peer: PeerTime) -> float:
    assert peer.timing is not None
    return peer.timing.median
