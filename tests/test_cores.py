"""How many cores the process may use: by its affinity, its control groups, the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyalexnet.backends.cores import THREADS, Cores, usable_cores
from pyalexnet.errors import ArgumentError


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on eight cores, and the user has set no number."""
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))


def counted(place: Path, groups: str, files: dict[str, str]) -> Cores:
    """With these lines in /proc/self/cgroup, and these files below /sys/fs/cgroup."""
    (place / "groups").write_text(groups)
    for name, text in files.items():
        file = place / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return usable_cores(place / "groups", place / "mounted")


def test_as_many_as_it_may_run_on(tmp_path: Path) -> None:
    for groups, files in (
        ("", {}),
        ("0::/\n", {}),
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "800000 100000\n"}),
        ("3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n"}),
    ):
        assert counted(tmp_path, groups, files).count == 8
    assert usable_cores(tmp_path / "no file", tmp_path).count == 8


@pytest.mark.parametrize(
    ("quota", "count"), [("100000", 1), ("10000", 1), ("200000", 2), ("250000", 3)]
)
def test_a_quota_is_rounded_up(quota: str, count: int, tmp_path: Path) -> None:
    assert counted(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"}).count == count


def test_the_least_of_all_groups_that_the_process_is_in(tmp_path: Path) -> None:
    files = {
        "cpu.max": "700000 100000\n",
        "a.slice/cpu.max": "300000 100000\n",
        "a.slice/b/cpu.max": "500000 100000\n",
        "a.slice/c/cpu.max": "100000 100000\n",  # of another group
    }
    found = counted(tmp_path, "0::/a.slice/b\n", files)
    assert found == Cores(3, "the quota of its control group, 3 cores")


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """It still sees the machine's path to the group if it has no namespace of its own."""
    found = counted(tmp_path, "0::/docker/0123\n", {"cpu.max": "200000 100000\n"})
    assert found.count == 2


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_groups_of_version_1(mount: str, tmp_path: Path) -> None:
    files = {f"{mount}/a/cpu.cfs_quota_us": "150000\n", f"{mount}/a/cpu.cfs_period_us": "50000\n"}
    groups = f"9:memory:/m\n4:{mount}:/a\n0::/\n"
    assert counted(tmp_path, groups, files).count == 3


def test_of_other_controllers_of_version_1_nothing_is_read(tmp_path: Path) -> None:
    files = {"cpuset/cpu.cfs_quota_us": "1\n", "cpuset/cpu.cfs_period_us": "1\n"}
    assert counted(tmp_path, "4:cpuset:/\n", files).count == 8


def test_the_user_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number may exceed the cores, to allow experiments."""
    for named in ("1", "12", "1024"):
        monkeypatch.setenv(THREADS, named)
        found = counted(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})
        assert found == Cores(int(named), THREADS)
    monkeypatch.setenv(THREADS, "")
    assert usable_cores(tmp_path / "none", tmp_path).count == 8


@pytest.mark.parametrize("named", ["0", "-1", "1025", "two", "2.0", " 2", "²", "9" * 5000])
def test_what_is_no_number_of_threads(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, named)
    with pytest.raises(ArgumentError) as refused:
        usable_cores()
    assert str(refused.value) == (
        f"PYALEXNET_THREADS is {named!r}; a whole number from 1 to 1024 was expected."
    )
