"""Files that grow row by row: readable by the safetensors library, and complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pyalexnet.errors import ArgumentError, DataError, RunError
from pyalexnet.runs import tensors
from pyalexnet.runs.tensors import Writer
from samples import normal


def test_the_library_reads_what_was_written_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    rows, labels = normal(7, 3, 2), np.arange(5)
    metadata = {"names": json.dumps(["ä" * 50] * 9), "other": "ü"}
    with Writer(path, "x", (3, 2), most=999, fixed={"y": labels}, metadata=metadata) as writer:
        writer.add(rows[:4])
        writer.add(rows[4:])
        writer.metadata["names"] = "[]"
    found = safetensors.numpy.load_file(path)
    assert np.array_equal(found["x"], rows) and found["x"].dtype == np.float32
    assert np.array_equal(found["y"], labels) and found["y"].dtype == np.int64
    with tensors.reading(path) as file:
        assert file.metadata() == {"names": "[]", "other": "ü"}
        assert np.array_equal(file.get_slice("x")[2:5], rows[2:5])


def test_arrays_begin_where_they_can_be_mapped(tmp_path: Path) -> None:
    for length in range(9):
        path = tmp_path / "x.safetensors"
        tensors.write(path, {"x": np.arange(3.0)}, {"name": "n" * length})
        raw = path.read_bytes()
        assert int.from_bytes(raw[:8], "little") % 8 == 0
        assert np.array_equal(np.frombuffer(raw[-24:]), np.arange(3.0))
        assert np.array_equal(safetensors.numpy.load(raw)["x"], np.arange(3.0))


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.safetensors", "x", (4,), most=3):
        pass
    assert safetensors.numpy.load_file(tmp_path / "x.safetensors")["x"].shape == (0, 4)


@pytest.mark.parametrize("rows", [np.zeros((3, 2)), np.zeros((1, 3))])
def test_rows_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, rows: np.ndarray
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    with (
        pytest.raises(ArgumentError, match=r"x: rows are .*; at most 2 of \(2,\)"),
        Writer(path, "x", (2,), most=2) as writer,
    ):
        writer.add(rows)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"before"


def test_metadata_that_grow_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ArgumentError, match="metadata have grown"),
        Writer(tmp_path / "x.safetensors", "x", (2,), most=2) as writer,
    ):
        writer.metadata["more"] = "n" * 100
    assert not list(tmp_path.iterdir())


class Full:
    """A file on a full disk."""

    def write(self, _: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    writer = Writer(path, "x", (2**20,), most=2)

    def fill_up() -> None:
        with writer:
            real = writer._file
            monkeypatch.setattr(writer, "_file", Full())
            try:
                writer.add(np.zeros((1, 2**20), np.float32))
            finally:
                real.close()

    with pytest.raises(RunError, match=r"x.safetensors: cannot be written \(No space left"):
        fill_up()
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"before"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written \(No such file"):
        tensors.write(tmp_path / "no" / "x.safetensors", {"x": np.zeros(1)}, {})


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all, only words"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    why = "cannot be read" if content is None else "is no safetensors file"
    with pytest.raises(DataError, match=why), tensors.reading(path):
        pass
