"""How ranks end: one that fails says why, and ends all others, which would wait for it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OTHERS_WAIT = 2.0  # seconds


def speaker() -> str:
    """How a sentence on an error begins: with the rank, where there are several.

    What all ranks find rank 0 says for all, and ends them: others speak only if they live on.
    """
    mpi = _of_several()
    if mpi is None:
        return ""
    if mpi.rank() > 0:
        time.sleep(_OTHERS_WAIT)
    return f"{mpi.named()}: "


@contextmanager
def ending_all() -> Iterator[None]:
    """End all ranks where what is done inside is to end this one with any code but 0."""
    try:
        yield
    except BaseException as error:
        if mpi := _of_several():
            _end(mpi, error)
        raise


def _end(mpi: Any, error: BaseException) -> None:
    code: Any = 1
    if isinstance(error, SystemExit):
        code = error.code
    elif isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    if code:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        mpi.abort(code if isinstance(code, int) else 1)


def _of_several() -> Any:
    """The module of MPI, if it has been imported and there are several ranks."""
    mpi = sys.modules.get("pyalexnet.ranks.mpi")
    return mpi if mpi is not None and mpi.size() > 1 else None
