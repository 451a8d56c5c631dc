"""Named arrays in `.safetensors` files: written completely or not at all, read in pieces.

Checkpoints have their own files (`checkpoint.py`). These are results for other programs: features,
predictions, a probe. The safetensors library needs a complete array before it writes; a `Writer`
takes rows as they come, so that features of a million images need not fit in memory.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from pyalexnet import files
from pyalexnet.errors import ArgumentError, DataError, RunError

Array = npt.NDArray[Any]

_TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int64): "I64"}


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write float32, float64 or int64 arrays; an existing file is replaced at once, or stays."""
    *first, last = arrays
    rows, fixed = arrays[last], {name: arrays[name] for name in first}
    more: dict[str, Any] = {"dtype": rows.dtype, "fixed": fixed, "metadata": metadata}
    with Writer(path, last, rows.shape[1:], most=len(rows), **more) as writer:
        writer.add(rows)


class Writer:
    """One file whose last array grows row by row; a context manager, at whose end the file appears.

    The header precedes the data and holds the number of rows, so room is reserved for the longest
    possible header; the format allows padding with blanks.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        row: tuple[int, ...],
        *,
        most: int,
        dtype: npt.DTypeLike = np.float32,
        fixed: Mapping[str, Array] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin a file, in an existing folder.

        name: of the array that grows; row: its shape without the first axis; most: its largest
        number of rows; dtype: float32, float64 or int64. fixed: arrays that are already known.
        metadata: texts by name, which may be replaced by shorter ones until the end.
        """
        self.rows = 0
        self.metadata = dict(metadata or {})
        self._path, self._name, self._row, self._most = path, name, row, most
        self._dtype = np.dtype(dtype)
        self._fixed = {key: np.ascontiguousarray(array) for key, array in (fixed or {}).items()}
        self._room = len(self._header(most))

    def __enter__(self) -> Self:
        with files.refusing(RunError, self._path, "written"), contextlib.ExitStack() as stack:
            self._file: IO[bytes] = stack.enter_context(files.writing(self._path))
            self._file.write(bytes(self._room))
            for array in self._fixed.values():
                self._file.write(array.tobytes())
            self._stack = stack.pop_all()
        return self

    def add(self, rows: Array) -> None:
        """Write the next rows (n, ...)."""
        if rows.shape[1:] != self._row or self.rows + len(rows) > self._most:
            wanted = f"at most {self._most - self.rows} of {self._row} were expected"
            raise ArgumentError(f"{self._name}: rows are {rows.shape}; {wanted}.")
        with files.refusing(RunError, self._path, "written"):
            self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.rows += len(rows)

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._stack.__exit__(*error)
            return
        with files.refusing(RunError, self._path, "written"), self._stack:
            header = self._header(self.rows)
            if len(header) > self._room:
                raise ArgumentError(f"{self._name}: the metadata have grown while it was written.")
            self._file.seek(0)
            self._file.write((self._room - 8).to_bytes(8, "little"))
            self._file.write(header[8:].ljust(self._room - 8))

    def _header(self, rows: int) -> bytes:
        """The format's header: the length of the JSON in 8 bytes, then the JSON."""
        entries: dict[str, Any] = {"__metadata__": self.metadata}
        start = 0
        sizes = {name: (array.shape, array.dtype) for name, array in self._fixed.items()}
        sizes[self._name] = ((rows, *self._row), self._dtype)
        for name, (shape, dtype) in sizes.items():
            place = [start, start + math.prod(shape) * dtype.itemsize]
            entries[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": place}
            start = place[1]
        text = json.dumps(entries).encode("ascii")
        padded = text.ljust(-(-len(text) // 8) * 8)  # so that arrays begin where they can be mapped
        return len(padded).to_bytes(8, "little") + padded


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The library's handle on a file: `keys`, `metadata`, `get_tensor(name)`, `get_slice(name)`."""
    import safetensors

    what, kind = f"{files.shown(path)}: is no safetensors file", safetensors.SafetensorError
    with contextlib.ExitStack() as stack:
        with files.refused(DataError, what, kind), files.refusing(DataError, path):
            file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
        yield file
