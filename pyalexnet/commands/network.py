"""Common to the commands that use a trained network: options, loading, reporting."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from pyalexnet.errors import ArgumentError, RunError, reason

if TYPE_CHECKING:
    from pyalexnet.data import Dataset
    from pyalexnet.runs.run import Scores
    from pyalexnet.trained.load import Trained
    from pyalexnet.training.progress import Reporter

ON_A_SHEET = 24  # images, or rows of images, that a sheet has room for

# Arguments and options of several commands

BACKEND = "auto (cuda where it works, else cpu), cpu, sim, cuda."
DEVICE = "Number of the device; also cpu, cuda, cuda:1."
EXACT = "On cpu: every convolution by its formula, none by Winograd's algorithm."
PRECISION = (
    "Of maps and products; sums, parameters and momentum stay float32. fp32x3: as accurate as "
    "fp32, on a GPU's tensor cores."
)
FUSED = "Compute several layers in one kernel, or one at a time; by default fused on cuda and cpu."
TOWERS = "2: each half of the network on its device."
SHARDS = (
    "Parts of a batch: as many give the same bits on any number of ranks; one for each rank "
    "if none is named."
)

FILES = "Image files, or folders of them."
_RUN = "Run folders, latest, or checkpoints' folders."
_RUNS = "Folder of the run folders; latest is the most recently started run in it."
_WHICH = "Checkpoint of the run; best has the lowest test error."
_DATA = (
    "Dataset; by default the run's own. An .npz file holds images, labels and optionally "
    "test_images, test_labels, class_ids and class_names."
)
_BATCH_SIZE = "Images per pass through the network."
_SPLIT = "Images to use; val is the same as test."
_TEN_CROP = "Average over the four corners, the centre and their mirror images (section 4.1)."
_IN_ORDER = "Match the dataset's classes to the network's by position, whatever their names."

Run = Annotated[str, Argument(metavar="RUN", help="Run folder, latest, or a checkpoint's folder.")]
Runs = Annotated[list[str], Argument(metavar="RUN...", help=_RUN)]
RUNS = Path("runs")
RunsFolder = Annotated[Path, Option("--runs", "--output-dir", metavar="FOLDER", help=_RUNS)]
Which = Annotated[str, Option(metavar="best|last|step-N", help=_WHICH)]
Data = Annotated[str | None, Option("--data", "--data-path", help=_DATA)]
Part = Annotated[str, Option("--split", metavar="test|train", help=_SPLIT)]
Layer = Annotated[str | None, Option(help="Layer; by default the last hidden linear layer.")]
Neighbours = Annotated[int, Option("--neighbours", "-k", min=1, help="Neighbours of each query.")]
TenCrop = Annotated[bool, Option("--ten-crop", help=_TEN_CROP)]
BatchSize = Annotated[int, Option("--batch-size", "-b", min=1, help=_BATCH_SIZE)]
written = functools.partial(Option, "--output", "-o", metavar="FILE")
Sheet = Annotated[Path | None, Option(help="Draw a contact sheet into this PNG file.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document to standard output.")]


@dataclass(frozen=True)
class Place:
    """Options: where a command computes."""

    backend: Annotated[str | None, Option(help=BACKEND)] = None
    device: Annotated[str | None, Option(help=DEVICE)] = None
    exact: Annotated[bool, Option("--exact", help=EXACT)] = False


@dataclass(frozen=True)
class Network(Place):
    """Options: a checkpoint of each run, and where it computes."""

    which: Which = "best"
    where: RunsFolder = RUNS

    def load(self, runs: Sequence[str], reporter: Reporter) -> list[Trained]:
        """The networks of runs, all on one device."""
        from pyalexnet import backends
        from pyalexnet.trained.load import Trained

        name, number = place(self.backend, self.device)
        backend = backends.backend(name or "auto", number or 0, exact=self.exact)
        load = functools.partial(Trained.load, runs=self.where, which=self.which, say=reporter.warn)
        return [load(run, backend=backend) for run in runs]


@dataclass(frozen=True)
class Labelled:
    """Options: a dataset whose classes must be those of the network."""

    data: Data = None
    classes_in_order: Annotated[bool, Option("--classes-in-order", help=_IN_ORDER)] = False

    def read(self, trained: Trained) -> Dataset:
        """The dataset with the network's labels."""
        from pyalexnet.training.progress import reporter

        with reporter() as watched:
            dataset = trained.dataset(self.data, watched.progress("reading images"))
        return trained.numbered(dataset, in_order=self.classes_in_order)


@dataclass(frozen=True)
class Lines:
    """Options: how results are printed."""

    as_json: Json = False
    plain: Annotated[bool, Option("--plain", help="Plain lines, also on a terminal.")] = False

    def tell(self, reporter: Reporter, document: Any, sentences: Iterable[str]) -> None:
        """Print the document if JSON was asked for, or else say the sentences."""
        if self.as_json:
            print_json(document)
        else:
            for sentence in sentences:
                reporter.say(sentence)

    @contextmanager
    def reporting(self) -> Iterator[Reporter]:
        """A command's reporter, on stderr if stdout is JSON; refuses if output was lost."""
        from pyalexnet.training import progress

        to_stderr = progress.Reporter(sys.stderr) if self.as_json else None
        with to_stderr or progress.reporter(plain=self.plain) as reporter:
            yield reporter
        # A reader that has left is no reason.
        if isinstance(reporter.lost, OSError) and not isinstance(reporter.lost, BrokenPipeError):
            where = "standard error" if self.as_json else "standard output"
            raise RunError(f"{where} cannot be written: {reason(reporter.lost)}.")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Show typer each dataclass among a command's parameters as one option per field."""
    own = inspect.signature(command, eval_str=True).parameters
    kinds: dict[str, Any] = {name: one.annotation for name, one in own.items()}
    groups = {
        name: inspect.signature(kinds[name], eval_str=True).parameters
        for name, one in own.items()
        if is_dataclass(one.annotation)
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, options in groups.items():
            chosen = {option: values.pop(option) for option in options}
            values[name] = kinds[name](**chosen)
        command(**values)

    flat = [each for name, one in own.items() for each in groups.get(name, {name: one}).values()]
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in flat]
    run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return run


# Reporting


def skipping(reporter: Reporter) -> Callable[[str], None]:
    """A function that warns about a file that cannot be read, given a sentence on it."""
    return lambda sentence: reporter.warn(f"skipped {sentence}")


def print_json(document: Any) -> None:
    """Print strict JSON, readable by any program."""
    print(json.dumps(document, indent=1, allow_nan=False))


def table_of_scores(rows: Sequence[tuple[str, Scores]]) -> Iterator[str]:
    """A table of loss and errors: a heading, then a line for each name."""
    width = max(len(name) for name, _ in rows)
    yield f"{'':{width}}  {'loss':>8}  {'top-1 error':>11}  {'top-5 error':>11}"
    for name, scores in rows:
        errors = f"{100 * scores.top1_error:>9.2f} %  {100 * scores.top5_error:>9.2f} %"
        yield f"{name:{width}}  {scores.loss:>8.4f}  {errors}"


# Checks


def train_or_test(part: str) -> str:
    """The value of --split; some call the test images val."""
    if part not in ("train", "test", "val"):
        raise ArgumentError(f"--split is {part!r}; test or train was expected.")
    return "train" if part == "train" else "test"


def check_parent(path: Path | None) -> None:
    """Check, before anything that takes time, that a result can be written there."""
    from pyalexnet.runs.run import check_writable

    if path is None:
        return
    if path.is_dir():
        raise RunError(f"{path} is a folder; the name of a file was expected.")
    check_writable(path.absolute().parent)


def place(backend: str | None, device: str | None) -> tuple[str | None, int | None]:
    """Backend and device number; --device also takes PyTorch's cpu, cuda and cuda:1, and gpu."""
    if device is None or is_number(device):
        return backend, None if device is None else int(device)
    name, _, number = device.partition(":")
    named = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}.get(name)
    if named is None or not is_number(number or "0"):
        raise ArgumentError(f"--device is {device!r}; a number, cpu, cuda or cuda:1 was expected.")
    if backend not in (None, "auto", named):
        raise ArgumentError(f"--device is {device} and --backend {backend}; one was expected.")
    return named, int(number or "0")


def is_number(text: str) -> bool:
    """Whether the text may be a device's number; a backend says which exist."""
    return re.fullmatch("[0-9]{1,9}", text) is not None
