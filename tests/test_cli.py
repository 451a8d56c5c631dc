"""The command: its output, the files it leaves, and how it refuses."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import pyalexnet as package
from pyalexnet import cli
from pyalexnet.commands.network import place
from pyalexnet.commands.train import naming_options
from pyalexnet.training import interrupt
from pyalexnet.training.progress import LiveReporter, Reporter
from samples import generator
from training import (
    OPTIONS,
    STEPS_AN_EPOCH,
    began,
    command,
    environment,
    heed_ctrl_c,
    last,
    photographs,
    pyalexnet,
)

ALL = ("checkpoints", "config.toml", "curves.png", "env.json", "filters.png", "lock", "log.jsonl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished run's folder, and what the command printed."""
    cwd = tmp_path_factory.mktemp("trained")
    done = pyalexnet("train", "--data", data, *OPTIONS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / "latest", done


def test_run_folder_is_complete(trained: tuple[Path, Any]) -> None:
    run, _ = trained
    assert sorted(path.name for path in run.iterdir()) == sorted(ALL)
    assert last(run).meta.step == 3 * STEPS_AN_EPOCH
    for line in (run / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] in ("start", "step", "epoch", "stop")


def test_first_lines_say_what_is_trained(trained: tuple[Path, Any]) -> None:
    head = trained[1].stdout.splitlines()[:8]
    parameters = sum(values.size for values in last(trained[0]).params.values())
    for line, part in zip(
        head,
        (
            f"alexnet-tiny: {parameters:,} parameters",
            "epochs 9 -> 3, schedules stretched; lr 0.03 -> 0.01, all rates with it",
            "quarters: 50 training and 20 test images, 12x12x1, 4 classes",
            "quarters.npz (50 + 20 images)",
            "cpu, device 0",
            "3 epochs of 6 steps, batch 8, lr 0.01, momentum 0.9",
            str(trained[0].resolve()),
            "was expected of a fresh network (ln 4 + ",
        ),
        strict=True,
    ):
        assert part in line


def test_last_lines_name_everything(trained: tuple[Path, Any]) -> None:
    run, done = trained
    tail = done.stdout[done.stdout.index("finished after step 18 in") :]
    best = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["test"]
    assert f"test accuracy {100 * (1 - best['top1_error']):.2f} %" in tail
    assert "quarters.npz (50 + 20 images" in tail
    assert f"--resume {run.resolve()} --epochs 6" in tail
    for name in set(ALL) - {"checkpoints", "lock"}:
        assert f" {name}\n" in tail
    assert "checkpoints/step-00000018" in tail


def test_plain_lines_off_a_terminal(trained: tuple[Path, Any]) -> None:
    text = trained[1].stdout
    assert trained[1].stderr == ""
    assert not [c for c in text if ord(c) < 32 and c != "\n"]
    steps = [line for line in text.splitlines() if "... loss " in line]
    assert [line.partition("...")[0] for line in steps[:4]] == ["1.2", "1.4", "1.6", "2.2"]
    assert len(steps) == 9
    for part in ("top-1 error ", "top-5 error ", " s, ", "images/s", "lr 0.002", "ETA "):
        assert part in steps[0]
    moved = [line.split() for line in text.splitlines() if " mean |dw| " in line]
    assert [line[0] for line in moved[:6]] == ["conv1", "conv2", "conv3", "conv4", "fc5", "fc6"]
    assert len(moved) == 18


def on_a_terminal(arguments: list[str], cwd: Path, **more: str) -> tuple[int, bytes]:
    """Run with standard output and error on a pseudo-terminal; return exit code and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, cwd=cwd, env=environment(**more), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text, deadline = b"", time.monotonic() + 100
    while time.monotonic() < deadline and select.select([ours], [], [], 20)[0]:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    return process.wait(timeout=20), text


def test_live_display_on_a_terminal(data: Path, tmp_path: Path) -> None:
    arguments = command("train", "--data", data, *OPTIONS, "--steps", "8")
    code, text = on_a_terminal(arguments, tmp_path, TERM="xterm-256color", COLUMNS="100")
    assert code == 0, text.decode()
    assert b"\x1b[?25l" in text
    assert text.count(b"\x1b[?25l") == text.count(b"\x1b[?25h")  # the cursor is shown again
    assert b"epoch 1/3 done" in text
    assert b"to go on" in text


def test_live_display_answers_ctrl_c() -> None:
    """Within its own lines, which it redraws: a write from a signal handler would be garbled."""
    screen = io.StringIO()
    deadline = time.monotonic() + 10
    with LiveReporter(Console(file=screen, force_terminal=True, width=100)) as reporter:
        reporter.answer(interrupt.ANSWER)
        while interrupt.ANSWER not in screen.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.every(9)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps=5"], 1),
        (["--steps=5", "--print-freq=6"], 1),
        (["--steps=5", "--print-freq=2"], 0),
        ([], 0),
    ],
)
def test_a_short_run_says_its_loss_at_the_end(
    options: list[str], said: int, data: Path, tmp_path: Path
) -> None:
    """If neither a line nor the end of an epoch has reported it yet."""
    done = pyalexnet("train", "--data", data, "-b8", "--epochs=1", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"epoch 1 so far: train loss (\d\.\d{4}), top-1 error [\d.]+ %", done.stdout)
    assert len(told) == said
    sums = last(tmp_path / "runs" / "latest").meta.metrics["epoch_sums"]
    assert not told or float(told[0]) == pytest.approx(sums["loss"] / sums["images"], abs=5e-5)


@pytest.mark.every(9)
@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"TERM": "xterm", "option": "--plain"}])
def test_no_control_codes_where_they_are_not_wanted(
    extra: dict[str, str], data: Path, tmp_path: Path
) -> None:
    extra = dict(extra)
    option = [extra.pop("option")] if "option" in extra else []
    arguments = command("train", "--data", data, *OPTIONS, "--steps=2", *option)
    code, text = on_a_terminal(arguments, tmp_path, **extra)
    assert code == 0, text.decode()
    assert b"\x1b" not in text
    assert b"1.2... loss" in text


@pytest.mark.slow
@pytest.mark.parametrize("how", ["| head -n 1", ">&-", ">&$0"])
def test_lost_output_does_not_stop_the_training(
    how: str, data: Path, tmp_path: Path, full: int
) -> None:
    line = " ".join(command("train", "--data", data, *OPTIONS))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {how}", str(full)],
        pass_fds=(full,),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert last(tmp_path / "runs" / "latest").meta.step == 3 * STEPS_AN_EPOCH


def test_a_stream_whose_reader_is_gone_leads_nowhere() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    reporter = Reporter(stream)
    os.close(reading)
    reporter.say("nobody hears this")
    reporter.say("nor this")
    os.write(writing, b"nor what others write, which is no error either")
    stream.close()


@pytest.mark.slow
def test_ascii_locale(data: Path, tmp_path: Path) -> None:
    named = tmp_path / "fotos-é-写真.npz"
    named.write_bytes(data.read_bytes())
    locale = environment(LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = pyalexnet("train", "--data", named, *OPTIONS, "--steps=2", cwd=tmp_path, env=locale)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.2... loss" in done.stdout
    again = pyalexnet("train", "--resume", "latest", "--steps=3", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


# Refusals: one sentence, nothing lost, nothing left behind


def refused(*arguments: str | Path, cwd: Path) -> str:
    """The sentence with which the command refuses, before a run folder is made."""
    done = pyalexnet("train", *arguments, cwd=cwd)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    runs = cwd / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []
    return str(done.stderr)


def sentence(cwd: Path, *arguments: str | Path) -> str:
    """The same without a process: the error that `__main__` would print."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        result = CliRunner().invoke(cli.app, ["train", *map(str, arguments)])
    assert isinstance(result.exception, package.errors.PyalexnetError), arguments
    assert "\n" not in str(result.exception)
    assert not list(cwd.glob("runs/*"))
    return str(result.exception)


def test_refuses_data(data: Path, tmp_path: Path) -> None:
    images = np.zeros((40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 10
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused("--data", empty, cwd=tmp_path)
    ten = tmp_path / "ten.npz"
    labels[17] = 10
    np.savez(ten, images=images, labels=labels, class_names=[f"class {i}" for i in range(10)])
    assert "10" in sentence(tmp_path, "--data", ten)
    spoilt = tmp_path / "nan.npz"
    np.savez(spoilt, images=np.full((40, 8, 8, 1), np.nan, np.float32), labels=np.arange(40) % 10)
    assert "float32" in sentence(tmp_path, "--data", spoilt)
    assert "No such file" in sentence(tmp_path, "--data", tmp_path / "none")


def test_refuses_choices(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, named in (
        (("--net", "vgg"), "alexnet-tiny"),
        (("--lr", "-1"), "--lr is -1; a number above 0 was expected."),
        (("--momentum", "2"), "--momentum is 2; at least 0 and less than 1 was expected."),
        (("--momentum", "1"), "--momentum is 1; at least 0 and less than 1 was expected."),
        (("--epochs", "0"), "--epochs is 0; a number above 0 was expected."),
        (("-b", "0"), "--batch-size is 0; at least 1 was expected."),
        (("--wd", "-1"), "--weight-decay is -1; at least 0 was expected."),
        (("-j-1",), "--workers is -1; at least 0 was expected."),
        (("--chance-steps=-1",), "--chance-steps is -1"),
        (("--dropout", "1"), "--dropout is 1; at least 0 and less than 1 was expected."),
        (("--net=alexnet", "--crop-chunk=0"), "--crop-chunk is 0; at least 1 was expected."),
        (("--net=alexnet", "--pooling=4/3"), "--pooling is '4/3'; 3/2 or 2/2 was expected."),
        (("--device", "tpu"), "cuda:1"),
        (("--device", "cpu", "--backend", "sim"), "one was expected"),
        (("--net", "alexnet"), "alexnet cannot take the 12x12x1 images of quarters: pool2:"),
        (("--runs", "file"), "file: cannot be written"),
        (("--resume", "latest"), "no run folder"),
        (("--resume", "latest", "--config", "x"), "--config"),
        (("--config", "none.toml"), "none.toml"),
    ):
        assert named in sentence(tmp_path, "--data", data, *arguments), arguments


@pytest.mark.slow
def test_refuses_what_no_option_gave_by_its_own_name(data: Path, tmp_path: Path) -> None:
    begun = began(tmp_path, data)
    begun.folder.close()
    good = (begun.folder.path / "config.toml").read_text()
    config, elsewhere = tmp_path / "config.toml", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for old, new, said in (
        ("momentum = 0.9", "momentum = 1", "recipe: momentum is 1; at least 0 and less than 1 "),
        ("seed = 0", "seed = -1", "run: seed is -1; 0 to 18446744073709551615 "),
    ):
        assert good.count(old) == 1
        config.write_text(good.replace(old, new))
        line = refused("--config", config, "--lr=0.01", cwd=elsewhere)
        assert line == f"error: {config}: {said}was expected.\n"
    with (
        pytest.raises(package.errors.ArgumentError, match=r"^recipe: batch_size is 0;"),
        naming_options({"lr": 0.1}),
    ):
        began(tmp_path, data, batch_size=0)


@pytest.mark.slow
def test_full_disk_at_a_checkpoint(data: Path, tmp_path: Path) -> None:
    begun = pyalexnet("train", "--data", data, *OPTIONS, "--steps=6", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    largest = 100_000  # bytes; the parameters are more

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    done = pyalexnet("train", "--resume", "latest", cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "step-00000012" in done.stderr
    assert "bytes are needed" in done.stderr
    run = tmp_path / "runs" / "latest"
    assert last(run).meta.step == STEPS_AN_EPOCH
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000006"]
    assert pyalexnet("train", "--resume", "latest", cwd=tmp_path).returncode == 0
    assert last(run).meta.step == 3 * STEPS_AN_EPOCH


def test_diverging_run_exits_with_3(data: Path, tmp_path: Path) -> None:
    done = pyalexnet("train", "--data", data, *OPTIONS, "--lr=1e9", cwd=tmp_path)
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: step ")
    assert "lr 2e+08" in done.stderr  # a fifth of it at the start, by the schedule
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_traceback_on_request(tmp_path: Path) -> None:
    env = environment(PYALEXNET_TRACEBACK="1")
    done = pyalexnet("train", "--data", "none", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_out_is_looked_at_before_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("in the way")
    monkeypatch.setattr("pyalexnet.data.load", lambda *_, **__: pytest.fail("loaded data first"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["train"])
    assert isinstance(result.exception, package.errors.RunError)
    assert "runs: cannot be written" in str(result.exception)


def test_ctrl_c_while_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyalexnet.data.load", interrupted)
    result = CliRunner().invoke(cli.app, ["train", "--runs", str(tmp_path / "runs")])
    assert (result.exit_code, result.output) == (130, "stopped by Ctrl-C\n")


STRIKE = """
import os, signal, sys

class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRIKE_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Strike())
"""
"""For `sitecustomize.py`: Ctrl-C when a module is about to be imported."""


def struck(at: str, *arguments: str | Path, cwd: Path, **more: Any) -> Any:
    (cwd / "sitecustomize.py").write_text(STRIKE)
    path = os.pathsep.join((str(cwd), environment()["PYTHONPATH"]))
    env = environment(STRIKE_AT=at, PYTHONPATH=path)
    return pyalexnet(*arguments, cwd=cwd, env=env, **{"preexec_fn": heed_ctrl_c, **more})


@pytest.mark.parametrize("at", ["pyalexnet.cli", "typer", "pyalexnet.commands.train"])
def test_ctrl_c_while_the_command_is_imported(at: str, tmp_path: Path) -> None:
    done = struck(at, "presets", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped by Ctrl-C before anything was begun\n"


@pytest.mark.every(9)
@pytest.mark.parametrize("at", ["numpy", "numpy.linalg", "pyalexnet.training.start", "PIL.Image"])
def test_ctrl_c_while_a_command_begins(at: str, tmp_path: Path) -> None:
    done = struck(at, "train", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by Ctrl-C\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("at", ["argparse", "numpy", "bench.cli", "bench.suites"])
def test_ctrl_c_while_the_bench_is_imported(at: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STRIKE)
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"],
        cwd=tmp_path,
        env=environment(STRIKE_AT=at, PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heed_ctrl_c,
    )
    said = "stopped by Ctrl-C before anything was begun\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


STARTS = {
    "pyalexnet": [str(Path(sys.executable).with_name("pyalexnet")), "presets"],
    "python -m pyalexnet": [sys.executable, "-m", "pyalexnet", "presets"],
    "python -m bench": [sys.executable, "-m", "bench", "--help"],
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STARTS)
def test_ctrl_c_at_any_moment_of_the_start(how: str) -> None:
    """Before our first line, Python answers in its own way; after that, we do, in one line."""
    if how == "pyalexnet" and not Path(STARTS[how][0]).exists():
        pytest.skip("the package is not installed")

    def begun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            STARTS[how],
            cwd=Path(__file__).parent.parent,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,
        )

    before = time.monotonic()
    first = begun()
    first.communicate()
    whole = time.monotonic() - before
    assert first.returncode == 0
    answers: list[int] = []
    for moment in generator(len(how)).uniform(0, whole, 8).tolist():
        process = begun()
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        if process.returncode == 130:
            assert re.fullmatch("stopped by Ctrl-C( before anything was begun)?\n", said)
        elif process.returncode != 0:  # otherwise it finished before the signal
            inside = re.findall(r'File ".*/(?:pyalexnet|bench)/(\w+)\.py"', said)
            assert set(inside) <= {"__init__", "__main__"}, said
        answers.append(process.returncode)
    assert 130 in answers, answers


def test_ctrl_c_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As in a process that a script starts in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    done = struck("pyalexnet.cli", "--version", cwd=tmp_path, preexec_fn=ignore)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_is_there_before_what_takes_long_to_import(tmp_path: Path) -> None:
    script = (
        "import sys, pyalexnet.__main__\n"
        "assert not {'numpy', 'typer', 'rich'} & sys.modules.keys()\n"
        "for name in pyalexnet.__all__:\n"
        "    assert getattr(pyalexnet, name), name\n"
        "assert pyalexnet.Net is pyalexnet.step.net.Net\n"
        "assert pyalexnet.backend('cpu').name == 'cpu'\n"
        "from pyalexnet import *\n"
        "assert nets.get('alexnet') and not hasattr(pyalexnet, 'nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), check=False)
    assert done.returncode == 0


def test_version() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"pyalexnet {package.__version__}\n")


def test_python_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyalexnet", "--help"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("train", "data", "doctor"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("backend", "device", "expected"),
    [
        (None, None, (None, None)),
        ("sim", "1", ("sim", 1)),
        (None, "cpu", ("cpu", 0)),
        ("auto", "cuda", ("cuda", 0)),
        ("cuda", "cuda:3", ("cuda", 3)),
        (None, "gpu:1", ("cuda", 1)),
    ],
)
def test_device_as_in_pytorch(backend: str | None, device: str | None, expected: object) -> None:
    assert place(backend, device) == expected


def test_data_get_hands_on_what_download_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(name: str, **more: Any) -> Path:
        more["say"]("trying a mirror")
        more["progress"](5, 10)
        assert more["folder"] == tmp_path
        return tmp_path / f"{name}.tar.gz"

    monkeypatch.setattr("pyalexnet.data.download.get", get)
    result = CliRunner().invoke(cli.app, ["data", "get", "cifar10", "--to", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "trying a mirror" in result.output
    assert f"--data {tmp_path}/cifar10.tar.gz" in result.output


def test_data_get_refuses_another_name(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["data", "get", "imagenet", "--to", str(tmp_path)])
    assert isinstance(result.exception, package.errors.PyalexnetError)
    assert "cifar10" in str(result.exception)
    assert "imagenet" in str(result.exception)
