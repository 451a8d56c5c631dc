"""`pyalexnet data`: fetching sets and making packs of photographs."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from pyalexnet.commands.group import Commands

if TYPE_CHECKING:
    from pyalexnet.data.pack import Table

data_app = typer.Typer(cls=Commands, help="Datasets.", no_args_is_help=True)


_TO = "Folder to keep it in; the user's cache if none is named."


@data_app.command()
def get(
    name: Annotated[str, Argument(help="cifar10.")],
    to: Annotated[Path | None, Option(help=_TO)] = None,
) -> None:
    """Fetch a public dataset and check its SHA-256; a second call continues an unfinished one."""
    from pyalexnet.data import download
    from pyalexnet.training import progress

    with _going_on(), progress.reporter() as reporter:
        done = reporter.progress(f"{name}, bytes")
        path = download.get(name, folder=to, progress=done, say=reporter.say)
        data = path if to else name
        reporter.say(f"{path} is complete; train on it: pyalexnet train --data {data}")


_SOURCE = (
    "Folder of images, one folder a class, or train/ and val/ of such (also training, valid, "
    "validation; test where there is no val); val/ may be flat, as ImageNet's is, with "
    "--val-labels."
)
_SIZE = "Side of a stored image, pixels: shorter side to it, centre cut."
_FORM = "JPEG, or plain bytes: six times as large, no decoding."
_WORKERS = "Processes; by default one for each core."
_SEED = "Draws the tenth of each class that is held out if there is no val/."
_VAL_LABELS = (
    "Labels of a flat val/: a class folder or number for each image in the order of names, or a "
    "table of images and classes (folders, names, or numbers from 0), such as Caffe's val.txt, "
    "Kaggle's LOC_val_solution.csv, val_annotations.txt, CSV or JSON."
)
_VAL_NUMBERS = (
    "Meaning of the numbers in ILSVRC2012_validation_ground_truth.txt, which are not in the order "
    "of the folders: NUMBER FOLDER, such as map_clsloc.txt."
)
_CLASS_NAMES = (
    "Names of the classes: FOLDER NAME, such as LOC_synset_mapping.txt, or NAME in the order of "
    "the folders, 10 after 9; imagenet_class_index.json."
)


@data_app.command()
def prepare(
    source: Annotated[Path, Argument(metavar="SRC", help=_SOURCE)],
    out: Annotated[Path, Argument(metavar="OUT", help="Folder of the pack.")],
    size: Annotated[int, Option(help=_SIZE)] = 256,
    form: Annotated[Literal["jpeg", "uint8"], Option("--format", help=_FORM)] = "jpeg",
    quality: Annotated[int, Option(help="JPEG quality.")] = 95,
    workers: Annotated[int | None, Option("--workers", "-j", help=_WORKERS)] = None,
    seed: Annotated[int, Option(help=_SEED)] = 0,
    val_labels: Annotated[Path | None, Option(help=_VAL_LABELS)] = None,
    val_numbers: Annotated[Path | None, Option(help=_VAL_NUMBERS)] = None,
    class_names: Annotated[Path | None, Option(help=_CLASS_NAMES)] = None,
) -> None:
    """Make a pack of photographs for fast training; a second call continues an unfinished one.

    Files that cannot be read are listed in OUT/bad_files.jsonl; more than 1 % is refused.
    """
    from pyalexnet.data.pack import Storage
    from pyalexnet.data.prepare import Options
    from pyalexnet.data.prepare import prepare as make
    from pyalexnet.training import progress

    options = Options(Storage(size, form, quality), seed, val_labels, val_numbers, class_names)
    with _going_on(), progress.reporter() as reporter:
        done, say = reporter.progress("images"), reporter.say
        table = make(source, out, options, workers=workers, progress=done, say=say)
        for line in _about(table, out):
            reporter.say(line)


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """Around work that a second call continues after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; the same command continues")
        raise typer.Exit(128 + signal.SIGINT) from None


def _about(table: Table, out: Path) -> Iterator[str]:
    """A description of a finished pack, and what to do with it."""
    from pyalexnet.data.colour import FEWEST
    from pyalexnet.data.pack import BAD_FILES
    from pyalexnet.files import shown

    storage, numbers = table.storage, table.statistics
    yield (
        f"pack      {shown(out)}: {table.images('train'):,} training and {table.images('val'):,} "
        f"validation images, {storage.size}x{storage.size} {storage.form}, "
        f"{len(table.classes)} classes, {table.bytes / 1e6:,.0f} MB"
    )
    if table.skipped:
        yield f"skipped   {table.skipped} files, listed in {shown(out / BAD_FILES)}"
    each = (numbers.channel_means, numbers.sigmas)
    means, sigmas = (", ".join(f"{value:.1f}" for value in values) for values in each)
    whose = "of the training images"
    if numbers.of != "train":
        whose = f"ImageNet's, as there are under {FEWEST:,} training images"
    yield f"colours   mean {means}, deviations along the axes {sigmas}: {whose}"
    yield f"to train  pyalexnet train --net alexnet --data {shlex.quote(shown(out))}"
