"""Runs a claim: whatever is missing of its runs is trained, side by side, and recorded at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TypeAlias

from .. import process
from . import measures, record, training
from .claim import Claim
from .measures import Result
from .training import Run

# Where this package is imported from: a checkout, or the site packages.
_ROOT = Path(__file__).resolve().parents[__name__.count(".")]

Train: TypeAlias = Callable[[Sequence[Path]], Iterator[str]]


@dataclass
class Study:
    """A claim's runs: which are planned, which are done.

    out: folder of the run folders. Runs are found there again by all that decides their numbers, so
    a study that was killed goes on, and claims share what they have in common.
    """

    claim: Claim
    data: str
    out: Path
    seeds: int
    backend: str
    done: dict[str, Result] = field(default_factory=dict)

    def planned(self) -> Iterator[tuple[str, int, Run]]:
        """Variant, seed and run, a seed after the other; those of a search have seed 0.

        A variant whose rate is not found yet plans its search only.
        """
        rates = self.rates()
        if self.claim.search:
            for variant in self.claim.variants:
                for _, run in self._tries(variant):
                    yield variant, 0, run
        for seed in range(1, self.seeds + 1):
            for variant in self.claim.variants:
                chosen = {"lr": rates[variant]} if variant in rates else {}
                if chosen or not self.claim.search:
                    yield variant, seed, self._run(self.claim.settings(variant) | chosen, seed)

    def missing(self) -> list[Run]:
        """Runs that are not done, each once."""
        return [*{run.key: run for _, _, run in self.planned() if not self._result(run)}.values()]

    def searched(self) -> dict[str, dict[float, Result]]:
        """By variant and learning rate, the finished runs of the search."""
        if not self.claim.search:
            return {}
        return {
            variant: {
                rate: result
                for rate, run in self._tries(variant)
                if (result := self._result(run)) is not None
            }
            for variant in self.claim.variants
        }

    def rates(self) -> dict[str, float]:
        """The best learning rate of each variant that was searched to the end."""
        search = self.claim.search
        if search is None:
            return {}

        def worth(run: Result) -> tuple[float, float]:
            if run.failed or not run.epochs:
                return inf, inf
            epochs = measures.epochs_to_error(run, search.error)
            return (epochs if epochs == epochs else inf), measures.train_error(run)

        return {
            variant: min(tried, key=lambda rate: worth(tried[rate]))
            for variant, tried in self.searched().items()
            if len(tried) == len(search.rates)
        }

    def record(self, note: str, command: str) -> record.Record | None:
        """What the finished runs show; None if there is none."""
        runs: dict[str, dict[int, Result]] = {variant: {} for variant in self.claim.variants}
        for variant, seed, run in self.planned():
            if seed and (result := self._result(run)) is not None:
                runs[variant][seed] = result
        if not any(runs.values()):
            return None
        return record.make(
            self.claim,
            runs,
            self.searched(),
            self.rates(),
            complete=not self.missing(),
            note=note,
            command=command,
        )

    def _tries(self, variant: str) -> Iterator[tuple[float, Run]]:
        search = self.claim.search
        assert search is not None
        for rate in search.rates:
            own = {"lr": rate, "epochs": search.epochs, "stop_below": search.error}
            yield rate, self._run(self.claim.settings(variant) | own, 0)

    def _run(self, settings: dict[str, object], seed: int) -> Run:
        return Run(settings, self.data, seed, self.backend)

    def _result(self, run: Run) -> Result | None:
        if run.key not in self.done and (found := training.result(self.out / run.key)):
            self.done[run.key] = found
        return self.done.get(run.key)


def carry_out(
    study: Study,
    train: Train,
    recorded: Callable[[], object],
) -> None:
    """Train what is missing, and what turns out to be after a search; record whatever is new.

    train: trains the runs of folders, and yields on each a sentence if it failed, or else "".
    """
    left = study.missing()
    while left:
        before = left
        for trouble in train([training.prepare(run, study.out) for run in before]):
            if trouble:
                print(trouble, file=sys.stderr)
            now = study.missing()
            if now != left:
                left = now
                recorded()
        if left == before:
            return


def in_this_process(folders: Sequence[Path]) -> Iterator[str]:
    """Trains one run after the other."""
    for folder in folders:
        training.train(folder)
        yield ""


def side_by_side(seconds: float, at_once: int, cores: int) -> Train:
    """A function that trains `at_once` runs at a time, each in a process, with its share of cores.

    When the seconds are over, running ones are stopped, and the next call goes on with them.
    """
    end = process.now() + seconds
    threads = {"PYALEXNET_THREADS": str(max(1, cores // at_once)), "PYTHONPATH": _path()}

    def train(folders: Sequence[Path]) -> Iterator[str]:
        program = (sys.executable, "-m", f"{__package__}.training")
        jobs = (
            process.Job(each.name, (*program, str(each.absolute())), inf, each / "output.txt")
            for each in folders
        )
        for ended in process.run(jobs, _ROOT, end - process.now(), at_once, threads):
            failed = ended.code not in (0, None)
            last = ended.said().strip().splitlines()[-1:]
            yield f"{ended.job.name} failed: {' '.join(last)}" if failed else ""

    return train


def _path() -> str:
    """PYTHONPATH by which other processes find these same modules."""
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
