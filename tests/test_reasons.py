"""The reason for a failure reaches the user, in the original words."""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from image_files import write_class
from pyalexnet import data, doctor
from pyalexnet.data import cifar, npz, pack, prepare
from pyalexnet.data.pack import Storage
from pyalexnet.errors import DataError, reason
from pyalexnet.runs import tensors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "x"), "Permission denied"),
        (OSError("encoder error -2"), "encoder error -2"),  # a library's, without a number
        (gzip.BadGzipFile("Not a gzipped file (b'ab')"), "Not a gzipped file (b'ab')"),
        (EOFError(), "EOFError"),
        (KeyError("name"), "'name'"),
        (ValueError("one line.\n  and another."), "one line. and another"),
    ],
)
def test_reason(error: BaseException, words: str) -> None:
    assert reason(error) == words


def test_of_an_error_without_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries raise OSError too, with None where the system gives a reason."""

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("the disk speaks in tongues")

    monkeypatch.setattr(data.folder, "load", broken)
    with pytest.raises(DataError, match="the disk speaks in tongues; a dataset was expected"):
        data.load(tmp_path, image_size=(8, 8))


def test_of_an_npz_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is sound, but memory is too small."""
    path = tmp_path / "large.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 1, 1, 3), }" % 2**60
    with zipfile.ZipFile(path, "w") as archive:
        text = header.ljust(117) + b"\n"
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text)
    with pytest.raises(DataError, match="does not fit into memory") as caught:
        npz.load(path)
    assert "nable to allocate" in str(caught.value) or "too large" in str(caught.value)
    assert "plain arrays" not in str(caught.value)


def test_of_an_empty_pickle() -> None:
    with pytest.raises(DataError, match=r"is refused \((?!\))"):
        cifar._pickled_names("batches.meta", b"")


def test_of_names_that_are_no_text() -> None:
    with pytest.raises(DataError, match=r"is not text \(.*0xff in position 3"):
        cifar._binary_names("batches.meta.txt", b"cat\xff")


def test_of_a_lack_of_memory_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(cifar, "_members", exhausted)
    (tmp_path / "c.tar").write_bytes(b"")
    with pytest.raises(MemoryError):
        cifar.load_archive(tmp_path / "c.tar")


def test_of_a_mean_that_is_no_array(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        write_class(tmp_path / "set" / "train", name, 2)
        write_class(tmp_path / "set" / "val", name, 1)
    table = prepare.prepare(
        tmp_path / "set", tmp_path / "pack", prepare.Options(Storage(8)), workers=1
    )
    mean = tmp_path / "pack" / "mean.npy"
    mean.write_bytes(mean.read_bytes()[:30])
    numbers = replace(table.statistics, mean_sha256=hashlib.sha256(mean.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"is no array \(.*(header|EOF).*\)"):
        pack._read_mean(tmp_path / "pack", replace(table, statistics=numbers))


def test_of_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """That does not show whether it is a safetensors file."""
    missing = tmp_path / "none.safetensors"
    with pytest.raises(DataError, match="cannot be read"), tensors.reading(missing):
        pass


def test_of_a_driver_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be installed, but for another system."""

    def broken(name: str) -> Any:
        raise OSError(f"{name}: wrong ELF class: ELFCLASS32")

    monkeypatch.setattr(ctypes, "CDLL", broken)
    assert "wrong ELF class" in doctor._driver().detail


def test_of_a_picture_that_cannot_be_encoded(tmp_path: Path) -> None:
    from pyalexnet.commands import show
    from pyalexnet.errors import RunError

    def broken(path: Path) -> None:
        raise OSError("encoder error -2 when writing image file")

    with pytest.raises(RunError, match="cannot be written: encoder error"):
        show._draw(tmp_path, broken)
