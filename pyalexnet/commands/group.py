"""Common to all subcommands: options' old names, lack of memory, Ctrl-C."""

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

# Options of earlier versions, and their names now: the first that the command has.
RENAMED = {"--out": ("--output", "--runs"), "--index": ("--number",)}

# Options whose smaller values need less memory; the first that the command has is suggested.
SAVING = ("--batch-size", "--workers", "--size", "--count")


class Commands(TyperGroup):
    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read the arguments; Ctrl-C is handled as in `invoke`."""
        with _answering_ctrl_c():
            return super().make_context(*arguments, **more)

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        name, command, rest = super().resolve_command(context, arguments)
        return name, command, [_renamed(argument, _options(command)) for argument in rest]

    def invoke(self, context: Any) -> Any:
        """Run a subcommand; if memory runs out, say which option may help."""
        with _answering_ctrl_c():
            try:
                return super().invoke(context)
            except MemoryError as error:
                command = self.get_command(context, context.invoked_subcommand or "")
                raise PyalexnetError(_too_little_memory(error, _options(command))) from error


@contextmanager
def _answering_ctrl_c() -> Iterator[None]:
    """Turn Ctrl-C into a line and an exit, even during an import that would make it an error.

    An extension module that is being loaded turns it into an ImportError, and the importing code
    that into a refusal. If SIGINT is ignored, as in the background of a script, it stays ignored.
    """
    struck = []

    def strike(number: int, frame: FrameType | None) -> None:
        struck.append(number)
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    in_charge = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if in_charge:
        signal.signal(signal.SIGINT, strike)
    try:
        yield
    except typer.Exit:  # from a command that has reported it already
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not (struck or isinstance(error, KeyboardInterrupt)):
            raise
        _tell("stopped by Ctrl-C")
        raise typer.Exit(128 + signal.SIGINT) from error
    finally:
        if in_charge:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell(line: str) -> None:
    """Write a line to standard error; if that is closed or full, nothing happens."""
    with suppress(OSError):
        typer.echo(line, err=True)


def _options(command: Any) -> set[str]:
    """All options of a command, as they are written; empty for None."""
    return {option for each in getattr(command, "params", ()) for option in each.opts}


def _renamed(argument: str, options: set[str]) -> str:
    """An argument with an option's old name replaced; prints a line that says so."""
    option, equals, value = argument.partition("=")
    new = next((name for name in RENAMED.get(option, ()) if name in options), None)
    if new is None or option in options:
        return argument
    _tell(f"note: {option} is called {new} now")
    return f"{new}{equals}{value}"


def _too_little_memory(error: MemoryError, options: set[str]) -> str:
    told = "" if type(error) is MemoryError and not str(error) else f" ({reason(error)})"
    advice = "end other programs, or take a machine with more"
    if option := next((each for each in SAVING if each in options), None):
        advice = f"try {'fewer' if option == '--workers' else 'a smaller'} {option}"
    return f"there is not enough memory{told}; {advice}."
