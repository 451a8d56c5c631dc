"""docs/evidence.md, written from the claims and their records: no number in it is typed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyalexnet import files
from pyalexnet.errors import RunError

from . import claim as claims
from . import measures
from . import record as records
from .claim import Claim, Effect
from .record import Found, Record

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
IMAGES = ROOT / "docs" / "images"

_HEAD = """\
# Evidence

What of the paper can be confirmed on a small scale, claim by claim, with seeds. This page is
written by `python -m bench.evidence --page` from [the claims](../bench/evidence/claims) and [their
records](../bench/evidence/records), which hold every value, curve, command and machine. `python -m
bench.evidence` lists the claims; with a claim's name it trains what is missing and writes the
record and the picture. It can be stopped at any time (`--budget MINUTES` does): the same command
goes on, and ends with the same numbers.

Intervals are Student's for 95 %, over seeds, which differ in initial weights, order of images and
masks. Two variants are compared seed by seed. The verdict is on what the row says is measured, and
follows from the interval alone:

| verdict | the interval |
|---|---|
| confirmed | excludes no effect, and reaches what was printed in 2012 |
| refuted | excludes what was printed, or any effect, with the network, data and measure of 2012 |
| not at this scale | the same, but the network is smaller, or the data or training are others |
| open | excludes neither, or there are not enough runs |
"""


def write(path: Path = PAGE, folder: Path = records.FOLDER) -> None:
    """Write the page."""
    files.write(path, document(folder).encode(), RunError)


def document(folder: Path = records.FOLDER) -> str:
    """The page, from the claims and the records in a folder."""
    every = [(claim, records.read(claim.name, folder)) for claim in claims.every()]
    parts = [_HEAD, *_table(every)]
    for claim, record in every:
        if record is not None:
            parts += ["", *_section(claim, record)]
    parts += ["", "## What was not run", "", *_left_out(every)]
    return "\n".join(parts) + "\n"


def summary(claim: Claim, record: Record) -> Iterator[str]:
    """A line for each effect."""
    for effect, found in zip(claim.effects, record.effects, strict=True):
        told = f"{effect.says}: {ours(effect, found)}"
        yield "; ".join(filter(None, (told, f"2012: {printed(effect)}", found.verdict)))


def picture_of(claim: Claim, folder: Path = IMAGES) -> Path:
    """The file of a claim's picture."""
    return folder / f"evidence-{claim.name}.png"


def ours(effect: Effect, found: Found) -> str:
    """`4.1 (3.2 to 5.0), 5 seeds`."""
    count = len(found.values)
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    if found.mean is None:
        lacking = sum(value is None for value in found.values.values())
        return f"not reached by {lacking} of {seeds}" if count else "no runs yet"
    if found.low is None or found.high is None:
        return f"{_number(found.mean)}, {seeds}"
    return f"{_number(found.mean)} ({_number(found.low)} to {_number(found.high)}), {seeds}"


def printed(effect: Effect) -> str:
    """2012's number."""
    return "no number" if effect.printed is None else f"{effect.printed:g}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _table(every: Sequence[tuple[Claim, Record | None]]) -> Iterator[str]:
    yield "| claim | measured | 2012 | here: mean (interval) | verdict |"
    yield "|---|---|---:|---:|---|"
    for claim, record in every:
        title = f"[{claim.title}](#{_anchor(claim)})" if record else claim.title
        first = f"{claim.number} {title}"
        founds = record.effects if record else (None,) * len(claim.effects)
        for effect, found in zip(claim.effects, founds, strict=True):
            said = effect.says + (f", {effect.unit}" if effect.unit else "")
            told = (ours(effect, found), found.verdict) if found else ("", "not run")
            yield f"| {' | '.join([first, said, printed(effect), *told])} |"
            first = ""


def _anchor(claim: Claim) -> str:
    kept = "".join(c for c in f"{claim.number} {claim.title}".lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _section(claim: Claim, record: Record) -> Iterator[str]:
    yield f"## {claim.number} {claim.title}"
    yield ""
    yield f"> {claim.paper} ({claim.where})"
    yield ""
    yield f"Confounded in 2012: {claim.confounded}"
    yield ""
    yield f"Here: {claim.here}"
    yield ""
    yield f"![{claim.title}](images/{picture_of(claim).name})"
    yield ""
    yield "| measured | seed by seed |"
    yield "|---|---|"
    for effect, found in zip(claim.effects, record.effects, strict=True):
        values = ", ".join("none" if v is None else _number(v) for v in found.values.values())
        yield f"| {effect.says} | {values} |"
    yield ""
    yield from _searched(claim, record)
    yield from _provenance(record)


def _searched(claim: Claim, record: Record) -> Iterator[str]:
    """The search for rates, if there was one."""
    if claim.search is None:
        return
    asked: tuple[tuple[Any, ...], ...] = ("epochs_to_error", claim.search.error), ("train_error",)
    yield "| variant | learning rate | epochs to the target | training error at the end, % |"
    yield "|---|---:|---:|---:|"
    for variant, tried in record.searched.items():
        for rate, run in tried.items():
            chosen = " (taken)" if float(rate) == record.rates.get(variant) else ""
            epochs, error = (measures.of(run, *each) for each in asked)
            reached = "not reached" if math.isnan(epochs) else _number(epochs)
            yield f"| {variant} | {rate}{chosen} | {reached} | {_number(error)} |"
    yield ""


def _provenance(record: Record) -> Iterator[str]:
    every, about = list(record.every), record.environment
    train, test = every[0].images
    note = f", {record.note}" if record.note else ""
    commits = ", ".join(sorted({run.commit for run in every}))
    minutes = math.fsum(run.seconds for run in every) / 60
    unfinished = "" if record.complete else " Not all planned runs are done."
    yield f"Data: {every[0].data}{note}, {train:,} training and {test:,} test images."
    yield f"`{record.command}`, at commit {commits}, {about['cores']} cores of"
    yield f"{about['cpu']}, {about['date'][:10]}: {minutes:,.0f} minutes of training,"
    link = f"[record](../bench/evidence/records/{record.claim}.json)"
    yield f"all processes added ({link}).{unfinished}"
    for variant, each in record.runs.items():
        for seed, run in each.items():
            if run.failed:
                yield f"Failed: {variant}, seed {seed}: {run.failed}"


def _left_out(every: Sequence[tuple[Claim, Record | None]]) -> Iterator[str]:
    """The commands of what is not done."""
    left = [(claim, record) for claim, record in every if record is None or not record.complete]
    if not left:
        yield "Every claim has all of its runs."
        return
    yield "For want of time. Minutes are expected ones, for all of a claim on two quiet cores."
    yield ""
    yield "| claim | command | minutes | done |"
    yield "|---|---|---:|---|"
    for claim, record in left:
        data = "CIFAR" if claim.data == "cifar10" else "PACK"
        command = f"`python -m bench.evidence {claim.name} --data {data}`"
        done = "in part" if record else "no"
        yield f"| {claim.number} | {command} | {claim.minutes:g} | {done} |"
