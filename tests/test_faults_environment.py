"""Unfavourable streams, locales, homes, packages, clocks and disks, and files edited by hand.

Training continues where it can; every other request ends in one sentence, without a traceback, and
with an exit code other than 0.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from networks import files, npz, pictures, written
from pyalexnet import cli, show
from pyalexnet.errors import ArgumentError, PyalexnetError, RunError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.checkpoint import Checkpoint
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import History
from pyalexnet.training.progress import Silent
from training import (
    OPTIONS,
    STEPS_AN_EPOCH,
    Hook,
    assert_same,
    began,
    command,
    environment,
    fitted,
    last,
    photographs,
    resumed,
)

STEPS = 3 * STEPS_AN_EPOCH


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "quarters.npz")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a network with random weights, with its data, and images in `pictures`."""
    folder = tmp_path_factory.mktemp("network")
    given = npz(folder / "set.npz")
    files(folder / "pictures", pictures(3))
    run = written(folder / "run", data=str(given))
    (run / "log.jsonl").write_text("")
    return run


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 3 epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
        trainer = began(tmp_path_factory.mktemp("straight"), data)
        fitted(trainer)
    return trainer.folder.path


class Listener(Silent):
    """Keeps the warnings; calls `strike` after each step."""

    def __init__(self, strike: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.strike, self.warned = strike, list[str]()

    def warn(self, sentence: str) -> None:
        self.warned.append(sentence)

    def step(self, report: Any, *, due: bool) -> None:
        self.strike(report.step)


def started(*arguments: str | Path, cwd: Path, how: str = "", **more: Any) -> Any:
    """Run the command to its end in a shell, where `how` redirects its streams."""
    call = " ".join(f"'{part}'" for part in command(*arguments))
    options = {"env": environment(), "capture_output": True, "timeout": 120, **more}
    return subprocess.run(["bash", "-c", f"{call} {how}"], cwd=cwd, check=False, **options)


def assert_sentence(errors: str) -> None:
    """Check for one line that begins with `error: `, or typer's frame around a usage error."""
    assert "Traceback" not in errors, errors
    if errors.startswith(("Usage", " Usage", "\n Usage")):
        return
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors


# Streams


ANSWERS: dict[str, list[str]] = {
    "presets": ["presets"],
    "presets --json": ["presets", "--json"],
    "predict": ["predict", "RUN", "PICTURES"],
    "predict --json": ["predict", "RUN", "PICTURES", "--json"],
    "evaluate": ["evaluate", "RUN"],
    "doctor --init": ["doctor", "--init", "RUN"],
    "show filters": ["show", "filters", "RUN"],
    "--help": ["--help"],
    "--version": ["--version"],
}


def filled_in(arguments: list[str], network: Path) -> list[str]:
    places = {"RUN": str(network), "PICTURES": str(network.parent / "pictures")}
    return [places.get(part, part) for part in arguments]


def answers_into(how: str, name: str, network: Path, cwd: Path, full: int) -> None:
    """An answer that cannot be written completely is a failure, without a traceback."""
    arguments = filled_in(ANSWERS[name], network)
    if how == "full":
        done = started(
            *arguments, cwd=cwd, stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
        assert done.returncode == 2, (name, done.stderr)
        assert_sentence(done.stderr.decode())
    elif how == "all full":
        done = started(*arguments, cwd=cwd, stdout=full, stderr=full, capture_output=False)
        assert done.returncode == 2, name
    else:
        done = started(*arguments, cwd=cwd, how=how)
        # In a pipe this is the exit code of `head`; there, no complaint may appear.
        assert done.returncode == 0, (name, done.stderr)
        assert done.stderr == b"", name


@pytest.mark.every(9)
@pytest.mark.parametrize("how", ["full", "all full", "| head -n 1", ">&-", "<&- >&- 2>&-"])
def test_stream_of_an_answer(how: str, network: Path, tmp_path: Path, full: int) -> None:
    answers_into(how, "presets --json", network, tmp_path, full)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["full", "all full", "| head -n 1", ">&-", "<&- >&- 2>&-"])
def test_stream_of_any_answer(
    how: str, network: Path, tmp_path: Path, full: int, tried: Callable[..., None]
) -> None:
    for name in ANSWERS:
        answers_into(how, name, network, tmp_path, full)
    tried(
        f"standard streams: {how.replace('|', 'piped into')}",
        len(ANSWERS),
        "a sentence or silence, never a traceback",
    )


@pytest.mark.every(9)
@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
def test_training_into_a_full_disk_of_output(
    which: str, data: Path, tmp_path: Path, full: int
) -> None:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    streams |= {name: full for name in streams if which in (name, "both")}
    done = started("train", "--data", data, *OPTIONS, cwd=tmp_path, capture_output=False, **streams)
    assert done.returncode == 0
    assert not done.stderr
    assert last(tmp_path / "runs" / "latest").meta.step == STEPS


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(("--data", "none"), 2), (("--lr=1e9",), 3)])
def test_refusal_that_nobody_can_read(
    arguments: tuple[str, ...], code: int, data: Path, tmp_path: Path, full: int
) -> None:
    given: tuple[str | Path, ...] = ("--data", data, *OPTIONS, *arguments)
    for how in ("2>&-", ">&- 2>&-"):
        done = started("train", *given, cwd=tmp_path, how=how)
        assert (done.returncode, done.stderr) == (code, b"")
        assert b"error: " not in done.stdout  # it is not part of an answer
    done = started("train", *given, cwd=tmp_path, stdout=full, stderr=full, capture_output=False)
    assert done.returncode == code


def hooked(folder: Path, code: str, **more: str) -> dict[str, str]:
    """An environment in which every process runs `code` before anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    env = environment(**more)
    return env | {"PYTHONPATH": f"{folder}{os.pathsep}{env['PYTHONPATH']}"}


@pytest.mark.slow
def test_no_file_of_a_run_gets_the_number_of_a_closed_stream(data: Path, tmp_path: Path) -> None:
    """What a library writes to standard error must not land in the log or in a checkpoint."""
    env = hooked(
        tmp_path / "hooks",
        "import os\n"
        "from pyalexnet.training.train import Trainer\n"
        "original = Trainer._step\n"
        "def noisy(self, images, labels):\n"
        "    for number in (0, 1, 2):\n"
        "        os.write(number, b'noise of a library')\n"
        "    original(self, images, labels)\n"
        "Trainer._step = noisy\n",
    )
    done = started("train", "--data", data, *OPTIONS, cwd=tmp_path, how="<&- >&- 2>&-", env=env)
    assert done.returncode == 0
    run = (tmp_path / "runs" / "latest").resolve()
    assert last(run).meta.step == STEPS
    for path in run.rglob("*"):
        assert not path.is_file() or b"noise" not in path.read_bytes(), path


# Locales and names


NAMES = ("猫", "Ελλάδα", "عربى", "नमस्ते", "🐈", "é\u0301", "a b'\"$&", "\u202ereversed")


def named_photographs(folder: Path) -> Path:
    """Eight classes of photographs, with names in every script."""
    images = pictures(12 * len(NAMES), side=16)
    for number, name in enumerate(NAMES):
        files(folder / name, images[12 * number : 12 * (number + 1)])
    return folder


def in_the_locale_c(folder: Path, calls: list[list[str | Path]]) -> int:
    """Run commands where Python assumes ASCII for file names and streams."""
    env = environment(
        LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=""
    )
    for arguments in calls:
        done = started(*arguments, cwd=folder, env=env)
        assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
        assert done.stderr == b"", arguments
    return len(calls)


@pytest.mark.slow
def test_names_in_the_locale_c(tmp_path: Path) -> None:
    photos = named_photographs(tmp_path / "Fotos-写真")
    in_the_locale_c(tmp_path, [["train", "--data", photos.name, *OPTIONS, "--steps=2"]])
    run = tmp_path / "runs" / "latest"
    assert set(last(run).meta.class_names) == set(NAMES)
    # A run started there continues anywhere.
    assert fitted(resumed(run.resolve()), 3).interrupt is None
    assert last(run).meta.step == 3


@pytest.mark.faults
def test_every_command_in_the_locale_c(tmp_path: Path, tried: Callable[..., None]) -> None:
    photos = named_photographs(tmp_path / "Fotos-写真")
    one = next((photos / NAMES[0]).iterdir())
    calls: list[list[str | Path]] = [
        ["train", "--data", photos, *OPTIONS, "--steps=6"],
        ["evaluate", "latest"],
        ["evaluate", "latest", "--json"],
        ["predict", "latest", photos, "--sheet", "sheet.png"],
        ["predict", "latest", photos, "--json", "--labels"],
        ["similar", "latest", one, "--index", photos],
        ["features", "latest", photos],
        ["probe", "latest"],
        ["doctor"],
        ["doctor", "--init", "latest"],
        ["data", "prepare", photos, "packed", "--size", "16"],
        ["train", "--net=alexnet-tiny", "--data", "packed", *OPTIONS, "--steps=6"],
        ["show", "curves", "latest"],
        ["show", "filters", "latest"],
        ["show", "predictions", "latest"],
        ["show", "similar", "latest"],
        ["show", "batch", "latest"],
        ["show", "maps", "latest"],
        ["train", "--resume", "latest", "--steps=7"],
    ]
    times = in_the_locale_c(tmp_path, calls)
    tried("LANG=C without UTF-8, names in eight scripts", times, "every command answers")


# Homes


HOMES: dict[str, dict[str, str | None]] = {
    "read-only": {"HOME": "UNWRITABLE", "XDG_CACHE_HOME": "UNWRITABLE/cache"},
    "missing": {"HOME": "UNWRITABLE/nobody", "XDG_CACHE_HOME": None},
    "none": {"HOME": None, "XDG_CACHE_HOME": None},
    "empty": {"HOME": "", "XDG_CACHE_HOME": ""},
}


OFTEN = [pytest.param(home, marks=pytest.mark.faults) for home in ("read-only", "empty")]


@pytest.mark.slow
@pytest.mark.parametrize("home", ["missing", "none", *OFTEN])
def test_home_that_cannot_be_used(home: str, network: Path, tmp_path: Path) -> None:
    """Built-in data, pictures and doctor need none; commands that need the cache say so."""
    barred = tmp_path / "barred"
    barred.write_text("a file, so that not even root makes folders in it")
    env = hooked(
        tmp_path / "hooks",
        # The system does not know this user's home either.
        "import pwd\n"
        "def nobody(*_):\n"
        "    raise KeyError('nobody')\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n",
    )
    for name, value in HOMES[home].items():
        env.pop(name, None)
        if value is not None:
            env[name] = value.replace("UNWRITABLE", str(barred))
    work = tmp_path / "work"
    work.mkdir()
    done = started("train", "--backend=cpu", "--steps=2", cwd=work, env=env)
    assert done.returncode == 0, done.stderr
    assert (work / "runs" / "latest" / "filters.png").is_file()
    assert started("doctor", cwd=work, env=env).returncode == 0
    missing = started("train", "--data=cifar10", cwd=work, env=env)
    assert missing.returncode == 2
    assert_sentence(missing.stderr.decode())
    assert sorted(path.name for path in work.iterdir()) == ["runs"]  # no folder "~", nor any other


# Missing packages


WITHOUT = """\
import importlib.machinery
original = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {names!r} else original(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""

NEEDED: tuple[tuple[str, list[str], str], ...] = (
    ("matplotlib", ["show", "filters", "RUN"], "pip install matplotlib"),
    ("matplotlib", ["show", "predictions", "RUN"], "pip install matplotlib"),
    ("matplotlib", ["show", "maps", "RUN"], "pip install matplotlib"),
    ("matplotlib", ["predict", "RUN", "PICTURES", "--sheet", "x.png"], "pip install matplotlib"),
    ("onnx", ["export", "RUN", "x.onnx"], "pip install 'pyalexnet[onnx]'"),
    ("onnxruntime", ["export", "RUN", "x.onnx"], "pip install 'pyalexnet[onnx]'"),
    ("google", ["import", "x.caffemodel", "new"], "pip install 'pyalexnet[caffe]'"),
    ("torch", ["import", "x.pth", "new"], "PyTorch 2.10 or newer"),
    ("tensorboardX", ["train", "--tensorboard"], 'pip install "pyalexnet[tensorboard]"'),
    ("cupy", ["train", "--backend", "cuda"], 'pip install "pyalexnet[cuda'),
)


def says_what_to_install(
    package: str, arguments: list[str], remedy: str, network: Path, cwd: Path
) -> None:
    env = hooked(cwd / f"without-{package}", WITHOUT.format(names={package}))
    (cwd / "x.pth").write_bytes(b"PK\x03\x04")
    (cwd / "x.caffemodel").write_bytes(b"x")
    done = started(*filled_in(arguments, network), cwd=cwd, env=env)
    assert done.returncode == 2, done.stderr
    assert_sentence(done.stderr.decode())
    assert remedy in done.stderr.decode(), done.stderr
    assert not (cwd / "x.onnx").exists()


@pytest.mark.every(3)
@pytest.mark.parametrize(("package", "arguments", "remedy"), [NEEDED[0], NEEDED[4], NEEDED[8]])
def test_missing_package(
    package: str, arguments: list[str], remedy: str, network: Path, tmp_path: Path
) -> None:
    says_what_to_install(package, arguments, remedy, network, tmp_path)


@pytest.mark.faults
def test_every_missing_package(network: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    for package, arguments, remedy in NEEDED:
        says_what_to_install(package, arguments, remedy, network, tmp_path)
    tried("a package that is missing", len(NEEDED), "one sentence with what to install")


def test_training_needs_no_optional_package(data: Path, tmp_path: Path) -> None:
    names = {package for package, _, _ in NEEDED} | {"simplejpeg"}
    env = hooked(tmp_path / "hooks", WITHOUT.format(names=names))
    done = started("train", "--data", data, *OPTIONS, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    output = done.stdout.decode()
    assert output.count("warning: ") == 1
    assert "pictures need matplotlib (No module named 'matplotlib'" in output
    run = tmp_path / "runs" / "latest"
    assert last(run).meta.step == STEPS
    assert not list(run.glob("*.png"))


# Clocks


@contextlib.contextmanager
def jumping_clock(seed: int) -> Iterator[None]:
    """The date jumps by years, both ways; monotonic clocks stand still or jump."""
    draws = random.Random(seed)
    now = {"monotonic": 1e6}

    def date(zone: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(draws.uniform(0, 4e9), zone)

    def onward() -> float:
        now["monotonic"] += draws.choice((0.0, 0.0, 1e-9, 0.1, 86400.0))
        return now["monotonic"]

    clock = types.SimpleNamespace(
        datetime=types.SimpleNamespace(now=date),
        date=types.SimpleNamespace(today=lambda: date().date()),
        UTC=datetime.UTC,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyalexnet.runs.run.datetime", clock)
        patch.setattr(time, "time", lambda: draws.uniform(0, 4e9))
        patch.setattr(time, "perf_counter", onward)
        patch.setattr(time, "monotonic", onward)
        yield


def trained_by_a_jumping_clock(seed: int, data: Path, straight: Path, out: Path) -> None:
    with jumping_clock(seed), pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
        trainer = began(out, data)
        fitted(trainer, random.Random(seed).randrange(1, STEPS))
        run = trainer.folder.path
        fitted(resumed(run))
    assert_same(run, straight)
    assert History.read(run / "log.jsonl") == History.read(straight / "log.jsonl")


@pytest.mark.parametrize("seed", [0, 1])
def test_clock_that_jumps(seed: int, data: Path, straight: Path, tmp_path: Path) -> None:
    trained_by_a_jumping_clock(seed, data, straight, tmp_path)


@pytest.mark.faults
def test_clock_that_jumps_often(
    data: Path, straight: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    runs = 20
    for seed in range(100, 100 + runs):
        try:
            trained_by_a_jumping_clock(seed, data, straight, tmp_path / str(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    tried("clock jumps years both ways, or stands still", runs, "same bits as without, resumed too")


# Full disks


def whole_lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def logs_on_a_filling_disk(seed: int, data: Path, out: Path) -> None:
    """For some lines, the disk takes part of the line or nothing; then it has space again."""
    draws = random.Random(seed)
    listener = Listener()
    trainer = began(out, data, listener, print_freq=1, epochs=2)
    write, left = os.write, [draws.randrange(1500)]

    def filling(file: int, content: bytes) -> int:
        if draws.random() < 0.02:
            left[0] = draws.randrange(1500)  # space has been freed
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(file, content[: left[0]])
        left[0] -= taken
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
        patch.setattr(os, "write", filling)
        assert fitted(trainer).finished
    records = whole_lines(trainer.folder.path / "log.jsonl")
    assert len(records) < 2 * STEPS_AN_EPOCH + 4, "the disk never was full"
    assert [sentence for sentence in listener.warned if "log.jsonl misses lines" in sentence]
    assert len(listener.warned) == 1, listener.warned
    assert last(trainer.folder.path).meta.step == 2 * STEPS_AN_EPOCH


@pytest.mark.parametrize("seed", range(3))
def test_log_on_a_filling_disk(seed: int, data: Path, tmp_path: Path) -> None:
    logs_on_a_filling_disk(seed, data, tmp_path)


@pytest.mark.faults
def test_log_on_a_filling_disk_often(
    data: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    runs = 50
    for seed in range(100, 100 + runs):
        try:
            logs_on_a_filling_disk(seed, data, tmp_path / str(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    tried("disk full at any byte of log.jsonl", runs, "whole lines, one warning, training goes on")


@pytest.mark.slow
def test_log_that_reaches_the_limit_of_its_size(data: Path, tmp_path: Path) -> None:
    """Enforced by the kernel: no file may grow further, including the log."""
    trainer = began(tmp_path / "runs", data)
    fitted(trainer, STEPS_AN_EPOCH)
    run = trainer.folder.path
    largest = 2**21
    log = run / "log.jsonl"
    filler = json.dumps({"kind": "test", "filler": "x" * 1000}) + "\n"
    with log.open("a") as file:
        while file.tell() < largest - 2500:
            file.write(filler)
    before = len(whole_lines(log))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    done = started("train", "--resume", "latest", cwd=tmp_path, preexec_fn=limit)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert done.stdout.count(b"log.jsonl misses lines: File too large") == 1
    assert before < len(whole_lines(log)) < before + 10
    assert last(run).meta.step == STEPS


@pytest.mark.every(9)
@pytest.mark.parametrize("moment", [0, 1, 100])
def test_picture_on_a_full_disk(
    moment: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The existing one stays; none is left half written."""
    path = tmp_path / "curves.png"
    history = History.read(straight / "log.jsonl")
    show.curves(history, path, title="before")
    before = path.read_bytes()
    real = Path.replace

    def limited(self: Path, target: Path) -> Path:
        self.write_bytes(self.read_bytes()[:moment])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "replace", limited)
    with pytest.raises(OSError, match="No space left"):
        show.curves(history, path, title="after")
    monkeypatch.setattr(Path, "replace", real)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["curves.png"]


def test_training_goes_on_without_a_picture(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyalexnet.show.curves", full)
    monkeypatch.setattr("pyalexnet.training.pictures._SECONDS_BETWEEN_PICTURES", 0.0)
    listener = Listener()
    trainer = began(tmp_path, data, listener)
    assert fitted(trainer).finished
    assert listener.warned == [f"{trainer.folder.path} lacks a picture: No space left on device."]


@pytest.mark.peer
@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", ["__init__", "write", "flush"])
def test_tensorboard_on_a_full_disk(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer without its thread would wait for it for ever."""
    from tensorboardX.record_writer import RecordWriter

    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def strike(step: int) -> None:
        if step == 4:
            monkeypatch.setattr(RecordWriter, method, full)

    monkeypatch.setattr("pyalexnet.training.tensorboard._SECONDS_BETWEEN_WRITES", 0)
    if method == "__init__":
        monkeypatch.setattr(RecordWriter, method, full)
    listener = Listener(strike)
    trainer = began(tmp_path, data, listener, tensorboard=True, print_freq=1, epochs=10)
    assert fitted(trainer).finished
    (warning,) = listener.warned
    assert "TensorBoard" in warning and "No space left" in warning


# Run folders changed by others


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "another run's"])
def test_run_folder_gone_while_training(
    how: str, step: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)

    def strike(done: int) -> None:
        run = trainer.folder.path
        if done != step:
            return
        if how == "moved":
            run.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run)
        if how == "replaced":
            run.write_text("a file")
        if how == "another run's":
            run.mkdir()
            (run / "lock").touch()

    trainer = began(tmp_path / "runs", data, Hook(strike))
    with pytest.raises(RunError, match="was deleted or moved"):
        fitted(trainer)
    assert not (trainer.folder.path / "checkpoints").exists()
    if how == "moved":
        saved = tmp_path / "elsewhere" / "checkpoints"
        assert len(list(saved.iterdir())) == (step > STEPS_AN_EPOCH)


@pytest.mark.every(9)
@pytest.mark.parametrize(
    "options", [(), pytest.param(("--tensorboard",), marks=pytest.mark.peer)], ids=str
)
def test_command_whose_run_folder_is_deleted(
    options: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    env = hooked(
        tmp_path / "hooks",
        "import shutil\n"
        "from pyalexnet.training.train import Trainer\n"
        "original = Trainer._step\n"
        "def without(self, images, labels):\n"
        "    if self.at.step == 8:\n"
        "        shutil.rmtree(self.folder.path)\n"
        "    original(self, images, labels)\n"
        "Trainer._step = without\n",
    )
    done = started("train", "--data", data, *OPTIONS, *options, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert_sentence(done.stderr.decode())
    assert b"was deleted" in done.stderr


def test_log_deleted_while_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)

    def strike(done: int) -> None:
        if done == 8:
            (trainer.folder.path / "log.jsonl").unlink()

    listener = Listener(strike)
    trainer = began(tmp_path, data, listener)
    assert fitted(trainer).finished
    (warning,) = listener.warned
    assert "log.jsonl misses lines: it was deleted" in warning
    assert last(trainer.folder.path).meta.step == STEPS


def test_checkpoints_deleted_while_training(
    data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is still written."""
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)

    def strike(done: int) -> None:
        if done == 8:
            shutil.rmtree(trainer.folder.checkpoints)

    trainer = began(tmp_path, data, Hook(strike))
    assert fitted(trainer).finished
    assert_same(trainer.folder.path, straight)


# config.toml, edited by hand


WRONG = (
    '"a word"',
    '""',
    "-1",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "99999999999999999999999999",
    "true",
    "[]",
    "[1, 2, 3]",
    "{ a = 1 }",
    "1979-05-27",
    '"\\u0000"',
)


def config_lines(text: str) -> list[int]:
    """Numbers of the lines with a value."""
    return [at for at, line in enumerate(text.splitlines()) if " = " in line and line[0] != "#"]


def with_line(text: str, at: int, new: str | None) -> str:
    parts = text.splitlines()
    parts[at : at + 1] = [] if new is None else [new]
    return "\n".join(parts) + "\n"


def read_by_hand(folder: Path, text: str | bytes) -> Config | str:
    """The result of reading a config.toml: its values, or the sentence that refuses it."""
    path = folder / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        return Config.load(path)
    except ArgumentError as error:
        sentence = str(error)
        assert sentence.startswith(str(path)) or "config.toml" in sentence or ":" in sentence
        assert "\n" not in sentence, sentence
        return sentence


@pytest.mark.slow
def test_wrong_values_are_named(straight: Path, tmp_path: Path) -> None:
    """Each value of the wrong kind, in each place: refused by name, or possible."""
    good = (straight / "config.toml").read_text()
    refused = 0
    for at in config_lines(good):
        name = good.splitlines()[at].partition(" = ")[0]
        for value in WRONG:
            found = read_by_hand(tmp_path, with_line(good, at, f"{name} = {value}"))
            if isinstance(found, str):
                assert name in found, (name, value, found)
                refused += 1
    assert refused > 8 * len(config_lines(good))


def test_missing_doubled_and_unknown_values(straight: Path, tmp_path: Path) -> None:
    good = (straight / "config.toml").read_text()
    for at in config_lines(good):
        line = good.splitlines()[at]
        name = line.partition(" = ")[0]
        missing = read_by_hand(tmp_path, with_line(good, at, None))
        assert not isinstance(missing, str) or name in missing, missing
        doubled = read_by_hand(tmp_path, with_line(good, at, f"{line}\n{line}"))
        assert isinstance(doubled, str)
        unknown = read_by_hand(tmp_path, with_line(good, at, f"{line}\nx{name} = 1"))
        assert isinstance(unknown, str), name
    for junk in (b"", b"\x00", b"\xff\xfe", b"PK\x03\x04", b"[" * 5000, b"a=" + b"[" * 5000):
        assert isinstance(read_by_hand(tmp_path, junk), str)


def resumes_or_refuses(run: Path, text: str | bytes) -> str:
    """Resume a run with this config.toml; return how that ended. No other exception may occur."""
    (run / "config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        trainer = resumed(run)
    except (PyalexnetError, MemoryError) as error:
        return str(error)
    trainer.folder.close()
    return ""


def damaged(draws: random.Random, good: str) -> str | bytes:
    """A config.toml spoilt in some way."""
    at = draws.choice(config_lines(good))
    name, _, old = good.splitlines()[at].partition(" = ")
    raw = bytearray(good.encode())
    where = draws.randrange(len(raw))
    return draws.choice(
        (
            with_line(good, at, f"{name} = {draws.choice(WRONG)}"),
            with_line(good, at, None),
            with_line(good, at, f"{name} = {old}\n{name} = {old}"),
            bytes(raw[:where]),
            bytes(raw[:where] + bytes([draws.randrange(256)]) + raw[where + 1 :]),
            bytes(raw[:where] + raw[where + draws.randrange(1, 40) :]),
        )
    )


def resumed_after_damage(
    rounds: int, seed: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """The number of damaged files that were refused."""
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
    monkeypatch.setattr("pyalexnet.training.start.environment", lambda _: {})
    trainer = began(tmp_path, data)
    fitted(trainer, 2)
    run = trainer.folder.path
    good = (run / "config.toml").read_text()
    draws = random.Random(seed)
    refused = 0
    for number in range(rounds):
        text = damaged(draws, good)
        try:
            sentence = resumes_or_refuses(run, text)
            assert "\n" not in sentence
            refused += bool(sentence)
        except BaseException as error:
            error.add_note(f"round {number} of seed {seed}: {text!r}")
            raise
    assert resumes_or_refuses(run, good) == ""
    return refused


@pytest.mark.slow
def test_resume_with_a_damaged_config(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resumed_after_damage(60, 0, data, tmp_path, monkeypatch) > 20


@pytest.mark.faults
def test_resume_with_a_damaged_config_often(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    rounds = 600
    refused = resumed_after_damage(rounds, 1, data, tmp_path, monkeypatch)
    assert refused > rounds / 3
    tried("config.toml damaged by hand", rounds, f"{refused:,} refused in a sentence, the rest run")


# Every subcommand


NONSENSE = ("", " ", "-1", "0", "nan", "1e999", "x" * 5000, "\x00", "\udcff", "猫", "/", ".", "..")

COSTLY = {"bench"}
"""Has its own parser and tests."""


def subcommands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command known to typer, by its words."""
    for name, inner in getattr(group, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from subcommands(inner, (*path, name))
        elif name not in COSTLY:
            yield (*path, name), inner


COMMANDS = dict(subcommands(typer.main.get_command(cli.app)))


def ended(*arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and standard error."""
    errors, output = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pyalexnet", *arguments])
        patch.setattr(sys, "stderr", errors)
        patch.setattr(sys, "stdout", output)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        else:
            code = 0
    return code, errors.getvalue()


def required(path: tuple[str, ...], run: Path, folder: Path) -> list[str]:
    """Arguments that satisfy the command, given a valid run."""
    given = {
        "images": [str(folder / "pictures")],
        "runs": [str(run)],
        "run": [str(run)],
        "queries": [str(folder / "pictures" / "000.png")],
        "file": [str(folder / "out.onnx")],
        "source": [str(folder / "pictures")],
        "out": [str(folder / "out")],
        "name": ["imagenet"],
    }
    arguments = [
        value
        for one in COMMANDS[path].params
        if one.param_type_name == "argument"
        for value in given.get(one.name, [])
    ]
    return [*arguments, "--index", str(folder / "pictures")] if path == ("similar",) else arguments


def assert_refused(code: int, errors: str, arguments: object) -> None:
    assert code == 2, (arguments, code, errors)
    assert "Traceback" not in errors
    assert errors.strip(), arguments


@pytest.mark.every(9)
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_missing_run_and_unknown_option(
    path: tuple[str, ...], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(*ended(*path, "--no-such-option"), path)
    arguments = required(path, tmp_path / "none", network.parent)
    if path not in (("presets",), ("doctor",), ("train",), ("show", "step")):
        assert_refused(*ended(*path, *arguments), path)
    if path == ("train",):
        assert_refused(*ended("train", "--resume", "none"), path)
        assert_refused(*ended("train", "--data", "none"), path)
    if path == ("doctor",):
        assert_refused(*ended("doctor", "--init", "none"), path)


def nonsense(path: tuple[str, ...], network: Path, draws: random.Random, rounds: int) -> int:
    """Give each option of the command nonsense in turn; return how often."""
    options = [one for one in COMMANDS[path].params if one.param_type_name == "option"]
    times = 0
    for one in options:
        name = max(one.opts, key=len)
        if name in ("--help", "--version"):
            continue
        for _ in range(rounds):
            value = draws.choice(NONSENSE)
            run = draws.choice((network, network.parent / "none"))
            arguments = [*path, *required(path, run, network.parent), f"{name}={value}"]
            if path == ("train",):
                arguments += ["--data=none"] if name != "--data" else ["--net=none"]
            code, errors = ended(*arguments)
            times += 1
            note = (arguments, errors)
            assert code in (0, 1, 2), note
            assert "Traceback" not in errors, note
            assert bool(errors.strip()) >= (code == 2), note
    return times


@pytest.mark.every(9)
@pytest.mark.parametrize("path", [("predict",), ("train",), ("export",)], ids=" ".join)
def test_nonsense_in_options(
    path: tuple[str, ...], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nonsense(path, network, random.Random(0), 1)


@pytest.mark.faults
def test_nonsense_in_every_option(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    draws = random.Random(1)
    times = sum(nonsense(path, network, draws, 3) for path in COMMANDS if path != ("doctor",))
    tried("nonsense in an option of any subcommand", times, "a sentence, exit code 2, or an answer")


def damage(run: Path, draws: random.Random) -> str:
    """Spoil a run's folder in one way; return which."""
    newest = checkpoint.newest(run)
    saved = checkpoint.load(newest)
    victims = [path for path in sorted(run.rglob("*")) if path.is_file()]
    victim = draws.choice(victims)
    how = draws.choice(("cut", "flip", "empty", "delete", "folder", "garbage", "nan", "net"))
    if how == "cut":
        victim.write_bytes(victim.read_bytes()[: draws.randrange(victim.stat().st_size + 1)])
    if how == "flip" and victim.stat().st_size:
        raw = bytearray(victim.read_bytes())
        raw[draws.randrange(len(raw))] ^= 1 << draws.randrange(8)
        victim.write_bytes(raw)
    if how in ("empty", "garbage"):
        victim.write_bytes(b"" if how == "empty" else draws.randbytes(300))
    if how in ("delete", "folder"):
        victim.unlink()
    if how == "folder":
        victim.mkdir()
    if how == "nan":
        params = {name: np.full_like(values, np.nan) for name, values in saved.params.items()}
        shutil.rmtree(newest)
        checkpoint.save(newest.parent, Checkpoint(params, saved.momentum, saved.mean, saved.meta))
    if how == "net":
        params = {name: values[:1].copy() for name, values in saved.params.items()}
        momentum = {name: values[:1].copy() for name, values in saved.momentum.items()}
        shutil.rmtree(newest)
        checkpoint.save(newest.parent, Checkpoint(params, momentum, saved.mean, saved.meta))
    return f"{how} {victim.name}"


READING = [
    path
    for path in COMMANDS
    if path not in (("presets",), ("import",), ("data", "get"), ("data", "prepare"))
]


def uses_a_damaged_run(
    path: tuple[str, ...], network: Path, draws: random.Random, folder: Path
) -> None:
    run = folder / "run"
    shutil.copytree(network, run)
    how = damage(run, draws)
    arguments = [*path, *required(path, run, network.parent)]
    if path == ("train",):
        arguments += ["--resume", str(run)]
    if path == ("doctor",):
        arguments += ["--init", str(run)]
    try:
        code, errors = ended(*arguments)
    except BaseException as error:
        error.add_note(f"{how}: {arguments}")
        raise
    assert code in (0, 2), (how, arguments, errors)
    assert "Traceback" not in errors, (how, arguments)
    assert code == 0 or errors.startswith("error: "), (how, arguments, errors)
    shutil.rmtree(run)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("path", READING, ids=" ".join)
def test_damaged_run(
    path: tuple[str, ...], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uses_a_damaged_run(path, network, random.Random(" ".join(path)), tmp_path)


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_run_often(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    rounds = 12
    draws = random.Random(7)
    for path in READING:
        for _ in range(rounds):
            uses_a_damaged_run(path, network, draws, tmp_path)
    tried(
        "a damaged run, read by any subcommand",
        rounds * len(READING),
        "a sentence and exit code 2, or an answer from what is whole",
    )
