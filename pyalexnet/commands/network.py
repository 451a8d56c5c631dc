"""Common to the commands that use a trained network: options, and loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyalexnet.commands.place import place
from pyalexnet.errors import ArgumentError

if TYPE_CHECKING:
    from pyalexnet.trained.load import Trained
    from pyalexnet.training.progress import Reporter

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, latest, or a checkpoint's folder.")
]
RUNS = Path("runs")
RunsFolder = Annotated[
    Path,
    typer.Option(
        "--runs",
        "--output-dir",
        metavar="FOLDER",
        help="Where the run folders lie: latest is the one of them that was begun last.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "--data-path",
        help="Data set; the run's own if none is named. An .npz holds images and labels and, if it "
        "has them, test_images, test_labels, class_ids and class_names.",
    ),
]
InOrder = Annotated[
    bool,
    typer.Option(
        "--classes-in-order",
        help="Take the data's classes for the network's in their order, whatever they are called.",
    ),
]
Part = Annotated[
    str,
    typer.Option("--split", metavar="test|train", help="Which of its images; val is test too."),
]
Layer = Annotated[
    str | None, typer.Option(help="Layer; the last hidden linear one if none is named.")
]
Neighbours = Annotated[
    int, typer.Option("--neighbours", "-k", min=1, help="Neighbours of each query.")
]
TenCrop = Annotated[
    bool,
    typer.Option(
        "--ten-crop", help="Average the corners, the centre and their mirror images (section 4.1)."
    ),
]
Which = Annotated[
    str,
    typer.Option(metavar="best|last|step-N", help="Checkpoint of a run; best is that in testing."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Images in the network at once.")
]
BackendName = Annotated[
    str | None, typer.Option(help="auto (cuda where it works, else cpu), cpu, sim, cuda.")
]
Device = Annotated[str | None, typer.Option(help="Number of the device; also cpu, cuda, cuda:1.")]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact", help="On cpu: every convolution by its formula, none by Winograd's algorithm."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Plain = Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")]
Sheet = Annotated[Path | None, typer.Option(help="Draw a sheet into this PNG file.")]

ON_A_SHEET = 24
"""Images, or rows of images, that a sheet has room for."""


def load(
    runs: list[str],
    where: Path,
    which: str,
    backend: str | None,
    device: str | None,
    exact: bool,
    reporter: Reporter,
) -> list[Trained]:
    """The networks of runs, on one device; `where` is the folder of the run folders."""
    from pyalexnet import backends
    from pyalexnet.trained.load import Trained

    name, number = place(backend, device)
    chosen = backends.backend(name or "auto", number or 0, exact=exact)
    return [
        Trained.load(run, runs=where, backend=chosen, which=which, say=reporter.warn)
        for run in runs
    ]


@contextmanager
def reporting(as_json: bool, plain: bool) -> Iterator[Reporter]:
    """The reporter of a command: on stderr if its stdout is JSON.

    Raises:
        RunError: not all of the output could be written, and not because the reader left.
    """
    from pyalexnet.errors import RunError, reason
    from pyalexnet.training import progress

    with progress.Reporter(sys.stderr) if as_json else progress.reporter(plain=plain) as reporter:
        yield reporter
    if isinstance(reporter.lost, OSError) and not isinstance(reporter.lost, BrokenPipeError):
        where = "standard error" if as_json else "standard output"
        raise RunError(f"{where} cannot be written: {reason(reporter.lost)}.")


def print_json(document: Any) -> None:
    """Print strict JSON, readable by any program."""
    print(json.dumps(document, indent=1, allow_nan=False))


def train_or_test(part: str) -> str:
    """The value of --split; some call the test images val.

    Raises:
        ArgumentError: it is neither.
    """
    part = "test" if part == "val" else part
    if part not in ("train", "test"):
        raise ArgumentError(f"--split is {part!r}; test or train was expected.")
    return part


def check_parent(path: Path | None) -> None:
    """Check, before anything that takes time, that a result can be written there.

    Raises:
        RunError: it cannot.
    """
    from pyalexnet.errors import RunError
    from pyalexnet.runs.run import check_writable

    if path is None:
        return
    if path.is_dir():
        raise RunError(f"{path} is a folder; the name of a file was expected.")
    check_writable(path.absolute().parent)
