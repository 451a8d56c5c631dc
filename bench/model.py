"""The time of a step's launches on an H100, predicted from their machine code and the plan.

    python -m bench --model h100 [--preset paper] [--batch 256] [--precision bf16]

The kernels are compiled for sm_90a once (a minute or two; later calls take seconds). How a product
is computed comes from the kernels' own choice (kernels/choice.cuh), a warp's trace from its machine
code (traces.py), the time of that trace from control codes and latencies (warps.py). A slice of the
depth takes as long as what is busy longest with it:

tensor    the tensor cores, for the slice's products
gather    the warp that has most to do to bring the slice
banks     shared memory: what is copied into it and what products read, 128 bytes a clock
L2        what a multiprocessor fetches of it
issue     the instructions of all warps, one a clock on each scheduler

A tile takes its slices, and before and after them what its warps run then: the edges. Blocks run in
waves of as many as fit; where several share a multiprocessor, one's edges run under another's
slices (products.py). No launch is faster than its traffic from memory; other kernels than
products take that long, or as long as it takes to issue their instructions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyalexnet
from pyalexnet.backends.kernels import KernelBackend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.calls import Call, Plan, View, is_product, name_of
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ops.records import ConvGeometry
from pyalexnet.step import listing as steps
from pyalexnet.step import plan

from . import cards, products, tables, traces, warps
from .listing import Choices
from .products import MULTIPROCESSORS, SCHEDULERS, Shape, Time
from .sass import Code, Kernels
from .warps import FAST, LANES, SLOW

CLOCK = 1.7e9  # under load; an H100 SXM boosts to 1.98 GHz when it has power to spare
_SOURCES = Path(__file__).parent.parent / "kernels"
_ARCHITECTURE = "sm_90a"
_MICRO = 1e-6


def choices(chosen: Mapping[str, Any]) -> Choices:
    """The step to predict: the paper's, in bf16, but for what was chosen."""
    preset = {} if "net" in chosen else {"preset": "paper"}
    return Choices(**{"batch": 256, "precision": "bf16", **preset, **chosen})


@dataclass(frozen=True)
class Prediction:
    """A launch, predicted. array: which it makes. how: its kernel. times: of a product's slices,
    as fast and as slow as may be. seconds: likewise.
    """

    operation: str
    array: str
    how: str
    times: tuple[Time, Time] | None
    bound: str
    seconds: tuple[float, float]


def rows(chosen: Choices, card: cards.Card) -> Iterator[Prediction]:
    """The launches of a step."""
    kernels = pyalexnet.backend("sim")
    assert isinstance(kernels, KernelBackend)
    made = plan.make(
        chosen.spec(),
        goal="update",
        precision=chosen.precision,
        fused=not chosen.unfused,
        source="images",
    )
    sources = Codes()
    with kernels.with_hopper(chosen.precision == "bf16"):
        for call, line in zip(made.calls, steps.lines(made, chosen.batch, kernels), strict=True):
            array = name_of(call.writes[0]) if call.writes else next(iter(call.learns.values()))
            floor = line.nbytes / card.bandwidth
            if is_product(call.op):
                yield from _product(made, call, chosen.batch, line, array, floor, sources)
            else:
                yield _other(made, call, chosen.batch, line, array, floor, sources)


def _shape(made: Plan, call: Call, images: int, choice: str) -> Shape:
    """A product's launch, as kernels/conv.cu and choice.cuh have it."""
    found = re.fullmatch(r"([^,]*), tile (\d+) x (\d+)(?:, depth in (\d+) parts)?", choice)
    assert found is not None, choice
    loop, tile, parts = found[1], (int(found[2]), int(found[3])), int(found[4] or 1)
    x = call.reads.get("x") or call.writes[0]
    w = call.reads.get("w") or call.learns.get("w") or call.writes[0]
    y = call.writes[0] if call.op.endswith("_fprop") else call.reads["dy"]
    count = images * (x.rows if isinstance(x, View) else 1)
    groups = call.settings.get("groups", 1)
    *pixels, channels = made.shape(x)
    *outputs, filters = made.shape(y)
    taps = math.prod(made.shape(w)[1:])
    inside, outside = count * math.prod(pixels), count * math.prod(outputs)
    filters, channels = filters // groups, channels // groups
    sizes = {
        "fprop": (outside, filters, taps),
        "dgrad": (inside, channels, taps // channels * filters),
        "wgrad": (filters, taps + 1, outside),
    }
    half = made.arrays[name_of(next(iter(call.reads.values())))].dtype == BFLOAT16
    learns = call.op.endswith("_sgd")
    stored = 8 if learns else 4 if "wgrad" in call.op or not half else 2
    rows, columns, depth = sizes[call.op.split("_")[1]]
    width, loads = 2 if half else 4, "gate" in call.reads or "dgrad" not in call.op
    how = (stored, width, loads, call.settings.get("activation") == "tanh")
    blocks = None
    if "patches" in loop:  # 32 filters at a time, of a tap: patch_dgrad.cuh
        depth = taps // channels * 32 * math.ceil(filters / 32)
        tiles = math.ceil(pixels[0] / max(1, tile[0] // pixels[1]))  # whole rows of an image
        blocks = count * groups * tiles
    if loop == "wgmma patches":  # places, images and margins in one line: hopper_patch_dgrad.cuh
        down, across = _padded(call, pixels)
        blocks = math.ceil(count * down * across / tile[0]) * groups
    dropout = "dropout" in call.settings and parts == 1
    return Shape(call.op, loop, tile, parts, groups, rows, columns, depth, *how, dropout, blocks)


def _padded(call: Call, pixels: list[int]) -> list[int]:
    """Rows and columns with one margin."""
    _, _, top, bottom, left, right, _ = ConvGeometry.of(
        call.op, call.settings["stride"], call.settings["pad"], call.settings.get("groups", 1)
    )
    return [pixels[0] + max(top, bottom), pixels[1] + max(left, right)]


_PREFIXES = {
    "wgmma": "hopper_gemm_kernel",
    "wgmma patches": "hopper_patch",
    "fma": "gemm_kernel",
    "patches": "tensor_patch",
}


def _product(
    made: Plan, call: Call, images: int, line: steps.Line, array: str, floor: float, codes: Codes
) -> Iterator[Prediction]:
    """A product, and the sum of its parts if its depth is split."""
    shape = _shape(made, call, images, line.choice)
    passed = call.op.split("_")[1].capitalize()
    names = [f"Conv{passed}", f"{shape.tile[0]}, {shape.tile[1]},"]
    if "patches" in shape.loop:
        names = [f"{shape.tile[1]}>"]
    prefix = "hopper_gemm_pair" if shape.pairs else _PREFIXES.get(shape.loop, "tensor_gemm")
    found = codes.find("conv", prefix, *names)
    if not found:
        yield Prediction(line.operation, array, line.choice, None, "memory", (floor, floor))
        return
    fast, slow = (products.time(shape, found[0], pace) for pace in (FAST, SLOW))
    seconds = (max(floor, fast.clocks / CLOCK), max(floor, slow.clocks / CLOCK))
    bound = slow.bound if seconds[1] > floor else "memory"
    yield Prediction(line.operation, array, line.choice, (fast, slow), bound, seconds)
    if shape.parts > 1:
        element = "bf16" if shape.width == 2 else "float"
        for adding in codes.find("conv", "gemm_add_parts", f"{passed}Epilogue<{element}>"):
            yield _parts(shape, array, adding)


def _parts(shape: Shape, array: str, code: Code) -> Prediction:
    """The kernel that adds parts: four sums a thread. They come from the L2 cache."""
    sums = shape.groups * shape.rows * shape.columns
    fetched = [4 * sums * shape.parts / pace.l2 / MULTIPROCESSORS / CLOCK for pace in (FAST, SLOW)]
    slots = 0.0
    for one in traces.through(code, _end(code), products.worth(replace(shape, parts=1))):
        body = [*traces.flat((one,))]
        loads = sum(each.name == "LDG" for each in body) if isinstance(one, traces.Loop) else 0
        slots += len(body) * (shape.parts / loads if loads else 1)
    issued = slots * sums / 4 / LANES / SCHEDULERS / MULTIPROCESSORS / CLOCK
    bound = "L2" if fetched[1] > issued else "issue"
    low, high = (max(each, issued) for each in fetched)
    return Prediction("adding parts", array, f"{shape.parts} parts", None, bound, (low, high))


def _other(
    made: Plan, call: Call, images: int, line: steps.Line, array: str, floor: float, codes: Codes
) -> Prediction:
    """A launch that is bound by memory, or by issuing what its code has for each byte stored."""
    written = sum(made.nbytes(each, images) for each in call.writes)
    half = any(made.arrays[name_of(each)].dtype == BFLOAT16 for each in call.operands())
    name = f"{call.op.removeprefix('max').removeprefix('avg')}_kernel"
    forms = codes.of_kernel(name, "<bf16" if half else "<float")
    each = min((per_byte(code) for code in forms), default=0.0)  # by vectors
    issued = written * each / SCHEDULERS / MULTIPROCESSORS / CLOCK
    bound = "memory" if floor >= issued else "issue"
    return Prediction(line.operation, array, "", None, bound, (max(floor, issued),) * 2)


def per_byte(code: Code) -> float:
    """Instructions of a warp for each byte that it stores, in the loop that stores if one does."""
    trace = traces.through(code, _end(code), lambda _: 0)
    loop = traces.around(trace, {"STG"})
    run = [*traces.flat(loop.body if loop else trace)]
    return len(run) / max(1, LANES * sum(warps.nbytes(one) for one in run if one.name == "STG"))


class Codes:
    """Kernels by what their names begin with and hold; a file is compiled when it is asked for."""

    def __init__(self) -> None:
        self._files: dict[str, Kernels] = {}
        self._texts = {path.stem: path.read_text() for path in sorted(_SOURCES.glob("*.cu"))}

    def find(self, stem: str, *texts: str) -> list[Code]:
        """Those of a file."""
        if stem not in self._files:
            try:
                self._files[stem] = Kernels(_SOURCES / f"{stem}.cu", _ARCHITECTURE)
            except RuntimeError as error:
                raise ArgumentError(f"--model: {error}.") from error
        return self._files[stem].find(*texts)

    def of_kernel(self, name: str, element: str) -> list[Code]:
        """All forms of a kernel for maps of that type, of whatever file."""
        stems = (stem for stem, text in self._texts.items() if re.search(rf"\b{name}\b", text))
        return [code for stem in stems for code in self.find(stem, name, element)]


def _end(code: Code) -> int:
    """The last instruction that a warp may run."""
    return max(number for number, one in enumerate(code.listing) if one.name == "EXIT")


# ----------------------------------------------------------------------------- the table


def document(chosen: Choices, card: cards.Card) -> str:
    """The launches and their sums.

    Raises:
        ArgumentError: a choice is refused, or there is no nvcc or no nvdisasm.
    """
    listed = list(rows(chosen, card))
    about = f"{chosen.spec().name}, {chosen.batch} images, {chosen.precision}"
    products_ = [row for row in listed if row.operation.startswith("conv_")]
    sums = f"{_range(products_)} us; the step: {_range(listed)} us."
    header = [
        *("", "operation", "makes", "computed by", "waves", "slices"),
        *("tensor", "gather", "banks", "L2", "issue", "edges", "bound by", "us"),
    ]
    lines = [_line(number, row) for number, row in enumerate(listed, 1)]
    return "\n".join(
        [
            f"# Predicted: one training step of {about}",
            "",
            *_ABOUT,
            "",
            tables.padded(header, lines, "><<<>>>>>>>><>"),
            "",
            f"The convolutions' products: {sums}",
            "",
        ]
    )


_ABOUT = (
    "This is no measurement: nothing was run. It was checked against an expert's reading of the",
    "machine code at commit c89f200, and with listings whose clocks are known by hand",
    "(tests/test_model.py); never against a card.",
    "",
    f"Clocks of a multiprocessor at {CLOCK / 1e9} GHz: for a slice of the depth, by what is busy",
    "with it; edges: for a tile, before and after its slices. Of two blocks that share one:",
    "both's, in step. From - to: no warp queues for shared memory, the L2 cache gives each",
    f"multiprocessor {FAST.l2:.0f} bytes a clock, and blocks that share one are out of step; all",
    f"queue, it gives {SLOW.l2:.0f}, and such blocks are out of step by chance.",
)


def _line(number: int, row: Prediction) -> list[str]:
    first = [str(number), row.operation, row.array, row.how]
    us = _span(*(each / _MICRO for each in row.seconds))
    if row.times is None:
        return [*first, *[""] * 8, row.bound, us]
    fast, slow = row.times
    names = ("tensor", "gather", "banks", "L2", "issue")
    clocks = [_span(fast.slice.get(name, 0), slow.slice.get(name, 0)) for name in names]
    edges = _span(fast.edges, slow.edges)
    return [*first, f"{slow.waves}", f"{slow.slices}", *clocks, edges, row.bound, us]


def _range(listed: list[Prediction]) -> str:
    return _span(*(sum(row.seconds[end] for row in listed) / _MICRO for end in (0, 1)))


def _span(low: float, high: float) -> str:
    """`1,375-1,720`, one number where they are the same, nothing for 0."""
    texts = [f"{each:,.0f}" if each >= 10 else f"{each:.1f}" for each in (low, high)]
    return "" if high == 0 else texts[0] if texts[0] == texts[1] else "-".join(texts)
