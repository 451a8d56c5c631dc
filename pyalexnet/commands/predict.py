"""`pyalexnet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyalexnet.commands import network as given
from pyalexnet.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyalexnet.trained.load import Trained
    from pyalexnet.trained.predict import Predictions


def predict(
    run: given.Run,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 5,
    ten_crop: given.TenCrop = False,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Each image's folder is called like its class: say what is right.",
        ),
    ] = False,
    sheet: given.Sheet = None,
    which: given.Which = "best",
    where: given.RunsFolder = given.RUNS,
    batch_size: given.BatchSize = 128,
    backend: given.BackendName = None,
    device: given.Device = None,
    exact: given.Exact = False,
    as_json: given.Json = False,
    plain: given.Plain = False,
) -> None:
    """Say what is in images: their most probable classes. Unreadable files are skipped."""
    from pyalexnet.data.images import labels_of, named, none_of
    from pyalexnet.trained.predict import predict as predictions

    given.check_parent(sheet)
    with given.reporting(as_json, plain) as reporter:
        (trained,) = given.load([run], where, which, backend, device, exact, reporter)
        paths = named(images, reporter.say)
        if labels:
            labels_of(paths, trained.classes)  # refused before anything is computed
        documents: list[dict[str, Any]] = []
        shown: list[Predictions] = []
        feed = predictions(
            trained,
            paths,
            ten_crop=ten_crop,
            batch_size=batch_size,
            bad=lambda _, sentence: reporter.warn(f"skipped {sentence}"),
            progress=reporter.progress("images"),
        )
        count = first = among = 0
        for batch in feed:
            truths = labels_of(batch.paths, trained.classes) if labels else None
            if count < given.ON_A_SHEET:
                shown.append(batch)
            count += len(batch.paths)
            if as_json:
                documents += _documents(trained, batch, top, truths)
                continue
            for line in _lines(trained, batch, top, truths):
                reporter.say(line)
            if truths is not None:
                for truth, best in zip(truths, batch.top(top), strict=True):
                    classes = [which for which, _ in best]
                    first += truth == classes[0]
                    among += truth in classes
        if not count:
            raise DataError(none_of(paths))
        if labels and not as_json:
            reporter.say(_total(count, first, among, min(top, len(trained.class_names))))
        if sheet is not None:
            _draw(trained, shown, sheet, labels)
            note = "" if count <= given.ON_A_SHEET else f", the first {given.ON_A_SHEET} images"
            reporter.say(f"written   {sheet}{note}")
    if as_json:
        given.print_json(documents)


def _documents(
    run: Trained, batch: Predictions, top: int, truths: Sequence[int] | None
) -> Iterator[dict[str, Any]]:
    from pyalexnet.files import shown

    for number, (path, best) in enumerate(zip(batch.paths, batch.top(top), strict=True)):
        truth = {} if truths is None else {"label": run.class_names[truths[number]]}
        yield {"path": shown(path), **truth} | {
            "predictions": [
                {
                    "class": run.class_names[which],
                    "id": run.classes.ids[which],
                    "index": which,
                    "probability": probability,
                }
                for which, probability in best
            ]
        }


def _lines(
    run: Trained, batch: Predictions, top: int, truths: Sequence[int] | None
) -> Iterator[str]:
    from pyalexnet.files import shown

    for number, (path, best) in enumerate(zip(batch.paths, batch.top(top), strict=True)):
        truth = "" if truths is None else f" ({run.class_names[truths[number]]})"
        yield f"{shown(path)}{truth}"
        for which, probability in best:
            mark = "  <- right" if truths is not None and truths[number] == which else ""
            yield f"  {100 * probability:6.2f} %  {run.class_names[which]}{mark}"


def _total(count: int, first: int, among: int, top: int) -> str:
    """How many images had their class named first, and how many among the top."""
    more = f" (top-{top}: {among:,})" if top > 1 else ""
    return f"right: {first:,} of {count:,}{more}"


def _draw(run: Trained, batches: Sequence[Predictions], path: Path, labels: bool) -> None:
    import numpy as np

    from pyalexnet import show
    from pyalexnet.data.images import labels_of

    room = slice(given.ON_A_SHEET)
    paths = [path for batch in batches for path in batch.paths][room]
    show.predictions(
        np.concatenate([batch.images for batch in batches])[room],
        np.concatenate([batch.probabilities for batch in batches])[room],
        run.class_names,
        path,
        labels=np.array(labels_of(paths, run.classes)) if labels else None,
        captions=None if labels else [path.name for path in paths],
        title=f"{run.name}: most probable classes",
    )
