"""The run folder: made once, written by one process, and enough to repeat the run."""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyalexnet.errors import ArgumentError, RunError
from pyalexnet.nets.recipe import Rate, Recipe
from pyalexnet.nets.schedule import Steps
from pyalexnet.runs.config import Config
from pyalexnet.runs.run import History, Log, RunFolder, Scores, find
from pyalexnet.training import start
from pyalexnet.training.progress import Silent
from training import began, environment, fitted, last, photographs

NOBODY = 65534

RECIPE = Recipe(
    epochs=2.5,
    batch_size=64,
    momentum=0.9,
    rate=Rate(lr_w=0.01, lr_b=0.02, decay_w=5e-4),
    schedule=Steps(((1, 0.1), (2, 0.01))),
    rates={"fc10": Rate(lr_w=1e-5, lr_b=0.02, decay_w=1, schedule_b=Steps(((1.5, 0.5),)))},
)
CONFIG = Config(
    net="alexnet-tiny",
    data='/some "where"/ünï\\code\x7f\n.npz',
    backend="cpu",
    device=0,
    seed=2**64 - 1,
    print_freq=20,
    keep=3,
    recipe=RECIPE,
)


def test_config_survives_toml_and_json(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.to_toml(), encoding="utf-8")
    assert Config.load(path) == CONFIG
    values = tomllib.loads(CONFIG.to_toml())
    assert Config.from_mapping(json.loads(json.dumps(values)), "json") == CONFIG
    assert CONFIG.changes(Config.load(path)) == {}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("momentum = 0.9", "momentum = 2.0", "momentum"),
        ("momentum = 0.9", 'momentum = "much"', "momentum"),
        ("momentum = 0.9", "", "momentum"),
        ("momentum = 0.9", "momentum = 0.9\nnesterov = true", "nesterov"),
        ("keep = 3", "keep = 0", "keep"),
        ("keep = 3", "keep =", "config.toml"),
        ("lr_w = 1e-05", "lr_w = nan", "lr_w"),
    ],
)
def test_config_refuses(old: str, new: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert old in CONFIG.to_toml()
    path.write_text(CONFIG.to_toml().replace(old, new), encoding="utf-8")
    with pytest.raises(ArgumentError, match=named) as caught:
        Config.load(path)
    assert "\n" not in str(caught.value)


def test_config_of_a_run_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyalexnet.training.pictures.Pictures.draw", lambda *_: None)
    data = photographs(tmp_path / "quarters.npz")
    first = began(tmp_path, data, epochs=1, momentum=0.8, weight_decay=0.001, seed=7)
    fitted(first)
    config = first.folder.path / "config.toml"
    second = start.new({}, out=tmp_path, config=config, reporter=Silent())
    fitted(second)
    assert second.config == first.config
    for name, values in last(first.folder.path).params.items():
        assert values.tobytes() == last(second.folder.path).params[name].tobytes()


def test_names_of_folders_and_latest(tmp_path: Path) -> None:
    made = []
    for _ in range(3):
        folder = RunFolder.create(tmp_path / "runs", net="alexnet-tiny", data="my photos/../é")
        folder.close()
        made.append(folder.path)
    name = f"{datetime.date.today().isoformat()}-alexnet-tiny-my-photos"
    assert [path.name for path in made] == [name, f"{name}-2", f"{name}-3"]
    assert made[0].parent == tmp_path / "runs"
    latest = tmp_path / "runs" / "latest"
    assert latest.is_symlink()
    assert latest.resolve() == made[2]
    assert not latest.readlink().is_absolute()  # so that the folder of runs can be moved


def test_a_file_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("mine")
    RunFolder.create(tmp_path, net="a", data="b").close()
    assert (tmp_path / "latest").read_text() == "mine"


def test_find(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="latest"):
        find("latest", tmp_path)
    folder = RunFolder.create(tmp_path, net="a", data="b")
    folder.write_config(CONFIG)
    folder.close()
    assert find("latest", tmp_path) == find(str(folder.path), tmp_path / "x") == folder.path
    with pytest.raises(RunError, match="is no run folder"):
        find(str(tmp_path), tmp_path)


def test_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pyalexnet.runs.run import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=environment(), stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid} on "):
            RunFolder(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    RunFolder(tmp_path).close()


@pytest.fixture
def others() -> Iterator[Path]:
    """An empty folder that other users may read."""
    folder = Path(tempfile.mkdtemp(prefix="pyalexnet-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("make", ["RunFolder(path)", "RunFolder.create(path, net='a', data='b')"])
def test_folder_that_cannot_be_written_is_refused(make: str, others: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pyalexnet.errors import RunError\n"
        "from pyalexnet.runs.run import RunFolder\n"
        "path = Path(sys.argv[1])\n"
        f"if os.geteuid() == 0: os.setuid({NOBODY})\n"  # root may write anywhere
        f"try: {make}\n"
        "except RunError as error: print(error)\n"
    )
    others.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", code, others],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(others))
    assert ": cannot be written (Permission denied)" in done.stdout
    assert list(others.iterdir()) == []


def test_out_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Not a directory"):
        RunFolder.create(tmp_path / "file" / "runs", net="a", data="b")


def test_env_json_has_every_start(tmp_path: Path) -> None:
    trainer = began(tmp_path, photographs(tmp_path / "quarters.npz"), epochs=1)
    trainer.folder.close()
    path = trainer.folder.path / "env.json"
    (first,) = json.loads(path.read_text())["starts"]
    assert first["versions"]["numpy"]
    assert first["backend"] == "cpu"
    assert first["command"] == sys.argv
    assert datetime.datetime.fromisoformat(first["time"]).tzinfo
    with RunFolder(trainer.folder.path) as folder:
        folder.add_environment({"second": 2})
        assert json.loads(path.read_text())["starts"] == [first, {"second": 2}]
        path.write_text("damaged")
        folder.add_environment({"third": 3})
    assert json.loads(path.read_text())["starts"] == [{"third": 3}]


def test_no_half_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path) as folder:
        folder.write_config(CONFIG)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"config\.toml: cannot be written \(No space left"):
            folder.write_config(CONFIG)
    assert Config.load(tmp_path / "config.toml") == CONFIG
    assert not list(tmp_path.glob(".tmp-*"))


def test_history_leaves_out_what_a_resumed_run_did_again(tmp_path: Path) -> None:
    def scores(loss: float) -> dict[str, float]:
        return {"loss": loss, "top1_error": 0.5, "top5_error": 0.25}

    log = Log(tmp_path / "log.jsonl")
    log.write("start", {"step": 0})
    for step, loss in ((1, 5.0), (2, 4.0), (3, 3.0)):
        log.write("step", {"step": step, "progress": step / 2, "lr": 1.0, "train": scores(loss)})
    log.write("epoch", {"step": 2, "epoch": 1, "train": scores(4.5), "test": scores(4.6)})
    log.write("resume", {"step": 1})
    log.write("step", {"step": 2, "progress": 1.0, "lr": 0.5, "train": scores(4.25)})
    log.close()
    with log.path.open("a") as file:
        file.write("damaged\n")
    history = History.read(log.path)
    assert history.steps == [(0.5, Scores(**scores(5.0))), (1.0, Scores(**scores(4.25)))]
    assert history.rates == [(0.5, 1.0), (1.0, 0.5)]
    assert history.epochs == []
