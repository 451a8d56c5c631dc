"""The clocks that a product's kernel takes, from its machine code and the shape of the product.

Roles are told by what warps do: those that copy slices (LDGSTS, UTMALDG) and those that multiply
(HGMMA), or all the same (HMMA, FFMA). A loop around a role's own is taken to be one over tiles:
such a kernel's blocks stay, and copies for the next tile run under the present one's epilogue.

Blocks that share a multiprocessor, in step, take each slice in turn and their edges together. Out
of step, one multiplies while another begins or ends: a multiprocessor then takes as long as what
all its tiles, slices and edges, make it do most of, and no block is faster than it is alone. One
block's lead over the other stays as it is while both get the same share. A lead that chance gave
hides as much of what being in step costs as it lasts: on average the square of that, over the time
in step, is left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from . import traces, warps
from .cards import PRODUCTS_OF_THREE
from .sass import Code, Instruction
from .traces import AVOIDED, WANTED, Around, Loop, Trace
from .warps import LANES, Pace

Worth: TypeAlias = Callable[[Instruction], int]
MULTIPROCESSORS = 132  # H100 SXM, H200
SCHEDULERS = 4
_BANKS = 128  # bytes a clock (CUDA programming guide: 32 banks of 4 bytes)
_REGISTERS = 65536
# Clocks of m64nNk16 by N: half of N at the tensor cores' full rate, plus what a public probe of an
# H100 found above that (48: between its neighbours).
_HGMMA = {48: 24.5, 64: 32.8, 96: 48.7, 128: 65.0, 192: 97.1, 256: 129.3}
_LATENCY = (
    500  # clocks until the first copy of a slice arrives: L2 263, memory 479 (arXiv 2402.13499)
)
_L1 = 41  # latency of the first cache (the same)
_SLICES = {"wgmma": 64, "fma": 16}  # depth; others 32
_WARPGROUP = 4  # warps
_WARPGROUPS = 3  # of a block of hopper.cuh, two of which multiply
_REGISTER = re.compile(r"\b(?:U?P\d|UR\d+|R\d+)\b")
_PARAMETER = re.compile(r"c\[0x0\]\[0x[0-9a-f]+\]")
_EXPONENTIAL = re.compile(r"\.(EX2|TANH)")
_PHILOX = ("0x2daee0ad", "0xd2511f53")  # its multiplier, which SASS may write as negative


@dataclass(frozen=True)
class Shape:
    """A launch of a product: groups x rows x columns over a depth, its tile, and what its epilogue
    does. stored: bytes of an element. width: bytes of an operand's element. loads: whether the
    epilogue does (a bias, a gate, weights); it does not where it stores parts.
    """

    op: str
    loop: str
    tile: tuple[int, int]
    parts: int
    groups: int
    rows: int
    columns: int
    depth: int
    stored: int
    width: int
    loads: bool = True
    tanh: bool = False
    dropout: bool = False
    blocks_: int | None = None  # where a tile is not rows x columns of the product

    @property
    def blocks(self) -> int:
        if self.blocks_ is not None:
            return self.blocks_
        return self.groups * math.ceil(self.rows / self.tile[0]) * self.across * self.parts

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return math.ceil(self.columns / self.tile[1])

    @property
    def paired(self) -> int:
        """Blocks, if neighbours on the side that is gathered are clusters of two."""
        gathered = self._gathered
        return self.blocks // gathered * (gathered + gathered % 2)

    @property
    def pairs(self) -> bool:
        """Whether they are: see clusters_of in choice.cuh."""
        alone, pairs = (math.ceil(each / MULTIPROCESSORS) for each in (self.blocks, self.paired))
        return self.loop == "wgmma" and self._gathered > 1 and pairs <= alone

    @property
    def _gathered(self) -> int:
        """Tiles on the side whose operand is gathered."""
        return self.across if "wgrad" in self.op else math.ceil(self.rows / self.tile[0])

    @property
    def slice(self) -> int:
        """Its depth."""
        return _SLICES.get(self.loop, 32)

    @property
    def slices(self) -> int:
        """Of a block."""
        return math.ceil(math.ceil(self.depth / self.parts) / self.slice)

    @property
    def tile_bytes(self) -> int:
        """What the epilogue stores of a tile within the product."""
        rows, columns = min(self.tile[0], self.rows), min(self.tile[1], self.columns)
        return rows * columns * (4 if self.parts > 1 else self.stored)


@dataclass(frozen=True)
class Time:
    """Of a launch. slice: clocks by what is busy. edges: a tile's, before and after its slices."""

    waves: int
    slices: int
    slice: dict[str, float]
    edges: float
    clocks: float

    @property
    def bound(self) -> str:
        """What a slice waits for, or the edges if they take longer than all slices."""
        longest = max(self.slice, key=lambda name: self.slice[name])
        return "edges" if self.edges > self.slices * self.slice[longest] else longest


def time(shape: Shape, code: Code, pace: Pace) -> Time:
    """A launch of that kernel, on a card that does nothing else."""
    if "fprop" in shape.op:  # the epilogue loads a bias, which all rows of the tile share
        pace = replace(pace, load=_L1)
    return (_of_warpgroups if "HGMMA" in code.instructions else _of_warps)(shape, code, pace)


def worth(shape: Shape, code: Code | None = None) -> Worth:
    """How well instructions fit a launch's trace. code: of a kernel that can store parts: it does
    where it reads its last parameter.
    """
    loads = shape.loads and shape.parts == 1
    last = _last_parameter(code) if code and shape.parts > 1 else "\0"

    def value(one: Instruction) -> int:
        if last in one.rest:
            return -AVOIDED
        size = warps.nbytes(one)
        avoided = (
            # Single elements: the last of a row. A rate, which all lanes load, is none.
            (one.name == "STG" and size <= 4)
            or (
                one.name == "LDG" and (size < 4 or (size == 4 and one.predicate != "") or not loads)
            )
            or (one.name == "MUFU" and not shape.tanh and bool(_EXPONENTIAL.match(one.rest)))
            or (one.name == "F2FP" and shape.parts > 1)
            or (not shape.dropout and any(number in one.rest for number in _PHILOX))
        )
        wanted = shape.parts == 1 and one.name in ("LDG", "F2FP")
        return AVOIDED if avoided else WANTED if wanted else 0

    return value


def _last_parameter(code: Code) -> str:
    """How machine code names it: parameters lie in a bank of constants, in order."""
    found = _PARAMETER.findall(" ".join(one.rest for one in code.listing))
    return max(found, key=lambda name: int(name.split("[")[-1].strip("]"), 16), default="\0")


# ----------------------------------------------------------------------------- wgmma


def _of_warpgroups(shape: Shape, code: Code, pace: Pace) -> Time:
    """Of a kernel whose copying and multiplying warps differ."""
    return _tile(shape, code, next(_loops(code, "HGMMA", worth(shape, code))), pace)


def _bringing(code: Code, value: Worth) -> tuple[Around, Around]:
    """The loop of a warp that copies: with the engine's part and without it. Where the warps take
    turns with it a warp has it in every fourth slice.
    """
    names = {"LDGSTS", "UTMALDG"} & set(code.instructions)
    number = code.instructions.index(min(names))

    def without(one: Instruction) -> int:
        return AVOIDED if one.name == "UTMALDG" else value(one)

    full = traces.around(traces.through(code, number, value), {*names, "SYNCS"})
    assert full is not None, code.kernel
    less = traces.around(traces.through(code, number, without), {min(names), "SYNCS"})
    return full, less or full


def _in_turn(full: Trace, less: Trace) -> bool:
    """Whether what decides on the engine's part is computed anew in each round."""
    body, rest = [*traces.flat(full)], {id(one) for one in traces.flat(less)}
    first = next((place for place, one in enumerate(body) if id(one) not in rest), 0)
    decides = body[first - 1].predicate.strip("!")
    for one in reversed(body[: first - 1]):
        target, *sources = _REGISTER.findall(one.rest) or [""]
        if one.name == "ISETP" and target == decides:
            changed = {(_REGISTER.findall(each.rest) or [""])[0] for each in body}
            return bool(changed & {*sources} - {"PT"})
    return False


def _loops(code: Code, name: str, value: Worth) -> Iterator[Around]:
    """The innermost loops that hold an instruction of that name."""
    seen: set[int] = set()
    for number in sorted(traces.looping(code)):
        one = code.listing[number]
        if one.name == name and id(one) not in seen:
            found = traces.around(traces.through(code, number, value), {name})
            if found is not None:
                seen |= {id(each) for each in traces.flat(found.body)}
                yield found


def _tile(shape: Shape, code: Code, multiplying: Around, pace: Pace) -> Time:
    """All tiles, of blocks whose roles run those loops."""
    bringing = _bringing(code, worth(shape))
    products = [*traces.flat(multiplying.body)]
    tensor = [(_columns(one), one.rest.split()[1]) for one in products if one.name == "HGMMA"]
    rows = 64 * len(set(tensor))  # of a warpgroup
    per_round = max(1, 16 * len(tensor) // len(set(tensor)) // shape.slice)
    teams = max(1, shape.tile[0] // rows)  # warpgroups that share a tile
    warpgroups = max(_WARPGROUPS, teams + 1) if len(multiplying.before) > 1 else teams + 1
    of_block = _slice(shape, bringing, products, teams, per_round, pace)
    before, after = [*traces.flat(multiplying.before[0])], multiplying.after[-1]

    def side_by_side(blocks: int) -> tuple[dict[str, float], float, float, float]:
        """In step: a slice of each, and the edges of all: start, first slice, end."""
        slice_ = {name: clocks * blocks for name, clocks in of_block.items()}
        slice_["gather"] = _gather(bringing, blocks, pace) / _rounds(shape, bringing, per_round)
        start = warps.clocks([before] * warpgroups * blocks, pace)
        end = _finish(shape, after, teams * blocks, teams * _WARPGROUP, pace)
        fill = slice_["gather"] + _LATENCY + slice_["tensor"] - max(slice_.values())
        return slice_, start, fill, end

    blocks = _resident(code, teams)
    slice_, start, fill, end = side_by_side(blocks)
    longest = max(slice_.values())
    launched = shape.paired if _multicast(shape, bringing) else shape.blocks
    waves = math.ceil(launched / blocks / MULTIPROCESSORS)
    edges = start + fill + end
    in_step = waves * (edges + shape.slices * longest)
    if blocks > 1:
        alone, *edges_alone = side_by_side(1)
        own = sum(edges_alone) + shape.slices * max(alone.values())
        edge = _busy(shape, before, after, teams, pace)
        busy = max(edge.get(name, 0) + shape.slices * each for name, each in of_block.items())
        tiles = math.ceil(launched / MULTIPROCESSORS)
        apart = min(in_step, max(waves * own, own + (tiles - 1) * busy))
        clocks = apart + (0 if pace.apart else (in_step - apart) ** 2 / in_step)
        return Time(waves, shape.slices, slice_, edges, clocks)
    if len(multiplying.before) == 1:
        return Time(waves, shape.slices, slice_, edges, in_step)
    each = warps.clocks([[*traces.flat(trace)] for trace in multiplying.before[1:]], pace) + end
    turns = (warpgroups - 1) // teams  # of the teams, whose edges run under another's products
    own_slices = shape.slices * max(slice_["tensor"], slice_["issue"])
    period = max(shape.slices * longest, (own_slices + each) / turns)
    edges = period - shape.slices * longest
    return Time(waves, shape.slices, slice_, edges, waves * period + start + fill + each)


def _resident(code: Code, teams: int) -> int:
    """Blocks of a multiprocessor, by the registers that its warpgroups keep."""
    kept = [
        (".DEALLOC" not in one.rest, int(one.rest.split()[-1], 16))
        for one in code.listing
        if one.name == "USETMAXREG"
    ]
    of_thread = sum(count * (teams if multiplies else 1) for multiplies, count in {*kept})
    return _REGISTERS // (of_thread * LANES * _WARPGROUP) if of_thread else 1


def _busy(
    shape: Shape, before: list[Instruction], after: Trace, teams: int, pace: Pace
) -> dict[str, float]:
    """Clocks that a block's edges take of what its neighbours use too."""
    runs = [([one], 1) for one in after if not isinstance(one, Loop)]
    runs += [([*traces.flat(loop.body)], times) for loop, times in _runs(shape, after, teams)]

    def count(value: Callable[[Instruction], float]) -> float:
        ends = sum(times * sum(map(value, body)) for body, times in runs)
        return teams * ends + (teams + 1) * sum(map(value, before))

    global_ = count(lambda one: LANES * warps.nbytes(one) * (one.name in ("LDG", "STG")))
    return {
        "issue": count(lambda _: 1),
        "banks": count(warps.passes) * _WARPGROUP,
        "L2": global_ * _WARPGROUP / pace.l2,
    }


def _slice(
    shape: Shape,
    bringing: tuple[Around, Around],
    products: list[Instruction],
    teams: int,
    per_round: int,
    pace: Pace,
) -> dict[str, float]:
    """Clocks of what a block's slice takes of the multiprocessor."""
    copying = [*traces.flat(bringing[0].body)]
    rounds = _rounds(shape, bringing, per_round)
    columns = [_columns(one) for one in products if one.name == "HGMMA"]
    by_threads = _by_threads(bringing) / rounds
    copied = max(by_threads, sum(shape.tile) * shape.slice * shape.width)
    if "patches" in shape.loop:  # a pixel serves all taps
        copied = by_threads
    shared = _multicast(shape, bringing) * (copied - by_threads) / 2
    read = teams * sum(2048 + 32 * each for each in columns) / per_round
    own = sum(one.name == "LDS" and warps.passes(one) > 0 for one in copying)  # few lines each
    return {
        "tensor": teams * sum(_HGMMA[each] for each in columns) / per_round,
        "banks": (copied + read) / _BANKS + own * _WARPGROUP / rounds,
        "L2": (copied - shared) / pace.l2,
        "issue": len(copying) / rounds + teams * len(products) / per_round,
    }


def _by_threads(bringing: tuple[Around, Around]) -> int:
    """Bytes that warps copy in a round of their loop."""
    copies = sum(one.name == "LDGSTS" for one in traces.flat(bringing[0].body))
    return copies * 16 * LANES * _WARPGROUP


def _rounds(shape: Shape, bringing: tuple[Around, Around], per_round: int) -> int:
    """Slices in a round of the loop that copies: in patches as many as in one that multiplies."""
    gathered = shape.tile["wgrad" in shape.op] * shape.slice * shape.width
    in_round = round(_by_threads(bringing) / gathered)
    return per_round if "patches" in shape.loop else max(1, in_round)


def _gather(bringing: tuple[Around, Around], blocks: int, pace: Pace) -> float:
    """Clocks of a round for the warp that has most to do; on average, if they take turns."""
    full, less = (warps.steady([*traces.flat(one.body)], blocks, pace) for one in bringing)
    turns = _in_turn(*(one.body for one in bringing))
    return (full + (_WARPGROUP - 1) * less) / _WARPGROUP if turns else full


def _multicast(shape: Shape, bringing: tuple[Around, Around]) -> bool:
    """Whether two blocks share what the engine copies."""
    copying = traces.flat(bringing[0].body)
    return shape.pairs and any("MULTICAST" in one.rest for one in copying)


def _columns(one: Instruction) -> int:
    """N of `HGMMA.64xNx16...`."""
    return int(one.rest.split("x")[1])


def _runs(shape: Shape, trace: Trace, teams: float) -> list[tuple[Loop, int]]:
    """The loops after the products and their rounds: the one that stores runs until all is."""
    loops = [one for one in trace if isinstance(one, Loop)]
    stored = [_stored(one.body) * LANES * teams * _WARPGROUP for one in loops]
    return [
        (
            loop,
            max(1, math.ceil(shape.tile_bytes / nbytes)) if nbytes and nbytes == max(stored) else 1,
        )
        for loop, nbytes in zip(loops, stored, strict=True)
    ]


def _finish(shape: Shape, trace: Trace, of_scheduler: int, of_block: int, pace: Pace) -> float:
    """What warps do after their products."""
    straight = [one for one in trace if not isinstance(one, Loop)]
    clocks = warps.clocks([straight] * of_scheduler, pace)
    for loop, times in _runs(shape, trace, of_block / _WARPGROUP):
        clocks += times * warps.steady([*traces.flat(loop.body)], of_scheduler, pace)
    return clocks


def _stored(trace: Trace) -> int:
    """Bytes that a lane stores in global memory."""
    return sum(warps.nbytes(one) for one in traces.flat(trace) if one.name == "STG")


# ----------------------------------------------------------------------------- other loops


def _of_warps(shape: Shape, code: Code, pace: Pace) -> Time:
    """Of a kernel whose warps all do the same; several blocks share a multiprocessor."""
    unit = "HMMA" if "HMMA" in code.instructions else "FFMA"
    of_block, blocks = occupancy(code)
    of_scheduler = math.ceil(of_block * blocks / SCHEDULERS)
    loop = max(
        _loops(code, unit, worth(shape, code)),
        key=lambda loop: sum(one.name == unit for one in traces.flat(loop.body)),
    )
    body = [*traces.flat(loop.body)]
    depth, width = shape.slice, shape.width
    of_slice = (
        shape.tile[0] * shape.tile[1] * depth / of_block / (2048 if unit == "HMMA" else LANES)
    )
    if shape.loop == "mma in three planes":
        of_slice *= PRODUCTS_OF_THREE
    per_round = max(1, round(sum(one.name == unit for one in body) / of_slice))
    copies = sum(one.name == "LDGSTS" for one in body) * 16 * LANES * of_block / per_round
    copied = (copies or sum(shape.tile) * depth * width) * blocks
    moved = sum(warps.passes(one) for one in body if one.name in ("LDS", "LDSM", "STS"))
    multiplied = sum(one.name == unit for one in body) * (warps.MMA if unit == "HMMA" else 1)
    slice_ = {
        "tensor" if unit == "HMMA" else "FMA": multiplied * of_scheduler / per_round,
        "warps": warps.steady(body, of_scheduler, pace) / per_round,
        "banks": moved * of_block * blocks / per_round + copied / _BANKS,
        "L2": copied / pace.l2,
        "issue": len(body) * of_scheduler / per_round,
    }
    start = sum(warps.clocks([[*traces.flat(trace)]] * of_scheduler, pace) for trace in loop.before)
    end = _finish(shape, loop.after[-1], of_scheduler, of_block, pace)
    edges = start + _LATENCY + end
    waves = math.ceil(shape.blocks / blocks / MULTIPROCESSORS)
    clocks = waves * (edges + shape.slices * max(slice_.values()))
    return Time(waves, shape.slices, slice_, edges, clocks)


def occupancy(code: Code) -> tuple[int, int]:
    """A block's warps, and how many blocks a multiprocessor runs: by the tile's numbers in the
    kernel's name, and by registers.
    """
    name, numbers = _numbers(code.kernel)
    if name == "TensorTile":
        rows, columns, warp_rows, warp_columns, _, _, most = numbers
        of_block = rows // warp_rows * (columns // warp_columns)
    elif name == "PatchTile":
        of_block, most = 4, 2  # kPatchPixels / kPatchWarp
    else:
        of_block, most = numbers[2] * numbers[3] // LANES, 2
    found = re.findall(r"\bR(\d+)\b", " ".join(one.rest for one in code.listing))
    registers = (max(map(int, found), default=0) + 8) // 8 * 8  # in eights
    return of_block, max(1, min(most, _REGISTERS // (registers * LANES * of_block)))


def _numbers(kernel: str) -> tuple[str, list[int]]:
    """The tile in a kernel's name: `TensorTile<128, 64, ...>`."""
    found = re.findall(r"(\w*Tile)<([\d, ]+)>", kernel)
    name, numbers = found[-1]
    return name, [int(number) for number in numbers.split(",")]
