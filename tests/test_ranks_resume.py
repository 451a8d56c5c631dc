"""Ranks that MPI starts have the bits of one process; also when they are killed and go on, more or
fewer of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mpi_ranks import Library, launched, libraries, run
from pyalexnet.runs.run import find
from training import assert_same_end, photographs

pytestmark = [pytest.mark.mpi, pytest.mark.faults]
every_library = pytest.mark.parametrize("library", libraries(), ids=lambda one: one.name)

STEPS = 24  # of four epochs, each of which ends with a checkpoint
RUN = ("train", "--parallel=data", "--shards=4", "--backend=cpu", "-b8", "--epochs=4", "--plain")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "data.npz", side=28)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process from beginning to end."""
    out = tmp_path_factory.mktemp("straight")
    run(libraries()[0], 1, "pyalexnet", *RUN, f"--data={data}", f"--runs={out}", cwd=out)
    return find("latest", out)


@every_library
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_and_four_ranks_have_the_bits_of_one_process(
    library: Library, precision: str, data: Path, tmp_path: Path, tried: Callable[..., None]
) -> None:
    ends = []
    for ranks in (1, 2, 4):
        options = (f"--data={data}", f"--runs={tmp_path / str(ranks)}", f"--precision={precision}")
        run(library, ranks, "pyalexnet", *RUN, *options, cwd=tmp_path)
        ends.append(find("latest", tmp_path / str(ranks)))
    for end in ends[1:]:
        assert_same_end(end, ends[0])
    tried(f"2 and 4 ranks against 1, {precision} ({library.name})", 2)


@every_library
@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_that_are_killed_go_on_as_others_with_the_same_bits(
    library: Library,
    seed: int,
    straight: Path,
    data: Path,
    tmp_path: Path,
    tried: Callable[..., None],
) -> None:
    """Two until one is killed, then four, then one process."""
    first, second = sorted(random.Random(seed).sample(range(7, STEPS), 2))
    options = (f"--data={data}", f"--runs={tmp_path}")
    begun, again = tmp_path / "begun", "--resume=latest"
    for ranks, step, more in ((2, first, ()), (4, second, (again,))):
        fault = ("faulty", "kill", str(ranks - 1), str(step), begun)
        with launched(library, ranks, *fault, *RUN, *options, *more, cwd=tmp_path) as launch:
            assert launch.ended() in (137, 9), launch.said
        assert begun.exists()
        begun.unlink()
    run(library, 1, "pyalexnet", *RUN, *options, again, cwd=tmp_path)
    assert_same_end(find("latest", tmp_path), straight)
    tried(f"killed on 2 ranks, then on 4, ended by 1 ({library.name})", 2)
