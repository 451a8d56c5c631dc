"""How ranks end: a failing rank says why and ends all others, which would wait for it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OTHERS_WAIT = 2.0  # seconds


def speaker() -> str:
    """The beginning of an error message: the rank, if there are several.

    Rank 0 reports an error that all find, and ends them: others speak only if they survive.
    """
    mpi = _of_several()
    if mpi is None:
        return ""
    if mpi.rank() > 0:
        time.sleep(_OTHERS_WAIT)
    return f"{mpi.named()}: "


@contextmanager
def ending_all() -> Iterator[None]:
    """End all ranks if the code inside ends this one with any exit code but 0."""
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
    """The mpi module, if it has been imported and there are several ranks."""
    mpi = sys.modules.get("pyalexnet.ranks.mpi")
    return mpi if mpi is not None and mpi.size() > 1 else None
