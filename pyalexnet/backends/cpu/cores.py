"""The CPU's cores as workers: pieces of work, each with memory that is used again."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

# BLAS's number of threads belongs to the process, so only one operation at a time may set it.
_blas_turn = threading.Lock()

_CACHE_LINE = 64


class Cores:
    """Threads that work through the pieces of an operation, each with its own scratch memory.

    Which thread takes which piece is left to chance. Results do not depend on it, because every
    piece writes a place of its own. NumPy lets go of the interpreter within its loops.
    """

    def __init__(self) -> None:
        self._workers = _usable_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="pyalexnet")
        self._blas = ThreadpoolController()
        self._memory = _Memory()

    def run(self, pieces: int, work: Callable[[int], None]) -> None:
        """Call `work(i)` for each i below `pieces`, and return when all are done."""
        tickets = itertools.count()

        def take() -> None:
            # Overflow and NaN are results like any other, as they are on a GPU.
            with np.errstate(all="ignore"):
                while (piece := next(tickets)) < pieces:
                    work(piece)

        others = [self._pool.submit(take) for _ in range(min(self._workers, pieces) - 1)]
        try:
            take()
        finally:
            wait(others)
        for other in others:
            other.result()

    @contextmanager
    def one_blas_thread_each(self) -> Iterator[None]:
        """Within it a matrix product runs on the thread that asks for it.

        Products that fit a core's cache, one on each core, are about twice as fast as large ones
        that BLAS spreads itself.
        """
        with _blas_turn, self._blas.limit(limits=1, user_api="blas"):
            yield

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """The calling thread's array `name`, of unspecified contents, until it asks again."""
        return self._memory.array(name, shape, dtype)

    def zeros(self, count: int) -> Any:
        """The calling thread's row of `count` float32 zeros, to read only."""
        return self._memory.zeros(count)


class _Memory(threading.local):
    """Memory of one thread, kept because fresh pages cost more than most operations."""

    def __init__(self) -> None:
        self._arenas: dict[str, np.ndarray[Any, Any]] = {}
        self._zeros = np.zeros(0, np.float32)

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        arena = self._arenas.get(name)
        if arena is None or arena.size < nbytes:
            arena = self._arenas[name] = _aligned(nbytes)
        return arena[:nbytes].view(dtype).reshape(shape)

    def zeros(self, count: int) -> Any:
        if count > self._zeros.size:
            self._zeros = np.zeros(count, np.float32)
        return self._zeros[:count]


def _aligned(nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes from the start of a cache line, so that no vector straddles two."""
    memory = np.empty(nbytes + _CACHE_LINE, np.uint8)
    skip = -memory.ctypes.data % _CACHE_LINE
    return memory[skip : skip + nbytes]


def _usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
