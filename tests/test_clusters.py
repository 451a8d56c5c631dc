"""Clusters of blocks on the emulation: values, and what the checker reports.

The kernels are in cluster_cases.cu.
"""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

import emulated
from async_order import Fault, Member, Order, Script, Step

SOURCE = Path(__file__).with_name("cluster_cases.cu")
line_of, located = partial(emulated.line_of, SOURCE), partial(emulated.located, SOURCE)
SCHEDULES = pytest.mark.parametrize("schedule", range(6))

X = np.fromfunction(lambda i, j: (i + 2 * j) % 7 - 3, (64, 256))  # as the source makes it


def said(program: Path, case: str, schedule: int) -> tuple[str, bool]:
    """The report, or "", and whether the result is right."""
    done = subprocess.run(
        [program, case, str(schedule)], capture_output=True, check=False, timeout=60
    )
    y = np.frombuffer(done.stdout, np.float32)
    return done.stderr.decode().rstrip(), np.array_equal(y, (X @ X.T).ravel())


FIRST = "block (0,0,0) thread (0,0,0)"
LIMITS = "a cluster has 2 blocks here, and a grid of clusters an even number along x, not {} and 3"
THREADS = "a block of a cluster has whole warpgroups here, and at most 512 threads, not {}"

# Only the checker sees these; the fast emulation also reports those in REFUSED.
SEEN = {
    "unordered": "data race on full[0] of rank 1: used by block 0 thread 0 at {load}, "
    "initialised by block 1 thread 0 at {init}, and no barrier orders the two",
    "unfenced": "used by block 0 thread 0 at {load} of full[0] of rank 0 for a load_tile, "
    "initialised by block 0 thread 0 at {init}, and no mbarrier_fence_init between the two",
    "handed_early": "write by block 0 thread 0 at {load} of stage[0] of rank 0, which a wgmma "
    "still reads: begun by block 0 thread 128 at {multiply}, and not waited for",
    "own_only": "write by block 0 thread 0 at {load} of stage[0] of rank 1, to which a load_tile "
    "is under way: begun by block 0 thread 0 at {load}, and not waited for",
    "by_luck": "empty[0] of rank 1 is used by block 0 thread 129 at {arrive}, and nothing keeps "
    "its block from ending before",
}
REFUSED = {
    "uninitialised": "full[0] of rank 1 is no mbarrier: mbarrier_init has not been called, "
    f"at {{load}}, {FIRST}",
    "short_of_one": "no thread of the cluster can go on: thread 0 of rank 0 waits at {/empty} "
    "for phase 0 of empty[0] of rank 0, which lacks 1 arrivals and 0 bytes; thread 128 of rank 0 "
    "waits at {/full} for phase 0 of full[0] of rank 0, which lacks 0 arrivals and 4096 bytes; "
    "thread 0 of rank 1 waits at {/empty} for phase 0 of empty[0] of rank 1, which lacks 1 "
    "arrivals and 0 bytes; thread 128 of rank 1 waits at {/full} for phase 1 of full[0] of "
    "rank 1, which lacks 1 arrivals and 0 bytes; 254 of 512 have exited",
    "beyond_end": "empty[0] of rank 0 is used after the end of its block, at {arrive}, "
    "block (1,0,0) thread (128,0,0)",
    "alone": f"full[0] of rank 1 is used after the end of its block, at {{load}}, {FIRST}",
    "left": "the block ends, and nobody has waited for the load_tile begun at {load}, by full[0] "
    "of rank 1",
    "diverged": "threads of one cluster meet at different cluster_sync: thread 0 of rank 0 at "
    "{/other}, thread 0 of rank 1 at {/one}",
    "third": "there is no rank 2 in a cluster of 2, at {arrive}, block (0,0,0) thread (129,0,0)",
    "odd": LIMITS.format(2),
    "of_three": LIMITS.format(3),
    "of_one": f"a kernel for clusters of 2 is launched in clusters of 1, at {{cluster}}, {FIRST}",
    "part_of_a_warpgroup": THREADS.format(192),
    "too_large": THREADS.format(640),
}


def assert_reported(line: str, report: str) -> None:
    kernel, _, rest = line.partition(" launched at ")
    assert kernel.partition("<")[0] == "share_kernel"
    assert rest == f"{SOURCE}:{line_of('launch')}: {located(report)}"


@pytest.mark.parametrize("case", [*SEEN, *REFUSED])
def test_a_bug_is_reported_as_what_it_is(checked: Path, case: str) -> None:
    assert_reported(said(checked, case, 0)[0], (SEEN | REFUSED)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_the_fast_emulation_refuses_what_could_not_go_on(fast: Path, case: str) -> None:
    assert_reported(said(fast, case, 0)[0], REFUSED[case])


@pytest.mark.every(4)
@SCHEDULES
@pytest.mark.parametrize("case", [*SEEN, *REFUSED])
def test_a_bug_is_reported_in_every_schedule(checked: Path, case: str, schedule: int) -> None:
    assert " launched at " in said(checked, case, schedule)[0]


@SCHEDULES
@pytest.mark.parametrize("case", ["rightly", "held", "in_one_block"])
@pytest.mark.parametrize("build", [pytest.param("fast", marks=pytest.mark.slow), "checked"])
def test_a_right_kernel_is_right_and_not_reported(
    build: str, case: str, schedule: int, request: pytest.FixtureRequest
) -> None:
    assert said(request.getfixturevalue(build), case, schedule) == ("", True)


@pytest.mark.slow
@SCHEDULES
def test_what_is_not_waited_for_is_spoilt(fast: Path, schedule: int) -> None:
    assert said(fast, "handed_early", schedule) == ("", False)


# ---------------------------------------------------------------------- every history

BLOCK, SIGNALS, ELEMENTS = 128, 4, 3  # as in the source
LANES = (0, 1, 33, 128, 129, 161)
KINDS = ("read", "write", "__syncthreads", "cluster_sync", "__syncwarp", "arrive", "wait")
SCRIPTS = 60  # for each seed


def script_of(random: Random) -> Script:
    """A script that cannot deadlock, written by going through one of its runs."""
    script: Script = {thread: [] for thread in range(2 * BLOCK)}
    kinds = ["touch"] * random.choice((1, 3)) + [
        "warp",
        "block",
        "arrive",
        "arrive",
        "wait",
        "wait",
    ]
    unused = [*range(2 * SIGNALS)]
    random.shuffle(unused)
    arrived: list[int] = []

    def by(first: int, count: int, what: str) -> None:
        for thread in range(first, first + count):
            script[thread].append(Step(what))

    for _ in range(random.randrange(5, 40)):
        lane = random.choice(LANES)
        own = [one for one in arrived if one // SIGNALS == lane // BLOCK]
        kind = random.choice(kinds)
        if kind == "touch":
            what = random.choice(("read", "write"))
            script[lane].append(Step(what, random.randrange(ELEMENTS)))
        elif kind == "warp":
            by(lane // 32 * 32, 32, "__syncwarp")
        elif kind == "block" and random.random() < 0.3:
            by(0, 2 * BLOCK, "cluster_sync")
        elif kind == "block":
            by(lane // BLOCK * BLOCK, BLOCK, "__syncthreads")
        elif kind == "arrive" and unused:
            arrived.append(unused.pop())
            script[lane].append(Step("arrive", barrier=arrived[-1]))
        elif kind == "wait" and own:
            script[lane].append(Step("wait", barrier=random.choice(own)))
    return script


def numbers_of(schedule: int, script: Script) -> list[int]:
    """A script in the form that cluster_cases.cu reads."""
    numbers = [schedule]
    for thread in range(2 * BLOCK):
        numbers.append(len(script[thread]))
        for step in script[thread]:
            which = step.barrier if step.what in ("arrive", "wait") else step.element
            numbers.append(8 * which + KINDS.index(step.what))
    return numbers


def race_in(line: str) -> Fault | None:
    found = re.findall(r"(read|write) by block (\d) thread (\d+)", line)
    at = re.search(r"data race on data\[(\d+)\]", line)
    if at is None:
        return None
    members = [Member(what, BLOCK * int(block) + int(thread)) for what, block, thread in found]
    return Fault(int(at[1]), (members[0], members[1]))


@pytest.mark.parametrize("seed", range(6))
def test_a_fault_is_reported_where_there_is_one_and_nowhere_else(checked: Path, seed: int) -> None:
    random = Random(seed)
    scripts = [script_of(random) for _ in range(SCRIPTS)]
    given = [number for one in scripts for number in numbers_of(random.randrange(4), one)]
    done = subprocess.run(
        [checked, "scripts"],
        input=" ".join(map(str, given)),
        env={"PATH": ""},  # no addr2line, which takes longer than all the rest
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    seen = {"race": 0, "its block": 0, "no report": 0}
    for script, line in zip(scripts, done.stdout.splitlines(), strict=True):
        order = Order(script, BLOCK)
        races = [*order.faults()]
        late = any(
            step.what == "arrive"
            and not order.outlasts(
                range(step.barrier // SIGNALS * BLOCK, (step.barrier // SIGNALS + 1) * BLOCK),
                thread,
                number,
            )
            for thread, steps in script.items()
            for number, step in enumerate(steps)
        )
        kind = next(text for text in seen if text in line)
        seen[kind] += 1
        if kind == "race":
            found = race_in(line)
            assert found
            assert any(race.is_named(found) for race in races), line
        else:
            assert (kind == "its block") == late, line
            assert late or not races, line
    assert min(seen.values()) >= 3, seen
