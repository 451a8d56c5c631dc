"""The performance lint: accesses with a well-known cost, and a bound for every kernel."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.lint import BOUND, LineCost, examples, lint, main
from cases import EXAMPLES
from emulated import KERNELS, program
from samples import normal
from variants import SIMCHECK, parameters

SOURCE = Path(__file__).with_name("lint_cases.cu")
CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# ---------------------------------------------------------------------- known patterns

# The line's comment: space, access, bytes per lane, requests, sectors or passes, the minimum.
PATTERNS: dict[str, tuple[Any, ...]] = {
    "floats": ("global", "read", 4, 1, 4, 4),
    "one float": ("global", "read", 4, 1, 1, 1),
    "a float a row": ("global", "read", 4, 1, 32, 4),
    "misaligned floats": ("global", "read", 4, 1, 5, 4),
    "pairs": ("global", "read", 8, 1, 8, 8),
    "fours": ("global", "read", 16, 1, 16, 16),
    "bytes": ("global", "read", 1, 1, 1, 1),
    "floats in a loop": ("global", "read", 4, 3, 12, 12),
    "floats of half a warp": ("global", "read", 4, 1, 2, 2),
    "floats written": ("global", "write", 4, 1, 4, 4),
    "every fourth float written": ("global", "write", 4, 4, 64, 16),
    "fours written": ("global", "write", 16, 1, 16, 16),
    "shared floats": ("shared", "read", 4, 1, 1, 1),
    "one shared float": ("shared", "read", 4, 1, 1, 1),
    "column, pitch 32": ("shared", "read", 4, 1, 32, 1),
    "column, pitch 33": ("shared", "read", 4, 1, 1, 1),
    "every second float": ("shared", "read", 4, 1, 2, 1),
    "a float a pair": ("shared", "read", 4, 1, 1, 1),
    "shared pairs": ("shared", "read", 8, 1, 2, 2),
    "shared fours": ("shared", "read", 16, 1, 4, 4),
    "column of fours": ("shared", "read", 16, 1, 32, 4),
    "one shared four": ("shared", "read", 16, 1, 4, 4),
    "shared floats written": ("shared", "write", 4, 1, 1, 1),
    # Two halves of two warps of two blocks: eight requests, not four of whole warps.
    "a barrier between the halves": ("global", "read", 4, 8, 16, 16),
    "floats of two blocks": ("global", "write", 4, 4, 16, 16),
    "copies": ("global", "read", 16, 8, 128, 128),
    "copies of half a warp": ("global", "read", 16, 1, 8, 8),
    "threes": ("global", "read", 12, 1, 9, 9),
    "rows side by side": ("shared", "read", 16, 1, 4, 4),
    "rows 128 bytes apart": ("shared", "read", 16, 1, 32, 4),
}


# The same line's accesses to shared memory.
COPIED: dict[str, tuple[Any, ...]] = {
    "copies": ("shared", "write", 16, 8, 32, 32),
    "copies of half a warp": ("shared", "write", 16, 1, 4, 4),
    "threes": ("shared", "write", 12, 1, 3, 3),
}


@pytest.fixture(scope="module")
def cases() -> Path:
    return program([SOURCE], checked=True)


@pytest.mark.parametrize("seed", range(4))
def test_known_patterns_cost_what_they_cost(cases: Path, seed: int) -> None:
    """In every order of blocks and threads."""
    done = subprocess.run([cases, str(seed)], capture_output=True, text=True, check=True)
    told = {}
    for text in done.stdout.splitlines():
        line, _, space, access, *numbers = text.split()
        told[line, space, access] = tuple(map(int, numbers))
    comments = [text.partition("// ")[2] for text in SOURCE.read_text().splitlines()]
    for pattern, (space, access, *expected) in (*PATTERNS.items(), *COPIED.items()):
        (number,) = (i for i, comment in enumerate(comments, 1) if comment == pattern)
        assert told[f"{SOURCE.name}:{number}", space, access] == tuple(expected), pattern


# ---------------------------------------------------------------------- our own kernels

# Accesses that may cost more than BOUND times the minimum of sectors or passes: (file, array,
# access), the factor allowed, and why.
ODD_ROWS = "rows of 363 taps begin between 16-byte borders"
BEHIND = "lies behind a row of dw: one lane of 16 has it"
PASSES = ("read", "write")
TWO_WAY = "lanes write a column of the slice; its pitch leaves two of them a bank"
EXCEPTIONS = {
    ("four.cuh", "dw", "write"): (4.35, ODD_ROWS),
    **{("four.cuh", f"w.{one}", pass_): (4.35, ODD_ROWS) for one in "wv" for pass_ in PASSES},
    ("epilogue.cuh", "db", "write"): (2.01, BEHIND),
    **{("four.cuh", f"b.{one}", pass_): (2.01, BEHIND) for one in "wv" for pass_ in PASSES},
    ("augment.cu", "y", "write"): (2.3, "24 bytes of a pixel's 96; the next rows fill its sectors"),
    ("depth.cu", "w", "read"): (1.65, "a block has 12 numbers of a row of 33"),
    ("channels.cuh", "x", "read"): (
        4.01,
        "two neighbours of each eight, which others read as well",
    ),
    ("gemm.cuh", "a_slices", "write"): (2.01, TWO_WAY),
    ("gemm.cuh", "b_slices", "write"): (2.01, TWO_WAY),
    ("lrn_pool.cu", "rows_of_maxima", "read"): (2.01, "a window begins at every other column"),
    ("augment.cu", "x", "read"): (2.01, "a crop's 32 bytes lie across a border of sectors"),
}


@cache
def rows() -> dict[str, list[LineCost]]:
    """The costs of a call of every operation: of the bench's, or of the table's."""
    calls = examples()
    known = {name.partition(" ")[0] for name in calls}
    calls |= {op: example.run for op, example in EXAMPLES.items() if op not in known}
    return {name: lint([call]) for name, call in calls.items()}


def place(row: LineCost) -> tuple[str, str, str]:
    return row.line.partition(":")[0], row.array, row.access


@pytest.mark.slow
@CHECKED
def test_no_line_costs_more_than_its_bound(be: Any) -> None:
    """A kernel that starts to read or write uncoalesced shows here."""
    too_much = [
        f"{name}: {row}: {row.ratio:.2f}"
        for name, some in rows().items()
        for row in some
        if row.ratio > EXCEPTIONS.get(place(row), (BOUND, ""))[0]
    ]
    assert not too_much, "\n".join(too_much)


@pytest.mark.slow
@CHECKED
def test_every_exception_is_needed(be: Any) -> None:
    above = {place(row) for some in rows().values() for row in some if row.ratio > BOUND}
    assert above == EXCEPTIONS.keys()


@pytest.mark.slow
@CHECKED
def test_every_launcher_and_every_kernel_file_is_looked_at(be: Any) -> None:
    launchers = re.findall(r"\bvoid (\w+)\(", (KERNELS / "ops.h").read_text())
    called = {name.partition(" ")[0] for name in rows()}
    assert len(launchers) > 25
    assert {op for op in launchers if not {op, f"{op}_fprop"} & called} == set()
    files = {file.name for file in KERNELS.glob("*.cu*") if "_kernel(" in file.read_text()}
    # These access memory only through bf16.cuh, channels.cuh and four.cuh.
    files -= {"dropout.cu", "exchange.cu", "pool.cu", "sgd.cu"}
    assert {place(row)[0] for some in rows().values() for row in some} >= files


@pytest.mark.slow
@CHECKED
def test_a_float4_is_one_access(be: Any) -> None:
    """The compiler that adds the hooks does not split it: 4,096 floats are 32 requests."""
    for row in rows()["sgd_update"]:
        assert (row.bytes, row.requests, row.transfers, row.ideal) == (16, 32, 512, 512), row
    reads = [
        row for row in rows()["linear_fprop"] if row.space == "shared" and row.access == "read"
    ]
    assert {(row.array, row.bytes) for row in reads} == {("a_slices", 16), ("b_slices", 16)}


@pytest.mark.slow
@CHECKED
def test_the_worst_comes_first(be: Any) -> None:
    for some in rows().values():
        ratios = [row.ratio for row in some]
        assert ratios == sorted(ratios, reverse=True)
        assert all(row.ideal <= row.transfers and row.requests > 0 for row in some)


# ---------------------------------------------------------------------- switching it on and off


@CHECKED
def test_calls_add_up(be: Any) -> None:
    def relu(backend: Any) -> Any:
        return backend.relu_fprop(backend.asarray(normal(7, 130)))

    once, twice = lint([relu]), lint([relu, relu])
    assert once and len(once) == len(twice)
    for one, two in zip(once, twice, strict=True):
        assert (2 * one.requests, 2 * one.transfers) == (two.requests, two.transfers)
    assert not lint([])


@CHECKED
def test_it_counts_only_while_it_is_switched_on(be: Any) -> None:
    def stop(backend: Any) -> None:
        backend.relu_fprop(backend.asarray(normal(4)))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        lint([stop])
    be.relu_fprop(be.asarray(normal(4)))
    assert be._ext.end_lint() == []


@CHECKED
def test_the_command_marks_what_is_over_the_bound(
    be: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {name: examples()[name] for name in ("linear_fprop", "relu_fprop")}
    monkeypatch.setattr("bench.lint.examples", lambda: chosen)
    main([])
    header, *table = capsys.readouterr().out.splitlines()
    assert header.split()[-4:] == ["requests", "each", "ideal", "ratio"]
    ratios = [float(line.split()[-1]) for line in table[:-2]]
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] > 1
    for line, ratio in zip(table, ratios, strict=False):
        assert line.startswith("!" if ratio > BOUND else " ")
    main(["--all"])
    assert "bf16.cuh" in capsys.readouterr().out


@CHECKED
def test_the_document_shows_what_the_command_says(
    be: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/checker.md shows every line of one call."""
    chosen = {"linear_fprop": examples()["linear_fprop"]}
    monkeypatch.setattr("bench.lint.examples", lambda: chosen)
    main(["--all"])
    table = capsys.readouterr().out.rpartition("0 more took")[0]
    assert table.count("\n") > 5
    assert f"```\n{table}```" in (KERNELS.parent / "docs" / "checker.md").read_text()
