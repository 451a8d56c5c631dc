"""kill -9 at random moments: what was saved loads, and the run ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyalexnet import checkpoint
from pyalexnet.errors import CheckpointError
from pyalexnet.run import History
from training import OPTIONS, command, environment, last, photographs, pyalexnet

KILLS = 50
EPOCHS = 4000  # far more than the kills leave time for: each process runs for a second or two


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    """A checkpoint an epoch, six steps, is written so often that many a kill meets a save.

    The run is then stopped where it stands and compared with one that never was killed.
    """
    moments = random.Random(0)
    data = photographs(tmp_path / "quarters.npz")
    options = (*OPTIONS, f"--epochs={EPOCHS}", f"--data={data}", "--chance-steps=0")
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    steps, torn = [], 0
    arguments: tuple[str | Path, ...] = (*options, "--seed=3")
    for _ in range(KILLS):
        _kill_after(moments.uniform(0.02, 0.9), ("train", *arguments, "--out", killed), tmp_path)
        run = killed / "latest"
        torn += len(list((run / "checkpoints").glob(".tmp-*")))
        steps.append(checkpoint.load(checkpoint.newest(run, say=_refuse)).meta.step)
        arguments = ("--resume", "latest")
    assert steps == sorted(steps)
    assert len(set(steps)) > KILLS / 2, "the kills came before anything was learnt"
    assert torn, "no kill met a save: the moments are not random enough"

    end = steps[-1] + 20
    for out, how in ((killed, ("--resume", "latest")), (straight, (*options, "--seed=3"))):
        done = pyalexnet("train", *how, f"--steps={end}", "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = last(killed / "latest"), last(straight / "latest")
    for name in one.params:
        assert one.params[name].tobytes() == two.params[name].tobytes(), name
        assert one.momentum[name].tobytes() == two.momentum[name].tobytes(), name
    assert one.meta.metrics == two.meta.metrics
    logs = [History.read(out / "latest" / "log.jsonl") for out in (killed, straight)]
    assert logs[0] == logs[1]


def _kill_after(seconds: float, arguments: tuple[str | Path, ...], folder: Path) -> None:
    """Start the command, and kill it so long after its first checkpoint of this process."""
    saves = folder / "killed" / "latest" / "checkpoints"
    before = _newest(saves)
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.DEVNULL
    )
    while process.poll() is None and _newest(saves) == before:
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def _newest(saves: Path) -> str:
    names = [path.name for path in saves.glob("step-*")] if saves.is_dir() else []
    return max(names, default="")


def _refuse(sentence: str) -> None:
    raise CheckpointError(f"a kill left a bad checkpoint under a good name: {sentence}")
