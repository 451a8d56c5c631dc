"""The doctor looks at each thing, and every "no" comes with the command that fixes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyalexnet import backends, cli, data, doctor
from pyalexnet.backends.numpy import NumpyBackend
from pyalexnet.errors import DataError

SUBJECTS = (
    *("Python", "Python headers", "C++ compiler", "make", "CUDA toolkit", "NVIDIA driver", "CuPy"),
    *(f"backend {name}" for name in backends.names()),
    *("built-in data", "CIFAR-10", "matplotlib", "disk"),
)


def found(out: Path) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine(out)}


def test_looks_at_everything(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert tuple(findings) == SUBJECTS
    for finding in findings.values():
        assert finding.detail
        assert finding.found or finding.remedy
    for subject in ("Python", "backend numpy", "built-in data"):
        assert findings[subject].found
        assert findings[subject].essential


def test_command_prints_every_finding(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    heads = [line for line in lines if not line.lstrip().startswith("fix: ")]
    assert [line[5:23].strip() for line in heads] == list(SUBJECTS)
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.startswith("no ") == following.lstrip().startswith("fix: ")


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    findings = found(tmp_path)
    assert findings["C++ compiler"].remedy == "sudo apt install g++"
    assert not findings["C++ compiler"].found
    assert findings["make"].remedy == "sudo apt install make"
    assert not findings["make"].found


def test_finds_a_compiler_and_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for path, says in (
        (tmp_path / "g++", "g++ (Debian) 12.2.0"),
        (tmp_path / "bin" / "nvcc", "Cuda compilation tools, release 13.5, V13.5.37"),
    ):
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    findings = found(tmp_path)
    assert findings["C++ compiler"].detail == "g++ (Debian) 12.2.0"
    assert findings["CUDA toolkit"].detail == f"13.5 at {tmp_path}/bin/nvcc"


def test_wrong_numbers_are_essential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = NumpyBackend.conv_fprop

    def wrong(*arguments: Any, **more: Any) -> Any:
        return right(*arguments, **more) + 1

    monkeypatch.setattr(NumpyBackend, "conv_fprop", wrong)
    finding = found(tmp_path)["backend numpy"]
    assert not finding.found
    assert "[14.0, 18.0, 26.0, 30.0]" in finding.detail
    result = CliRunner().invoke(cli.app, ["doctor", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "NO   backend numpy" in result.output


def test_lost_data_are_essential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise DataError("train.png is missing.")

    monkeypatch.setattr(data, "load", lost)
    finding = found(tmp_path)["built-in data"]
    assert (finding.found, finding.essential) == (False, True)
    assert finding.detail == "train.png is missing."


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    finding = found(tmp_path / "not" / "there")["disk"]
    assert not finding.found
    assert finding.detail == f"0.0 GB free at {tmp_path}"
    assert "--out" in finding.remedy
