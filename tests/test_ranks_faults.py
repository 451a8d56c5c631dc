"""A rank that fails ends all of them: soon, with its name, and with nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpi_ranks import Launch, Library, launched, libraries
from pyalexnet.ranks.watchdog import STUCK
from pyalexnet.runs import checkpoint
from pyalexnet.runs.run import find
from training import photographs

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
@pytest.mark.parametrize("step", [2, 9])
@pytest.mark.parametrize(
    ("kind", "codes", "said"),
    [
        ("kill", {137, 9}, ""),
        ("stop", {STUCK}, "rank 0 of 2 has waited for 9 s, more than --patience 8, for rank 1,"),
        ("sleep", {STUCK}, "rank 1 of 2 has told the others nothing for 8 s, more than"),
        ("exit", {5}, ""),
        ("raise", {1}, "ValueError: this rank is odd"),
    ],
)
def test_all_end_with_the_rank_that_fails(
    library: Library,
    kind: str,
    codes: set[int],
    said: str,
    step: int,
    tmp_path: Path,
    tried: Callable[..., None],
) -> None:
    with training(library, 2, kind, step, tmp_path) as launch:
        code = launch.ended()
        seconds = time.time() - float((tmp_path / "begun").read_text())
        assert code in codes, launch.said
        assert said in launch.said
    run = find("latest", tmp_path / "runs")
    if step > 6:
        assert checkpoint.load(checkpoint.newest(run)).meta.step == 6
    with training(library, 1, "none", 1, tmp_path, "--resume=latest", "--steps=12") as launch:
        assert launch.ended() == (0 if step > 6 else 2), launch.said
    tried(f"a rank of two: {kind} ({library.name})", 1, f"all ended after {seconds:.1f} s")
