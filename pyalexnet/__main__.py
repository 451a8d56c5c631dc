"""The command `pyalexnet`, also run by `python -m pyalexnet`.

The command itself is in `cli.py`. Importing it takes a fraction of a second, during which Ctrl-C
should already print a line; so this module imports nothing until it handles Ctrl-C. Before that,
while Python itself starts, Python handles it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # as in typing, which takes longer to import than everything else here
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType


def main() -> None:
    """Run the command."""
    run("pyalexnet.cli", lambda cli: cli.main())


def run(name: str, command: Callable[[ModuleType], None]) -> None:
    """Import the module `name` and call `command` with it.

    Ctrl-C during the import ends the process at once, since an exception in the middle of an import
    may come out as any other; a KeyboardInterrupt of the command ends it, too. Both print a line
    and exit with code 130. While the interpreter shuts down, Ctrl-C ends it silently.
    """
    # Unless it is ignored, as in the background of a script.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from importlib import import_module

    module = import_module(name)
    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command(module)
    except KeyboardInterrupt:
        _say(b"stopped by Ctrl-C")
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        if heeded:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    _say(b"stopped by Ctrl-C before anything was begun")
    os._exit(128 + number)


def _say(line: bytes) -> None:
    try:
        os.write(2, line + b"\n")
    except OSError:
        return  # closed, or a full disk: the process ends all the same


if __name__ == "__main__":
    main()
