"""Ranks that MPI starts: what they exchange, on the host and on made-up GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpi_ranks import Library, libraries, run
from pyalexnet.ops.elements import BFLOAT16
from ranked import SIZES, data_of, digest
from test_ranks import tree

pytestmark, faults = pytest.mark.mpi, pytest.mark.faults
OTHERS = ("eager", "side", "null")
every_library = pytest.mark.parametrize("library", libraries(), ids=lambda one: one.name)


def said(library: Library, ranks: int, *arguments: str, cwd: Path) -> Any:
    return json.loads(run(library, ranks, "ranked", *arguments, cwd=cwd).splitlines()[-1])


@every_library
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=faults)])
def test_mpi_s_ranks_have_the_tree_s_sums(library: Library, count: int, tmp_path: Path) -> None:
    found, most, sent = said(library, count, "collectives", cwd=tmp_path)
    want = []
    for dtype in ("float32", BFLOAT16, "int64"):
        for size in SIZES:
            parts = [data_of(rank, size, dtype) for rank in range(count)]
            want.append([digest(tree(parts)), digest(tree(parts)), digest(parts[-1])])
    assert found == [[rank, rank, count, want] for rank in range(count)]
    assert most == count - 1
    assert sent > 0


@every_library
@pytest.mark.parametrize("order", ["lazy", *(pytest.param(one, marks=faults) for one in OTHERS)])
def test_made_up_gpus_with_nccl_have_the_emulation_s_bits(
    library: Library, order: str, tmp_path: Path
) -> None:
    found, everyone, sent = said(library, 2, "on_gpus", order, cwd=tmp_path)
    assert found["cuda"] == found["sim"]
    assert everyone == [found, found]
    assert sent > 0
