"""`bench --model`: predictions from machine code, on listings whose clocks are known by hand, and
on the compiled kernels if nvcc is installed (marked slow). No clock here was measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import cards, cli, compiler, model, products, sass, traces, warps
from bench.products import Shape
from bench.sass import Code, Instruction
from bench.traces import AVOIDED, WANTED, Loop
from bench.warps import FAST, SLOW, Pace

ALONE = Pace(sharing=1, l2=40)


def listing(*lines: str) -> str:
    """Instructions `stall writes reads waits text` (- for no barrier) as nvdisasm -hex prints them;
    a line that ends in a colon is a label.
    """
    found = [".text.k:"]
    for line in lines:
        if line.endswith(":"):
            found.append(line)
            continue
        stall, ends, frees, waits, text = line.split(maxsplit=4)
        barriers = [7 if one == "-" else int(one) for one in (ends, frees)]
        code = int(stall) | barriers[0] << 5 | barriers[1] << 8 | int(waits, 2) << 11
        found += [
            f"        /*0000*/    {text} ;   /* 0x0000000000000000 */",
            f"                    /* 0x{code << 41:016x} */",
        ]
    return "\n".join(found)


def code(*lines: str) -> Code:
    (only,) = sass.parse(listing(*lines))
    return only


def trace(made: Code, name: str) -> traces.Trace:
    return traces.through(made, made.instructions.index(name), lambda _: 0)


# ----------------------------------------------------------------------------- the readers


def test_the_codes_of_instructions() -> None:
    first, second = code("4 1 - 0 LDS R4, [R0]", "13 - 0 100010 @!P0 STG.E.128 [R2.64], R4").listing
    assert first == Instruction("LDS", "R4, [R0]", "", 4, 1, None, 0)
    assert second == Instruction("STG", ".E.128 [R2.64], R4", "!P0", 13, None, 0, 0b100010)
    assert warps.nbytes(second) == 16
    assert warps.nbytes(Instruction("STG", ".E.U16 [R2.64+0x2], R4")) == 2
    assert warps.nbytes(Instruction("STG", ".E desc[UR4][R2.64], R4")) == 4


# ----------------------------------------------------------------------------- clocks


def test_stalls_add_up() -> None:
    run = code("4 - - 0 IMAD R1", "2 - - 0 IMAD R2", "13 - - 0 ISETP P0", "5 - - 0 EXIT").listing
    assert warps.clocks([run], ALONE) == 4 + 2 + 13 + 5


def test_a_result_is_waited_for() -> None:
    """A load's 30 clocks, not its stall; a second warp issues meanwhile."""
    run = code("1 0 - 0 LDS R1, [R0]", "4 - - 1 IMAD R2").listing
    assert warps.clocks([run], ALONE) == 30 + 4
    assert warps.clocks([run, run], ALONE) == 1 + 30 + 4


def test_a_scheduler_issues_one_a_clock() -> None:
    run = [Instruction("IMAD", stall=1)] * 10
    assert warps.clocks([run] * 3, ALONE) == 30
    # With stalls of 4 three warps find gaps: the last one's tenth issues at 2 + 9 * 4.
    assert warps.clocks([[Instruction("IMAD", stall=4)] * 10] * 3, ALONE) == 2 + 9 * 4 + 4


def test_memory_takes_passes_that_schedulers_share() -> None:
    store = Instruction("STS", ".128 [R0], R4", stall=1)
    assert warps.passes(store) == 4
    assert warps.clocks([[store] * 5], ALONE) == 5 * 4
    assert warps.clocks([[store] * 5], Pace(sharing=4, l2=40)) == 5 * 4 * 4


def test_products_take_the_tensor_core_in_turn() -> None:
    run = [Instruction("HMMA", stall=2)] * 8
    assert warps.clocks([run] * 2, ALONE) == pytest.approx(16 * warps.MMA, abs=2)


def test_a_slower_loop_takes_longer() -> None:
    body = code(
        "4 0 - 0 LDS R1, [R0]", "4 - - 1 IMAD R2", "5 - - 0 BRA `(.L_x_0)", ".L_x_0:"
    ).listing
    before = warps.steady(body, 1, ALONE)
    assert before == 30 + 4 + 5
    for place in range(len(body)):
        longer = [*body[:place], replace(body[place], stall=13), *body[place + 1 :]]
        assert warps.steady(longer, 1, ALONE) >= before
        assert warps.steady([*body, body[place]], 1, ALONE) > before
    assert warps.steady(body, 8, ALONE) > before / 8


# ----------------------------------------------------------------------------- traces


def test_a_loop_is_found_once_around() -> None:
    made = code(
        "1 - - 0 MOV R0",
        ".L_x_0:",
        "1 - - 0 IMAD R1",
        ".L_x_1:",
        "1 - - 0 LDG R2",
        "5 - - 0 @P0 BRA `(.L_x_1)",
        "5 - - 0 @P1 BRA `(.L_x_0)",
        "1 - - 0 STG [R2], R1",
        "5 - - 0 EXIT",
    )
    found = trace(made, "LDG")
    assert [type(one) for one in found] == [Instruction, Loop, Instruction, Instruction]
    inner = traces.around(found, {"LDG"})
    assert inner is not None
    assert [one.name for one in traces.flat(inner.body)] == ["LDG", "BRA"]
    assert [[one.name for one in traces.flat(each)] for each in inner.before] == [["MOV"], ["IMAD"]]
    assert [[one.name for one in traces.flat(each)] for each in inner.after] == [
        ["STG", "EXIT"],
        ["BRA"],
    ]
    outer = traces.around(found, {"LDG", "IMAD"})
    assert outer is not None and len(outer.before) == 1
    assert traces.around(found, {"STG"}) is None


def test_the_longer_way_but_for_what_is_avoided() -> None:
    made = code(
        "5 - - 0 @P0 BRA `(.L_x_0)",
        "1 - - 0 STG.U16 [R0], R1",
        "1 - - 0 STG.U16 [R0], R2",
        "5 - - 0 BRA `(.L_x_1)",
        ".L_x_0:",
        "1 - - 0 STG.64 [R0], R1",
        ".L_x_1:",
        "5 - - 0 EXIT",
    )
    last = len(made.listing) - 1

    def stores(worth: int, kind: str) -> int:
        found = traces.through(made, last, lambda one: worth if kind in one.rest else 0)
        return sum(one.name == "STG" for one in traces.flat(found))

    assert stores(0, ".U16") == 2
    assert stores(AVOIDED, ".U16") == 1
    assert stores(WANTED, ".64") == 1


def test_a_way_leads_through_what_is_named() -> None:
    """Of two roles each has its own loop, however long the other's is."""
    made = code(
        "5 - - 0 @P0 BRA `(.L_x_1)",
        ".L_x_0:",
        "1 - - 0 LDGSTS [R0], [R2]",
        "5 - - 0 @P1 BRA `(.L_x_0)",
        "5 - - 0 EXIT",
        ".L_x_1:",
        *["1 - - 0 HGMMA.64x64x16.F32 R24, gdesc[UR4], R24"] * 9,
        "5 - - 0 @P1 BRA `(.L_x_1)",
        "5 - - 0 EXIT",
    )
    for name, other in (("LDGSTS", "HGMMA"), ("HGMMA", "LDGSTS")):
        names = {one.name for one in traces.flat(trace(made, name))}
        assert name in names and other not in names


def test_a_wait_succeeds_at_once() -> None:
    """What tries again lies apart, and is longer."""
    made = code(
        "2 0 - 0 SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R1",
        "5 - - 1 @!P0 BRA `(.L_x_1)",
        ".L_x_0:",
        "1 - - 0 STG [R2], R1",
        "5 - - 0 EXIT",
        ".L_x_1:",
        "2 0 - 0 SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R1",
        "5 - - 1 @!P0 BRA `(.L_x_1)",
        "5 - - 0 BRA `(.L_x_0)",
    )
    assert [one.name for one in traces.flat(trace(made, "STG"))] == ["SYNCS", "BRA", "STG", "EXIT"]


# ----------------------------------------------------------------------------- products

# 2 x 3 tiles of 256 x 128 on a depth of 40 slices: one wave.
SHAPE = Shape("conv_fprop", "wgmma", (256, 128), 1, 1, 512, 384, 2560, 2, 2)


def roles(
    bring: tuple[str, ...] = (),
    end: tuple[str, ...] = (),
    over_tiles: tuple[str, str] = ("", ""),
    kept: tuple[int, int] = (56, 224),
) -> Code:
    """A kernel as hopper.cuh's: a slice is 16 copies and 8 products; a round stores four times.
    kept: registers of a thread that copies, and of one that multiplies.
    """
    head, tail = ([line] if line else [] for line in over_tiles)
    products_ = [
        f"1 - - 0 HGMMA.64x128x16.F32.BF16 R{24 + i % 2 * 64}, gdesc[UR4]" for i in range(8)
    ]
    return code(
        "5 - - 0 @P0 BRA `(.L_x_9)",
        f"1 - - 0 USETMAXREG.DEALLOC.CTAPOOL {kept[0]:#x}",
        *head,
        ".L_x_0:",
        "2 0 - 0 SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R3], R2",
        "5 - - 1 NOP",
        *(bring or ["1 - - 0 UTMALDG.2D [UR8], [UR28]"]),
        *["4 - - 0 LDGSTS.E.BYPASS.128 [R15], desc[UR16][R4.64], !P0"] * 16,
        "5 - - 0 @P1 BRA `(.L_x_0)",
        *tail,
        "5 - - 0 EXIT",
        ".L_x_9:",
        f"1 - - 0 USETMAXREG.TRY_ALLOC.CTAPOOL UP0, {kept[1]:#x}",
        ".L_x_1:",
        *products_,
        "5 - - 0 @P1 BRA `(.L_x_1)",
        ".L_x_2:",
        *end,
        *["4 - - 0 STG.E.64 desc[UR16][R4.64], R6"] * 4,
        "5 - - 0 @P1 BRA `(.L_x_2)",
        *(["5 - - 0 @P2 BRA `(.L_x_9)"] if head else []),
        "5 - - 0 EXIT",
    )


def test_the_slices_of_warpgroups() -> None:
    """What each resource does for a slice, by hand."""
    time = products.time(SHAPE, roles(), FAST)
    assert (time.waves, time.slices) == (1, 40)
    assert time.slice["tensor"] == 2 * 8 * 65.0
    assert time.slice["gather"] == 30 + 5 + 1 + 16 * 4 + 5
    copied, read = (256 + 128) * 128, 2 * 8 * (64 + 128) * 32
    assert time.slice["banks"] == (copied + read) / 128
    assert time.slice["L2"] == copied / 40
    assert time.slice["issue"] == 20 + 2 * 9
    assert time.bound == "L2"
    assert time.clocks == time.edges + 40 * time.slice["L2"]


@pytest.mark.parametrize("other", ["0x100", "UR9", "R11"])
def test_warps_that_take_turns(other: str) -> None:
    """By what a warp's number is compared with: it changes in the loop, or does not."""
    engine = (
        "1 - - 0 UIADD3 UR9, UR4, 0x1",
        f"13 - - 0 ISETP.NE.AND P2, PT, R10, {other}, PT",
        "5 - - 0 @P2 BRA `(.L_x_7)",
        *["10 - - 0 IMAD R1, R1, R1"] * 10,
        "1 - - 0 UTMALDG.2D [UR8], [UR28]",
        ".L_x_7:",
    )
    gather = products.time(SHAPE, roles(engine), FAST).slice["gather"]
    without = 30 + 5 + 1 + 13 + 5 + 16 * 4 + 5
    assert gather == without + 101 * (1 / 4 if other == "UR9" else 1)


def test_what_a_slice_waits_for() -> None:
    """A slow gather, then slow edges; both are predicted to take longer."""
    plain = products.time(SHAPE, roles(), FAST)
    gathering = products.time(SHAPE, roles(("15 - - 0 IMAD R1",) * 200), FAST)
    assert (gathering.bound, gathering.slice["gather"]) == ("gather", 30 + 5 + 64 + 5 + 3000)
    ending = products.time(SHAPE, roles(end=("15 - - 0 IMAD R1",) * 500), FAST)
    assert ending.bound == "edges"
    assert min(gathering.clocks, ending.clocks) > plain.clocks
    assert products.time(SHAPE, roles(), SLOW).clocks > plain.clocks


def test_the_loop_that_stores_runs_until_all_is_stored() -> None:
    """256 x 128 bf16 of 64 KiB; 256 threads store 4 x 8 bytes a round: 8 rounds."""
    one, two = (
        products.time(SHAPE, roles(end=("10 - - 0 IMAD R1",) * count), FAST).edges
        for count in (100, 101)
    )
    assert two - one == 8 * 10


def test_multicast_halves_what_the_engine_fetches() -> None:
    alone, pair = (
        products.time(SHAPE, roles((f"1 - - 0 UTMALDG.2D{cast} [UR8], [UR28]",)), FAST)
        for cast in ("", ".MULTICAST")
    )
    assert alone.slice["L2"] - pair.slice["L2"] == pytest.approx(128 * 128 / 2 / 40)


def test_blocks_that_stay_hide_their_edges() -> None:
    """Two teams that take tiles in turn: one's epilogue runs under the other's products."""
    stays = roles(
        end=("15 - - 0 IMAD R1",) * 100, over_tiles=("1 - - 0 MOV R1", "5 - - 0 @P2 BRA `(.L_x_0)")
    )
    many = replace(SHAPE, rows=256 * 132 * 10)
    left = products.time(many, roles(end=("15 - - 0 IMAD R1",) * 100), FAST)
    assert products.time(many, stays, FAST).clocks < left.clocks


def test_waves_of_blocks() -> None:
    one = replace(SHAPE, rows=256 * 44)
    assert products.time(one, roles(), FAST).waves == 1
    two = products.time(replace(one, rows=256 * 45), roles(), FAST)
    assert two.waves == 2
    assert two.clocks == 2 * products.time(one, roles(), FAST).clocks


# 128 x 128 by one multiplying warpgroup: two blocks fit, and a multiprocessor has 24 tiles of 40
# slices.
HALVES = replace(SHAPE, tile=(128, 128), rows=128 * 132 * 8)
HALF = roles(kept=(56, 200), end=("10 - - 0 IMAD R1",) * 100)
# In its slices nothing is busier than the L2 cache; of its edges it has 128 x 128 bf16 stored.
BUSY = 40 * (128 + 128) * 128 / 40 + 128 * 128 * 2 / 40


def test_two_blocks_hide_their_edges() -> None:
    """Out of step, the L2 cache is all that a multiprocessor waits for, but for the first block's
    beginning and the last one's end."""
    time = products.time(HALVES, HALF, FAST)
    alone = products.time(replace(HALVES, rows=128, columns=128), HALF, FAST)
    assert time.waves == 12
    assert time.slice["L2"] == 2 * (128 + 128) * 128 / 40
    assert time.clocks == pytest.approx(alone.clocks + 23 * BUSY)


def test_a_block_without_a_neighbour_takes_its_own_time() -> None:
    """One tile: its slices and its edges follow each other."""
    one = replace(HALVES, rows=128, columns=128)
    time = products.time(one, HALF, FAST)
    single = products.time(one, roles(end=("10 - - 0 IMAD R1",) * 100), FAST)
    assert time.clocks == single.clocks


def test_blocks_out_of_step_at_random_hide_less() -> None:
    """By how much they are apart: what is hidden, on average over all leads (by hand)."""
    apart = products.time(HALVES, HALF, FAST)
    random = products.time(HALVES, HALF, replace(FAST, apart=False))
    in_step = apart.waves * (apart.edges + 40 * apart.slice["L2"])
    lost = in_step - apart.clocks
    assert random.clocks == pytest.approx(apart.clocks + lost * lost / in_step)
    assert apart.clocks < random.clocks < in_step


# ----------------------------------------------------------------------------- the command


def test_a_card_that_is_not_modelled(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--model", "a100"])
    assert "a100" in capsys.readouterr().err


def test_without_a_compiler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "nvcc", lambda: None)
    assert cli.main(["--model", "h100"]) == 2
    assert capsys.readouterr().err == "error: --model: no nvcc was found.\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_kernels_as_they_are() -> None:
    """The gather that an expert put at 1,375 clocks or more, and the paper's step."""
    if compiler.nvcc() is None or compiler.tool("nvdisasm") is None:
        pytest.skip("no nvcc or no nvdisasm was found")
    rows = list(model.rows(model.choices({}), cards.get("h100")))
    loops = [row for row in rows if row.times and row.operation.startswith("conv_")]
    assert len(loops) == 14
    for row in loops:
        assert row.times is not None
        fast, slow = row.times
        assert fast.clocks <= slow.clocks and row.seconds[0] <= row.seconds[1]
        assert row.seconds[0] > 0.05e-3 and row.seconds[1] < 0.5e-3
        # A warp that gathers 256 lines is given 16 copies, each of some 5 to 100 clocks.
        assert "patches" in row.how or 250 < fast.slice["gather"] < 1500
    document = model.document(model.choices({}), cards.get("h100"))
    assert "This is no measurement" in document.splitlines()[2]
