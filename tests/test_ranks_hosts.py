"""Ranks on two hosts, which are network namespaces of this machine (tests/two_hosts.py)."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mpi_ranks import Library, libraries, run
from ranked import data_of, digest
from test_ranks import tree
from test_ranks_faults import PATIENCE, RUN, awaited
from training import assert_same_end, last, photographs
from two_hosts import Hosts, two_hosts

pytestmark = [pytest.mark.mpi, pytest.mark.faults]
every_library = pytest.mark.parametrize("library", libraries(), ids=lambda one: one.name)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(two_hosts(tmp_path))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"two hosts were not tried, as no network namespaces can be made: {error}")
        yield found


@every_library
def test_sums_over_the_link_are_the_tree_s_and_as_large_as_counted(
    library: Library, hosts: Hosts, tmp_path: Path
) -> None:
    size, before = 6_000_000, hosts.sent()
    with hosts.launched(library, 2, "ranked", "over_a_link", str(size), cwd=tmp_path) as launch:
        assert launch.ended() == 0, launch.said
    found = json.loads(launch.said.splitlines()[-1])
    want = digest(tree([data_of(rank, size, "float32") for rank in range(4)]))
    assert [one[0] for one in found] == [want] * 4
    across = sum(one[1] for one in found[:2])
    assert across == (4 if library.name == "openmpi" else 8) * size  # on two levels, on one
    assert across <= hosts.sent() - before <= 1.1 * across


@every_library
def test_training_on_two_hosts_has_the_bits_of_one_process(
    library: Library, hosts: Hosts, tmp_path: Path, tried: Callable[..., None]
) -> None:
    data = photographs(tmp_path / "data.npz", side=28)
    common = (*RUN, f"--data={data}", "--shards=4", "--steps=9", "--runs")
    with hosts.launched(library, 2, "pyalexnet", *common, "two", cwd=tmp_path) as launch:
        assert launch.ended() == 0, launch.said
    run(library, 1, "pyalexnet", *common, "one", cwd=tmp_path)
    assert_same_end(tmp_path / "one" / "latest", tmp_path / "two" / "latest")
    tried(f"two hosts of two ranks, in network namespaces ({library.name})", 1)


@every_library
def test_a_link_that_goes_down_ends_the_ranks_of_both_hosts(
    library: Library, hosts: Hosts, tmp_path: Path, tried: Callable[..., None]
) -> None:
    """The launcher may wait until the link is up again."""
    data, begun = photographs(tmp_path / "data.npz", side=28), tmp_path / "begun"
    fault = ("faulty", "none", "0", "9", str(begun))
    options = (f"--data={data}", f"--patience={PATIENCE}", "--runs=runs", "--epochs=9000")
    with hosts.launched(library, 1, *fault, *RUN, *options, cwd=tmp_path) as launch:
        awaited(begun, launch)
        hosts.link("down")
        down = time.monotonic()
        while launch.ranks():  # pytest-timeout ends a test that waits for ever
            time.sleep(0.1)
        seconds = time.monotonic() - down
        hosts.link("up")
        assert launch.ended() != 0
    assert re.search(r"rank [01] of 2 has waited", launch.said), launch.said
    assert last(tmp_path / "runs" / "latest").meta.step % 6 == 0
    result = f"ranks gone after {seconds:.1f} s"
    tried(f"a link between two hosts goes down ({library.name})", 1, result)
