"""Folders are synced, and file systems that do not support it are tolerated."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pyalexnet.data import durable
from pyalexnet.errors import DataError
from pyalexnet.runs.syncing import sync_folder


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
    durable.write(tmp_path / "file", b"content")
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
        durable.write(tmp_path / "file", b"content")
    assert descriptors() == before


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")
