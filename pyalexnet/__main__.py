"""The command `pyalexnet`, which `python -m pyalexnet` is too.

Its own module is `cli.py`. Importing that and all behind it takes a part of a second, in which
Ctrl-C is to be answered in a line like later on; so this one imports nothing before it is ready.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command; Ctrl-C while it is being imported ends it with exit code 130."""
    # And not ignored, as in the background of a script.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from pyalexnet import cli

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: an exception in the middle of an import comes out as any other."""
    try:
        os.write(2, b"stopped by Ctrl-C before anything was begun\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
