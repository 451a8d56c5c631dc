"""Runs a claim: trains its missing runs, several at a time, and records each at once."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from pyalexnet.errors import ArgumentError

from .. import process
from ..environment import describe
from . import measures, record, training
from .claim import Claim
from .measures import Result
from .record import Record
from .training import Run

# Where this package is imported from: a checkout, or the site packages.
_ROOT = Path(__file__).resolve().parents[__name__.count(".")]

Train: TypeAlias = Callable[[Sequence[Path]], Iterator[str]]
"""Trains the runs of folders; yields for each a sentence if it failed, else ""."""


@dataclass
class Study:
    """A claim's runs: which are planned, which are done.

    out: folder of the run folders. Runs are found there by everything that decides their numbers,
    so a killed study continues, and claims share common runs. kept: the runs of records of the same
    data, this claim's and others', by `Run.numbers`; they count as done, so that another
    machine can continue.
    """

    claim: Claim
    data: str
    out: Path
    seeds: int
    backend: str
    kept: Mapping[str, Result] = field(default_factory=dict)
    done: dict[str, Result] = field(default_factory=dict)

    def planned(self) -> Iterator[tuple[str, int, Run]]:
        """Variant, seed and run, one seed after another; runs of a search have seed 0.

        Until a variant's rate is found, only its search is planned.
        """
        rates = self.rates()
        for variant in self.claim.variants:
            yield from ((variant, 0, run) for run in self._tries(variant).values())
        for seed in range(1, self.seeds + 1):
            for variant in self.claim.variants:
                if variant in rates or not self.claim.search:
                    chosen = {"lr": rates[variant]} if variant in rates else {}
                    yield variant, seed, self._run(variant, seed, chosen)

    def missing(self) -> list[Run]:
        """Runs that are not done, each once."""
        return [*{run.key: run for _, _, run in self.planned() if not self._result(run)}.values()]

    def searched(self) -> dict[str, dict[float, Result]]:
        """By variant and learning rate, the finished runs of the search."""
        return {
            variant: {
                rate: result
                for rate, run in self._tries(variant).items()
                if (result := self._result(run)) is not None
            }
            for variant in (self.claim.variants if self.claim.search else ())
        }

    def rates(self) -> dict[str, float]:
        """The best learning rate of each variant that was searched to the end."""
        search = self.claim.search

        def worth(run: Result) -> tuple[float, float]:
            if search is None or run.failed or not run.epochs:
                return math.inf, math.inf
            epochs = measures.of(run, "epochs_to_train_error", search.error)
            return (math.inf if math.isnan(epochs) else epochs), run.end("train_error")

        return {
            variant: min(tried, key=lambda rate: worth(tried[rate]))
            for variant, tried in self.searched().items()
            if search and len(tried) == len(search.rates)
        }

    def record(self, note: str, command: str) -> Record | None:
        """The record of the finished runs; None if there is none."""
        runs: dict[str, dict[int, Result]] = {variant: {} for variant in self.claim.variants}
        for variant, seed, run in self.planned():
            if seed and (result := self._result(run)) is not None:
                runs[variant][seed] = result
        if not any(runs.values()):
            return None
        seen = {(run.data, run.images) for each in runs.values() for run in each.values()}
        if len(seen) > 1:
            raise ArgumentError(
                f"{self.claim.name}: --data differs from the record's runs, {seen}; one data set "
                "was expected, or another folder for --records."
            )
        return Record(
            claim=self.claim.name,
            complete=self.seeds >= self.claim.seeds and not self.missing(),
            note=note,
            effects=record.findings(self.claim, runs, note),
            rates=self.rates(),
            command=command,
            environment=describe({}),
            searched={
                variant: {f"{rate:g}": run for rate, run in tried.items()}
                for variant, tried in self.searched().items()
            },
            runs=runs,
        )

    def _tries(self, variant: str) -> dict[float, Run]:
        """The runs of a variant's search, by rate."""
        if (search := self.claim.search) is None:
            return {}
        own = {"epochs": search.epochs, "stop_below": search.error}
        return {rate: self._run(variant, 0, {"lr": rate, **own}) for rate in search.rates}

    def _run(self, variant: str, seed: int, own: dict[str, float]) -> Run:
        return Run(self.claim.settings(variant) | own, self.data, seed, self.backend)

    def _result(self, run: Run) -> Result | None:
        done = self.done.get(run.key) or training.result(self.out / run.key)
        if found := done or self.kept.get(run.numbers):
            self.done[run.key] = found = replace(found, numbers=run.numbers)
        return found


def carry_out(study: Study, train: Train, recorded: Callable[[], object]) -> None:
    """Train the missing runs, then those that a search makes known; record each new one."""
    left, before = study.missing(), list[Run]()
    while left and left != before:
        before = left
        for trouble in train([training.prepare(run, study.out) for run in before]):
            if trouble:
                print(trouble, file=sys.stderr)
            if (now := study.missing()) != left:
                left = now
                recorded()


def side_by_side(seconds: float, at_once: int, cores: int) -> Train:
    """A function that trains `at_once` runs at a time, each in a process, with its share of cores.

    When the time is over, running ones are stopped, and the next call continues them.
    """
    end = process.now() + seconds
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    threads = {"PYALEXNET_THREADS": str(max(1, cores // at_once)), "PYTHONPATH": path}

    def train(folders: Sequence[Path]) -> Iterator[str]:
        program = (sys.executable, "-m", f"{__package__}.training")
        jobs = (
            process.Job(each.name, (*program, str(each.absolute())), math.inf, each / "output.txt")
            for each in folders
        )
        for ended in process.run(jobs, _ROOT, end - process.now(), at_once, threads):
            failed = ended.code not in (0, None)
            last = ended.said().strip().splitlines()[-1:]
            yield f"{ended.job.name} failed: {' '.join(last)}" if failed else ""

    return train
