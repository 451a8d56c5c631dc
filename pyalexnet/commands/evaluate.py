"""`pyalexnet evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyalexnet.commands import network as given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyalexnet.runs.run import Scores
    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.scoring import Judgement


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run folders, latest, or checkpoints' folders."),
    ],
    data: given.Data = None,
    classes_in_order: given.InOrder = False,
    split: given.Part = "test",
    ten_crop: given.TenCrop = False,
    search_weights: Annotated[
        bool,
        typer.Option(
            "--search-weights", help="Fit a coefficient for each run on these very images."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the probabilities and labels into this safetensors file.",
        ),
    ] = None,
    which: given.Which = "best",
    where: given.RunsFolder = given.RUNS,
    batch_size: given.BatchSize = 128,
    backend: given.BackendName = None,
    device: given.Device = None,
    exact: given.Exact = False,
    as_json: given.Json = False,
    plain: given.Plain = False,
) -> None:
    """Loss, top-1 and top-5 error of runs on a data set; for several also of their average."""
    from pyalexnet.trained import scoring

    part = given.train_or_test(split)
    given.check_parent(output)
    with given.reporting(as_json, plain) as reporter:
        trained = given.load(runs, where, which, backend, device, exact, reporter)
        datasets = scoring.same_images(
            trained, data, reporter.progress("reading images"), in_order=classes_in_order
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
        if as_json:
            given.print_json(
                {
                    "data": datasets[0].note,
                    "split": part,
                    "images": len(judgement.labels),
                    "ten_crop": ten_crop,
                }
                | _document(trained, judgement)
            )
            return
        reporter.say(f"data      {datasets[0].note}, {part} images: {len(judgement.labels):,}")
        if classes_in_order:
            reporter.say("classes   the data's are taken for the networks' in their order")
        reporter.say(f"views     {_views(trained, ten_crop)}")
        for line in _lines(trained, judgement):
            reporter.say(line)
        if output is not None:
            reporter.say(f"written   {output}")


def _document(runs: list[Trained], judgement: Judgement) -> dict[str, Any]:
    found = judgement.searched
    return {
        "runs": [
            {"run": run.name, "checkpoint": str(run.path)} | asdict(scores)
            for run, scores in zip(runs, judgement.alone, strict=True)
        ],
        "average": judgement.average and asdict(judgement.average),
        "searched": found and {"coefficients": found.coefficients} | asdict(found.scores),
    }


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
    if judgement.searched is not None:
        rows.append(("average by fitted coefficients", judgement.searched.scores))
    width = max(len(name) for name, _ in rows)
    yield f"{'':{width}}  {'loss':>8}  {'top-1 error':>11}  {'top-5 error':>11}"
    for name, scores in rows:
        yield f"{name:{width}}  {_numbers(scores)}"
    if judgement.searched is not None:
        coefficients = " ".join(f"{one:.2f}" for one in judgement.searched.coefficients)
        yield f"coefficients, relative to each other, in the order of the runs: {coefficients}"
        yield "The weights were fitted on these same images; expect worse on others."


def _numbers(scores: Scores) -> str:
    errors = (f"{100 * error:>9.2f} %" for error in (scores.top1_error, scores.top5_error))
    return "  ".join((f"{scores.loss:>8.4f}", *errors))
