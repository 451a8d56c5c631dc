"""kill -9 at random moments: saved checkpoints load, and the run ends as if uninterrupted."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyalexnet.errors import CheckpointError
from pyalexnet.runs import checkpoint
from pyalexnet.runs.run import History
from test_checkpoint import run
from training import OPTIONS, assert_same_end, command, environment, photographs, pyalexnet

EPOCHS = 4000  # far more than there is time for: each process runs for a second or two
SEED = 0

SAVE_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
from test_checkpoint import make
from pyalexnet.runs import checkpoint
folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
began = time.monotonic()
checkpoint.save(folder, make(0))
checkpoint.save(folder, make(0))
one_save = (time.monotonic() - began) / 2
step = 0
for _ in range(kills):
    child = os.fork()
    if not child:
        for number in range(10**6):
            checkpoint.save(folder, make(step + 1 + number // 2))
            checkpoint.prune(folder, 2)
    time.sleep(random.uniform(0, 6) * one_save)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = checkpoint.newest(folder, lambda sentence: print("skipped:", sentence))
    state = checkpoint.load(found)
    for name, array in make(state.meta.step).params.items():
        assert array.tobytes() == state.params[name].tobytes(), "a mixture of steps"
    print(state.meta.step)
    step = state.meta.step
"""


@pytest.mark.parametrize("kills", [20, pytest.param(170, marks=pytest.mark.faults)])
def test_kills_of_a_loop_of_saves(kills: int, tmp_path: Path, tried: Callable[..., None]) -> None:
    """Every step is saved twice, so that replacements are interrupted too; old ones are pruned."""
    child = run(SAVE_LOOP, tmp_path, kills, SEED)
    output, _ = child.communicate(timeout=240)
    assert child.returncode == 0, f"seed {SEED}"
    lines = output.split("\n")[:-1]
    assert len(lines) == kills, output
    found = [int(line) for line in lines]
    assert found == sorted(found)
    assert found[-1] > kills // 4, "the loop was always killed before it saved anything"
    tried("kill -9 while checkpoints are saved, replaced and pruned", kills)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.faults)]
)
def test_kills_of_training(kills: int, tmp_path: Path, tried: Callable[..., None]) -> None:
    """A checkpoint per epoch of six steps is written so often that many kills hit a save.

    The run is then stopped where it is and compared with one that was never killed.
    """
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    data = photographs(tmp_path / "quarters.npz")
    options = (*OPTIONS, f"--epochs={EPOCHS}", f"--data={data}", "--chance-steps=0")
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    steps, torn = [], 0
    arguments: tuple[str | Path, ...] = (*options, "--seed=3")
    for _ in range(kills):
        _kill_after(moments.uniform(0.02, 0.9), ("train", *arguments, "--runs", killed), tmp_path)
        folder = killed / "latest"
        torn += len(list((folder / "checkpoints").glob(".tmp-*")))
        steps.append(checkpoint.load(checkpoint.newest(folder, say=_refuse)).meta.step)
        arguments = ("--resume", "latest")
    assert steps == sorted(steps)
    assert len(set(steps)) > kills / 2, "the kills came before anything was learnt"

    end = steps[-1] + 20
    for out, how in ((killed, ("--resume", "latest")), (straight, (*options, "--seed=3"))):
        done = pyalexnet("train", *how, f"--steps={end}", "--runs", out, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(killed / "latest", straight / "latest")
    logs = [History.read(out / "latest" / "log.jsonl") for out in (killed, straight)]
    assert logs[0] == logs[1]
    result = f"bit for bit as if never killed; {torn} of them in a save"
    tried("kill -9 of `pyalexnet train`, then --resume", kills, result)


def _kill_after(seconds: float, arguments: tuple[str | Path, ...], folder: Path) -> None:
    """Start the command, and kill it this long after the process's first checkpoint."""
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
