"""A rank that fails ends all of them: soon, with its name, and with nothing lost."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from faulty import SLOW
from mpi_ranks import Launch, Library, launched, libraries
from pyalexnet.ranks.watchdog import STUCK
from pyalexnet.runs.run import find
from training import last, photographs

pytestmark = [pytest.mark.mpi, pytest.mark.faults]
every_library = pytest.mark.parametrize("library", libraries(), ids=lambda one: one.name)

PATIENCE = 8
RUN = ("train", "--parallel=data", "--backend=cpu", "-b8", "--epochs=9", "--print-freq=1")


@contextmanager
def training(
    library: Library, ranks: int, kind: str, step: int, tmp_path: Path, *more: str
) -> Iterator[Launch]:
    """A run, saved every six steps, whose last rank does something before that step."""
    data = photographs(tmp_path / "data.npz", side=28)
    fault = ("faulty", kind, str(ranks - 1), str(step), str(tmp_path / "begun"))
    options = (f"--data={data}", f"--patience={PATIENCE}", "--runs", str(tmp_path / "runs"))
    with launched(library, ranks, *fault, *RUN, *options, *more, cwd=tmp_path) as launch:
        yield launch


def awaited(file: Path, launch: Launch) -> None:
    """Wait until the file is there."""
    while not file.exists():
        assert launch.process.poll() is None, launch.process.communicate()
        time.sleep(0.05)


@every_library
@pytest.mark.parametrize(
    ("kind", "step", "codes", "said"),
    [
        ("kill", 2, {137, 9}, ""),
        ("kill", 9, {137, 9}, ""),
        ("stop", 9, {STUCK}, r"rank 0 of 2 has waited .* more than --patience 8, for rank 1,"),
        ("sleep", 9, {STUCK}, r"rank 1 of 2 has told the others nothing .* in faulty.py, line"),
        ("exit", 9, {5}, ""),
        ("raise", 9, {1}, "ValueError: this rank is odd"),
    ],
    ids=["killed early", "killed", "stopped", "asleep", "exit", "exception"],
)
def test_all_end_with_the_rank_that_fails(
    library: Library,
    kind: str,
    step: int,
    codes: set[int],
    said: str,
    tmp_path: Path,
    tried: Callable[..., None],
) -> None:
    """And a process alone goes on with the newest checkpoint, if there was one."""
    with training(library, 2, kind, step, tmp_path) as launch:
        code = launch.ended()
        seconds = time.time() - float((tmp_path / "begun").read_text())
        assert code in codes, launch.said
        assert re.search(said, launch.said), launch.said
    saved = (step - 1) // 6 * 6
    if saved:
        assert last(find("latest", tmp_path / "runs")).meta.step == saved
    again = ("--resume=latest", f"--steps={saved + 1}")
    with training(library, 1, "none", 99, tmp_path, *again) as launch:
        assert launch.ended() == (0 if saved else 2), launch.said
    tried(f"a rank of two: {kind} ({library.name})", 1, f"all ended after {seconds:.1f} s")


@every_library
def test_a_signal_to_the_launcher_stops_all_ranks_at_one_step(
    library: Library, tmp_path: Path, tried: Callable[..., None]
) -> None:
    with training(library, 2, "none", 9, tmp_path) as launch:
        awaited(tmp_path / "begun", launch)
        launch.process.send_signal(signal.SIGUSR1)
        assert launch.ended() == 0, launch.said
    stopped = re.findall(r"stopped by SIGUSR1 after step (\d+)", launch.said)
    assert len(stopped) == 1, launch.said
    run = find("latest", tmp_path / "runs")
    assert last(run).meta.step == int(stopped[0]) >= 8
    assert not list(run.glob("**/.tmp-*"))
    tried(f"SIGUSR1 to the launcher ({library.name})", 1)


@every_library
def test_ranks_wait_longer_than_their_patience_for_a_save(library: Library, tmp_path: Path) -> None:
    assert SLOW > PATIENCE
    with training(library, 2, "slow", 1, tmp_path, "--steps=6") as launch:
        assert launch.ended() == 0, launch.said


@every_library
def test_a_rank_with_another_seed_is_named(library: Library, tmp_path: Path) -> None:
    with training(library, 2, "disagree", 1, tmp_path) as launch:
        assert launch.ended() == 2
    sentence = "error: rank 0 of 2: --seed is 3 on rank 1; None was expected, as on rank 0."
    assert launch.said.splitlines().count(sentence) == 1, launch.said
    assert not (tmp_path / "runs").exists()


@every_library
def test_a_refusal_of_all_ranks_is_one_sentence(library: Library, tmp_path: Path) -> None:
    with training(library, 2, "none", 1, tmp_path, "-b", "7") as launch:
        assert launch.ended() == 2
    assert launch.said.count("error:") == 1, launch.said
    assert "rank 0 of 2: --batch-size is 7; a multiple of 2 ranks was expected" in launch.said


@every_library
def test_another_library_s_launcher_is_refused(library: Library, tmp_path: Path) -> None:
    """What mpiexec of one library and mpi4py with the other come to."""
    command = [library.python, "-m", "pyalexnet", *RUN]
    environment = library.environment(SLURM_STEP_NUM_TASKS="4")
    how: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run(command, env=environment, check=False, **how)
    assert done.returncode == 2
    said, own = "error: SLURM_STEP_NUM_TASKS says that 4 processes were started, and ", done.stderr
    assert own.startswith(said) and " knows of 1; start them with its own mpi" in own
    assert list(tmp_path.iterdir()) == []
