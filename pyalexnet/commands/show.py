"""`pyalexnet show`: pictures of runs and of the networks they trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from pyalexnet.commands import network as given
from pyalexnet.commands.group import Commands
from pyalexnet.commands.step import step
from pyalexnet.errors import ArgumentError, CheckpointError, RunError, reason

if TYPE_CHECKING:
    from pyalexnet.data import Dataset
    from pyalexnet.runs.run import History
    from pyalexnet.trained.load import Trained

ABOUT = "Pictures of runs, as PNG files, and the calls of a step."
show_app = typer.Typer(cls=Commands, help=ABOUT, no_args_is_help=True)

show_app.command()(step)

_OUTPUT = (
    "PNG file or folder; by default the run's folder, or the current one if that is read-only."
)
Output = Annotated[Path | None, Option("--output", "-o", help=_OUTPUT)]
Count = Annotated[int, Option(min=1, help="Images to show.")]
Seed = Annotated[int, Option(min=0, help="Seed for choosing the images.")]
_NORMALIZE = "Scale each tile by itself, or all tiles of a layer alike."
Normalize = Annotated[bool, Option(help=_NORMALIZE)]
_ERRORS = "Show misclassified images only."
_LAYERS = "Layer; may be repeated. By default all convolutions."


@show_app.command()
def curves(runs: given.Runs, output: Output = None, where: given.RunsFolder = given.RUNS) -> None:
    """Plot loss and errors against epochs; several runs share the same axes."""
    from pyalexnet import show
    from pyalexnet.runs.run import find

    histories = {folder: _history(folder) for folder in [find(run, where) for run in runs]}
    top5 = any(_has_top5(folder) for folder in histories)
    (folder, history), *others = histories.items()
    path = _path("curves.png", output, None if others else folder)
    if others:
        names = distinct([each.name for each in histories])
        several = dict(zip(names, histories.values(), strict=True))
        _draw(path, show.curves, several, title=f"{len(names)} runs", top5=top5)
    else:
        drops = history.rate_drops()
        _draw(path, show.curves, history, title=folder.name, top5=top5, drops=drops)


@show_app.command()
@given.grouped
def filters(
    runs: given.Runs,
    *,
    output: Output = None,
    layer: Annotated[str | None, Option(help="Convolution; by default the first one.")] = None,
    normalize: Normalize = True,
    gray: Annotated[bool, Option("--gray", "--grey", help="Show colours as greys.")] = False,
    network: given.Network,
) -> None:
    """Draw the filters of a convolution, its towers separately, as in the paper's figure 3."""
    from pyalexnet import show
    from pyalexnet.trained import gather

    file = "filters.png" if layer is None else f"filters-{layer}.png"
    for trained, draw in _networks(runs, network, file, output):
        spec = trained.net.spec
        name = gather.convolution(spec, layer)
        weights = trained.net.backend.to_numpy(trained.net.params[f"{name}.w"])
        size = " x ".join(str(side) for side in weights.shape[1:])
        title = f"{name} after {trained.meta.step:,} steps: {len(weights)} filters, {size}"
        how = {"towers": spec.towers, "own_scale": normalize, "grey": gray}
        draw(show.filters, weights, title=title, **how)


@show_app.command()
@given.grouped
def predictions(
    runs: given.Runs,
    *,
    output: Output = None,
    labelled: given.Labelled,
    only_errors: Annotated[bool, Option("--only-errors", help=_ERRORS)] = False,
    count: Count = 8,
    seed: Seed = 0,
    network: given.Network,
) -> None:
    """Draw test images with their five most probable classes, as in figure 4 (left)."""
    from pyalexnet import show
    from pyalexnet.trained import gather

    for trained, draw in _networks(runs, network, "predictions.png", output):
        dataset = labelled.read(trained)
        found = gather.predicted(trained, dataset.test, count, seed, only_errors=only_errors)
        images, labels, probabilities = found
        wrong = ", misclassified" if only_errors else ""
        title = _title(trained, dataset, len(images), "test image") + wrong
        names = dataset.class_names
        draw(show.predictions, images, probabilities, names, labels=labels, title=title)


@show_app.command()
@given.grouped
def similar(
    runs: given.Runs,
    *,
    output: Output = None,
    labelled: given.Labelled,
    layer: given.Layer = None,
    count: Annotated[int, Option(min=1, help="Test images whose neighbours are shown.")] = 5,
    neighbours: given.Neighbours = 6,
    seed: Seed = 0,
    network: given.Network,
) -> None:
    """Draw test images and the training images most like them, as in figure 4 (right)."""
    from pyalexnet import show
    from pyalexnet.trained import gather
    from pyalexnet.training.progress import reporter

    for trained, draw in _networks(runs, network, "similar.png", output):
        name = layer or trained.last_hidden
        trained.check_layer(name)
        dataset = labelled.read(trained)
        train, test = dataset.train, dataset.test
        chosen = gather.drawn(test, count, seed)
        queries = test.take(chosen)
        with reporter() as watched:
            progress = watched.progress("comparing images")
            found, distances = gather.nearest(trained, train, queries, name, neighbours, progress)
        flat = train.take(found.ravel())
        pictures = flat.reshape(*found.shape, *flat.shape[1:])
        names = [dataset.class_names[label] for label in test.labels[chosen]]
        title = _title(trained, dataset, len(queries), "test image")
        title += f" and the most similar of {len(train):,} training images"
        note = f"the number below an image is its Euclidean distance in {name}"
        draw(show.similar, queries, pictures, distances, captions=names, title=title, note=note)


@show_app.command()
@given.grouped
def batch(
    runs: given.Runs,
    *,
    output: Output = None,
    labelled: given.Labelled,
    epoch: Annotated[int, Option(min=1, help="Epoch whose first batch is shown.")] = 1,
    count: Count = 9,
    network: given.Network,
) -> None:
    """Draw what the network really sees of a training batch, beside the stored images."""
    from pyalexnet import show
    from pyalexnet.trained import gather

    for trained, draw in _networks(runs, network, "batch.png", output):
        dataset = labelled.read(trained)
        chosen, positions = gather.of_first_batch(trained, dataset, epoch - 1, count)
        views = gather.training_views(trained, dataset, epoch - 1, chosen, positions)
        stored = dataset.train.take(chosen)
        seen = gather.seen(trained, stored, views)
        names = [dataset.class_names[label] for label in dataset.train.labels[chosen]]
        title = _title(trained, dataset, len(chosen), "image")
        title += f" of the first batch of epoch {epoch}"
        note = f"seed {trained.meta.config.get('seed', 0)}; stored images with the crop outlined, "
        note += "and what the network sees of them, the mean added back"
        draw(show.batch, stored, seen, views, captions=names, title=title, note=note)


@show_app.command()
@given.grouped
def maps(
    runs: given.Runs,
    *,
    output: Output = None,
    labelled: given.Labelled,
    image: Annotated[Path | None, Option(help="Image file; by default a test image.")] = None,
    number: Annotated[int, Option(min=0, help="Number of the test image.")] = 0,
    layer: Annotated[list[str] | None, Option(help=_LAYERS)] = None,
    normalize: Normalize = True,
    network: given.Network,
) -> None:
    """Draw the feature maps of an image."""
    from pyalexnet import show
    from pyalexnet.trained import gather

    for trained, draw in _networks(runs, network, "maps.png", output):
        if image is not None:
            (stored, _), what = trained.images([image]), image.name
        else:
            dataset = labelled.read(trained)
            test = dataset.test
            if number >= len(test):
                expected = f"0 to {len(test) - 1} was expected"
                there = f"as there are {len(test):,} test images"
                raise ArgumentError(f"--number is {number}; {expected}, {there}.")
            what = f"test image {number}, {dataset.class_names[test.labels[number]]}"
            stored = test.take([number])
        found = gather.maps_of(trained, stored, layer or gather.convolutions(trained.net.spec))
        title = f"{trained.meta.net} after {trained.meta.step:,} steps: maps of {what}"
        draw(show.maps, trained.centre(stored)[0], found, title=title, own_scale=normalize)


# Where pictures go


def _networks(
    runs: list[str], network: given.Network, name: str, output: Path | None
) -> Iterator[tuple[Trained, Callable[..., None]]]:
    """Each run's network, and how its picture `name` is drawn: see `_draw`."""
    from pyalexnet.training.progress import Reporter

    several = len(runs) > 1
    if several and output is not None and output.suffix and not output.is_dir():
        raise ArgumentError(f"--output is {output} for {len(runs)} runs; a folder was expected.")
    for trained in network.load(runs, Reporter()):
        elsewhere = f"{trained.name}-{name}" if several else name
        yield trained, partial(_draw, _path(name, output, trained.run, elsewhere))


def _path(name: str, output: Path | None, run: Path | None, elsewhere: str | None = None) -> Path:
    """A picture's path, checked before anything that takes time.

    name: of the file in the run's folder. elsewhere: in another folder, if different.
    """
    from pyalexnet.runs.run import check_writable
    from pyalexnet.show.page import check_matplotlib

    check_matplotlib()
    if output is None and run is not None and os.access(run, os.W_OK):
        return run / name
    path = Path() if output is None else output
    if path.is_dir() or not path.suffix:
        path = path / (elsewhere or name)
    if path.suffix.lower() != ".png":
        raise ArgumentError(f"--output is {path}; a file called *.png or a folder was expected.")
    check_writable(path.parent)
    return path


def _draw(path: Path, picture: Callable[..., None], *arrays: Any, **words: Any) -> None:
    """Draw a picture and print its path, or refuse with the reason why it cannot be written."""
    try:
        picture(*arrays, path, **words)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {reason(error)}.") from error
    print(path)


# Names and contents of runs


def distinct(names: Sequence[str]) -> list[str]:
    """Names of run folders without their common leading words; the last word always stays.

    Folders of the same name in different places are numbered.
    """
    words = [name.split("-") for name in names]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == words[0][shared] for each in words):
        shared += 1
    short = ["-".join(each[shared:]) for each in words]
    if len(set(short)) == len(short):
        return short
    return [f"{name} ({number})" for number, name in enumerate(short, 1)]


def _has_top5(folder: Path) -> bool:
    """Whether a run has enough classes for the top-5 error to be meaningful."""
    from pyalexnet.runs import checkpoint

    try:
        return checkpoint.load(checkpoint.newest(folder)).meta.classes > 10
    except CheckpointError:
        return False  # before the first checkpoint


def _history(folder: Path) -> History:
    from pyalexnet.runs.run import History

    log = folder / "log.jsonl"
    if not log.is_file():
        raise RunError(f"{log} is missing; a run's log was expected.")
    history = History.read(log)
    if not history.steps and not history.epochs:
        raise RunError(f"{log} has no record of training yet; at least one step was expected.")
    return history


def _title(trained: Trained, dataset: Dataset, count: int, what: str) -> str:
    return f"{trained.meta.net} on {dataset.name}: {count:,} {what}{'' if count == 1 else 's'}"
