"""`pyalexnet evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from pyalexnet.commands import network as given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.scoring import Judgement


_SEARCH = "Fit a weight for each run in the average, on these same images."
_OUTPUT = "Write the probabilities and labels to this safetensors file."


@given.grouped
def evaluate(
    runs: given.Runs,
    *,
    labelled: given.Labelled,
    split: given.Part = "test",
    ten_crop: given.TenCrop = False,
    search_weights: Annotated[bool, Option("--search-weights", help=_SEARCH)] = False,
    output: Annotated[Path | None, given.written(help=_OUTPUT)] = None,
    batch_size: given.BatchSize = 128,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """Loss, top-1 and top-5 error of runs on a dataset; for several runs also of their average."""
    from pyalexnet.trained import scoring

    part, in_order = given.train_or_test(split), labelled.classes_in_order
    given.check_parent(output)
    with lines.reporting() as reporter:
        trained = network.load(runs, reporter)
        progress = reporter.progress("reading images")
        datasets = scoring.same_images(trained, labelled.data, progress, in_order=in_order)
        splits = [dataset.train if part == "train" else dataset.test for dataset in datasets]
        how = {"ten_crop": ten_crop, "search": search_weights, "keep": output is not None}
        done = reporter.progress
        judgement = scoring.judge(trained, splits, batch_size=batch_size, progress=done, **how)
        if output is not None:
            scoring.write_predictions(output, judgement, datasets[0].classes)
        note, count, found = datasets[0].note, len(judgement.labels), judgement.searched
        alone = [
            {"run": run.name, "checkpoint": str(run.path)} | asdict(scores)
            for run, scores in zip(trained, judgement.alone, strict=True)
        ]
        what = {"data": note, "split": part, "images": count, "ten_crop": ten_crop}
        document = {
            **what,
            "runs": alone,
            "average": judgement.average and asdict(judgement.average),
            "searched": found and {"coefficients": found.coefficients} | asdict(found.scores),
        }
        by_position = "classes   the dataset's are matched to the networks' by position"
        sentences = [
            f"data      {note}, {part} images: {count:,}",
            *([by_position] if in_order else []),
            f"views     {_views(trained, ten_crop)}",
            *_lines(trained, judgement),
            *([] if output is None else [f"written   {output}"]),
        ]
        lines.tell(reporter, document, sentences)


def _views(runs: list[Trained], ten_crop: bool) -> str:
    whole = all(run.stored == run.size for run in runs)
    if not ten_crop:
        return "whole images" if whole else "the centre of each image"
    seen = "whole images and their mirror images" if whole else "ten patches of each image"
    return f"{seen}, softmaxes averaged"


def _names(runs: list[Trained]) -> list[str]:
    """Names of runs and checkpoints; paths for those that share both names."""
    names = [f"{run.name}/{run.path.name}" if run.run else run.name for run in runs]
    named = zip(names, runs, strict=True)
    return [name if names.count(name) == 1 else str(run.path) for name, run in named]


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
