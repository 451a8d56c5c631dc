"""What is the same for all subcommands: options' old names, a lack of memory, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from pyalexnet.errors import PyalexnetError, reason

RENAMED = {"--out": ("--output", "--runs"), "--index": ("--number",)}
"""Options of earlier versions, and what they are called now: the first of these that there is."""

SAVING = {
    "--batch-size": "a smaller --batch-size",
    "--workers": "fewer --workers",
    "--size": "a smaller --size",
    "--count": "a smaller --count",
}
"""Options with which a command needs less memory; the first that it has is advised."""


class Commands(TyperGroup):
    """Subcommands by name."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read the arguments; Ctrl-C is answered as in `invoke`."""
        with _answering_ctrl_c():
            return super().make_context(*arguments, **more)

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        name, command, rest = super().resolve_command(context, arguments)
        return name, command, [_renamed(argument, _options(command)) for argument in rest]

    def invoke(self, context: Any) -> Any:
        """Run one of them.

        Raises:
            PyalexnetError: memory did not suffice; it says with which option it may.
            typer.Exit: Ctrl-C stopped it, and a line has said so.
        """
        with _answering_ctrl_c():
            try:
                return super().invoke(context)
            except MemoryError as error:
                command = self.get_command(context, context.invoked_subcommand or "")
                raise PyalexnetError(_too_little_memory(error, _options(command))) from error


@contextmanager
def _answering_ctrl_c() -> Iterator[None]:
    try:
        with _heeding_ctrl_c():
            yield
    except KeyboardInterrupt as error:
        _tell("stopped by Ctrl-C")
        raise typer.Exit(128 + signal.SIGINT) from error


@contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C come out as KeyboardInterrupt, also of an import that makes something else of it.

    An extension module that is being loaded turns it into an ImportError, and who imports that
    into a refusal. Where it is not to be heeded, as in the background of a script, it is not.
    """
    struck = []

    def strike(number: int, frame: FrameType | None) -> None:
        struck.append(number)
        raise KeyboardInterrupt

    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, strike)
    try:
        yield
    except typer.Exit:  # of a command that has said what comes of it
        raise
    except Exception as error:
        if struck:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell(line: str) -> None:
    """Write a line to standard error; closed or full, it keeps nobody from anything."""
    with suppress(OSError):
        typer.echo(line, err=True)


def _options(command: Any) -> set[str]:
    """All options of a command, as they are written; None has none."""
    return {option for each in getattr(command, "params", ()) for option in each.opts}


def _renamed(argument: str, options: set[str]) -> str:
    """An argument with an option's old name replaced, and a line that says so."""
    option, equals, value = argument.partition("=")
    new = next((name for name in RENAMED.get(option, ()) if name in options), None)
    if new is None or option in options:
        return argument
    _tell(f"note: {option} is called {new} now")
    return f"{new}{equals}{value}"


def _too_little_memory(error: MemoryError, options: set[str]) -> str:
    told = "" if type(error) is MemoryError and not str(error) else f" ({reason(error)})"
    advice = next((what for option, what in SAVING.items() if option in options), None)
    return f"there is not enough memory{told}; " + (
        f"try {advice}." if advice else "end other programs, or take a machine with more."
    )
