"""Files are replaced whole, and file systems that cannot sync folders are tolerated."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pyalexnet import files
from pyalexnet.errors import DataError
from pyalexnet.files import sync_folder, writing


def descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def folders_fail_with(number: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Make the sync of folders fail, but not of files; return the descriptors tried."""
    fsync, tried = os.fsync, list[int]()

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            tried.append(descriptor)
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    patch.setattr(os, "fsync", refuse)
    return tried


def test_a_file_system_that_syncs_no_folders_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = folders_fail_with(errno.EINVAL, monkeypatch)
    before = descriptors()
    sync_folder(tmp_path)
    files.write(tmp_path / "file", b"content", DataError)
    assert len(tried) == 2 and descriptors() == before
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EBADF])
def test_any_other_failure_is_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders_fail_with(number, monkeypatch)
    before = descriptors()
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)
    with pytest.raises(DataError, match=rf"file: cannot be written \({os.strerror(number)}\)"):
        files.write(tmp_path / "file", b"content", DataError)
    assert descriptors() == before


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be written .* 3 bytes are needed"):
        files.write(tmp_path / "missing" / "file", b"abc", DataError)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


def test_what_another_process_left_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / f".tmp-{os.getpid()}-file"
    left.write_bytes(b"half")
    files.write(tmp_path / "file", b"whole", DataError)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(TypeError), writing(tmp_path / "file") as stream:
        stream.write("no bytes")  # type: ignore[call-overload]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
