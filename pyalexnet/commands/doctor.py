"""`pyalexnet doctor`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyalexnet.commands import network as given

if TYPE_CHECKING:
    from pyalexnet.doctor import Diagnosis, Finding
    from pyalexnet.trained.signals import Row
    from pyalexnet.training.progress import Reporter


def doctor(
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="RUN", help="Say instead where a run's image signal dies, by layer."
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            metavar="start|last", help="With --init: initial weights, or the last checkpoint's."
        ),
    ] = "start",
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "--data-path", help="With --init: data set; the run's own if none is named."
        ),
    ] = None,
    backend: given.BackendName = None,
    device: given.Device = None,
    exact: given.Exact = False,
    where: given.RunsFolder = given.RUNS,
    as_json: given.Json = False,
    plain: given.Plain = False,
) -> None:
    """Say what this machine has, and the commands that install what it lacks."""
    from pyalexnet import doctor
    from pyalexnet.commands.place import place

    with given.reporting(as_json, plain) as reporter:
        if init is None:
            _machine(reporter, where, as_json)
            return
        name, number = place(backend, device)
        found = doctor.diagnose(
            init,
            at,
            path=data,
            backend=name or "auto",
            device=number or 0,
            exact=exact,
            runs=where,
            say=reporter.warn,
            progress=reporter.progress("reading images"),
        )
        if as_json:
            given.print_json(_document(found))
            return
        when = "at the start" if found.at == "start" else f"after {found.step:,} steps"
        reporter.say(f"{found.run}: {found.net} {when}, dropout off save for the noise")
    _print_table(found, plain)
    for line in _LEGEND:
        print(line)
    print(found.verdict.sentence + ".")


def _machine(reporter: Reporter, where: Path, as_json: bool) -> None:
    from pyalexnet.doctor import examine, line

    findings: list[Finding] = []
    for finding in examine(where):
        findings.append(finding)
        if not as_json:
            reporter.say(line(finding))
    if as_json:
        given.print_json([asdict(finding) for finding in findings])
    if any(finding.essential and not finding.found for finding in findings):
        raise typer.Exit(1)


_COLUMNS = (
    "layer",
    "mean |y|",
    "rms",
    "signal",
    "signal:rms",
    "noise",
    "noise:signal",
    "active",
    "ever active",
)

_LEGEND = (
    "signal:rms    of what a layer says, the share that depends on the image",
    "noise:signal  dropout's noise over what differs between images; 0 without dropout",
    "ever active   units that are above 0 for at least one of the images; the others are dead",
)


def _print_table(found: Diagnosis, plain: bool) -> None:
    """Print the table; on a terminal the layer at fault is red."""
    from rich.console import Console

    console = Console(highlight=False)
    rows = [_cells(row) for row in found.rows]
    if plain or not console.is_terminal or console.is_dumb_terminal:
        for cells in (_COLUMNS, *rows):
            name, *numbers = cells
            print(f"{name:<8}" + "".join(f"  {number:>12}" for number in numbers))
        return
    from rich.table import Table

    table = Table(box=None)
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for cells in rows:
        table.add_row(*cells, style="red" if cells[0] == found.verdict.layer else None)
    console.print(table)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.layer,
        f"{row.mean:.3g}",
        f"{row.rms:.3g}",
        f"{row.signal:.3g}",
        f"{row.share:.4f}",
        f"{row.noise:.3g}",
        f"{row.noise_to_signal:,.1f}",
        f"{100 * row.active:.1f} %",
        f"{100 * row.alive:.1f} %",
    )


def _document(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis for JSON; numbers that are not finite become null."""
    layers = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {
                **asdict(row),
                "share": row.share,
                "noise_to_signal": row.noise_to_signal,
            }.items()
        }
        for row in found.rows
    ]
    return {
        "run": found.run,
        "net": found.net,
        "at": found.at,
        "step": found.step,
        "layers": layers,
        "verdict": found.verdict._asdict(),
    }
