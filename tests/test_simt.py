"""The emulation and its checker, on planted kernels: each bug, and nothing else, is reported.

The kernels are in simt_cases.cu, a program without Python that is compiled twice, as _sim and as
_simcheck are.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

import emulated
from happens_before import WARP, Access, Action, Block, Launch, Race, races

SOURCE = Path(__file__).with_name("simt_cases.cu")
line_of, located = partial(emulated.line_of, SOURCE), partial(emulated.located, SOURCE)
COUNT = 64  # kCount of the source
THREADS = np.arange(COUNT)
SEEDS = range(1, 51)


# ---------------------------------------------------------------------- the programs


def said(program: Path, case: str, at: int = 0, seeds: range = range(1)) -> list[str]:
    """What a case prints in each schedule: its outputs, or the report."""
    done = subprocess.run(
        [program, case, str(at), str(seeds[0]), str(seeds[-1])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(seeds)
    return lines


def outputs(line: str) -> NDArray[np.float32]:
    """A case's outputs; fails if the line is a report."""
    return np.array([np.float32(number) for number in line.split()])


# ---------------------------------------------------------------------- what is reported


@dataclass(frozen=True)
class Bug:
    """A case that breaks a rule, and the text due in the report after kernel and launch."""

    case: str
    kernel: str
    report: str
    at: int = 0

    def __str__(self) -> str:
        return f"{self.case}-{self.at}" if self.at else self.case

    def matches(self, line: str) -> bool:
        """Whether this is the report: in full, but for the kernel's template arguments."""
        name, _, rest = line.partition(" launched at ")
        expected = f"{SOURCE}:{line_of('launch')}: {located(self.report)}"
        return name.partition("<")[0] == self.kernel and rest == expected


def race(case: str, element: str, now: str, before: str, at: int = 0) -> Bug:
    return Bug(
        case,
        f"{re.sub('_(partial|shuffle|without_barrier|overwritten)$', '', case)}_kernel",
        f"data race on {element}: {now}, {before}, and no barrier orders the two",
        at,
    )


RACES = [
    race(
        "raw",
        "t[0]",
        "read by block 0 thread 1 at {raw: read}",
        "write by block 0 thread 0 at {raw: write}",
    ),
    race(
        "war",
        "t[31]",
        "read by block 0 thread 32 at {war: read}",
        "write by block 0 thread 31 at {war: write}",
    ),
    race(
        "waw",
        "t[0]",
        "write by block 0 thread 1 at {waw: write}",
        "write by block 0 thread 0 at {waw: write}",
    ),
    race(
        "blocks",
        "y[0]",
        "write by block 1 thread 0 at {blocks: write}",
        "write by block 0 thread 0 at {blocks: write}",
    ),
    race(
        "in_place",
        "x/y[31]",
        "read by block 0 thread 32 at {in_place: read}",
        "write by block 0 thread 31 at {in_place: write}",
        at=1,
    ),
    # A __syncwarp of some lanes, or a shuffle, orders nothing; a __syncwarp orders no other warp.
    *(
        race(
            case,
            "t[0]",
            "read by block 0 thread 1 at {warp: read}",
            "write by block 0 thread 0 at {warp: write}",
        )
        for case in ("warp", "warp_partial", "warp_shuffle")
    ),
    race(
        "two_warps",
        "t[63]",
        "read by block 0 thread 0 at {two_warps: read}",
        "write by block 0 thread 63 at {two_warps: write}",
    ),
    # After the wait a copy is the waiting thread's write: other threads still need a barrier.
    race(
        "copy_without_barrier",
        "t[0]",
        "read by block 0 thread 1 at {copy: read}",
        "write by block 0 thread 0 at {copy: begin}",
        at=1,
    ),
    # A copy may arrive as soon as it has been started.
    race(
        "refill",
        "t[32]",
        "write by block 0 thread 32 at {refill: begin}",
        "read by block 0 thread 31 at {refill: read}",
    ),
    # Each lane reads the row whose address it supplied.
    race(
        "ldmatrix_overwritten",
        "t[8]",
        "write by block 0 thread 0 at {ldmatrix: write}",
        "read by block 0 thread 1 at {ldmatrix: read}",
    ),
]


def under_way(case: str, kernel: str, access: str, element: str, begun: str, at: int = 0) -> Bug:
    return Bug(
        case,
        kernel,
        f"{access} of {element}, to which a cp.async is under way: begun by {begun}, "
        "and not waited for",
        at,
    )


UNDER_WAY = [
    *(
        under_way(
            case,
            "copy_kernel",
            "read by block 0 thread 0 at {copy: read}",
            "t[63]",
            "block 0 thread 60 at {copy: begin}",
        )
        for case in ("copy_not_committed", "copy_not_awaited", "copy_one_left")
    ),
    # Not even the copying thread may look.
    *(
        under_way(
            case,
            "copy_kernel",
            "read by block 0 thread 0 at {copy: read}",
            "t[0]",
            "block 0 thread 0 at {copy: begin}",
            at=1,
        )
        for case in ("copy_not_committed", "copy_not_awaited", "copy_one_left")
    ),
    under_way(
        "overwrite",
        "overwrite_kernel",
        "write by block 0 thread 1 at {overwrite: write}",
        "t[2]",
        "block 0 thread 0 at {overwrite: begin}",
    ),
    under_way(
        "copy_twice",
        "copy_twice_kernel",
        "write by block 0 thread 0 at {copy_twice: begin}",
        "t[0]",
        "block 0 thread 0 at {copy_twice: begin}",
    ),
]


def outside(case: str, verb: str, at: int, distance: str, marker: str | None = None) -> Bug:
    return Bug(
        case,
        "shared_kernel" if "shared" in case else f"{case}_kernel",
        f"out-of-bounds {verb} of 4 bytes at {{{marker or case}: {verb}}}, "
        f"block (0,0,0) thread (7,0,0), {distance} (256 bytes)",
        at,
    )


def beyond(case: str, access: str, at: int, distance: str) -> Bug:
    kernel, marker = {
        "dynamic": ("dynamic", "read"),
        "copy_to": ("copy_place", "copy"),
        "copy_from": ("copy_place", "copy"),
        "ldmatrix": ("ldmatrix", "read"),
    }[case]
    place = f"{{{kernel}: {marker}}}, block (0,0,0) thread (7,0,0)"
    return Bug(case, f"{kernel}_kernel", f"out-of-bounds {access} at {place}, {distance}", at)


OUTSIDE = [
    outside("read_global", "read", 64, "0 bytes after the end of x"),
    outside("read_global", "read", 65, "4 bytes after the end of x"),
    outside("read_global", "read", -1, "4 bytes before the begin of x"),
    outside("write_global", "write", 64, "0 bytes after the end of y"),
    outside("write_global", "write", -1, "4 bytes before the begin of y"),
    # y begins where x ends.
    outside("write_global", "write", -64, "256 bytes before the begin of y"),
    outside("read_shared", "read", 64, "0 bytes after the end of t", "shared"),
    outside("read_shared", "read", -1, "4 bytes before the begin of t", "shared"),
    outside("write_shared", "write", 64, "0 bytes after the end of t", "shared"),
    outside("write_shared", "write", -1, "4 bytes before the begin of t", "shared"),
    # Closer to the array in front of t.
    outside("write_shared", "write", -64, "0 bytes after the end of before", "shared"),
    beyond("dynamic", "read of 4 bytes", 64, "0 bytes after the end of t (256 bytes)"),
    beyond("dynamic", "read of 4 bytes", -1, "4 bytes before the begin of t (256 bytes)"),
    beyond("copy_to", "write of 16 bytes", 64, "0 bytes after the end of t (256 bytes)"),
    beyond("copy_to", "write of 16 bytes", -4, "16 bytes before the begin of t (256 bytes)"),
    beyond("copy_from", "read of 16 bytes", 64, "0 bytes after the end of x (256 bytes)"),
    beyond("copy_from", "read of 16 bytes", -4, "16 bytes before the begin of x (256 bytes)"),
    beyond("ldmatrix", "read of 16 bytes", 256, "112 bytes after the end of t (512 bytes)"),
]

UNSET = "block (0,0,0) thread ({},0,0): nothing has been written there yet"
OTHERS = [
    Bug(
        "write_input",
        "write_input_kernel",
        "write to the input x at {write_input: write}, block (0,0,0) thread (7,0,0)",
    ),
    Bug(
        "unset_shared",
        "unset_shared_kernel",
        "uninitialised read of t[7] at {unset_shared: read}, " + UNSET.format(7),
    ),
    Bug(
        "unset_output",
        "unset_output_kernel",
        "uninitialised read of y[0] at {unset_output: read}, " + UNSET.format(0),
    ),
    Bug(
        "unset_scratch",
        "unset_scratch_kernel",
        "uninitialised read of scratch[0] at {unset_scratch: read}, " + UNSET.format(0),
    ),
    Bug(
        "float4",
        "float4_kernel",
        "misaligned access to x + 4 bytes, which should be a multiple of 16 bytes, "
        "at {float4: read}, block (0,0,0) thread (7,0,0)",
        at=1,
    ),
    Bug(
        "float4",
        "float4_kernel",
        "out-of-bounds read of 16 bytes at {float4: read}, block (0,0,0) thread (7,0,0), "
        "0 bytes after the end of x (256 bytes)",
        at=64,
    ),
    Bug(
        "dynamic",
        "dynamic_kernel",
        "uninitialised read of t[9] at {dynamic: read}, " + UNSET.format(7),
        at=9,
    ),
    Bug(
        "copy_without_barrier",
        "copy_kernel",
        "uninitialised read of t[63] at {copy: read}, " + UNSET.format(0),
    ),
    Bug(
        "ldmatrix",
        "ldmatrix_kernel",
        "uninitialised read of t[252] at {ldmatrix: read}, " + UNSET.format(30),
        at=8,
    ),
    *(
        Bug(
            case,
            kernel,
            f"misaligned access to {place}, which should be a multiple of 16 bytes, "
            f"at {{{marker}}}, block (0,0,0) thread (7,0,0)",
            at=1,
        )
        for case, kernel, place, marker in (
            ("copy_to", "copy_place_kernel", "t + 4 bytes", "copy_place: copy"),
            ("copy_from", "copy_place_kernel", "x + 4 bytes", "copy_place: copy"),
            ("ldmatrix", "ldmatrix_kernel", "t + 114 bytes", "ldmatrix: read"),
        )
    ),
    *(
        Bug(
            case,
            f"{case}_kernel",
            f"{report}, at {{{case}: {verb}}}, block (0,0,0) thread (0,0,0)",
        )
        for case, verb, report in (
            ("copy_to_global", "copy", "y + 0 bytes is not in shared memory, as it should be"),
            ("copy_from_shared", "copy", "t + 0 bytes is in shared memory, as it should not be"),
            ("ldmatrix_of_global", "read", "x + 0 bytes is not in shared memory, as it should be"),
        )
    ),
    Bug(
        "peer",
        "blocks_kernel",
        "a kernel on device 0 touches x of device 1, to which no peer access is enabled, "
        "at {blocks: write}",
    ),
]

# The fast emulation reports these as well.
REFUSED = [
    Bug(
        "diverged",
        "diverged_kernel",
        "threads of one block meet at different __syncthreads: "
        "thread 0 at {/diverged: one}, thread 32 at {/diverged: other}",
    ),
    Bug(
        "deadlock",
        "deadlock_kernel",
        "no thread of the block can go on: thread 0 waits at {/deadlock: block}; "
        "thread 1 waits at {/deadlock: warp}; 32 of 64 have exited",
    ),
    Bug(
        "mismatch",
        "mismatch_kernel",
        "lanes of one warp meet in different operations: "
        "thread 0 at {/mismatch: even}, thread 1 at {/mismatch: odd}",
    ),
    Bug(
        "left_out",
        "left_out_kernel",
        "a warp operation at {/left_out: shuffle} leaves out the lane that calls it, "
        "block (0,0,0) thread (16,0,0)",
    ),
    Bug(
        "too_much_shared",
        "too_much_shared_kernel",
        "shared memory: second of 32 bytes does not fit beside 49136 bytes in 49152",
    ),
    Bug(
        "too_much_dynamic",
        "dynamic_kernel",
        "a block has at most 232448 bytes of shared memory, not 232449",
    ),
    Bug(
        "dynamic_of_hopper",
        "dynamic_kernel",
        "a block has at most 101376 bytes of shared memory on any card, not 101377: the kernel "
        "uses nothing that Hopper alone has",
    ),
    Bug(
        "too_much_beside_dynamic",
        "too_much_beside_dynamic_kernel",
        "shared memory: beside of 256 bytes does not fit beside 0 bytes in 64",
    ),
    Bug(
        "two_dynamic",
        "two_dynamic_kernel",
        "dynamic shared memory is one array: it is declared as first and again as second",
    ),
    Bug(
        "part_of_a_warp",
        "part_of_a_warp_kernel",
        "ldmatrix and mma need all 32 lanes of a warp, at {part_of_a_warp: mma}, "
        "block (0,0,0) thread (32,0,0)",
    ),
    Bug(
        "too_many_threads",
        "blocks_kernel",
        "a block has 1 to 1,024 threads, at most 64 along z, not 1025 x 1 x 1",
    ),
    Bug(
        "too_many_along_z",
        "blocks_kernel",
        "a block has 1 to 1,024 threads, at most 64 along z, not 1 x 1 x 65",
    ),
    Bug(
        "no_block",
        "blocks_kernel",
        "a grid has 1 to 2,147,483,647 blocks along x and 1 to 65,535 along y and z, not 0 x 1 x 1",
    ),
    Bug(
        "too_many_along_y",
        "blocks_kernel",
        "a grid has 1 to 2,147,483,647 blocks along x and 1 to 65,535 along y and z, "
        "not 1 x 65536 x 1",
    ),
]


@pytest.mark.parametrize("bug", [*RACES, *UNDER_WAY, *OUTSIDE, *OTHERS, *REFUSED], ids=str)
def test_a_bug_is_reported_as_what_it_is(checked: Path, bug: Bug) -> None:
    (line,) = said(checked, bug.case, bug.at)
    assert bug.matches(line), line


@pytest.mark.slow
@pytest.mark.parametrize("bug", REFUSED, ids=str)
def test_the_fast_emulation_refuses_what_no_gpu_would_run(fast: Path, bug: Bug) -> None:
    (line,) = said(fast, bug.case, bug.at)
    assert bug.matches(line), line


REPORTED = "data race|under way|out-of-bounds|uninitialised|misaligned|input|peer|shared memory"


@pytest.mark.every(3)
@pytest.mark.parametrize("bug", [*RACES, *UNDER_WAY, *OUTSIDE, *OTHERS], ids=str)
def test_a_bug_is_reported_in_every_schedule(checked: Path, bug: Bug) -> None:
    """Schedules differ in which of the two accesses comes first, not in reporting the race."""
    for line in said(checked, bug.case, bug.at, range(1, 6)):
        assert re.search(REPORTED, line), line


@pytest.mark.parametrize("at", [10**6, -(10**6), 10**9])
@pytest.mark.parametrize(
    ("case", "marker"),
    [
        ("read_global", "read_global: read"),
        ("write_global", "write_global: write"),
        ("read_shared", "shared: read"),
        ("write_shared", "shared: write"),
    ],
)
def test_far_away_is_out_of_bounds(checked: Path, case: str, marker: str, at: int) -> None:
    """In particular, the access itself, which would crash the process, is never made."""
    (line,) = said(checked, case, at)
    assert f"out-of-bounds {marker.split()[1]} of 4 bytes at {located('{' + marker + '}')}" in line


def test_an_output_that_is_not_written_is_reported(checked: Path) -> None:
    assert said(checked, "hole") == ["after the last launch, output y[7] was never written"]


@pytest.mark.slow
def test_the_fast_emulation_does_not_see_beyond_a_buffer(fast: Path) -> None:
    """Why the checker is needed: y follows x in memory, so a read past the end of x finds y."""
    (line,) = said(fast, "read_global", COUNT)
    assert outputs(line)[7] == 1


# ---------------------------------------------------------------------- what is not


def _places() -> NDArray[np.float32]:
    """What places_kernel writes on a grid of (3, 2, 2) blocks of (5, 2, 3) threads (x, y, z)."""
    bz, by, bx, tz, ty, tx = np.indices((2, 2, 3, 3, 2, 5)).reshape(6, -1)
    digits = (bx, by, bz, tx, ty, tz)
    names = sum(axis * 10 ** (5 - i) for i, axis in enumerate(digits))
    return np.asarray(names, np.float32)


def _shuffles() -> NDArray[np.float32]:
    return (3 * 100 + (THREADS % WARP ^ 2)).astype(np.float32)


def _matrices(axes: tuple[int, ...]) -> NDArray[np.float32]:
    """What ldmatrix_kernel writes: for each thread, two elements of each of the four matrices."""
    matrices = np.arange(4 * COUNT).reshape(4, 8, 8).transpose(axes)
    of_lanes = matrices.reshape(4, WARP, 2).transpose(1, 0, 2)
    return np.tile(of_lanes.reshape(-1), COUNT // WARP).astype(np.float32)


HALF = THREADS // 2 + 1
EVEN = (THREADS & ~1) + 1
RIGHT: dict[str, NDArray[np.generic]] = {
    "raw_ordered": HALF,
    "war_ordered": THREADS - COUNT,
    "warp_syncwarp": EVEN,
    "in_place": -(THREADS + 1),
    "early_exit": np.where(THREADS % 4 == 3, 0, (THREADS ^ (THREADS % 4 < 2)) + 1),
    "read_global": np.where(THREADS == 7, 1, THREADS + 1),
    "float4": np.where(THREADS == 7, 1 + 2 + 3 + 4, 0),
    "peer_enabled": THREADS + 1,
    "reduce": np.full(COUNT, COUNT * (COUNT + 1) // 2),
    "places": _places(),
    "shuffles": _shuffles(),
    "swap": np.arange(200 * COUNT) ^ 1,
    "dynamic": np.ones(COUNT),
    "much_dynamic": np.ones(COUNT),
    "copy": COUNT - THREADS,
    "two_groups": COUNT - THREADS,
    "refill_ordered": COUNT - THREADS,
    "copy_to": np.where(THREADS < 4, THREADS + 1, 5),
    "copy_from": np.where(THREADS < 4, THREADS + 1, 5),
    "copy_nothing": np.where(THREADS < 4, 0, 5),
    "ldmatrix": _matrices((0, 1, 2)),
    "ldmatrix_trans": _matrices((0, 2, 1)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_kernel_is_right_and_not_reported(checked: Path, case: str) -> None:
    for line in said(checked, case, seeds=range(4)):
        np.testing.assert_array_equal(outputs(line), RIGHT[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", RIGHT)
def test_a_right_kernel_is_right_in_every_schedule(fast: Path, case: str) -> None:
    """The case swap is large enough for several workers."""
    for line in said(fast, case, seeds=range(SEEDS[-1] + 1)):
        np.testing.assert_array_equal(outputs(line), RIGHT[case])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "right"),
    [("raw", HALF), ("war", RIGHT["war_ordered"]), ("warp", EVEN)],
    ids=["raw", "war", "warp"],
)
def test_schedules_spoil_what_lacks_a_barrier(
    fast: Path, case: str, right: NDArray[np.generic]
) -> None:
    for line in said(fast, case, seeds=SEEDS):
        assert not np.array_equal(outputs(line), right)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "right"), [("raw", HALF), ("warp", EVEN)], ids=["raw", "warp"])
def test_natural_order_alone_would_miss_it(
    fast: Path, case: str, right: NDArray[np.generic]
) -> None:
    (line,) = said(fast, case)
    np.testing.assert_array_equal(outputs(line), right)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(1), SEEDS], ids=["natural", "seeds"])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("case", ["copy_not_committed", "copy_not_awaited", "copy_one_left"])
def test_a_copy_arrives_when_it_is_waited_for_and_no_sooner(
    fast: Path, case: str, at: int, seeds: range
) -> None:
    for line in said(fast, case, at, seeds):
        assert np.isnan(outputs(line)).all()


@pytest.mark.slow
@pytest.mark.parametrize("at", [10**6, -(10**6), 10**9, 1])
def test_a_copy_of_nothing_may_be_from_anywhere(checked: Path, fast: Path, at: int) -> None:
    for built in (checked, fast):
        (line,) = said(built, "copy_nothing", at)
        np.testing.assert_array_equal(outputs(line), RIGHT["copy_nothing"])


# ---------------------------------------------------------------------- every history

BLOCK_THREADS = WARP + 2  # only LANES do anything
LANES = (0, 1, 2, WARP, WARP + 1)
SCRIPTS = 400  # for each seed
READ, WRITE, COPY, COMMIT = (Action(what) for what in ("read", "write", "copy", "commit"))
SYNCTHREADS, SYNCWARP = Action("__syncthreads"), Action("__syncwarp")
WAIT, WAIT_BUT_ONE = Action("wait"), Action("wait", left=1)
KINDS = (READ, WRITE, SYNCTHREADS, SYNCWARP, COPY, COMMIT, WAIT, WAIT_BUT_ONE)  # as in the source
Report = Callable[[int, bool, list[Launch]], Race | None]


def numbers_of(schedule: int, shared: bool, launches: list[Launch]) -> Iterator[int]:
    """A script in the form that simt_cases.cu reads."""
    yield from (schedule, int(shared), len(launches))
    for launch in launches:
        yield from (len(launch), BLOCK_THREADS)
        for block in launch:
            for thread in range(BLOCK_THREADS):
                actions = block.get(thread, [])
                yield len(actions)
                for action in actions:
                    yield 8 * action.element + KINDS.index(action._replace(element=0))


DATA = r"data\[(?P<float>\d+)\]"  # four floats an element
ACCESS = (
    r"(?P<what{0}>read|write|begun) by block (?P<block{0}>\d+) thread (?P<thread{0}>\d+)"
    r" at module offset 0x[0-9a-f]+"
)


def race_in(line: str) -> Race | None:
    """The race that a report names; None if nothing is reported."""
    if line == "no report":
        return None
    for pattern in (
        rf"data race on {DATA}: {ACCESS.format(1)}, {ACCESS.format(2)}, and no barrier",
        rf"{ACCESS.format(1)} of {DATA}, to which a cp\.async is under way: {ACCESS.format(2)}",
    ):
        if found := re.search(pattern, line):
            accesses = (found.group(f"what{i}", f"block{i}", f"thread{i}") for i in (1, 2))
            named = frozenset(
                Access(what.replace("begun", "write"), int(block), int(thread))
                for what, block, thread in accesses
            )
            return Race(int(found["float"]) // 4, named)
    pytest.fail(line)


@pytest.fixture(scope="module")
def reported(checked: Path) -> Iterator[Report]:
    """What the checker reports for a script.

    addr2line, which takes longer than all the rest, is hidden from it, so it names machine code.
    """
    with subprocess.Popen(
        [checked, "scripts"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": ""},
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        yield partial(_ask, process.stdin, process.stdout)
        process.stdin.close()


def _ask(
    to: IO[str], back: IO[str], schedule: int, shared: bool, launches: list[Launch]
) -> Race | None:
    print(*numbers_of(schedule, shared, launches), file=to, flush=True)
    return race_in(back.readline().rstrip())


ANY = [Action(what, element) for what in ("read", "read", "write") for element in (0, 1)]


COPIES = [Action("copy", element) for element in (0, 1)] + [COMMIT, COMMIT, WAIT, WAIT_BUT_ONE]


def random_block(random: Random, accesses: list[Action]) -> Block:
    """Actions of a block's threads: barriers where all can meet, and some threads exit early."""
    block: Block = {lane: [] for lane in LANES}
    density = random.choice((0.03, 0.1, 0.3))
    for phase in range(random.randint(1, 3)):
        steps = [random.randint(1, 3) for warp in (0, 1)]
        for lane, actions in block.items():
            actions += [SYNCTHREADS] * (phase > 0)
            for step in range(steps[lane // WARP]):
                actions += [SYNCWARP] * (step > 0)
                actions += [random.choice(accesses) for _ in range(2) if random.random() < density]
    for lane in random.sample(LANES, random.choice((0, 0, 1, 2))):
        del block[lane][random.randint(0, len(block[lane])) :]
    return block


def random_launches(random: Random, shared: bool) -> list[Launch]:
    """One launch or two, of one block or two: any accesses, or one write among many readers.

    Most of the first kind contain many races; the second kind contain few, one or none. Copies go
    to shared memory only: any number among any accesses, or one awaited copy among many readers.
    """
    any_access = ANY + COPIES if shared and random.random() < 0.5 else ANY
    if random.random() < 0.2:
        return [
            [random_block(random, any_access) for _ in range(random.randint(1, 2))]
            for _ in range(random.randint(1, 2))
        ]
    launch = [random_block(random, [READ]) for _ in range(random.choice((1, 1, 1, 1, 2)))]
    writer = random.choice(launch)[random.choice(LANES)]
    write = [COPY, COMMIT, WAIT] if shared and random.random() < 0.5 else [WRITE]
    places = sorted(random.randint(0, len(writer)) for _ in write)
    for place, action in reversed(list(zip(places, write, strict=True))):
        writer.insert(place, action)
    return [launch] * random.randint(1, 2)


@pytest.mark.parametrize("seed", range(10))
def test_a_race_is_reported_where_there_is_one_and_nowhere_else(
    reported: Report, seed: int
) -> None:
    random = Random(seed)
    racing = 0
    for _ in range(SCRIPTS):
        schedule, shared = random.randint(0, 5), random.random() < 0.5
        launches = random_launches(random, shared)
        existing = races(launches, shared=shared)
        found = reported(schedule, shared, launches)
        assert found in existing if existing else found is None, (schedule, shared, launches)
        racing += bool(existing)
    assert SCRIPTS / 4 < racing < 3 / 4 * SCRIPTS  # both kinds occur


HISTORIES: dict[str, Block] = {
    # The checker remembers two readers. Of these three, only the third races with the write.
    "a reader of another warp after two of one": {
        0: [READ, SYNCWARP, WRITE],
        1: [READ, SYNCWARP],
        32: [READ],
    },
    "the same with the other warp first": {
        0: [SYNCWARP, READ, SYNCWARP, WRITE],
        1: [READ, SYNCWARP, READ, SYNCWARP],
        32: [READ],
    },
    "the second of two readers": {0: [READ, WRITE], 1: [READ]},
    "a third reader of one warp": {0: [READ, WRITE], 1: [READ], 2: [READ]},
    "a reader long before": {0: [SYNCTHREADS, READ, WRITE], 1: [SYNCTHREADS, READ], 32: [READ]},
}


@pytest.mark.parametrize("shared", [False, True], ids=["global", "shared"])
@pytest.mark.parametrize("history", HISTORIES)
def test_no_reader_is_forgotten(reported: Report, history: str, shared: bool) -> None:
    launches: list[Launch] = [[HISTORIES[history]]]
    existing = races(launches, shared=shared)
    assert existing
    for schedule in range(10):
        assert reported(schedule, shared, launches) in existing


COPYING: dict[str, Block] = {
    "its own copy": {0: [COPY, COMMIT, READ, WAIT]},
    "a copy of no group": {0: [COPY, WAIT, READ, COMMIT]},
    "the second of two copies": {
        0: [Action("copy", 1), COMMIT, COPY, COMMIT, WAIT_BUT_ONE, Action("read", 1), READ]
    },
    "a reader before the copy has begun": {0: [READ], 1: [COPY, COMMIT, SYNCTHREADS, WAIT]},
    "a reader after the barrier, of a copy waited for behind it": {
        0: [SYNCTHREADS, READ],
        1: [COPY, COMMIT, SYNCTHREADS, WAIT],
    },
}


@pytest.mark.parametrize("history", COPYING)
def test_no_copy_is_forgotten(reported: Report, history: str) -> None:
    launches: list[Launch] = [[COPYING[history]]]
    existing = races(launches, shared=True)
    assert existing
    for schedule in range(10):
        assert reported(schedule, True, launches) in existing


@pytest.mark.slow
def test_copies_that_were_waited_for_are_no_race(reported: Report) -> None:
    second = Action("copy", 1)
    block = {
        0: [
            COPY,
            COMMIT,
            second,
            COMMIT,
            WAIT_BUT_ONE,
            READ,
            SYNCTHREADS,
            WAIT,
            WRITE,
            SYNCTHREADS,
        ],
        1: [SYNCTHREADS, SYNCTHREADS, READ, Action("read", 1)],
    }
    assert not races([[block]], shared=True)
    for schedule in range(10):
        assert reported(schedule, True, [[block], [block]]) is None


@pytest.mark.slow
def test_readers_that_a_barrier_orders_are_no_race(reported: Report) -> None:
    block = {
        0: [READ, SYNCWARP, SYNCTHREADS, WRITE, SYNCWARP],
        1: [READ, SYNCWARP, SYNCTHREADS, SYNCWARP, READ],
        2: [READ],
        32: [READ, SYNCTHREADS],
        33: [READ],
    }
    assert not races([[block]], shared=True)
    for schedule in range(10):
        assert reported(schedule, True, [[block], [block]]) is None
