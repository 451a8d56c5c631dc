"""Hopper's barriers, tiles and products on the emulation: values, and what the checker reports.

The kernels are in hopper_cases.cu.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import emulated
import tensor_cores
from async_order import Fault, Member, Order, Script, Step
from samples import normal
from tensor_cores import HOPPER

SOURCE = Path(__file__).with_name("hopper_cases.cu")
line_of, located = partial(emulated.line_of, SOURCE), partial(emulated.located, SOURCE)
Floats = NDArray[np.float32]


@pytest.fixture(params=[pytest.param("fast", marks=pytest.mark.slow), "checked"])
def built(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def computed(program: Path, *arguments: object, given: bytes) -> Floats:
    done = subprocess.run(
        [program, *map(str, arguments)], input=given, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, np.float32)


def rounded(*shape: int, seed: int) -> Floats:
    """Normally distributed numbers, already rounded to bfloat16."""
    return normal(*shape, seed=seed).astype(ml_dtypes.bfloat16).astype(np.float32)


def bits(x: Floats) -> bytes:
    return x.astype(ml_dtypes.bfloat16).tobytes()


def assert_product(y: Floats, a: Floats, b: Floats) -> None:
    """Check that y is a b^T, up to the rounding of sums in float32."""
    exact = a.astype(np.float64) @ b.T
    magnitude = np.abs(a).astype(np.float64) @ np.abs(b).T
    assert (np.abs(y.reshape(exact.shape) - exact) <= 8 * 2.0**-24 * magnitude).all()


MAJORS = [(a, b) for a in ("k", "mn") for b in ("k", "mn")]


@pytest.mark.parametrize(
    ("columns", "majors"),
    [
        (n, majors)
        for n in (64, 96, 128, 192, 256)
        for majors in MAJORS
        if n != 96 or majors[1] == "k"
    ],
    ids=str,
)
def test_one_product_of_every_size_and_way(
    built: Path, columns: int, majors: tuple[str, str]
) -> None:
    a, b = rounded(64, 64, seed=1), rounded((columns + 63) // 64 * 64, 64, seed=2)
    tiles = [tile.T if majors[1] == "mn" else tile for tile in b.reshape(-1, 64, 64)]
    given = bits(a.T if majors[0] == "mn" else a) + bits(np.concatenate(tiles))
    y = computed(built, "multiply", columns, *majors, given=given)
    assert_product(y, a, b[:columns])


@pytest.mark.parametrize("majors", MAJORS, ids="-".join)
@pytest.mark.parametrize("columns", [48, 128])
def test_one_product_in_planes(built: Path, columns: int, majors: tuple[str, str]) -> None:
    """From any multiple of 16 bytes on, with an odd number of pieces a plane."""
    a, b = rounded(64, 64, seed=1), rounded((columns + 63) // 64 * 64, 64, seed=2)
    tiles = [tile.T if majors[1] == "mn" else tile for tile in b.reshape(-1, 64, 64)]
    given = bits(a.T if majors[0] == "mn" else a) + bits(np.concatenate(tiles))
    y = computed(built, "planes", columns, *majors, given=given)
    assert_product(y, a, b[:columns])


@pytest.mark.parametrize(
    ("columns", "major", "refusal"),
    [
        (16, "k", "wgmma<n>: n is 48, 64, 96, 128, 192 or 256"),
        (96, "mn", "wgmma<n>: of an MN-major b whole tiles of 64 columns are multiplied"),
        (96, "k", ""),
    ],
)
def test_products_that_the_card_or_its_header_lacks_are_not_compiled(
    columns: int, major: str, refusal: str
) -> None:
    source = f"""
        #include "simt/hopper.hpp"
        void f(float (&d)[{columns // 2}], simt::Operand<simt::Major::k> a,
               simt::Operand<simt::Major::{major}> b) {{ simt::wgmma<{columns}>(d, a, b); }}"""
    command = [emulated.COMPILER, *emulated.COMMON, "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert refusal in done.stderr and (done.returncode == 0) == (not refusal), done.stderr


@pytest.mark.parametrize("columns", [96, 192])
def test_a_product_that_is_cut(built: Path, columns: int) -> None:
    """Bit for bit as a Hopper's tensor cores have it."""
    a, b = rounded(64, 64, seed=1), rounded((columns + 63) // 64 * 64, 64, seed=2)
    y = computed(built, "multiply", columns, "k", "k", "cut", given=bits(a) + bits(b))
    due = tensor_cores.added(np.zeros((64, columns)), a[:, None], b[None, :columns], HOPPER)
    np.testing.assert_array_equal(y.reshape(64, columns), due)


def factor(lines: Floats, major: str) -> bytes:
    """A factor's memory layout: rows of a multiple of 8 elements, with NaN after their end."""
    matrix = lines if major == "k" else lines.T
    rest = np.full((len(matrix), -matrix.shape[1] % 8), np.nan, np.float32)
    return bits(np.concatenate([matrix, rest], axis=1))


@pytest.mark.every(4)
@pytest.mark.parametrize("schedule", range(4))
@pytest.mark.parametrize("majors", MAJORS, ids="-".join)
def test_a_warp_specialised_product_in_every_schedule(
    built: Path, majors: tuple[str, str], schedule: int
) -> None:
    """Two blocks by two, none full; five stages, the last of them short."""
    rows, columns, depth = 141, 203, 263
    a, b = rounded(rows, depth, seed=3), rounded(columns, depth, seed=4)
    given = factor(a, majors[0]) + factor(b, majors[1])
    y = computed(built, "product", schedule, *majors, rows, columns, depth, given=given)
    assert_product(y, a, b)


# ---------------------------------------------------------------------- what is reported


def said(program: Path, case: str, schedule: int = 0) -> tuple[str, Floats]:
    """A small kernel's report, or "", and its output."""
    done = subprocess.run(
        [program, case, str(schedule)], capture_output=True, check=False, timeout=60
    )
    return done.stderr.decode().rstrip(), np.frombuffer(done.stdout, np.float32)


UNDER_WAY = "to which a {} is under way: begun by block 0 thread 0 at {{{}}}, and not waited for"
STILL_READ = (
    "which a wgmma still reads: begun by block 0 thread 128 at {stage: multiply}, "
    "and not waited for"
)
UNFENCED = "written by block 0 thread {} at {{{}}}, and no fence_proxy_async between the two"
STUCK = (
    "no thread of the block can go on: thread 0 waits at {{/stage: empty}} for phase 0 of "
    "empty[0], which lacks 1 arrivals and 0 bytes; thread 128 waits at {{/stage: full}} for "
    "phase 0 of full[0], which lacks {}; 127 of 256 have exited"
)
FIRST = "block (0,0,0) thread (0,0,0)"
LOADS = "write by block 0 thread 0 at {stage: load} of stage"

# Only the checker sees these; the fast emulation also reports those in REFUSED.
SEEN = {
    "stage not_awaited": "read by block 0 thread 128 at {stage: multiply} of stage[0], "
    + UNDER_WAY.format("load_tile", "stage: load"),
    "stage read_unawaited": "read by block 0 thread 128 at {stage: read} of stage[128], "
    + UNDER_WAY.format("load_tile", "stage: load"),
    "stage handed_early": f"{LOADS}[0], {STILL_READ}",
    "stage not_committed": f"{LOADS}[0], {STILL_READ}",
    "stage overwritten": f"{LOADS}[128], " + UNFENCED.format(128, "stage: write"),
    "stage init_unordered": "data race on full[0]: used by block 0 thread 128 at {stage: full}, "
    "initialised by block 0 thread 0 at {stage: init}, and no barrier orders the two",
    "stage init_unfenced": "used by block 0 thread 0 at {stage: load} of full[0] for a load_tile, "
    "initialised by block 0 thread 0 at {stage: init}, and no mbarrier_fence_init between the two",
    "copy tied_unfenced": "read by block 0 thread 0 at {copy: multiply} of stage[0], "
    + UNFENCED.format(0, "copy: begin"),
    "copy tied_unawaited": "read by block 0 thread 0 at {copy: multiply} of stage[0], "
    + UNDER_WAY.format("cp.async", "copy: begin"),
    "copy misaligned": "misaligned access to stage + 128 bytes, which should be a multiple of 1024 "
    f"bytes, at {{copy: load}}, {FIRST}",
    "copy planes_misaligned": "misaligned access to stage + 8 bytes, which should be a multiple of "
    "16 bytes, at {copy: planes}, block (0,0,0) thread (96,0,0)",
    "copy planes_apart": "the next plane of an operand lies at a multiple of 16 bytes below "
    "262144, not 24, at {copy: planes}, block (0,0,0) thread (96,0,0)",
    "copy beyond": f"out-of-bounds write of 4096 bytes at {{copy: load}}, {FIRST}, "
    "0 bytes after the end of stage (8192 bytes)",
    "copy to_global": "y + 0 bytes is not in shared memory, as it should be, "
    f"at {{copy: load}}, {FIRST}",
    "copy second_of_eight": "a K-major operand begins in the first of eight rows, not at "
    "stage + 128 bytes, at {copy: multiply}, block (0,0,0) thread (96,0,0)",
    "copy in_place": "read by block 0 thread 0 at {copy: load} of x[2], "
    + UNFENCED.format(0, "copy: write"),
}
REFUSED = {
    "stage no_wgmma_fence": "no wgmma_fence since the sums of this wgmma were last waited for, "
    "at {stage: multiply}, block (0,0,0) thread (224,0,0)",
    "stage too_few_bytes": "full[0] expects 4096 bytes in its phase 0, to which tiles of 8192 "
    "bytes come, the last begun at {stage: load}",
    "stage too_many_bytes": STUCK.format("0 arrivals and 8192 bytes"),
    "stage one_arrival_short": STUCK.format("1 arrivals and 0 bytes"),
    "stage one_arrival_more": "full[0] takes 1 arrivals in a phase, and phase 0 gets one more, "
    f"by {FIRST}",
    "stage never_initialised": "empty[0] is no mbarrier: mbarrier_init has not been called, "
    f"at {{stage: empty}}, {FIRST}",
    "stage left_behind": "the block ends, and nobody has waited for the load_tile begun at "
    "{stage: load}, by full[0]",
    "copy apart": "warps of one warpgroup begin different products: one at {copy: multiply}, "
    "another at {copy: multiply}, block (0,0,0) thread (64,0,0)",
    "copy three_warps": "a warpgroup is four whole warps, at {copy: fence}, "
    "block (0,0,0) thread (64,0,0)",
    "registers too_few": "no thread of the block can go on: thread 224 waits at "
    "{/registers: raise} for more registers than the 256 in its block's pool; 352 of 384 have "
    "exited",
    "registers by_three": "the block ends, and not all warps of a warpgroup have changed their "
    "registers at {registers: lower}",
    "registers unlike": "warps of one warpgroup change their registers differently: one at "
    "{registers: lower}, another at {registers: unlike}, block (0,0,0) thread (352,0,0)",
    "registers by_half": "registers are handed over by warpgroups, four whole warps, "
    f"at {{registers: raise}}, {FIRST}",
    "registers up_to_less": "a thread has 168 registers, which cannot be raised to 160, "
    f"at {{registers: raise}}, {FIRST}",
    "registers down_to_more": "a thread has 168 registers, which cannot be lowered to 176, "
    "at {registers: lower}, block (0,0,0) thread (256,0,0)",
}


def assert_reported(case: str, line: str, report: str) -> None:
    kernel, _, rest = line.partition(" launched at ")
    name = case.partition(" ")[0]
    assert kernel.partition("<")[0] == f"{name}_kernel"
    assert rest == f"{SOURCE}:{line_of(f'{name}: launch')}: {located(report)}"


@pytest.mark.parametrize("case", [*SEEN, *REFUSED])
def test_a_bug_is_reported_as_what_it_is(checked: Path, case: str) -> None:
    line, y = said(checked, case)
    assert_reported(case, line, (SEEN | REFUSED)[case])
    assert not y.size


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_the_fast_emulation_refuses_what_could_not_go_on(fast: Path, case: str) -> None:
    assert_reported(case, said(fast, case)[0], REFUSED[case])


@pytest.mark.every(4)
@pytest.mark.parametrize("schedule", range(1, 6))
@pytest.mark.parametrize("case", [*SEEN, *REFUSED])
def test_a_bug_is_reported_in_every_schedule(checked: Path, case: str, schedule: int) -> None:
    line, _ = said(checked, case, schedule)
    assert " launched at " in line


FARTHEST = 2**32  # rows or columns; rows are less than 2^40 bytes apart


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "columns", "pitch", "tile_rows", "exists"),
    [
        (FARTHEST, 8, 8, 64, True),
        (FARTHEST + 1, 8, 8, 64, False),
        (1, FARTHEST, FARTHEST, 256, True),
        (1, FARTHEST + 8, FARTHEST + 8, 256, False),
        (1, 8, 2**39 - 8, 1, True),
        (1, 8, 2**39, 1, False),
        (1, 8, 12, 1, False),
        (2, 16, 8, 1, False),
        (0, 8, 8, 1, False),
        (1, 0, 8, 1, False),
        (1, 8, 8, 0, False),
        (1, 8, 8, 257, False),
    ],
)
def test_tensor_maps_that_the_driver_refuses_are_refused(
    fast: Path, rows: int, columns: int, pitch: int, tile_rows: int, exists: bool
) -> None:
    sizes = (rows, columns, pitch, tile_rows)
    done = subprocess.run(
        [fast, "map", *map(str, sizes)], capture_output=True, text=True, check=False
    )
    refusal = "no tensor map of {} x {} bf16, {} a row, in tiles of {} rows: ".format(*sizes)
    assert done.stderr.startswith(refusal) if not exists else not done.stderr


X = np.fromfunction(lambda i, j: (i + 2 * j) % 7 - 3, (64, 128))  # as run_small() makes it
RIGHT = {
    "stage rightly": X @ X.T,
    "copy rightly": X[:, :16] @ X[:, :16].T,
    "copy tied": X[:, :16] @ X[:, :16].T,
    "registers rightly": np.zeros((64, 64)),
    "registers of_two": np.zeros((64, 64)),
}


@pytest.mark.parametrize("schedule", range(6))
@pytest.mark.parametrize("case", RIGHT)
def test_a_right_kernel_is_right_and_not_reported(built: Path, case: str, schedule: int) -> None:
    line, y = said(built, case, schedule)
    assert not line
    np.testing.assert_array_equal(y.reshape(64, 64), RIGHT[case])


@pytest.mark.parametrize("schedule", range(6))
@pytest.mark.parametrize("case", ["stage overwritten_fenced", "copy in_place_fenced"])
def test_what_threads_wrote_behind_a_fence_is_not_reported(
    checked: Path, case: str, schedule: int
) -> None:
    line, y = said(checked, case, schedule)
    assert not line
    assert not np.isnan(y).any()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", range(6))
@pytest.mark.parametrize("case", ["stage one_left", "stage not_committed", "stage handed_early"])
def test_what_is_not_waited_for_is_spoilt(fast: Path, case: str, schedule: int) -> None:
    """Products are carried out, and tiles arrive, as late as allowed."""
    line, y = said(fast, case, schedule)
    assert not line
    assert np.isnan(y).any()


# ---------------------------------------------------------------------- every history

THREADS = 160  # kScriptThreads of the source
LANES = (0, 1, 33, 128, 129)  # in three warps, the first two of them in the warpgroup
BARRIERS = ELEMENTS = 3
KINDS = (  # in the source's order
    *("read", "write", "__syncthreads", "__syncwarp", "arrive", "wait", "load", "fence"),
    *("multiply", "commit", "wait_all", "wait_all_but_one", "copy", "arrive_by_copies"),
)
SCRIPTS = 60  # for each seed


class Writer:
    """Writes a script that cannot deadlock, by going through one of its runs.

    Two lanes arrive at each barrier, and each waits for a phase before it arrives in the next, so
    each arrival belongs to the same phase in every schedule.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.touches = random.choice((0.1, 0.2, 0.4))  # the share of steps that touch an element
        self.script: Script = {thread: [] for thread in range(THREADS)}
        self.partners = [tuple(random.sample(LANES, 2)) for _ in range(BARRIERS)]
        self.arrived = [dict.fromkeys(partners, 0) for partners in self.partners]
        self.awaited = [dict.fromkeys(partners, 0) for partners in self.partners]

    def ended(self, barrier: int) -> int:
        return min(self.arrived[barrier].values())

    def by(self, threads: Iterable[int], step: Step) -> None:
        for thread in threads:
            self.script[thread].append(step)

    def arrive(self, lane: int, barrier: int, what: str, element: int = 0) -> None:
        phase = self.arrived[barrier][lane]
        self.by([lane], Step(what, element, barrier, phase))
        self.arrived[barrier][lane] += 1

    def wait(self, lane: int, barrier: int) -> None:
        self.by([lane], Step("wait", 0, barrier, self.awaited[barrier][lane]))
        self.awaited[barrier][lane] += 1

    def step(self) -> None:
        random = self.random
        lane, element = random.choice(LANES), random.randrange(ELEMENTS)
        barrier = random.randrange(BARRIERS)
        touching = random.random() < self.touches
        what = random.choice(
            ("read", "write", "copy", "load", "load", "multiply")
            if touching
            else ("fence", "fence", "waits", "sync", "sync", "arrive", "arrive", "both", "both")
        )
        if what in ("read", "write", "copy", "fence"):
            self.by([lane], Step(what, 0 if what == "fence" else element))
        elif what == "multiply":
            self.by(range(128), Step("multiply", element))
            self.by(range(128), Step("commit"))
        elif what == "waits":
            self.by(range(128), Step(random.choice(("wait_all", "wait_all_but_one"))))
        elif what == "sync" and random.random() < 0.3:
            self.by(range(THREADS), Step("__syncthreads"))
        elif what == "sync":
            first = random.choice((0, 32, 128))
            self.by(range(first, first + 32), Step("__syncwarp"))
        elif what == "both":
            self.meet(barrier)
        else:
            self.arrive_or_wait(random.choice(self.partners[barrier]), barrier, what, element)

    def arrive_or_wait(self, lane: int, barrier: int, what: str, element: int) -> None:
        if self.awaited[barrier][lane] < min(self.arrived[barrier][lane], self.ended(barrier)):
            self.wait(lane, barrier)
        elif self.arrived[barrier][lane] == self.awaited[barrier][lane]:
            if what == "load":
                self.arrive(lane, barrier, "load", element)
            else:
                self.arrive(lane, barrier, self.random.choice(("arrive", "arrive_by_copies")))

    def meet(self, barrier: int) -> None:
        """The rest of a phase, or the whole next phase if nothing is left."""
        most = max(self.arrived[barrier].values())
        if self.ended(barrier) == most == min(self.awaited[barrier].values()):
            most += 1
        for lane in self.partners[barrier]:
            while self.arrived[barrier][lane] < most:
                if self.awaited[barrier][lane] < self.arrived[barrier][lane]:
                    self.wait(lane, barrier)
                self.arrive(lane, barrier, "arrive")
        for lane in self.partners[barrier]:
            while self.awaited[barrier][lane] < most:
                self.wait(lane, barrier)

    def finish(self) -> Script:
        """End the script with a wait for every tile."""
        for barrier in range(BARRIERS):
            if max(self.arrived[barrier].values()) > min(self.awaited[barrier].values()):
                self.meet(barrier)
        return self.script


def numbers_of(schedule: int, script: Script) -> Iterator[int]:
    """A script in the form that hopper_cases.cu reads."""
    yield schedule
    yield from (2 for _ in range(BARRIERS))
    for thread in range(THREADS):
        yield len(script[thread])
        for step in script[thread]:
            which = step.phase % 2 if step.what == "wait" else step.element
            yield 16 * (4 * step.barrier + which) + KINDS.index(step.what)


ACCESS = r"(?:(read|write|begun|written) by block 0 thread (\d+) at module offset 0x[0-9a-f]+)"
REPORTS = (
    rf"data race on data\[(?P<at>\d+)\]: {ACCESS}, {ACCESS}, and no barrier",
    rf"{ACCESS} of data\[(?P<at>\d+)\], to which a (?:load_tile|cp\.async) is under way: {ACCESS}",
    rf"{ACCESS} of data\[(?P<at>\d+)\], which a wgmma still (?P<reads>reads): {ACCESS}",
    rf"{ACCESS} of data\[(?P<at>\d+)\], {ACCESS}, and no fence_(?P<unfenced>proxy)_async",
)


def fault_in(line: str) -> Fault | None:
    """The fault that a report names; None if nothing is reported."""
    if line == "no report":
        return None
    for pattern in REPORTS:
        if found := re.search(pattern, line):
            groups = found.groupdict()
            before = "read" if groups.get("reads") else "write"
            named = re.findall(ACCESS, found[0])
            members = [
                Member(what if what in ("read", "write") else before, int(thread))
                for what, thread in named
            ]
            element = int(found["at"]) // (16 * 64)
            return Fault(element, (members[0], members[1]), bool(groups.get("unfenced")))
    pytest.fail(line)


Ask = Callable[[int, Script], Fault | None]


@pytest.fixture(scope="module")
def reported(checked: Path) -> Iterator[Ask]:
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
        to, back = process.stdin, process.stdout
        assert to
        assert back

        def ask(schedule: int, script: Script) -> Fault | None:
            print(*numbers_of(schedule, script), file=to, flush=True)
            return fault_in(back.readline().rstrip())

        yield ask
        to.close()


def assert_found(existing: Sequence[Fault], found: Fault | None, shown: object) -> None:
    if found is None:
        assert not existing, (existing, shown)
    else:
        assert any(fault.is_named(found) for fault in existing), (found, shown)


@pytest.mark.parametrize("seed", range(10))
def test_a_fault_is_reported_where_there_is_one_and_nowhere_else(reported: Ask, seed: int) -> None:
    random = Random(seed)
    faulty = 0
    for _ in range(SCRIPTS):
        writer = Writer(random)
        for _ in range(random.randint(4, 30)):
            writer.step()
        script = writer.finish()
        schedule = random.randint(0, 5)
        existing = list(Order(script).faults())
        shown = schedule, {lane: script[lane] for lane in (*LANES, 2)}
        assert_found(existing, reported(schedule, script), shown)
        faulty += bool(existing)
    assert SCRIPTS / 4 < faulty < 3 / 4 * SCRIPTS  # both kinds of script occur


READ, WRITE, COPY, FENCE, MULTIPLY, COMMIT, WAIT_ALL, SYNC = (
    Step(what)
    for what in (
        "read",
        "write",
        "copy",
        "fence",
        "multiply",
        "commit",
        "wait_all",
        "__syncthreads",
    )
)
SYNCWARP = Step("__syncwarp")
PRODUCT = [MULTIPLY, COMMIT, WAIT_ALL]
WARPGROUP = range(128)


def arrive(barrier: int) -> Step:
    return Step("arrive", 0, barrier)


def wait(barrier: int) -> Step:
    return Step("wait", 0, barrier)


def load(barrier: int) -> Step:
    return Step("load", 0, barrier)


# For each: the steps of the threads named, then those of the whole warpgroup.
FAULTY: dict[str, tuple[dict[int, list[Step]], list[Step]]] = {
    "a fence before the write": (
        {
            0: [FENCE, WRITE, arrive(0), arrive(1), wait(1)],
            1: [arrive(0), wait(0), load(1), wait(1)],
        },
        [],
    ),
    "a fence of a thread that does not know of the write": (
        {thread: [SYNC] for thread in range(THREADS)} | {128: [WRITE, SYNC], 129: [FENCE, SYNC]},
        PRODUCT,
    ),
    "a third reader": (
        {0: [READ, arrive(0)], 33: [READ, arrive(0)], 128: [READ], 129: [wait(0), WRITE]},
        [],
    ),
    "a reader that reads again behind its arrival": (
        {0: [READ, arrive(0), READ], 1: [arrive(0), wait(0), WRITE]},
        [],
    ),
    "its own copies, whose end nobody has told it": (
        {0: [COPY, Step("arrive_by_copies"), READ], 1: [arrive(0)]},
        [],
    ),
    "its own tile": ({0: [load(0), READ, wait(0)], 1: [arrive(0)]}, []),
    "one thread of the warpgroup has waited": (
        {0: [arrive(0), wait(0)], 128: [WRITE, FENCE, arrive(0)]},
        PRODUCT,
    ),
    "a product that has not been waited for": (
        {thread: [MULTIPLY, COMMIT, SYNC] for thread in WARPGROUP}
        | {thread: [SYNC] for thread in range(128, THREADS)}
        | {128: [SYNC, WRITE]},
        [],
    ),
}
FAULTLESS: dict[str, tuple[dict[int, list[Step]], list[Step]]] = {
    "a fence of the reader": (
        {
            0: [WRITE, arrive(0), arrive(1), wait(1)],
            1: [arrive(0), wait(0), FENCE, load(1), wait(1), READ],
        },
        [],
    ),
    "a fence of one between the two": (
        {
            0: [WRITE, arrive(0), arrive(2), wait(2)],
            1: [arrive(0), wait(0), FENCE, arrive(1)],
            33: [arrive(1), wait(1), load(2), wait(2)],
        },
        [],
    ),
    "what a lane knows of another by __syncwarp": (
        {thread: [SYNCWARP] for thread in range(32)}
        | {0: [WRITE, SYNCWARP], 1: [SYNCWARP, arrive(0)], 33: [arrive(0), wait(0), WRITE]},
        [],
    ),
    "three readers": (
        {
            0: [READ, arrive(0)],
            33: [READ, arrive(0), arrive(1)],
            128: [READ, arrive(1)],
            129: [wait(0), wait(1), WRITE],
        },
        [],
    ),
    "what was written before the first barrier": (
        {thread: [SYNC, FENCE] for thread in range(THREADS)} | {128: [WRITE, SYNC]},
        PRODUCT,
    ),
    "a product that one thread has waited for": (
        {thread: list(PRODUCT) for thread in WARPGROUP}
        | {5: [*PRODUCT, arrive(0)], 128: [arrive(0), wait(0), WRITE]},
        [],
    ),
}
HISTORIES = FAULTY | FAULTLESS


@pytest.mark.parametrize("history", HISTORIES)
def test_what_chance_may_not_think_of(reported: Ask, history: str) -> None:
    own, of_group = HISTORIES[history]
    script = {
        thread: own.get(thread, []) + (of_group if thread in WARPGROUP else [])
        for thread in range(THREADS)
    }
    existing = list(Order(script).faults())
    assert bool(existing) == (history in FAULTY)
    for schedule in range(10):
        assert_found(existing, reported(schedule, script), schedule)
