"""Single operations: first the gate, then ours and the peers' in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from numpy.typing import NDArray

from pyalexnet.step.plan import Precision

from . import gate
from .cards import Card
from .cases import Arrays, Case
from .device import Device, Gpu, graph_of_torch
from .peers import Candidate, Peers, jax_ops, torch_ops
from .results import OperationRow, PeerTime
from .timing import Elsewhere, Run, Sampling, Timing, interleaved

_SELF = "ours"
# Images of a batch whose outputs are compared with the peers'.
_COMPARED = 16

Outputs: TypeAlias = tuple[NDArray[Any], ...]


def rows(
    device: Device,
    cases: Iterable[Case],
    peers: Peers,
    precisions: Mapping[Precision, tuple[str, ...]],
    sampling: Sampling,
    ceiling: Card | None,
) -> Iterator[OperationRow]:
    """Check and time each case; a wrong answer becomes a row that says so.

    precisions: for each of ours, the peers' that are timed with it. ceiling: what this device
    reached.
    """
    for case in cases:
        yield _row(device, case, peers, precisions[case.precision], sampling, ceiling)


def sentence(error: Exception) -> str:
    """A peer's exception as a reason in a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def _row(
    device: Device,
    case: Case,
    peers: Peers,
    precisions: tuple[str, ...],
    sampling: Sampling,
    ceiling: Card | None,
) -> OperationRow:
    arrays = case.arrays()
    about = (case.name, case.net, case.batch, case.precision, case.flops, case.nbytes)
    if wrong := gate.check(device.backend, case, arrays):
        return OperationRow(*about, None, wrong, ())
    answer = tuple(map(gate.widened, gate.first_outputs(device.backend, case, arrays)))
    call = device.ready(gate.Call(device.backend, case, arrays).run)
    ours: list[Timing] = []
    theirs: list[PeerTime] = []
    # One precision after another: all forms together would not fit on a card.
    for precision in precisions:
        runs: dict[str, Run] = {_SELF: call}
        for candidate in _candidates(device, case, arrays, peers, precision):
            try:
                name, got, run = _ready(device, peers, candidate)
                wrong = _difference(case, answer, candidate.outputs(got), precision)
            except Exception as error:  # any exception of its library is the reason in the table
                wrong = sentence(error)
            if wrong:
                theirs.append(PeerTime(candidate.name, precision, None, wrong))
            else:
                runs[name] = run
        timings = interleaved(device.stopwatch, runs, sampling)
        ours.append(timings.pop(_SELF))
        theirs += [
            PeerTime(name, precision, timing, beside=ours[-1]) for name, timing in timings.items()
        ]
    return OperationRow(*about, ours[0], None, tuple(theirs), _share(case, ours[0], ceiling))


def _candidates(
    device: Device, case: Case, arrays: Arrays, peers: Peers, precision: str
) -> Iterator[Candidate]:
    if peers.torch:
        yield from torch_ops.candidates(peers.torch, device.torch, case, arrays, precision)
    if peers.jax:
        yield from jax_ops.candidates(peers.jax, device.torch, case, arrays, precision)


def _ready(device: Device, peers: Peers, candidate: Candidate) -> tuple[str, Any, Run]:
    """A form's name, what its first call gave, and how it is timed: in a CUDA graph, like ours.

    JAX's calls are not, and their names say so.
    """
    if candidate.library == "jax":
        return candidate.name, candidate.run(), Elsewhere(candidate.run)
    if not isinstance(device, Gpu):
        return candidate.name, candidate.run(), candidate.run
    torch = peers.torch
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # it made the inputs
    with torch.cuda.stream(stream):
        got = candidate.run()
    torch.cuda.synchronize()
    try:
        return candidate.name, got, graph_of_torch(torch, candidate.run, stream)
    except (
        RuntimeError
    ) as error:  # if it cannot be captured, the host's part is timed too, and the name says so
        return f"{candidate.name}, no graph ({sentence(error)})", got, candidate.run


def _difference(
    case: Case, answer: Outputs, theirs: tuple[NDArray[Any] | None, ...], precision: str
) -> str | None:
    """How a peer's first answer differs from our checked one: then it did other work."""
    tolerance = 2 * gate.TOLERANCE[precision]
    every = slice(None, None, max(1, case.batch // _COMPARED))
    for name, mine, peer in zip(case.outputs, answer, theirs, strict=True):
        if peer is None:
            continue
        part = every if name in case.per_image else ...
        if wrong := gate.difference(name, peer[part], mine[part], tolerance):
            return wrong
    return None


def _share(case: Case, ours: Timing, ceiling: Card | None) -> float | None:
    """Our share of the speed that the device's ceilings allow; None if they are not known."""
    if ceiling is None or case.precision not in ceiling.flops:
        return None
    return ceiling.seconds(case.precision, case.flops, case.nbytes) / ours.median
