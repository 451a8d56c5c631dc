"""dgrad in patches (patch_dgrad.cuh, hopper_patch_dgrad.cuh): which convolutions take it, and its
values."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import oracle
from bench.lint import lint
from bench.oracle import Exact
from emulated import program
from pyalexnet.ops.elements import BFLOAT16
from samples import ENDS, normal, planted
from shapes import Conv, each
from tolerance import assert_close, convolved, same_bits
from trial import run
from variants import CPU_EXACT, CUDA, SIM, SIM_SEEDED, SIMCHECK, parameters

# For comparing backends; cpu is exact, as Winograd's tiles round, and spread NaN, differently.
ELSEWHERE = pytest.mark.parametrize("be", parameters(CPU_EXACT, SIM, CUDA), indirect=True)

KERNELS_ALONE = parameters(SIM, *SIM_SEEDED, CUDA)  # cpu has no such form of dgrad
ON_HOPPER = pytest.mark.parametrize(
    "be", parameters(SIM, *SIM_SEEDED, SIMCHECK, CUDA), indirect=True
)
CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# As small as possible: so shallow that the main loop would not split the depth.
PATCHES = (
    Conv("conv2 cut small", (1, 9, 27, 96), (32, 5, 5), pad=2, groups=2),
    Conv("tiles of five rows", (1, 10, 27, 64), (40, 3, 3), pad=1),
    Conv("a last tile of fewer rows", (2, 13, 21, 48), (80, 3, 3), pad=1, groups=2),
    Conv("wide filter, other padding", (1, 20, 25, 24), (16, 3, 5), pad=(0, 1, 3, 2)),
    Conv("high filter, no padding", (1, 17, 24, 32), (32, 5, 3)),
    Conv("filter of even sides", (1, 16, 15, 32), (24, 4, 4), pad=(1, 2, 2, 1)),
    Conv("as few taps as can be", (1, 8, 32, 64), (72, 1, 3), pad=(0, 0, 1, 1)),
    Conv("a column of taps", (1, 11, 23, 40), (64, 5, 1), pad=(2, 2, 0, 0)),
    Conv("height 1", (3, 1, 200, 32), (32, 2, 3), pad=(1, 0, 1, 1)),
    Conv("rows of a whole tile", (1, 2, 256, 48), (48, 2, 2), pad=(1, 0, 0, 1)),
    Conv("three groups", (3, 12, 20, 120), (72, 3, 3), pad=1, groups=3),
    Conv("padding beyond the filter", (1, 16, 17, 48), (32, 3, 3), pad=(4, 3, 3, 5)),
    Conv("as few taps as wgmma can do with", (2, 9, 30, 64), (72, 2, 3), pad=(1, 0, 1, 1)),
    Conv("images that end within a block", (3, 10, 20, 56), (48, 2, 3), pad=(0, 1, 2, 1)),
)
# Of these, what wgmma computes in patches: more than 32 channels, six taps or more, and not many
# places for a pixel.
BY_WGMMA = tuple(
    case
    for case in PATCHES
    if str(case)
    in {
        "conv2 cut small",
        "tiles of five rows",
        "three groups",
        "padding beyond the filter",
        "as few taps as wgmma can do with",
        "images that end within a block",
    }
)
# Like conv2: with fewer images, the main loop would split a sum as deep as this.
DEEP = Conv("deep, in many groups", (16, 9, 27, 256), (320, 5, 5), pad=2, groups=8, big=True)
# Each is only one step from a shape above, or from what a patch can hold.
NEIGHBOURS = (
    Conv("stride", (1, 20, 27, 96), (32, 5, 5), stride=(2, 1), pad=2, groups=2),
    Conv("too many channels", (1, 10, 27, 72), (40, 3, 3), pad=1),
    Conv("channels not by eight", (1, 10, 27, 60), (40, 3, 3), pad=1),
    Conv("filters not by eight", (1, 10, 27, 64), (36, 3, 3), pad=1),
    Conv("too few taps", (1, 8, 32, 64), (72, 1, 2), pad=(0, 0, 1, 0)),
    Conv("rows too wide", (1, 2, 257, 48), (48, 2, 2), pad=(1, 0, 0, 1)),
    Conv("too large a patch", (1, 3, 150, 64), (16, 5, 5), pad=2),
    Conv("rows that fill no tile", (1, 7, 7, 64), (40, 3, 3), pad=1),
    Conv("too few images for its depth", (1, 9, 27, 96), (64, 5, 5), pad=2, groups=2),
)
GEOMETRY = pytest.mark.parametrize("case", each(PATCHES))
ALL = pytest.mark.parametrize("case", each((*PATCHES, *NEIGHBOURS)))


def arrays(case: Conv) -> tuple[Any, Any, Any]:
    """dy, w and a gate with both zeros and a NaN."""
    gate = np.maximum(normal(*case.x, seed=5), 0)
    gate.flat[0], gate.flat[-1] = -0.0, np.nan
    dy, w = normal(*case.y, seed=4), normal(*case.w, seed=2)
    return dy.astype(BFLOAT16), w.astype(BFLOAT16), gate.astype(BFLOAT16)


def exact(case: Conv) -> Exact:
    dy, w, _ = arrays(case)
    return oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry)


# ---------------------------------------------------------------------- the choice


@pytest.mark.every(6)
@CHECKED
@pytest.mark.parametrize("case", each((*PATCHES, *NEIGHBOURS)))
def test_who_takes_patches(be: Any, case: Conv) -> None:
    """Judged by the file whose lines read dy."""
    dy, w, _ = arrays(case)
    how: dict[str, Any] = {"x_shape": case.x, **case.geometry}
    rows = lint([lambda be: be.conv_dgrad(be.asarray(dy), be.asarray(w), **how)])
    files = {row.line.partition(":")[0] for row in rows if row.array == "dy"}
    assert files == {"patch_dgrad.cuh" if case in PATCHES else "tensor.cuh"}


Ask = Callable[..., list[str]]


@pytest.fixture(scope="module")
def chosen() -> Ask:
    """By which loop a GPU of this unit computes shapes, as patch_cases.cu reads them."""
    built = program([Path(__file__).with_name("patch_cases.cu")], checked=False)

    def ask(unit: str, *shapes: tuple[int, ...]) -> list[str]:
        given = "\n".join(" ".join(map(str, shape)) for shape in shapes)
        done = subprocess.run(
            [built, unit], input=given, capture_output=True, text=True, check=True
        )
        return [answer.partition(", tile 256 x")[0] for answer in done.stdout.splitlines()]

    return ask


def padded(*shape: int) -> tuple[int, ...]:
    """With the same padding on all sides."""
    *rest, pad, groups = shape
    return (*rest, pad, pad, pad, pad, groups)


def test_what_wgmma_computes_in_patches(chosen: Ask) -> None:
    shapes = []
    for case in PATCHES:
        top, bottom, left, right = (case.pad,) * 4 if isinstance(case.pad, int) else case.pad
        shapes.append((*case.x, *case.filters, 1, top, left, bottom, right, case.groups))
    answers = dict(zip(map(str, PATCHES), chosen("wgmma", *shapes), strict=True))
    expected = {str(c): "wgmma patches" if c in BY_WGMMA else "patches" for c in PATCHES}
    assert answers == expected


def test_layers_of_known_networks(chosen: Ask) -> None:
    """Images, height, width, channels, filters, filter's sides, stride, padding, groups."""
    few_channels = {
        "conv2 of CIFAR's nets": (128, 16, 16, 32, 32, 5, 5, 1, 2, 1),
        "the deep one below": (16, 9, 27, 256, 320, 5, 5, 1, 2, 8),
    }
    taking = {
        "AlexNet's conv2": (256, 27, 27, 96, 256, 5, 5, 1, 2, 2),
        "at half the batch": (128, 27, 27, 96, 256, 5, 5, 1, 2, 2),
        "one tower of it": (128, 27, 27, 48, 128, 5, 5, 1, 2, 1),
        "as few images as fill a card": (22, 27, 27, 96, 256, 5, 5, 1, 2, 2),
        "conv2 in one group, of 2014": (128, 27, 27, 64, 192, 5, 5, 1, 2, 1),
        "VGG's conv1_2 at a quarter": (64, 56, 56, 64, 64, 3, 3, 1, 1, 1),
        **few_channels,
    }
    leaving = {
        "conv3": (256, 13, 13, 256, 384, 3, 3, 1, 1, 1),
        "conv4": (256, 13, 13, 384, 384, 3, 3, 1, 1, 2),
        "conv5": (256, 13, 13, 384, 256, 3, 3, 1, 1, 2),
        "conv1 in blocks of 4 x 4": (256, 57, 57, 48, 96, 3, 3, 2, 0, 1),
        "conv2 of few images": (21, 27, 27, 96, 256, 5, 5, 1, 2, 2),
        "conv2 of maps that leave tiles empty": (256, 8, 8, 96, 256, 5, 5, 1, 2, 2),
        "VGG's conv1_2, whose patch is too large": (64, 224, 224, 64, 64, 3, 3, 1, 1, 1),
        "one tap": (256, 27, 27, 48, 128, 1, 1, 1, 0, 1),
    }
    shapes = {name: padded(*shape) for name, shape in (taking | leaving).items()}
    for unit, expected in ("mma", "patches"), ("wgmma", "wgmma patches"):
        answers = zip(shapes, chosen(unit, *shapes.values()), strict=True)
        found = {name: answer for name, answer in answers if "patches" in answer}
        assert found == {name: "patches" if name in few_channels else expected for name in taking}


# ---------------------------------------------------------------------- values


@pytest.mark.every(2)
@ALL
def test_dgrad(be: Any, case: Conv) -> None:
    dy, w, _ = arrays(case)
    (dx,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    assert_close(dx, convolved(be, exact(case), case.w, case.stride, case.x), dtype=BFLOAT16)


@pytest.mark.slow
@pytest.mark.big
@ELSEWHERE
def test_dgrad_of_a_deep_sum(be: Any) -> None:
    test_dgrad(be, DEEP)


@pytest.mark.every(8)
@GEOMETRY
def test_gate(be: Any, case: Conv) -> None:
    """Equal to the bits of two ops, and with a factor within their tolerance."""
    dy, w, gate = arrays(case)
    how: dict[str, Any] = {"x_shape": case.x, **case.geometry, "gate": be.asarray(gate)}
    (plain,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    (fused,) = run(be, "conv_dgrad", dy, w, **how)
    (apart,) = run(be, "relu_dgrad", gate, plain)
    np.testing.assert_array_equal(fused.astype(np.float32), apart.astype(np.float32))
    (scaled,) = run(be, "conv_dgrad", dy, w, **how, factor=-1.75)
    due = oracle.let_pass(exact(case), gate, -1.75)
    assert_close(scaled, convolved(be, due, case.w, case.stride, case.x), dtype=BFLOAT16)


EACH_END = pytest.mark.parametrize("which", ["dy", "gate"])


@pytest.mark.parametrize("be", parameters(SIM, CUDA), indirect=True)
@EACH_END
def test_ends_of_the_range(be: Any, which: str) -> None:
    check_ends(be, PATCHES[6], which)


def check_ends(be: Any, case: Conv, which: str) -> None:
    """Each image has one of them."""
    case = replace(case, x=(len(ENDS), *case.x[1:]))
    dy, w, gate = arrays(case)
    dy = planted(dy, 0) if which == "dy" else dy
    gate = planted(gate, 0) if which == "gate" else gate
    how: dict[str, Any] = {"x_shape": case.x, **case.geometry}
    (dx,) = run(be, "conv_dgrad", dy, w, **how, gate=be.asarray(gate), factor=-1.75)
    with np.errstate(all="ignore"):
        due = oracle.let_pass(oracle.conv_dgrad(dy, w, **how), gate, -1.75)
    assert_close(dx, due, dtype=BFLOAT16)


@pytest.mark.every(9)
@pytest.mark.parametrize("be", KERNELS_ALONE, indirect=True)
@pytest.mark.parametrize("case", each((PATCHES[2], PATCHES[10])))
def test_images_and_groups_are_summed_alone(be: Any, case: Conv) -> None:
    """Computed alone, each one's dx has the same bits as in the batch."""
    dy, w, _ = arrays(case)
    (whole,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    own = case.x[3] // case.groups
    of_filters = np.split(np.arange(len(w)), case.groups)
    for image in range(case.x[0]):
        for group, filters in enumerate(of_filters):
            (dx,) = run(
                *(be, "conv_dgrad"),
                *(dy[image : image + 1, ..., filters], w[filters]),
                x_shape=(1, *case.x[1:3], own),
                **{**case.geometry, "groups": 1},
            )
            part = whole[image : image + 1, ..., group * own : (group + 1) * own]
            assert same_bits(dx, np.ascontiguousarray(part))


@ELSEWHERE
def test_nan_reaches_exactly_the_pixels_that_saw_it(be: Any) -> None:
    check_nan(be, PATCHES[2], (1, 6, 20, 45))


def check_nan(be: Any, case: Conv, at: tuple[int, ...]) -> None:
    """Neither a tile's excess elements nor the surroundings of a patch get into a sum."""
    dy, w, _ = arrays(case)
    dy[at] = np.nan
    (dx,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    expected = np.isnan(oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry).value)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(np.isnan(dx.astype(np.float32)), expected)


# ---------------------------------------------------------------------- by wgmma


@pytest.fixture
def by_wgmma(be: Any) -> Iterator[None]:
    if be.name == "cuda" and not be._ext.has_hopper(be.device):
        pytest.skip("the GPU is no Hopper, or _cuda was built without sm_90a")
    with be.with_hopper(True):
        yield


@pytest.mark.every(9)
@ON_HOPPER
@pytest.mark.usefixtures("by_wgmma")
@pytest.mark.parametrize("case", each(BY_WGMMA))
def test_dgrad_by_wgmma(be: Any, case: Conv, request: pytest.FixtureRequest) -> None:
    """To the bits of the other kernel's, unless wgmma and mma cut sums, each in its way."""
    test_dgrad(be, case)
    dy, w, _ = arrays(case)
    how: dict[str, Any] = {"x_shape": case.x, **case.geometry}
    (dx,) = run(be, "conv_dgrad", dy, w, **how)
    with be.with_hopper(False):
        (other,) = run(be, "conv_dgrad", dy, w, **how)
    cuts = be.name == "cuda" or request.node.callspec.params["be"].cuts
    assert cuts or same_bits(dx, other)
    test_gate(be, case)


@pytest.mark.parametrize("be", parameters(SIM, CUDA), indirect=True)
@pytest.mark.usefixtures("by_wgmma")
@EACH_END
def test_ends_of_the_range_by_wgmma(be: Any, which: str) -> None:
    check_ends(be, BY_WGMMA[4], which)


@pytest.mark.every(9)
@pytest.mark.parametrize("be", KERNELS_ALONE, indirect=True)
@pytest.mark.usefixtures("by_wgmma")
@pytest.mark.parametrize("case", each((BY_WGMMA[2], BY_WGMMA[5])))
def test_images_and_groups_are_summed_alone_by_wgmma(be: Any, case: Conv) -> None:
    test_images_and_groups_are_summed_alone(be, case)


@pytest.mark.every(9)
@ON_HOPPER
@pytest.mark.usefixtures("by_wgmma")
@pytest.mark.parametrize("at", [(1, 6, 19, 45), (0, 0, 0, 0), (0, 11, 19, 23), (2, 11, 19, 71)])
def test_nan_reaches_by_wgmma_exactly_the_pixels_that_saw_it(be: Any, at: tuple[int, ...]) -> None:
    """At the ends of rows and images too, behind which the next ones follow."""
    check_nan(be, BY_WGMMA[2], at)
