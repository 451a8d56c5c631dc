"""The command `pyalexnet`: options in, sentences and exit codes out.

Exit codes: 0 done, 1 doctor found something essential broken, 2 refused, 3 training cannot go on,
130 and 143 stopped by Ctrl-C and SIGTERM with everything saved.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import pyalexnet
from pyalexnet.errors import ArgumentError, PyalexnetError, TrainingError

app = typer.Typer(
    name="pyalexnet",
    help="AlexNet (2012) in hand-written CUDA, on NVIDIA GPUs and on any CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pyalexnet {pyalexnet.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    net: Annotated[
        str | None,
        typer.Option("--net", "--model", help="Network; alexnet-tiny if none is named."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--data-path",
            help="Folder of images by class, CIFAR-10 folder or archive, .npz, or cifar10 once "
            "fetched; built-in photographs if none is named.",
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Images of one update.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the weights; all others in proportion.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of the updates.")] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option("--weight-decay", "--wd", help="Weight decay of every layer's weights."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of initial weights, order of images and dropout.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto (cuda where it works, else numpy), numpy, sim, cuda.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Number of the device; also cpu, cuda, cuda:1.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|latest", help="Go on with a run; other options change its values."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Start with the values of a run's config.toml.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "--output-dir", help="Folder of the run folders.")
    ] = Path("runs"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many steps in all, and save.")
    ] = None,
    print_freq: Annotated[
        int | None, typer.Option(min=1, help="Steps between two lines of the log.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest checkpoints to keep; the best stays too.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain lines, also on a terminal.")
    ] = False,
) -> None:
    """Train a network. Without options: a small AlexNet on built-in photographs.

    Ctrl-C finishes the step, saves and stops; --resume latest goes on as if nothing had happened.
    """
    from pyalexnet import progress, start
    from pyalexnet.run import find

    if resume is not None and config is not None:
        raise ArgumentError("--config and --resume were both given; one of them was expected.")
    backend, number = place(backend, device)
    choices = start.Choices(
        net=net,
        data=data,
        backend=backend,
        device=number,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        print_freq=print_freq,
        keep=keep,
    )
    try:
        with progress.reporter(plain=plain) as reporter:
            if resume is None:
                trainer = start.new(choices, out=out, config=config, reporter=reporter)
            else:
                trainer = start.resumed(find(resume, out), choices, reporter=reporter)
            with trainer.folder, trainer.interrupt:
                reporter.opening(trainer)
                outcome = trainer.fit(steps)
                reporter.closing(trainer, outcome)
    except KeyboardInterrupt:  # while data were read, or a second one
        raise typer.Exit(128 + signal.SIGINT) from None
    if outcome.interrupt is not None:
        raise typer.Exit(128 + outcome.interrupt)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Time operations and whole steps beside PyTorch and JAX; bench --help says more."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="pyalexnet.commands", name="bench"):
        raise typer.Exit(entry.load()(context.args))
    raise PyalexnetError("The bench is not installed here; in a checkout, run python -m bench.")


@data_app.command()
def get(
    name: Annotated[str, typer.Argument(help="cifar10.")],
    to: Annotated[
        Path | None, typer.Option(help="Folder to keep it in; the user's cache if none is named.")
    ] = None,
) -> None:
    """Fetch a public data set and check its SHA-256; a second call goes on where one stopped."""
    from pyalexnet import progress
    from pyalexnet.data import download

    with progress.reporter() as reporter:
        path = download.get(
            name, folder=to, progress=reporter.progress(f"{name}, bytes"), say=reporter.say
        )
        reporter.say(
            f"{path} is complete; train on it: pyalexnet train --data {path if to else name}"
        )


@app.command()
def doctor(
    out: Annotated[
        Path, typer.Option("--out", "--output-dir", help="Folder of the run folders.")
    ] = Path("runs"),
) -> None:
    """Say what this machine has, and the command that brings what it lacks."""
    from pyalexnet.doctor import examine, line
    from pyalexnet.progress import Reporter

    reporter, healthy = Reporter(), True
    for finding in examine(out):
        reporter.say(line(finding))
        healthy &= finding.found or not finding.essential
    if not healthy:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; a refusal is one sentence on stderr, unless PYALEXNET_TRACEBACK is set."""
    try:
        app()
    except (PyalexnetError, MemoryError) as error:
        if os.environ.get("PYALEXNET_TRACEBACK"):
            raise
        sentence = str(error) or "there is not enough memory; try a smaller --batch-size."
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(3 if isinstance(error, TrainingError) else 2)


def place(backend: str | None, device: str | None) -> tuple[str | None, int | None]:
    """Backend and device number; --device also takes PyTorch's cpu, cuda and cuda:1."""
    if device is None or device.isdecimal():
        return backend, None if device is None else int(device)
    name, _, number = device.partition(":")
    named = {"cpu": "numpy", "cuda": "cuda"}.get(name)
    if named is None or not (number or "0").isdecimal():
        raise ArgumentError(f"--device is {device!r}; a number, cpu, cuda or cuda:1 was expected.")
    if backend not in (None, "auto", named):
        raise ArgumentError(f"--device is {device} and --backend {backend}; one was expected.")
    return named, int(number or "0")
