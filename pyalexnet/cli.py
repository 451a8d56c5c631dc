"""The command `pyalexnet`: its subcommands, and how errors are reported.

Exit codes: 0 done, 1 doctor found something essential broken, 2 refused, 3 training cannot go on,
130, 143 and 138 stopped by Ctrl-C, SIGTERM and SIGUSR1 with everything saved (0 on several ranks,
since launchers treat other codes as failures), 75 a rank was stuck.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, Annotated

import typer

import pyalexnet
from pyalexnet.commands.bench import bench
from pyalexnet.commands.data import data_app
from pyalexnet.commands.doctor import doctor
from pyalexnet.commands.evaluate import evaluate
from pyalexnet.commands.export import export
from pyalexnet.commands.features import features
from pyalexnet.commands.group import Commands
from pyalexnet.commands.import_ import import_weights
from pyalexnet.commands.predict import predict
from pyalexnet.commands.presets import presets
from pyalexnet.commands.probe import probe
from pyalexnet.commands.show import show_app
from pyalexnet.commands.similar import similar
from pyalexnet.commands.train import train
from pyalexnet.errors import PyalexnetError, TrainingError, reason
from pyalexnet.ranks.ending import ending_all, speaker

app = typer.Typer(
    name="pyalexnet",
    help="AlexNet (2012) in hand-written CUDA, on NVIDIA GPUs and on any CPU.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAIN, _USE, _ABOUT = "Train", "Use a trained network", "About networks and this machine"

app.command(rich_help_panel=_TRAIN)(train)
app.add_typer(data_app, name="data", rich_help_panel=_TRAIN)

for _command in (evaluate, predict, features, similar, probe, export):
    app.command(rich_help_panel=_USE)(_command)
app.command("import", rich_help_panel=_USE)(import_weights)
app.add_typer(show_app, name="show", rich_help_panel=_USE)

app.command(rich_help_panel=_ABOUT)(presets)
app.command(rich_help_panel=_ABOUT)(doctor)
# Its own parser reads its options, including --help.
_ANY = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(add_help_option=False, context_settings=_ANY, rich_help_panel=_ABOUT)(bench)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pyalexnet {pyalexnet.__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")


@app.callback()
def _main(version: Annotated[bool, _VERSION] = False) -> None:
    pass


@ending_all()
def main() -> None:
    """Run the command; a refusal is one sentence on stderr, unless PYALEXNET_TRACEBACK is set."""
    _fill_standard_streams()
    try:
        _run()
    except (PyalexnetError, OSError) as error:
        if os.environ.get("PYALEXNET_TRACEBACK"):
            raise
        _settle(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # as after `--help | head -1`: nobody is left to read a sentence
        with contextlib.suppress(OSError):
            if sys.stderr is not None:
                print(f"error: {speaker()}{_sentence(error)}", file=sys.stderr)
        _settle(sys.stderr)
        sys.exit(3 if isinstance(error, TrainingError) else 2)


def _fill_standard_streams() -> None:
    """Point closed streams (`2>&-`) at the null device, so that no file of a run gets 1 or 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _run() -> None:
    try:
        app()
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk can be reported here, but not at interpreter exit
        raise


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, PyalexnetError):
        what = os.fsdecode(error.filename) if error.filename else "reading or writing failed"
        return f"{what}: {reason(error)}."
    return str(error)


def _settle(stream: IO[str] | None) -> None:
    """Flush the stream; if that fails, keep the interpreter from trying again at exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        from pyalexnet.training.progress import silence

        silence(stream)
