"""`python -m bench.evidence`: a list of claims, one claim run, or the page of all records."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

import pyalexnet
from pyalexnet.data.pack import is_pack
from pyalexnet.errors import ArgumentError, PyalexnetError

from ..environment import cores
from . import claim as claims
from . import page, picture, record, training
from .claim import Claim
from .study import Study, carry_out, side_by_side


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 where something cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        if options.page:
            page.write(folder=options.records, images=options.images)
        elif options.claim is None:
            Console().print(_listed())
        else:
            for each in claims.named(options.claim):
                _run(each, options)
    except (PyalexnetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bench.evidence",
        description="Run a claim of the paper again; without one, list them.",
    )
    made.add_argument("claim", nargs="?", help="name or number of a claim")
    made.add_argument("--seeds", type=int, help="how many; by default the claim's own number")
    made.add_argument(
        "--budget", type=float, default=inf, metavar="MINUTES", help="stop after so long, and save"
    )
    kinds = "; ".join(f"{kind}: {how}" for kind, how in claims.DATA.items())
    made.add_argument("--data", help=kinds)
    made.add_argument("--note", default="", help="what the data are, if not the originals")
    made.add_argument("--out", type=Path, default=Path("runs/evidence"), help="for the run folders")
    made.add_argument("--records", type=Path, default=record.FOLDER, help="for the record")
    made.add_argument("--images", type=Path, default=page.IMAGES, help="for the picture")
    made.add_argument("--backend", default="auto", help="auto, cpu, cuda")
    made.add_argument("--processes", type=int, help="side by side; by default two on a CPU")
    made.add_argument("--page", action="store_true", help="write docs/evidence.md, from records")
    return made


def _listed() -> Table:
    table = Table("", "claim", "", "seeds", "minutes", "data", "verdict", box=None, pad_edge=False)
    for each in claims.every():
        kept = record.read(each)
        said = [one.verdict for one in kept.effects if one.verdict] if kept else []
        verdict = ", ".join(dict.fromkeys(said))
        row = (each.number, each.name, each.title, str(each.seeds), f"{each.minutes:g}", each.data)
        table.add_row(*row, verdict)
    return table


def _run(claim: Claim, options: argparse.Namespace) -> None:
    """Train a claim's missing runs, and write its record and picture after each."""
    seeds = claim.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        raise ArgumentError(f"--seeds is {seeds}; 1 or more was expected.")
    data = _data(claim, options.data)
    backend = pyalexnet.backend(options.backend).name
    at_once = options.processes or (1 if backend == "cuda" else min(2, cores()))
    records = filter(None, (record.read(each, options.records) for each in claims.every()))
    same_data = [each for each in records if each.note == options.note]
    kept = {run.numbers: run for each in same_data for run in each.every}
    study = Study(claim, data, options.out, seeds, backend, kept)
    # The options that decide the numbers, without this machine's folders.
    command = ["python", "-m", "bench.evidence", claim.name]
    command += [] if options.data is None else ["--data", Path(data).name]
    command += [] if seeds == claim.seeds else ["--seeds", str(seeds)]
    command += ["--note", options.note] if options.note else []

    def recorded() -> record.Record | None:
        if (found := study.record(options.note, shlex.join(command))) is not None:
            record.write(found, options.records)
            picture.draw(claim, found, page.picture_of(claim, options.images))
        return found

    train = side_by_side(60 * options.budget, at_once, cores())
    with Live(get_renderable=_progress(study), refresh_per_second=1, redirect_stderr=False) as live:
        carry_out(study, train, recorded)
    if not live.console.is_terminal:
        print()  # Live ends the last line of a terminal only
    if (found := recorded()) is None:
        print(f"{claim.name}: no run is done yet; the same command continues")
        return
    for line in page.summary(claim, found):
        print(line)


def _data(claim: Claim, path: str | None) -> str:
    """The path of the images, absolute, or the name of those that were fetched."""
    if path is None and claim.data == "cifar10":
        return "cifar10"
    wants_pack = claim.data == "photographs"
    if path is None or not Path(path).exists() or wants_pack != is_pack(Path(path)):
        wanted = f"{claims.DATA[claim.data]} was expected"
        raise ArgumentError(f"{claim.name}: --data is {path}; {wanted}.")
    return str(Path(path).absolute())


def _progress(study: Study) -> Callable[[], Text]:
    """A function that reports the progress of the runs, from their logs."""

    def lines() -> Iterator[str]:
        planned = {run.key: (variant, seed) for variant, seed, run in study.planned()}
        left = {run.key for run in study.missing()}
        yield f"{study.claim.name}: {len(planned) - len(left)} of {len(planned)} runs done"
        for key, (variant, seed) in planned.items():
            if key in left and (study.out / key / "lock").exists():
                epochs = training.epochs_of(study.out / key)
                error = f", training error {100 * epochs[-1][2]:.1f} %" if epochs else ""
                yield f"  {variant}, seed {seed}: {len(epochs)} epochs done{error}"

    return lambda: Text("\n".join(lines()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
