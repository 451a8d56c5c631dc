"""The doctor checks everything, and every "no" comes with the command that fixes it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from networks import npz, written
from pyalexnet import backends, cli, data, doctor, nets
from pyalexnet.backends.cpu import CpuBackend
from pyalexnet.data.dataset import Split
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.install import pip_install
from pyalexnet.step.net import Net
from pyalexnet.trained import signals
from pyalexnet.trained.load import Trained
from pyalexnet.training import start
from pyalexnet.training.progress import Silent

SUBJECTS = (
    *("Python", "Python headers", "C++ compiler", "make", "CUDA toolkit", "NVIDIA driver", "CuPy"),
    *("module _cuda", "MPI", "NCCL", "instruction set", "threads"),
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
    for subject in ("Python", "backend cpu", "built-in data"):
        assert findings[subject].found
        assert findings[subject].essential


def test_command_prints_every_finding(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--runs", str(tmp_path)])
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
    module = findings["module _cuda"]  # which is only built for a GPU or on request
    assert module.found or "install . -C cmake.define.PYALEXNET_CUDA=ON" in module.remedy


def test_wrong_numbers_are_essential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = CpuBackend.conv_fprop

    def wrong(*arguments: Any, **more: Any) -> Any:
        return right(*arguments, **more) + 1

    monkeypatch.setattr(CpuBackend, "conv_fprop", wrong)
    finding = found(tmp_path)["backend cpu"]
    assert not finding.found
    assert "[14.0, 18.0, 26.0, 30.0]" in finding.detail
    result = CliRunner().invoke(cli.app, ["doctor", "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert "NO   backend cpu" in result.output


def test_lost_data_are_essential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise DataError("train.png is missing.")

    monkeypatch.setattr(data, "load", lost)
    finding = found(tmp_path)["built-in data"]
    assert (finding.found, finding.essential) == (False, True)
    assert finding.detail == "train.png is missing."


def test_the_pip_is_this_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").write_text("#!/bin/sh\n")
    (tmp_path / "pip").chmod(0o755)
    monkeypatch.setattr("sys.executable", "/an environment/bin/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    anew = "'/an environment/bin/python' -m pip install x"
    assert pip_install("x") == anew
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert pip_install("x") == "pip install x"
    (tmp_path / "pip").unlink()
    assert pip_install("x") == anew


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    finding = found(tmp_path / "not" / "there")["disk"]
    assert not finding.found
    assert finding.detail == f"0.0 GB free at {tmp_path}"
    assert "--runs" in finding.remedy


# Of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small AlexNet on built-in photographs, two steps long."""
    out = tmp_path_factory.mktemp("runs")
    choices = {"net": "alexnet-tiny", "backend": "cpu", "seed": 3}
    trainer = start.new(choices, out=out, config=None, reporter=Silent())
    with trainer.folder, trainer.interrupt:
        trainer.fit(2)
    return trainer.folder.path


@pytest.mark.slow
def test_initial_weights_are_drawn_anew(run: Path) -> None:
    loaded = Trained.load(run, backend="cpu", which="last")
    at_start, last = (signals.survey_of_run(loaded, at) for at in ("start", "last"))
    assert signals.verdict(at_start).state == "healthy"
    conv1, trained = (rows[1] for rows in (at_start, last))
    drawn = nets.get("alexnet-tiny")(input_shape=(28, 28, 1)).layers[0].initial((28, 28, 1), 3)
    assert math.isclose(conv1.std, float(drawn["conv1.w"].std(dtype=np.float64)))
    assert conv1.std != trained.std


def test_images_come_from_every_class(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's images are sorted by class; the first 32 would all be of one."""
    asked: list[int] = []
    right = Split.read

    def read(self: Split, indices: Any, out: Any) -> None:
        asked.extend(indices)
        right(self, indices, out)

    monkeypatch.setattr(Split, "read", read)
    signals.survey_of_run(Trained.load(run, backend="cpu"))
    assert len(asked) == 32
    assert (asked[0], asked[-1]) == (0, 9_999)
    assert 300 <= min(np.diff(asked)) <= max(np.diff(asked)) <= 340


def test_command_prints_a_table_and_the_verdict(run: Path) -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--init", str(run), "--backend", "cpu"])
    assert result.exit_code == 0, result.output
    head, columns, *rows, signal, noise, active, verdict = result.output.splitlines()
    assert head.startswith(f"{run.name}: alexnet-tiny at the start")
    assert columns.split()[:3] == ["layer", "mean", "|y|"]
    layers = [layer.name for layer in nets.get("alexnet-tiny")().layers]
    assert [row.split()[0] for row in rows] == ["images", *layers]
    assert "the image signal is healthy" in verdict
    assert len({len(line) for line in (columns, *rows)}) == 1
    explained = [line.split("  ")[0] for line in (signal, noise, active)]
    assert explained == ["signal:rms", "noise:signal", "ever active"]
    assert all(name in columns for name in explained)


def test_data_of_a_run_that_has_none(tmp_path: Path) -> None:
    """For example, an imported one."""
    imported = written(tmp_path / "imported", data=None)
    arguments = ["doctor", "--init", str(imported), "--backend", "cpu"]
    refused = CliRunner().invoke(cli.app, arguments).exception
    assert isinstance(refused, DataError) and "--data was expected" in str(refused)
    data_set = npz(tmp_path / "set.npz")
    result = CliRunner().invoke(cli.app, [*arguments, "--data", str(data_set), "--json"])
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)["layers"][0]
    trained = Trained.load(imported, backend="cpu")
    seen = np.asarray(trained.look(trained.dataset(data_set).train.images))
    assert math.isclose(first["rms"], np.sqrt((seen.astype(float) ** 2).mean()), rel_tol=1e-5)


def test_command_prints_json(run: Path) -> None:
    arguments = ["doctor", "--init", "latest", "--runs", str(run.parent), "--at", "last", "--json"]
    result = CliRunner().invoke(cli.app, [*arguments, "--backend", "cpu"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["at"], document["step"], document["net"]) == ("last", 2, "alexnet-tiny")
    assert document["verdict"]["state"] == "healthy"
    assert document["verdict"]["layer"] is None
    first, conv1 = document["layers"][:2]
    assert (first["layer"], conv1["layer"]) == ("images", "conv1")
    assert math.isclose(conv1["share"], conv1["signal"] / conv1["rms"])


def test_json_of_a_run_that_is_not_finite(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strict JSON has no NaN."""
    right = Net.activations

    def broken(self: Net, images: Any, **more: Any) -> Any:
        return ((name, output * np.float32(np.nan)) for name, output in right(self, images, **more))

    monkeypatch.setattr(Net, "activations", broken)
    arguments = ["doctor", "--init", str(run), "--json", "--backend", "cpu"]
    document = json.loads(CliRunner().invoke(cli.app, arguments).stdout)
    assert document["verdict"]["layer"] == "conv1"
    assert document["layers"][1]["rms"] is None


def test_refuses_another_place(run: Path) -> None:
    with pytest.raises(ArgumentError, match="at is 'end'; start or last was expected"):
        signals.survey_of_run(Trained.load(run, backend="cpu"), "end")


def test_json_of_this_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--json", "--runs", str(tmp_path)])
    assert [finding["subject"] for finding in json.loads(result.stdout)] == list(SUBJECTS)
