"""Results as Markdown: the peers' wins in the same table as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .results import (
    Costs,
    LoopRow,
    OperationRow,
    PeerTime,
    Results,
    StepRow,
    best,
    compared,
    geometric_mean,
    label,
    on,
    ratios,
)
from .timing import Timing

_GIGA, _TERA = 1e9, 1e12
# For whole steps; "-" where unknown, as on a CPU, which has no separate host.
_COSTS = ("kernels ms (of wall)", "host ms", "peak MB")


def document(results: Results) -> str:
    """The whole report."""
    return "\n\n".join(part for part in _parts(results) if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right. Empty without rows."""
    if not rows:
        return ""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def padded(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A Markdown table with padded columns, readable as plain text.

    sides: "<" or ">" for each column, the alignment of its cells.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * (w - 1) + ("-" if s == "<" else ":") for s, w in zip(sides, widths, strict=True)]
    lines = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)]
        for line in (header, rule, *rows)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _parts(results: Results) -> Iterator[str]:
    yield f"# Bench, {results.form}"
    yield f"`{results.command}`"
    yield "\n".join(f"- {name}: {value}" for name, value in results.environment.items())
    yield "\n".join(f"- {note}" for note in results.notes)
    if results.failures:
        yield "## Wrong\n\n" + "\n".join(f"- {one}" for one in results.failures)
    if results.left_out:
        yield "## Left out\n\n" + "\n".join(f"- {one}" for one in results.left_out)
    sections = {
        "Stages": _stages(results),
        "Kernels once against float64, by family": _checks(results),
        "Ceilings": _ceilings(results),
        "Operations": _operations(results.operations),
        "Main loops of the tensor cores": _loops(results.loops),
        "Whole training steps": _steps(results.steps),
        "Memory of a training step": _memory(results),
        "The loader": _loader(results),
        "A step kernel by kernel": _kernels(results),
        "Every form of the peers": _forms(results),
        "Floors, computed": _floors(results),
        "Kernels, by the compiler": _resources(results),
        "Accesses of warps, by the emulation": _requests(results),
    }
    yield from (f"## {title}\n\n{text}" for title, text in sections.items() if text)


def _stages(results: Results) -> str:
    rows = [
        [one.name, one.state, f"{one.seconds:.0f}", f"{one.limit:.0f}", str(len(one.wrong))]
        for one in results.stages
    ]
    return table(["stage", "state", "seconds", "at most", "wrong"], rows)


def _checks(results: Results) -> str:
    families = dict.fromkeys(one.family for one in results.checks)
    rows = [
        [name, str(len(checks)), str(sum(one.wrong is not None for one in checks)), f"{took:.1f}"]
        for name in families
        for checks in [[one for one in results.checks if one.family == name]]
        for took in [sum(one.seconds for one in checks)]
    ]
    return table(["family", "cases", "wrong", "seconds"], rows)


def _kernels(results: Results) -> str:
    rows = [
        [
            f"{row.net}, batch {row.batch}, {row.precision}, {row.form}",
            f"`{one.kernel}`",
            str(one.launches),
            f"{one.seconds * 1e6:,.1f}",
            f"{one.seconds / sum(other.seconds for other in row.kernels):.1%}",
        ]
        for row in results.kernels
        for one in row.kernels
    ]
    return table(["step", "kernel", "launches", "us", "of all"], rows)


def _ceilings(results: Results) -> str:
    rows = [
        [
            _listed(one.name, on(one.threads)),
            f"{one.value:.4g} {one.unit}" if one.value is not None else str(one.failed),
        ]
        for one in results.ceilings
    ]
    return table(["ceiling", "reached"], rows)


def _operations(rows: list[OperationRow]) -> str:
    header = ["operation", "batch", "in", "ours ms", "rate", "ceiling"]
    header += ["best peer", "its ms", "result", "by minima"]
    lines = [
        [
            f"{row.net} {row.case}",
            str(row.batch),
            _listed(row.precision, on(row.threads)),
            _milliseconds(row.ours) if row.ours else "failed",
            _rate(row),
            f"{row.share:.0%}" if row.share is not None else "",
            *_peer(best(row, row.precision)),
            compared(row),
            _by_minima(row),
        ]
        for row in rows
    ]
    means = (
        _mean([row for row in rows if row.threads == threads])
        for threads in dict.fromkeys(row.threads for row in rows)
    )
    return "\n\n".join(part for part in (table(header, lines), *means) if part)


def _mean(rows: list[OperationRow]) -> str:
    """How all of them compare, and the one that compares worst."""
    found = {label(row): both[0] for row in rows if (both := ratios(row))}
    if not found:
        return ""
    slowest, mean = min(found, key=found.__getitem__), geometric_mean(rows)
    of_all = _listed("Geometric mean of peer / ours", on(rows[0].threads))
    return f"{of_all}: {mean:.2f}; the least: {found[slowest]:.2f}, {slowest}."


def _by_minima(row: OperationRow | StepRow) -> str:
    both = ratios(row)
    return f"{both[1]:.2f}" if both else ""


def _listed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _loops(rows: list[LoopRow]) -> str:
    header = ["product", "batch", "mma ms", "rate", "wgmma ms", "rate", "mma / wgmma"]
    return table(header, [_loop(row) for row in rows])


def _loop(row: LoopRow) -> list[str]:
    name = f"{row.net} {row.case}"
    if row.mma is None or row.wgmma is None:
        return [name, str(row.batch), *["failed"] * 4, "FAILED"]
    times = [
        cell
        for timing in (row.mma, row.wgmma)
        for cell in (_milliseconds(timing), f"{row.flops / timing.median / _TERA:.3g} TFLOP/s")
    ]
    return [name, str(row.batch), *times, f"{row.mma.median / row.wgmma.median:.2f}"]


def _steps(rows: list[StepRow]) -> str:
    header = ["step", "batch", "ours", "ms", "images/s", "of fused floor", *_COSTS]
    header += ["best peer", "its ms", "result", "by minima", "any precision"]
    return table(header, [_step(row) for row in rows])


def _step(row: StepRow) -> list[str]:
    ours, anyone = row.ours, best(row)
    return [
        f"{row.net}, {row.data}",
        str(row.batch),
        _listed(row.precision, row.form, on(row.threads)),
        _milliseconds(ours) if ours else "failed",
        f"{row.batch / ours.median:,.0f}" if ours else "",
        f"{row.floor / ours.median:.0%}" if ours and row.floor else "",
        *_costs(row.costs, ours),
        *_peer(best(row, row.precision)),
        compared(row),
        _by_minima(row),
        f"{anyone.name}: {_milliseconds(anyone.timing)} ms" if anyone and anyone.timing else "",
    ]


def _memory(results: Results) -> str:
    """Each side in a process of its own, above what its libraries take."""
    lines = [
        [
            f"{row.net}, batch {row.batch}",
            row.side,
            f"{row.peak / 1e6:,.0f}",
            f"{row.fresh / 1e6:,.3f}",
            f"{row.arrays / 1e6:,.3f}" if row.arrays is not None else "-",
        ]
        for row in results.memory
    ]
    head = ["step", "side", "peak MB", "fresh pages a step, MB", "arrays anew in a step, MB"]
    return table(head, lines)


def _loader(results: Results) -> str:
    """Images a second by workers, also as a multiple of one core's decoding."""
    lines = [
        [
            str(row.workers) if row.workers else "0 (nothing is read ahead)",
            f"{row.images / row.timing.median:,.0f} ± {row.timing.doubt:.0%}",
            f"{row.images / row.core.median:,.0f} ± {row.core.doubt:.0%}",
            f"{row.core.median / row.timing.median:.2f}",
        ]
        for row in results.loader
    ]
    head = ["workers", "images/s", "one core decodes, images/s", "ratio"]
    return table(head, lines)


def _forms(results: Results) -> str:
    """All variants, losers and failures too."""
    rows: list[OperationRow | StepRow] = [*results.operations, *results.steps]
    lines = [
        [
            label(row),
            f"{peer.name}, {peer.precision}",
            f"{_milliseconds(peer.timing)} ms" if peer.timing else f"not timed: {peer.failed}",
            *_costs(peer.costs, peer.timing),
        ]
        for row in rows
        for peer in row.peers
    ]
    return table(["case", "form", "time", *_COSTS], lines)


def _floors(results: Results) -> str:
    header = ["network", "card", "precision", "batch", "GFLOP", "GB unfused", "GB fused"]
    header += ["ms unfused", "ms fused", "ms, all overlapped"]
    lines = [
        [
            one.net,
            one.card,
            one.precision,
            str(one.batch),
            f"{one.flops / _GIGA:.0f}",
            f"{one.unfused_bytes / _GIGA:.2f}",
            f"{one.fused_bytes / _GIGA:.2f}",
            f"{one.unfused * 1e3:.2f}",
            f"{one.fused * 1e3:.2f}",
            f"{one.overlapped * 1e3:.2f}",
        ]
        for one in results.floors
    ]
    return table(header, lines)


def _resources(results: Results) -> str:
    lines = [
        [f"`{one.kernel}`", *map(str, (one.registers, one.spilled, one.stack, one.shared))]
        for one in results.resources
    ]
    head = ["kernel", "registers", "bytes spilled", "bytes of stack", "bytes shared"]
    return table(head, lines)


def _requests(results: Results) -> str:
    lines = [
        [
            one.line,
            f"{one.space} {one.array}, {one.access}",
            str(one.requests),
            f"{one.each:.2f}",
            f"{one.ratio:.2f}",
        ]
        for one in results.requests
    ]
    head = ["line", "access", "requests", "sectors or passes each", "times the fewest"]
    return table(head, lines)


def _peer(peer: PeerTime | None) -> list[str]:
    return [peer.name, _milliseconds(peer.timing)] if peer and peer.timing else ["none", ""]


def _costs(costs: Costs, timing: Timing | None) -> list[str]:
    """Cells under `_COSTS`; the kernels' time also as a share of the time on the wall."""
    kernels = "-"
    if costs.kernels is not None and timing is not None:
        kernels = f"{costs.kernels * 1e3:.3f} ({costs.kernels / timing.median:.0%})"
    return [
        kernels,
        f"{costs.host * 1e3:.3f}" if costs.host is not None else "-",
        f"{costs.memory / 1e6:,.0f}" if costs.memory is not None else "-",
    ]


def _milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:.3f} ± {timing.doubt:.0%}"


def _rate(row: OperationRow) -> str:
    if row.ours is None:
        return ""
    if row.flops:
        return f"{row.flops / row.ours.median / _GIGA:,.0f} GFLOP/s"
    return f"{row.nbytes / row.ours.median / _GIGA:,.1f} GB/s"
