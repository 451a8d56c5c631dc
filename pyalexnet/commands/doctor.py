"""`pyalexnet doctor`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from pyalexnet.commands import network as given
from pyalexnet.commands.table import print_table

if TYPE_CHECKING:
    from pyalexnet.trained.signals import Units
    from pyalexnet.training.progress import Reporter


_INIT = "Report instead in which layer of a run's network the image signal is lost."
_AT = "With --init: the initial weights, or those of the last checkpoint."
_DATA = "With --init: dataset; by default the run's own."


@given.grouped
def doctor(
    *,
    init: Annotated[str | None, Option("--init", metavar="RUN", help=_INIT)] = None,
    at: Annotated[str, Option(metavar="start|last", help=_AT)] = "start",
    data: Annotated[str | None, Option("--data", "--data-path", help=_DATA)] = None,
    place: given.Place,
    where: given.RunsFolder = given.RUNS,
    lines: given.Lines,
) -> None:
    """Check this machine, and list the commands that install what is missing."""
    from pyalexnet.trained import signals

    with lines.reporting() as reporter:
        if init is None:
            _machine(reporter, where, lines.as_json)
            return
        network = given.Network(place.backend, place.device, place.exact, "last", where)
        (trained,) = network.load([init], reporter)
        progress = reporter.progress("reading images")
        rows = signals.survey_of_run(trained, at, path=data, progress=progress)
        verdict = signals.verdict(rows)
        run, net, step = trained.name, trained.meta.net, 0 if at == "start" else trained.meta.step
        if lines.as_json:
            layers = [_document(row) for row in rows]
            about = {"run": run, "net": net, "at": at, "step": step}
            given.print_json(about | {"layers": layers, "verdict": verdict._asdict()})
            return
        when = "at the start" if at == "start" else f"after {step:,} steps"
        reporter.say(f"{run}: {net} {when}; dropout is off except for the column noise")
    cells = [[text(row) for text in _COLUMNS.values()] for row in rows]
    print_table([*_COLUMNS], cells, texts=["layer"], plain=lines.plain, red=verdict.layer)
    print(_LEGEND)
    print(f"{verdict.sentence}.")


def _machine(reporter: Reporter, where: Path, as_json: bool) -> None:
    from pyalexnet.doctor import Finding, examine, line

    findings: list[Finding] = []
    for finding in examine(where):
        findings.append(finding)
        if not as_json:
            reporter.say(line(finding))
    if as_json:
        given.print_json([asdict(finding) for finding in findings])
    if any(finding.essential and not finding.found for finding in findings):
        raise typer.Exit(1)


_COLUMNS: Mapping[str, Callable[[Units], str]] = {
    "layer": lambda row: row.layer,
    "mean |y|": lambda row: f"{row.mean:.3g}",
    "rms": lambda row: f"{row.rms:.3g}",
    "signal": lambda row: f"{row.signal:.3g}",
    "signal:rms": lambda row: f"{row.share:.4f}",
    "noise": lambda row: f"{row.noise:.3g}",
    "noise:signal": lambda row: f"{row.noise_to_signal:,.1f}",
    "active": lambda row: f"{100 * row.active:.1f} %",
    "ever active": lambda row: f"{100 * row.alive:.1f} %",
}

_LEGEND = """\
signal:rms    share of a layer's output that depends on the image
noise:signal  dropout's noise relative to the differences between images; 0 without dropout
ever active   units above 0 for at least one of the images; the others are dead"""


def _document(row: Units) -> dict[str, Any]:
    """A row for JSON; numbers that are not finite become null."""
    values = asdict(row) | {"share": row.share, "noise_to_signal": row.noise_to_signal}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
