"""docs/evidence.md, written from the claims and their records: no number in it is typed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pyalexnet import files
from pyalexnet.errors import RunError

from . import claim as claims
from . import measures, picture
from . import record as records
from .claim import Claim, Effect
from .record import Finding, Record

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
IMAGES = ROOT / "docs" / "images"
VERDICTS = ("confirmed", "not at this scale", "refuted", "open")
_NAMES = {"cifar10": "CIFAR", "photographs": "PACK"}
TEMPLATE = Path(__file__).with_name("page.md")


def write(page: Path = PAGE, folder: Path = records.FOLDER, images: Path = IMAGES) -> None:
    """Bring the records up to date with their claims, draw their pictures, and write the page."""
    for claim in claims.every():
        if (record := records.read(claim, folder)) is not None:
            records.write(record, folder)
            picture.draw(claim, record, picture_of(claim, images))
    files.write(page, document(folder).encode(), RunError)


def document(folder: Path = records.FOLDER) -> str:
    """The page, from the claims and the records in a folder."""
    every = [(claim, records.read(claim, folder)) for claim in claims.every()]
    done = [(claim, record) for claim, record in every if record is not None]
    sections = ("\n".join(_section(claim, record)) for claim, record in done)
    return TEMPLATE.read_text(encoding="utf-8").format(
        glance="\n".join(_glance(done, len(every))),
        sections="\n\n".join(sections),
        left="\n".join(_left_out(every)),
    )


def summary(claim: Claim, record: Record) -> Iterator[str]:
    """A line for each effect."""
    for effect, finding in zip(claim.effects, record.effects, strict=True):
        told = f"{effect.says}: {ours(effect, finding)}"
        yield "; ".join(filter(None, (told, f"2012: {printed(effect)}", finding.verdict)))


def picture_of(claim: Claim, folder: Path = IMAGES) -> Path:
    """The file of a claim's picture."""
    return folder / f"evidence-{claim.name}.png"


def ours(effect: Effect, finding: Finding) -> str:
    """`4.1 times (3.2 to 5.0), 5 seeds`."""
    count = len(finding.values)
    seeds = f"{count} seed{'' if count == 1 else 's'}"
    if finding.mean is None:
        lacking = sum(value is None for value in finding.values.values())
        told = f"not reached by {lacking} of {seeds}" if lacking else f"see the seeds, {seeds}"
        return told if count else "no runs yet"
    mean = f"{_number(finding.mean)} {effect.unit}"
    if finding.low is None or finding.high is None:
        return f"{mean}, {seeds}"
    return f"{mean} ({_number(finding.low)} to {_number(finding.high)}), {seeds}"


def printed(effect: Effect) -> str:
    """2012's number."""
    unit = effect.unit.removesuffix("s") if effect.printed == 1 else effect.unit
    return "no number" if effect.printed is None else f"{effect.printed:g} {unit}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _glance(done: Sequence[tuple[Claim, Record]], claims: int) -> Iterator[str]:
    """The verdicts, in a line and in a table."""
    said = Counter(
        finding.verdict.split(":")[0] for _, record in done for finding in record.effects
    )
    counts = ", ".join(f"{said[verdict]} {verdict}" for verdict in VERDICTS if said[verdict])
    total = sum(said[verdict] for verdict in VERDICTS)
    yield f"**{len(done)} of {claims} claims have runs, and give {total} verdicts: {counts}.**"
    if left := claims - len(done):
        yield f"[For {left} there are none yet.](#what-was-not-run)"
    rows = list[tuple[str, ...]]()
    for claim, record in done:
        first = f"[{claim.number} {claim.title}](#{_anchor(claim)})"
        edges = {variant for variant, rate in record.rates.items() if _is_edge(rate, claim.search)}
        for effect, finding in zip(claim.effects, record.effects, strict=True):
            if finding.verdict:
                part = "" if record.complete else f" of {claim.seeds} planned"
                beyond = "; better rates may lie beyond" if edges & {effect.of, effect.over} else ""
                rows.append((first, *_row(effect, finding, part), finding.verdict + beyond))
                first = ""
    yield from _table("claim | measured | 2012 | here: mean (95 % interval) | verdict", rows)


def _row(effect: Effect, finding: Finding, part: str = "") -> tuple[str, str, str]:
    return effect.says, printed(effect), ours(effect, finding) + part


def _table(head: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from ("", f"| {head} |", "|---" * (head.count("|") + 1) + "|")
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _anchor(claim: Claim) -> str:
    kept = "".join(c for c in f"{claim.number} {claim.title}".lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _section(claim: Claim, record: Record) -> Iterator[str]:
    yield f"## {claim.number} {claim.title}"
    for text in (
        f"> {claim.paper} ({claim.where})",
        f"Confounded in 2012: {claim.confounded}",
        f"Here: {claim.here}",
        f"![{claim.title}](images/{picture_of(claim).name})",
    ):
        yield from ("", text)
    pairs = zip(claim.effects, record.effects, strict=True)
    rows = ((*_row(effect, finding), _by_seed(effect, finding)) for effect, finding in pairs)
    yield from _table("measured | 2012 | here: mean (95 % interval) | seed by seed", rows)
    if claim.search is not None:
        head = "variant | learning rate | epochs to the target | training error at the end, %"
        yield from _table(head, _searched(record, claim.search))
    yield ""
    yield from _provenance(record)


def _by_seed(effect: Effect, finding: Finding) -> str:
    values = finding.values.values()
    told = ", ".join("none" if value is None else _number(value) for value in values)
    if effect.none is None or finding.mean is None:
        return told
    above = sum(value is not None and value > effect.none for value in values)
    return f"{told} ({above} of {len(values)} above {effect.none:g})"


def _searched(record: Record, search: claims.Search) -> Iterator[tuple[str, ...]]:
    """The search for rates."""
    for variant, tried in record.searched.items():
        for rate, run in tried.items():
            taken = float(rate) == record.rates.get(variant)
            last = taken and _is_edge(float(rate), search)
            chosen = " (taken; better ones may lie beyond)" if last else " (taken)" * taken
            epochs = measures.of(run, "epochs_to_train_error", search.error)
            reached = "not reached" if math.isnan(epochs) else _number(epochs)
            yield variant, rate + chosen, reached, _number(measures.of(run, "train_error"))


def _is_edge(rate: float, search: claims.Search | None) -> bool:
    """Whether a rate is the lowest or the highest of a search."""
    return search is not None and rate in (min(search.rates), max(search.rates))


def _provenance(record: Record) -> Iterator[str]:
    every, about = list(record.every), record.environment
    train, test = every[0].images
    note = f", {record.note}" if record.note else ""
    commits = ", ".join(sorted({run.commit for run in every}))
    minutes = math.fsum(run.seconds for run in every) / 60
    unfinished = "" if record.complete else " Not all planned runs are done."
    yield f"Data: {every[0].data}{note}, {train:,} training and {test:,} test images."
    machines = sorted({run.machine for run in every} - {""})
    where = " and ".join(machines) or f"{about['cores']} cores of {about['cpu']}"
    yield f"`{record.command}`, at commit {commits}, {where},"
    yield f"{about['date'][:10]}: {minutes:,.0f} minutes of training,"
    link = f"[record](../bench/evidence/records/{record.claim}.json)"
    yield f"all processes added ({link}).{unfinished}"
    for variant, each in record.runs.items():
        for seed, run in each.items():
            if run.failed:
                yield f"Failed: {variant}, seed {seed}: {run.failed}"


def _left_out(every: Sequence[tuple[Claim, Record | None]]) -> Iterator[str]:
    """The commands of the runs still missing."""
    left = [(claim, record) for claim, record in every if not (record and record.complete)]
    if not left:
        yield "Every claim has all of its runs."
        return
    yield "For lack of time. Minutes are estimates for a whole claim on two quiet cores."
    told = "; ".join(f"{_NAMES[kind]} is {how}" for kind, how in claims.DATA.items())
    yield f"{told}; PACK256 is the same with `--size 256`."
    rows = list[tuple[str, ...]]()
    for claim, record in left:
        data = _NAMES[claim.data] + ("256" if claim.train.get("crop", 0) > 128 else "")
        command = f"`python -m bench.evidence {claim.name} --data {data}`"
        done = "in part" if record else "no"
        rows.append((f"{claim.number} {claim.title}", command, f"{claim.minutes:g}", done))
    yield from _table("claim | command | minutes | done", rows)
