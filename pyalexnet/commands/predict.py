"""`pyalexnet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from pyalexnet.commands import network as given
from pyalexnet.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyalexnet.data.dataset import Images
    from pyalexnet.trained.ensemble import Probabilities
    from pyalexnet.trained.load import Trained

    Batch = tuple[Images, Probabilities, Sequence[Path]]


_LABELS = "Each image's folder is named after its class: mark the correct predictions."


@given.grouped
def predict(
    run: given.Run,
    images: Annotated[list[Path], Argument(metavar="IMAGE...", help=given.FILES)],
    *,
    top: Annotated[int, Option(min=1, help="Classes to list for each image.")] = 5,
    ten_crop: given.TenCrop = False,
    labels: Annotated[bool, Option("--labels", help=_LABELS)] = False,
    sheet: given.Sheet = None,
    batch_size: given.BatchSize = 128,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """List the most probable classes of images. Unreadable files are skipped."""
    from pyalexnet.data.images import labels_of, named, none_of
    from pyalexnet.trained import ensemble

    given.check_parent(sheet)
    with lines.reporting() as reporter:
        (trained,) = network.load([run], reporter)
        paths = named(images, reporter.say)
        if labels:
            labels_of(paths, trained.classes)  # refused before anything is computed
        documents: list[dict[str, Any]] = []
        drawn: list[Batch] = []
        count = first = among = 0
        bad, done = given.skipping(reporter), reporter.progress("images")
        for pixels, read in trained.image_batches(paths, batch_size, bad=bad, progress=done):
            probabilities = trained.probabilities(pixels, ten_crop=ten_crop)
            if sheet is not None and count < given.ON_A_SHEET:
                drawn.append((pixels, probabilities, read))
            count += len(read)
            best = ensemble.best(probabilities, top)
            truths = labels_of(read, trained.classes) if labels else [None] * len(read)
            for path, row, classes, truth in zip(read, probabilities, best, truths, strict=True):
                first += truth == classes[0]
                among += truth in classes
                document = _document(trained, path, [(n, float(row[n])) for n in classes], truth)
                if lines.as_json:
                    documents.append(document)
                    continue
                for line in _lines(document, truth):
                    reporter.say(line)
        if not count:
            raise DataError(none_of(paths))
        if labels and not lines.as_json:
            shown = min(top, len(trained.class_names))
            more = f" (top-{shown}: {among:,})" if shown > 1 else ""
            reporter.say(f"right: {first:,} of {count:,}{more}")
        if sheet is not None:
            _draw(trained, drawn, sheet, labels)
            note = "" if count <= given.ON_A_SHEET else f", the first {given.ON_A_SHEET} images"
            reporter.say(f"written   {sheet}{note}")
    if lines.as_json:
        given.print_json(documents)


def _document(
    run: Trained, path: Path, guesses: Sequence[tuple[int, float]], truth: int | None
) -> dict[str, Any]:
    """The output for an image, from numbers of classes with their probabilities."""
    from pyalexnet.files import shown

    names, ids = run.class_names, run.classes.ids
    label = {} if truth is None else {"label": names[truth]}
    predictions = [
        {"class": names[number], "id": ids[number], "index": number, "probability": probability}
        for number, probability in guesses
    ]
    return {"path": shown(path), **label, "predictions": predictions}


def _lines(document: dict[str, Any], truth: int | None) -> Iterator[str]:
    yield document["path"] + ("" if truth is None else f" ({document['label']})")
    for guess in document["predictions"]:
        mark = "  <- right" if guess["index"] == truth else ""
        yield f"  {100 * guess['probability']:6.2f} %  {guess['class']}{mark}"


def _draw(run: Trained, batches: Sequence[Batch], path: Path, labels: bool) -> None:
    import numpy as np

    from pyalexnet import show
    from pyalexnet.data.images import labels_of

    images, probabilities, files = zip(*batches, strict=True)
    room = slice(given.ON_A_SHEET)
    paths = [path for read in files for path in read][room]
    seen, rows = np.concatenate(images)[room], np.concatenate(probabilities)[room]
    true = np.array(labels_of(paths, run.classes)) if labels else None
    captions = None if labels else [path.name for path in paths]
    title = f"{run.name}: most probable classes"
    show.predictions(seen, rows, run.class_names, path, labels=true, captions=captions, title=title)
