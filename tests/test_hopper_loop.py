"""Products of bfloat16 by Hopper's own main loop (kernels/hopper.cuh), emulated and on a GPU.

test_conv.py and test_linear.py state what any main loop has to give; the same is checked here for
this loop, for every tile and every layout of the operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench import oracle
from pyalexnet import nets
from pyalexnet.errors import ArgumentError
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ops.records import Mask
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from samples import classes, normal
from shapes import CONVS, Conv, each, in_vectors
from test_linear import exact as exact_linear
from test_mutation import HOPPER_PRODUCTS
from test_plan import hold_alike, programs
from test_range import EACH_LAYER, EACH_OPERAND, check_products
from tolerance import assert_close, same_bits
from trial import run
from updates import check_update
from variants import CUDA, SIM, SIM_SEEDED, SIMCHECK, parameters

EVERY_LOOP = pytest.mark.parametrize(
    "be", parameters(SIM, *SIM_SEEDED, SIMCHECK, CUDA), indirect=True
)
CHECKED = pytest.mark.parametrize("be", parameters(SIMCHECK), indirect=True)

# Each group has as many filters as fill one of the tiles; the depth has several slices, the last
# of them partial.
OF_EACH_TILE = (
    Conv("40 filters, strided", (2, 9, 8, 24), (40, 3, 3), stride=2, pad=1),
    Conv("72 filters", (2, 7, 6, 16), (72, 3, 2), pad=(1, 0, 1, 2)),
    Conv("128 filters", (3, 9, 8, 40), (128, 2, 3), pad=(0, 1, 1, 0)),
    Conv("184 filters, many pixels", (3, 11, 10, 24), (184, 1, 2)),
    Conv("200 filters, few pixels", (1, 9, 8, 32), (200, 3, 3), pad=1),
    Conv("two groups of 64 filters", (2, 7, 5, 32), (128, 3, 2), pad=1, groups=2),
    Conv("three groups of 128 filters", (1, 6, 5, 48), (384, 2, 2), pad=(1, 0, 0, 1), groups=3),
    Conv("filters of one pixel", (2, 6, 5, 72), (88, 1, 1)),
    Conv("pixels enough for parts of the depth", (3, 16, 15, 16), (64, 3, 3), pad=1),
)
CONVOLUTIONS = pytest.mark.parametrize("case", each((*OF_EACH_TILE, *in_vectors(CONVS))))
SIZES = pytest.mark.parametrize(
    "size",
    [(5, 72, 24), (16, 1064, 40), (130, 136, 64), (300, 200, 96), (7, 64, 264)],
    ids=lambda size: "x".join(map(str, size)),
)


@pytest.fixture(autouse=True)
def loop(be: Any) -> Iterator[None]:
    """Use the loop, if there is one."""
    if be.name == "cuda" and not be._ext.has_hopper(be.device):
        pytest.skip("the GPU is no Hopper, or _cuda was built without sm_90a")
    with be.with_hopper(True):
        yield


def arrays(case: Conv) -> tuple[Any, Any, Any, Any]:
    """x, w, b and dy of a case; all but b bfloat16."""
    shapes = (case.x, case.w, case.y)
    x, w, dy = (normal(*shape, seed=i).astype(BFLOAT16) for i, shape in enumerate(shapes))
    return x, w, normal(case.w[0], seed=3), dy


@EVERY_LOOP
@CONVOLUTIONS
def test_fprop(be: Any, case: Conv) -> None:
    x, w, b, _ = arrays(case)
    (y,) = run(be, "conv_fprop", x, w, b, **case.geometry)
    assert_close(y, oracle.conv_fprop(x, w, b, **case.geometry), dtype=BFLOAT16)


@EVERY_LOOP
@CONVOLUTIONS
def test_dgrad(be: Any, case: Conv) -> None:
    _, w, _, dy = arrays(case)
    (dx,) = run(be, "conv_dgrad", dy, w, x_shape=case.x, **case.geometry)
    exact = oracle.conv_dgrad(dy, w, x_shape=case.x, **case.geometry)
    assert_close(dx, exact, dtype=BFLOAT16)


@EVERY_LOOP
@CONVOLUTIONS
def test_wgrad(be: Any, case: Conv) -> None:
    x, _, _, dy = arrays(case)
    found = run(be, "conv_wgrad", x, dy, w_shape=case.w, **case.geometry)
    exact = oracle.conv_wgrad(x, dy, w_shape=case.w, **case.geometry)
    for one, other in zip(found, exact, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("be", parameters(SIM, CUDA), indirect=True)
@EACH_OPERAND
@EACH_LAYER
def test_ends_of_the_range(be: Any, layer: str, op: str, which: str, axis: int) -> None:
    check_products(be, layer, op, which, axis, BFLOAT16, tensor=False)


@pytest.mark.every(3)
@EVERY_LOOP
@SIZES
def test_linear(be: Any, size: tuple[int, int, int]) -> None:
    images, inputs, outputs = size
    x, w, b, dy = (
        normal(images, inputs, seed=1).astype(BFLOAT16),
        normal(outputs, inputs, seed=2).astype(BFLOAT16),
        normal(outputs, seed=3),
        normal(images, outputs, seed=4).astype(BFLOAT16),
    )
    y, dx, dw, db = exact_linear(size, BFLOAT16)
    assert_close(run(be, "linear_fprop", x, w, b)[0], y, dtype=BFLOAT16)
    assert_close(run(be, "linear_dgrad", dy, w)[0], dx, dtype=BFLOAT16)
    for found, exact in zip(run(be, "linear_wgrad", x, dy), (dw, db), strict=True):
        assert_close(found, exact)


@pytest.mark.every(2)
@EVERY_LOOP
@pytest.mark.parametrize(("op", "tile", "rows", "columns"), HOPPER_PRODUCTS)
def test_tiles(be: Any, op: str, tile: str, rows: int, columns: int) -> None:
    """Each tile, in every pass, with eight slices: stages are reused, and the last one is partial.

    test_mutation.py checks that products of these sizes take these tiles.
    """
    depth = 456
    shapes = {
        "fprop": ((rows, depth), (columns, depth)),
        "dgrad": ((rows, depth), (depth, columns)),
        "wgrad": ((depth, columns), (depth, rows)),
    }[op]
    first, second = (normal(*shape, seed=i).astype(BFLOAT16) for i, shape in enumerate(shapes))
    found = run(be, f"linear_{op}", first, second, *([None] if op == "fprop" else []))
    if op == "fprop":
        assert_close(
            found[0], oracle.linear_fprop(first, second, np.zeros(columns)), dtype=BFLOAT16
        )
    elif op == "dgrad":
        assert_close(found[0], oracle.linear_dgrad(first, second), dtype=BFLOAT16)
    else:
        for one, exact in zip(found, oracle.linear_wgrad(first, second), strict=True):
            assert_close(one, exact)


@pytest.mark.every(9)
@EVERY_LOOP
@pytest.mark.parametrize("tiles", [2, 3])
def test_tiles_that_blocks_share(be: Any, tiles: int) -> None:
    """Products of several tiles on one side have the bits of those of less than a tile there."""
    depth, other, own = 456, 56, 256 * tiles - 48
    chunks = [np.s_[at : at + 200] for at in range(0, own, 200)]
    x, w, dy = (
        normal(*shape, seed=i).astype(BFLOAT16)
        for i, shape in enumerate(((own, depth), (other, depth), (depth, other)))
    )
    for op, second in (("fprop", w), ("dgrad", np.ascontiguousarray(w.T))):
        bias = [None] if op == "fprop" else []
        (whole,) = run(be, f"linear_{op}", x, second, *bias)
        for chunk in chunks:
            assert same_bits(whole[chunk], run(be, f"linear_{op}", x[chunk], second, *bias)[0])
    gathered = np.ascontiguousarray(x.T)
    dw, db = run(be, "linear_wgrad", gathered, dy)
    for chunk in chunks:
        part = np.ascontiguousarray(gathered[:, chunk])
        for one, expected in zip(
            run(be, "linear_wgrad", part, dy), (dw[:, chunk], db), strict=True
        ):
            assert same_bits(one, np.ascontiguousarray(expected))


@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@pytest.mark.parametrize(
    ("x", "near"),
    [
        ((1, 8, 32_767, 64), True),
        ((1, 8, 32_768, 64), False),
        ((1, 32_768, 8, 64), False),
        ((8_190, 32, 1024, 64), True),
        ((8_191, 32, 1024, 64), False),
    ],
)
def test_maps_too_large_for_short_offsets(be: Any, x: tuple[int, ...], near: bool) -> None:
    """The loop holds how far lines are from a map's first pixel in eight bytes."""
    for op in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
        loop = be.choice(op, x, (64, 1, 1, 64), BFLOAT16, {}).split(",")[0]
        assert loop == ("wgmma" if near or op == "conv_wgrad" else "mma")


@EVERY_LOOP
def test_what_is_not_finite_stays_in_its_group(be: Any) -> None:
    """Tiles reach into the next group's filters and channels, without effect on the results."""
    case = OF_EACH_TILE[5]
    x, w, b, dy = arrays(case)
    spoilt_x, spoilt_w, spoilt_dy = x.copy(), w.copy(), dy.copy()
    spoilt_x[..., 16:], spoilt_w[64:], spoilt_dy[..., 64:] = np.inf, np.nan, np.nan
    how = case.geometry
    for op, good, spoilt, own in (
        ("conv_fprop", (x, w, b), (spoilt_x, spoilt_w, b), np.s_[..., :64]),
        ("conv_dgrad", (dy, w), (spoilt_dy, spoilt_w), np.s_[..., :16]),
        ("conv_wgrad", (x, dy), (spoilt_x, spoilt_dy), np.s_[:64]),
    ):
        of = {
            "conv_fprop": {},
            "conv_dgrad": {"x_shape": case.x},
            "conv_wgrad": {"w_shape": case.w},
        }
        expected, found = (run(be, op, *given, **how, **of[op]) for given in (good, spoilt))
        for one, other in zip(found, expected, strict=True):
            assert same_bits(np.ascontiguousarray(one[own]), np.ascontiguousarray(other[own]))
            assert not np.isfinite(one.astype(np.float32)).all()


# ---------------------------------------------------------------------- what becomes of the sums

FINISHED = pytest.mark.parametrize("case", each((OF_EACH_TILE[1], OF_EACH_TILE[5])))
DRAW: dict[str, Any] = {"keep": 0.6, "seed": 11, "step": 7, "layer": 2}


@EVERY_LOOP
@FINISHED
def test_epilogues_are_those_of_the_other_loop(be: Any, case: Conv) -> None:
    """ReLU and dropout, a gate, logits in float32: all applied to the same sums."""
    x, w, b, dy = arrays(case)
    mask = Mask(**DRAW, factor=1.0)
    (plain,) = run(be, "conv_fprop", x, w, b, dtype=FLOAT32, **case.geometry)
    how = case.geometry | {"activation": "relu", "dropout": mask}
    (finished,) = run(be, "conv_fprop", x, w, b, **how)
    kept = be.to_numpy(be.dropout_fprop(be.asarray(np.ones(case.y, np.float32)), **DRAW)) > 0
    expected = np.where(kept & (plain > 0), plain, 0).astype(BFLOAT16)
    assert same_bits(finished, expected)

    how = case.geometry | {"x_shape": case.x}
    (dx,) = run(be, "conv_dgrad", dy, w, **how)
    (gated,) = run(be, "conv_dgrad", dy, w, gate=be.asarray(x), factor=1.0, **how)
    open_ = x.astype(np.float32) > 0
    assert same_bits(gated, np.where(open_, dx, np.zeros_like(dx)))


@EVERY_LOOP
@FINISHED
def test_update(be: Any, case: Conv) -> None:
    """The fused update equals the update from the gradients."""
    x, _, _, dy = arrays(case)
    exact = oracle.conv_wgrad(x, dy, w_shape=case.w, **case.geometry)
    check_update(be, "conv", (x, dy), exact, BFLOAT16, 0.01, **case.geometry)


# ---------------------------------------------------------------------- where it is taken


def files(be: Any, op: str, *inputs: Any, **how: Any) -> set[str]:
    """Kernel files whose lines touch shared memory when an op runs."""
    with be.lint() as rows:
        getattr(be, op)(*map(be.asarray, inputs), **how)
    return {row[0].partition(":")[0].rpartition("/")[2] for row in rows if row[2] == "shared"}


@pytest.mark.every(3)
@CHECKED
@pytest.mark.parametrize(
    ("case", "fprop", "dgrad", "wgrad"),
    [
        pytest.param(OF_EACH_TILE[1], True, False, True, id="72 filters end within a slice"),
        pytest.param(OF_EACH_TILE[5], True, True, True, id="64 filters are a slice"),
        pytest.param(OF_EACH_TILE[7], True, True, True, id="one tap"),
        pytest.param(in_vectors(CONVS)[2], True, False, False, id="5 filters"),
        pytest.param(in_vectors(CONVS)[3], False, False, False, id="3 channels"),
    ],
)
def test_where_operands_allow_it(
    be: Any, case: Conv, fprop: bool, dgrad: bool, wgrad: bool
) -> None:
    x, w, b, dy = arrays(case)
    how = case.geometry
    taken = {
        "fprop": files(be, "conv_fprop", x, w, b, **how),
        "dgrad": files(be, "conv_dgrad", dy, w, x_shape=case.x, **how),
        "wgrad": files(be, "conv_wgrad", x, dy, w_shape=case.w, **how),
    }
    found = {name: "hopper.cuh" in of for name, of in taken.items()}
    assert found == {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}
    be.hopper = False
    assert "hopper.cuh" not in files(be, "conv_fprop", x, w, b, **how)


@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
def test_a_card_that_is_none_is_refused(be: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    be.hopper = False
    monkeypatch.setattr(be, "_ext", NoHopper)
    with pytest.raises(ArgumentError, match="sim: hopper is True; device 0 is no Hopper"):
        be.hopper = True
    be.hopper = False


class NoHopper:
    """An extension module for an older GPU."""

    @staticmethod
    def has_hopper(device: int) -> bool:
        return False


# ---------------------------------------------------------------------- whole networks


@pytest.mark.every(9)
@pytest.mark.parametrize("be", parameters(SIM, CUDA), indirect=True)
def test_a_step_is_that_of_the_other_loop(be: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything learned in two steps of a net whose products may take the loop."""
    asked: dict[str, set[str]] = {}
    run = be._run

    def watching(op: str, *arguments: Any) -> None:
        units = {one for one in arguments if isinstance(one, str) and one.endswith("mma")}
        asked.setdefault(op.partition("_")[0], set()).update(units)
        run(op, *arguments)

    monkeypatch.setattr(be, "_run", watching)
    spec = nets.get("alexnet-tiny")()
    x, labels = normal(4, *spec.input_shape), classes(4, spec.classes)
    learned = []
    for hopper in (True, False):
        be.hopper = hopper
        optimiser = SGD(Net(spec, be, precision="bf16", fused=True))
        for step in range(2):
            optimiser.step(x, labels, step=step, epoch=0)
        momentum = {name: be.to_numpy(v) for name, v in optimiser.momentum.items()}
        learned.append(momentum)
    be.hopper = True
    assert asked["conv"] == asked["linear"] == {"mma", "wgmma"}
    for name, one in learned[0].items():
        off = np.linalg.norm(one - learned[1][name]) / np.linalg.norm(one)
        assert off < 2.0**-5, (name, off)  # two sums rounded differently, and the consequences


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("be", parameters(SIM, CUDA), indirect=True)
def test_each_product_of_alexnet_at_its_full_size(be: Any) -> None:
    own, numpy = programs(nets.alexnet(preset="paper"), be, "bf16")
    products = [call for call in own.plan.calls if own.plan.flops(call, 1)]
    assert len(products) == 23  # three for each of eight layers, except conv1's dgrad
    hold_alike(be, own, numpy, products)
