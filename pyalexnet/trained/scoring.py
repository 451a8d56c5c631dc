"""How well trained networks do on a split: each alone, and averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyalexnet.data import Dataset, Split
from pyalexnet.data.classes import Classes
from pyalexnet.data.dataset import Labels, Progress
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.runs import tensors
from pyalexnet.runs.run import Scores
from pyalexnet.trained import ensemble
from pyalexnet.trained.ensemble import Probabilities, Weighted
from pyalexnet.trained.evaluate import scored
from pyalexnet.trained.load import BATCH, Trained


@dataclass(frozen=True, eq=False)
class Judgement:
    """The result of `judge`.

    alone: each network's scores, in their order. average: scores of the mean of their softmaxes;
    None for one network. searched: coefficients fitted on these very images; None unless requested.
    probabilities: (n, classes) of the one network, of the mean, or of the mean weighted by the
    fitted coefficients; None unless kept. labels: (n,).
    """

    alone: tuple[Scores, ...]
    average: Scores | None
    searched: Weighted | None
    probabilities: Probabilities | None
    labels: Labels


def judge(
    runs: Sequence[Trained],
    splits: Sequence[Split],
    *,
    ten_crop: bool = False,
    search: bool = False,
    keep: bool = False,
    batch_size: int = BATCH,
    progress: Callable[[str], Progress] | None = None,
) -> Judgement:
    """Scores of networks on the same images, which `splits` has at each network's stored size.

    The networks go through their splits one after the other. For several, one (n, classes) float64
    sum is held; only the search needs the probabilities of all at once.

    ten_crop: see `Trained.probabilities`. search: fit coefficients of the average, see
    `ensemble.search`. keep: return probabilities. progress: given a description of the work, makes
    the function that is called with (images done, images in all).
    """
    if search and len(runs) < 2:
        raise ArgumentError(
            f"--search-weights was given with {len(runs)} run; at least 2 were expected."
        )
    several = len(runs) > 1
    alone: list[Scores] = []
    members: list[Probabilities] = []
    for run, split in zip(runs, splits, strict=True):
        whole = np.empty((len(split), len(run.class_names))) if keep or several else None
        batches = run.batches(split, batch_size, progress and progress(run.name))
        with contextlib.closing(batches) as feed:
            found = ((run.probabilities(x, ten_crop=ten_crop), labels) for x, labels in feed)
            alone.append(scored(found, whole))
        if whole is not None and members and not search:
            members[0] += whole
        elif whole is not None:
            members.append(whole)
    labels = splits[0].labels
    if not several:
        return Judgement(tuple(alone), None, None, members[0] if keep else None, labels)
    mean = ensemble.average(members) if search else members[0] / len(runs)
    average = ensemble.scores(mean, labels)
    fitted = ensemble.search(members, labels) if search else None
    if fitted:
        mean = ensemble.average(members, fitted.coefficients)
    return Judgement(tuple(alone), average, fitted, mean if keep else None, labels)


def same_images(
    runs: Sequence[Trained],
    path: str | None,
    progress: Progress | None = None,
    *,
    in_order: bool = False,
) -> list[Dataset]:
    """The dataset at `path`, or the one that all were trained on, as each network stores it.

    Labels are the networks' own. in_order: match classes by position, whatever they are called;
    else a DataError if they are not every network's, in the same order.
    """
    first = runs[0]
    for run in runs[1:]:
        _check_same_classes(run, first, in_order)
        if path is None and run.meta.config.get("data") != first.meta.config.get("data"):
            raise DataError(
                f"{run.name} and {first.name} were trained on different data; --data was expected."
            )
    found: dict[tuple[int, ...], Dataset] = {}
    for run in runs:
        if run.mean.shape not in found:
            dataset = run.dataset(path, progress)
            found[run.mean.shape] = run.numbered(dataset, in_order=in_order)
    return [found[run.mean.shape] for run in runs]


def write_predictions(path: Path, judgement: Judgement, classes: Classes) -> None:
    """Write `probabilities` (n, classes) float32 and `labels` (n,) int64 as safetensors."""
    assert judgement.probabilities is not None
    probabilities = judgement.probabilities.astype(np.float32)
    arrays: dict[str, tensors.Array] = {"labels": judgement.labels, "probabilities": probabilities}
    tensors.write(path, arrays, classes.described())


def _check_same_classes(run: Trained, first: Trained, in_order: bool) -> None:
    """Refuse a network whose probabilities cannot be added to the first one's, class by class."""
    places = tuple(range(len(first.classes)))
    if in_order and len(run.classes) == len(places):
        return
    found = first.classes.places(run.classes)
    if found is None:
        raise DataError(
            f"{run.name} and {first.name} have different classes: "
            f"{run.classes.difference(first.classes)}; runs on the same classes were expected."
        )
    if found != places:
        number = next(number for number in places if found[number] != number)
        raise DataError(
            f"{run.name} and {first.name} number the same classes in another order: class {number} "
            f"is {run.classes.ids[number]!r} and {first.classes.ids[number]!r}; the same order was "
            "expected of runs that are averaged."
        )
