"""`pyalexnet evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyalexnet.commands import network as given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.scoring import Judgement


@given.grouped
def evaluate(
    runs: given.Runs,
    *,
    labelled: given.Labelled,
    split: given.Part = "test",
    ten_crop: given.TenCrop = False,
    search_weights: Annotated[
        bool,
        typer.Option(
            "--search-weights",
            help="Fit a weight for each run in the average, on these same images.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the probabilities and labels to this safetensors file.",
        ),
    ] = None,
    batch_size: given.BatchSize = 128,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """Loss, top-1 and top-5 error of runs on a dataset; for several runs also of their average."""
    from pyalexnet.trained import scoring

    part = given.train_or_test(split)
    given.check_parent(output)
    with lines.reporting() as reporter:
        trained = network.load(runs, reporter)
        datasets = scoring.same_images(
            trained,
            labelled.data,
            reporter.progress("reading images"),
            in_order=labelled.classes_in_order,
        )
        judgement = scoring.judge(
            trained,
            [dataset.train if part == "train" else dataset.test for dataset in datasets],
            ten_crop=ten_crop,
            search=search_weights,
            keep=output is not None,
            batch_size=batch_size,
            progress=reporter.progress,
        )
        if output is not None:
            scoring.write_predictions(output, judgement, datasets[0].classes)
        note, count, found = datasets[0].note, len(judgement.labels), judgement.searched
        if lines.as_json:
            given.print_json(
                {
                    "data": note,
                    "split": part,
                    "images": count,
                    "ten_crop": ten_crop,
                    "runs": [
                        {"run": run.name, "checkpoint": str(run.path)} | asdict(scores)
                        for run, scores in zip(trained, judgement.alone, strict=True)
                    ],
                    "average": judgement.average and asdict(judgement.average),
                    "searched": found
                    and {"coefficients": found.coefficients} | asdict(found.scores),
                }
            )
            return
        reporter.say(f"data      {note}, {part} images: {count:,}")
        if labelled.classes_in_order:
            reporter.say("classes   the dataset's are matched to the networks' by position")
        reporter.say(f"views     {_views(trained, ten_crop)}")
        for line in _lines(trained, judgement):
            reporter.say(line)
        if output is not None:
            reporter.say(f"written   {output}")


def _views(runs: list[Trained], ten_crop: bool) -> str:
    whole = all(run.stored == run.size for run in runs)
    if not ten_crop:
        return "whole images" if whole else "the centre of each image"
    if whole:
        return "whole images and their mirror images, softmaxes averaged"
    return "ten patches of each image, softmaxes averaged"


def _names(runs: list[Trained]) -> list[str]:
    """Names of runs and checkpoints; paths for those that share both names."""
    names = [f"{run.name}/{run.path.name}" if run.run else run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]


def _lines(runs: list[Trained], judgement: Judgement) -> Iterator[str]:
    rows = list(zip(_names(runs), judgement.alone, strict=True))
    if judgement.average is not None:
        rows.append(("average of the softmaxes", judgement.average))
    found = judgement.searched
    if found is not None:
        rows.append(("average with fitted weights", found.scores))
    yield from given.table_of_scores(rows)
    if found is not None:
        weights = " ".join(f"{one:.2f}" for one in found.coefficients)
        yield f"relative weights, in the order of the runs: {weights}"
        yield "The weights were fitted on these same images; expect worse on others."
