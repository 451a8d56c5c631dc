"""The plan of a step: which calls it has, and that a network that follows it learns the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import pyalexnet
from pyalexnet import nets
from pyalexnet.backends import Backend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets import calls
from pyalexnet.nets.layers import LRN, Conv, Dropout, Linear, MaxPool, Relu
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step import fused as fused_layers
from pyalexnet.step import plan
from pyalexnet.step.net import Net
from pyalexnet.step.program import Program
from pyalexnet.step.sgd import SGD
from samples import normal
from test_net import EVERY_LAYER, RECIPE, SEED, STEP, assert_near, batch, exact, host
from tolerance import same_bits
from variants import CPU, CUDA, SIM, SIMCHECK, in_every_order, parameters

pytestmark = pytest.mark.orders
ANYWHERE = in_every_order(CPU, SIM, CUDA)

# Everything that is fused, with both orders of ReLU and pool, both rules of dropout, groups, and
# sizes that fill no tile: 8 channels per group, as tensor cores need, except conv3's 4.
FUSIBLE = NetSpec(
    "fusible",
    (35, 31, 3),
    5,
    (
        Conv("conv1", 16, 11, stride=4, pad=(1, 3, 1, 3), activation="relu", std=0.05, bias=0.1),
        LRN("norm1", 5, alpha=0.1, beta=0.75, k=2.0),
        MaxPool("pool1", 3, 2),
        Conv("conv2", 16, 3, pad=1, groups=2, std=0.2, bias=0.1),
        LRN("norm2", 5, alpha=0.2, beta=0.75, k=1.5, groups=2),
        MaxPool("pool2", 2, 1),
        Relu("relu2"),
        Conv("conv3", 8, 2, pad=1, groups=4, activation="relu", std=0.3, bias=0.1),
        MaxPool("pool3", 2, 2),
        Linear("fc4", 24, activation="relu", std=0.3, bias=0.1),
        Dropout("drop4", keep=0.7),
        Linear("fc5", 13, activation="relu", std=0.3, bias=0.1),
        Dropout("drop5", keep=0.6, inverted=True),
        Linear("fc6", 5, std=0.4),
    ),
    RECIPE,
)
SHAPES = [EVERY_LAYER, FUSIBLE]
NAMES = [spec.name for spec in SHAPES]
IMAGES = 4


def right() -> Backend:
    """The backend that the others are compared with."""
    return pyalexnet.backend("cpu", exact=True)


def ops(spec: NetSpec, **how: Any) -> list[str]:
    """The operations of a plan, in order."""
    return [call.op for call in plan.make(spec, **how).calls]


# What a plan consists of


def test_a_step_of_the_papers_network() -> None:
    found = ops(nets.alexnet(preset="paper"), goal="update", precision="bf16", source="images")
    assert found == [
        "filters_to_depth",
        "conv_fprop",
        "lrn_maxpool_fprop",
        "conv_fprop",
        "lrn_maxpool_fprop",
        "conv_fprop",
        "conv_fprop",
        "conv_fprop",
        "maxpool_fprop",
        *["linear_fprop"] * 3,
        "softmax_cross_entropy",
        *["linear_dgrad", "linear_wgrad_sgd"] * 3,
        "maxpool_dgrad",
        *["conv_dgrad", "conv_wgrad_sgd"] * 3,
        "lrn_maxpool_dgrad",
        *["conv_dgrad", "conv_wgrad_sgd"],
        "lrn_maxpool_dgrad",
        "conv_wgrad",
        "filters_from_depth",
        *["sgd_update"] * 2,
    ]


def test_layer_by_layer_nothing_is_fused() -> None:
    for spec in SHAPES:
        found = ops(spec, goal="update", fused=False)
        assert not {op for op in found if "lrn_maxpool" in op or "wgrad_sgd" in op or "depth" in op}
        assert found.count("sgd_update") == len(spec.param_shapes())
    assert "relu_dgrad" in found and "dropout_dgrad" in found


def test_another_norm_runs_before_its_pool() -> None:
    """Only the networks' form is fused: here the second norm's window is another."""
    layers = [
        replace(each, size=3) if isinstance(each, LRN) and each.name == "norm2" else each
        for each in FUSIBLE.layers
    ]
    found = ops(replace(FUSIBLE, layers=tuple(layers)), goal="gradients")
    order = ["conv_fprop", "lrn_maxpool_fprop", "conv_fprop", "lrn_fprop", "maxpool_fprop"]
    assert [op for op in found if op in order][:5] == order
    assert found.count("lrn_maxpool_dgrad") == found.count("lrn_dgrad") == 1


def test_no_call_waits_for_one_that_comes_later() -> None:
    for spec in (*SHAPES, *(nets.alexnet(preset=p) for p in ("source", "paper", "caffe", "owt"))):
        for fused in (False, True):
            made = plan.make(spec, goal="update", precision="bf16", fused=fused)
            known = {made.source, "labels", *spec.param_shapes()}
            for call in made.calls:
                assert {calls.name_of(each) for each in call.reads.values()} <= known, call
                known |= {calls.name_of(each) for each in call.writes}
            assert known <= set(made.arrays)


def test_weights_change_only_after_all_have_read_them() -> None:
    made = plan.make(FUSIBLE, goal="update")
    for name in FUSIBLE.param_shapes():
        readers = [i for i, call in enumerate(made.calls) if name in call.reads.values()]
        (changes,) = [i for i, call in enumerate(made.calls) if name in call.learns.values()]
        assert max(readers) < changes


def test_what_runs_aside_meets_nothing_that_comes_later() -> None:
    made = plan.make(nets.alexnet(preset="paper"), goal="update", precision="bf16")
    beside = [i for i, call in enumerate(made.calls) if call.aside]
    assert [list(made.calls[i].learns.values()) for i in beside] == [
        [f"{name}.w", f"{name}.b"] for name in ("fc8", "fc7", "fc6")
    ]
    for i in beside:
        reads = {calls.name_of(each) for each in made.calls[i].reads.values()}
        learns = set(made.calls[i].learns.values())
        for later in made.calls[i + 1 :]:
            assert not reads & {calls.name_of(each) for each in later.writes}
            assert not learns & {calls.name_of(each) for each in later.operands()}


def test_fusing_moves_fewer_bytes_at_every_precision() -> None:
    spec = nets.alexnet(preset="paper")

    def moved(**how: Any) -> int:
        made = plan.make(spec, goal="update", **how)
        return sum(made.moved(call, 256) for call in made.calls)

    for precision in plan.PRECISIONS:
        assert 1.5 * moved(precision=precision) < moved(precision=precision, fused=False)
    assert moved(precision="bf16") < moved(precision="fp32")


@pytest.mark.parametrize("preset", ["source", "paper", "caffe", "owt"])
def test_alexnets_first_layer_reads_blocks_of_4_by_4(preset: str) -> None:
    seen = fused_layers.converted(nets.alexnet(preset=preset))
    assert (seen.block, seen.shape) == (4, (57, 57, 48))


def test_blocks_that_would_give_too_many_outputs_are_not_made() -> None:
    layers = (Conv("conv1", 2, 11, stride=4), Linear("fc2", 3))

    def block(height: int) -> int:
        return fused_layers.converted(NetSpec("small", (height, 39, 1), 3, layers, RECIPE)).block

    # Rows of 10 blocks, three to an output, give 8; 38 pixels give only 7. Likewise with 11.
    assert [block(height) for height in (38, 39, 40, 41, 42, 43)] == [1, 4, 4, 1, 1, 4]


def test_what_has_no_plan_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^plan: precision is 'fp8'; one of fp32, fp32x3,"):
        plan.make(FUSIBLE, goal="logits", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^Net: precision is 'half'; one of fp32"):
        Net(FUSIBLE, precision="half")  # type: ignore[arg-type]


# What it computes


@pytest.mark.every(9)
@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_fused_gradients_are_exact(be: Any, train: bool) -> None:
    _, loss, exact_grads = exact(train)
    net = Net(EVERY_LAYER, be, SEED, fused=True)
    actual, grads = net.loss_and_grads(*batch(EVERY_LAYER, IMAGES), train=train, step=STEP)
    assert_near(be.to_numpy(actual), loss)
    for name, grad in host(net, grads).items():
        assert_near(grad, exact_grads[name])


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_fused_gradients_are_those_of_the_layers(be: Any, train: bool) -> None:
    x, labels = batch(FUSIBLE, IMAGES)
    layers, fused = Net(FUSIBLE, right(), SEED), Net(FUSIBLE, be, SEED, fused=True)
    expected = layers.loss_and_grads(x, labels, train=train, step=STEP)
    loss, grads = fused.loss_and_grads(x, labels, train=train, step=STEP)
    assert_near(be.to_numpy(loss), expected[0])
    assert_near(be.to_numpy(fused.forward(x)), layers.forward(x))
    for name, grad in host(fused, grads).items():
        assert np.linalg.norm(expected[1][name]) > 1e-3, f"{name}: nothing to see"
        assert_near(grad, expected[1][name])


# Backends round the same sums to bfloat16; if two differ in the last float32 bit, about one element
# in ten thousand lies so near the midpoint of two bfloat16 that it is rounded the other way, by
# 2^-8 of its size, and a max-pool may then choose another pixel among equals. Altogether less than
# one bfloat16 rounding of everything.
_BF16_FLIPS = 2.0**-9
# Compared with float32: about ten roundings of 2^-9 in a row, each way. Layer by layer, the norm's
# output is also rounded before it is pooled, which makes neighbours equal: in a batch this small,
# one gradient in another pixel is four per cent of conv1's. Fused, nothing is rounded in between.
_BF16 = {True: 20 * 2.0**-9, False: 32 * 2.0**-9}


@pytest.mark.every(9)
@pytest.mark.parametrize("fused", [False, True], ids=["layers", "fused"])
@pytest.mark.parametrize("spec", SHAPES, ids=NAMES)
def test_bf16_gradients(be: Any, spec: NetSpec, fused: bool) -> None:
    x, labels = batch(spec, IMAGES)
    net = Net(spec, be, SEED, precision="bf16", fused=fused)
    same = Net(spec, right(), SEED, precision="bf16", fused=fused)
    full = Net(spec, right(), SEED)
    loss, grads = net.loss_and_grads(x, labels, train=True, step=STEP)
    expected = same.loss_and_grads(x, labels, train=True, step=STEP)
    in_full = full.loss_and_grads(x, labels, train=True, step=STEP)
    assert_near(be.to_numpy(loss), expected[0], _BF16_FLIPS)
    assert_near(be.to_numpy(loss), in_full[0], _BF16[fused])
    for name, grad in host(net, grads).items():
        assert grad.dtype == np.float32
        assert_near(grad, expected[1][name], _BF16_FLIPS)
        assert_near(grad, in_full[1][name], _BF16[fused])


@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@pytest.mark.parametrize("precision", plan.PRECISIONS)
def test_no_order_of_threads_changes_a_bit(be: Any, precision: plan.Precision) -> None:
    x, labels = batch(FUSIBLE, IMAGES)
    net = Net(FUSIBLE, be, SEED, precision=precision, fused=True)
    grads = []
    for seed in range(3):
        be.set_schedule(seed)
        grads += [host(net, net.loss_and_grads(x, labels, train=True, step=STEP)[1])]
    assert all(same_bits(grads[0][name], one[name]) for one in grads[1:] for name in one)


# Learning


def update(sgd: SGD, grads: dict[str, Any], epoch: float) -> None:
    """The rule of `SGD`, call by call, on gradients that were stored."""
    (part,) = sgd.net.parts
    for name, w in part.params.items():
        part.backend.sgd_update(
            w,
            sgd.momentum[name],
            grads[name],
            lr=sgd.recipe.lr(name, epoch),
            momentum=sgd.recipe.momentum,
            weight_decay=sgd.recipe.decay(name),
            low=part.low.get(name),
        )


def learn(net: Net, steps: int, at_once: bool) -> tuple[SGD, list[float]]:
    """Some steps, each on its own batch, by gradients and update or by one program."""
    sgd, losses = SGD(net), []
    for step in range(steps):
        x, labels = batch(net.spec, IMAGES, step)
        if at_once:
            loss = sgd.step(x, labels, step=step, epoch=0)
        else:
            loss, grads = net.loss_and_grads(x, labels, train=True, step=step)
            update(sgd, grads, 0)
        losses.append(float(net.backend.to_numpy(loss)))
    return sgd, losses


@pytest.mark.every(9)
@pytest.mark.parametrize("be", parameters(CPU, SIM, SIMCHECK), indirect=True)
@pytest.mark.parametrize("precision", plan.PRECISIONS)
@pytest.mark.parametrize("spec", SHAPES, ids=NAMES)
def test_the_fused_update_is_that_of_the_gradients(
    be: Any, spec: NetSpec, precision: plan.Precision
) -> None:
    at_once = Net(spec, be, SEED, precision=precision, fused=True)
    apart = Net(spec, be, SEED, precision=precision, fused=True)
    (first, losses), (second, expected) = learn(at_once, 3, True), learn(apart, 3, False)
    assert losses == expected and len(set(losses)) == 3
    momentum = [host(sgd.net, sgd.momentum) for sgd in (first, second)]
    params = [host(net, net.params) for net in (at_once, apart)]
    for one, other in (params, momentum):
        assert all(same_bits(one[name], other[name]) for name in one)


@pytest.mark.every(9)
@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_what_is_replaced_counts_in_the_very_next_step(be: Any) -> None:
    """A recipe's rates, momentum or decay, and the buffers, replaced during a fused run."""
    changes: tuple[Callable[[SGD], None], ...] = (
        lambda sgd: None,
        lambda sgd: setattr(sgd, "recipe", sgd.recipe.override(lr=0.003)),
        lambda sgd: setattr(sgd, "recipe", sgd.recipe.override(momentum=0.3)),
        lambda sgd: setattr(sgd, "recipe", sgd.recipe.override(weight_decay=0.2)),
        lambda sgd: sgd.load({name: 3 * v for name, v in host(sgd.net, sgd.momentum).items()}),
        lambda sgd: setattr(sgd, "recipe", sgd.recipe.override(layer_lr={"conv1": 0})),
    )
    first, second = (SGD(Net(FUSIBLE, be, SEED, fused=True)) for _ in range(2))
    x, labels = batch(FUSIBLE, IMAGES)
    for step, change in enumerate(changes):
        change(first), change(second)
        before = host(first.net, first.net.params)
        first.step(x, labels, step=step, epoch=step)
        _, grads = second.net.loss_and_grads(x, labels, train=True, step=step)
        update(second, grads, step)
        for one, other in (
            (first.net.params, second.net.params),
            (first.momentum, second.momentum),
        ):
            expected = host(second.net, other)
            assert all(same_bits(v, expected[name]) for name, v in host(first.net, one).items())
        frozen = same_bits(before["conv1.w"], host(first.net, first.net.params)["conv1.w"])
        assert frozen == (step == len(changes) - 1)


@pytest.mark.parametrize("be", parameters(CPU), indirect=True)
def test_other_rates_need_no_other_program(be: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a program costs memory and a graph capture, and the recipe may change every step."""
    made: list[Any] = []
    usual = be.record

    def record(work: Any, **how: Any) -> Any:
        made.append(work)
        return usual(work, **how)

    monkeypatch.setattr(be, "record", record)
    sgd = SGD(Net(FUSIBLE, be, SEED, fused=True))
    x, labels = batch(FUSIBLE, IMAGES)
    for step in range(3):
        sgd.recipe = sgd.recipe.override(lr=0.01 / (step + 1))
        sgd.step(x, labels, step=step, epoch=step)
    assert len(made) == 1
    sgd.recipe = sgd.recipe.override(momentum=0.1)
    sgd.step(x, labels, step=3, epoch=3)
    assert len(made) == 2


@pytest.mark.every(9)
@pytest.mark.parametrize("precision", plan.PRECISIONS)
def test_parameters_come_out_as_they_went_in(be: Any, precision: plan.Precision) -> None:
    initial = host(full := Net(FUSIBLE, be, SEED), full.params)
    net = Net(FUSIBLE, be, SEED, precision=precision, fused=True)
    assert all(same_bits(value, initial[n]) for n, value in host(net, net.params).items())
    x, labels = batch(FUSIBLE, IMAGES)
    before = host(net, net.loss_and_grads(x, labels)[1])  # by now, programs hold the arrays
    other = host(full := Net(FUSIBLE, be, SEED + 1), full.params)
    net.load(other)
    assert all(same_bits(value, other[n]) for n, value in host(net, net.params).items())
    net.load(initial)
    after = host(net, net.loss_and_grads(x, labels)[1])
    assert all(same_bits(before[name], after[name]) for name in before)


@pytest.mark.parametrize("be", parameters(CPU), indirect=True)
@pytest.mark.parametrize("precision", plan.PRECISIONS)
def test_it_learns(be: Any, precision: plan.Precision) -> None:
    net = Net(FUSIBLE, be, SEED, precision=precision, fused=True)
    sgd = SGD(net)
    x, labels = batch(FUSIBLE, 8)
    losses = [float(sgd.step(x, labels, step=0, epoch=0)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.every(9)
@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_converted_images_are_read_in_place(be: Any) -> None:
    net = Net(FUSIBLE, be, SEED, precision="bf16", fused=True)
    x, labels = batch(FUSIBLE, IMAGES)
    seen = net.converted
    images = net.images_for(IMAGES)
    be.images_to_depth(
        be.asarray(x),
        block=seen.block,
        pad=seen.pad,
        dtype=net.element,
        out=images,
    )
    expected = host(net, net.loss_and_grads(x, labels)[1])
    found = host(net, net.loss_and_grads(images, labels)[1])
    assert all(same_bits(found[name], expected[name]) for name in found)
    assert same_bits(be.to_numpy(net.forward(images)), be.to_numpy(net.forward(x)))


@pytest.mark.parametrize("be", ANYWHERE, indirect=True)
def test_results_survive_the_next_pass(be: Any) -> None:
    net = Net(FUSIBLE, be, SEED, fused=True)
    seen = []
    for seed in range(3):
        x, labels = batch(FUSIBLE, IMAGES, seed)
        loss, grads = net.loss_and_grads(x, labels)
        seen.append((loss, *net.last_errors, grads["conv1.w"], net.forward(x)))
    for one, other in pairwise(seen):
        losses = float(be.to_numpy(one[0])), float(be.to_numpy(other[0]))
        assert losses[0] != losses[1]
        assert not np.array_equal(be.to_numpy(one[3]), be.to_numpy(other[3]))
        assert not np.array_equal(be.to_numpy(one[4]), be.to_numpy(other[4]))


# Deep networks in bfloat16 cannot be compared as a whole: a ReLU's input that two backends round to
# either side of 0 opens it on one of them only, and a max-pool's choice among equals is chance.
# Single calls on the same inputs can be compared. A sum rounded the other way is 2^-8 off; about
# one in a thousand is, if sums of 9,216 terms differ in the last float32 digit.
_ONE_CALL = 2.0**-8 * 2.0**-5


def alive(spec: NetSpec) -> dict[str, Any]:
    """Parameters that preserve the scale of activations and gradients."""
    return {
        name: normal(*shape, seed=len(name)) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
        if name.endswith(".w")
        else normal(*shape) * np.float32(0.1)
        for name, shape in spec.param_shapes().items()
    }


def programs(spec: NetSpec, be: Any, precision: plan.Precision) -> tuple[Program, Program]:
    """A step on a backend, and the same on the exact cpu."""
    made = plan.make(spec, goal="update", precision=precision)
    x, labels = batch(spec, 2)
    found = []
    for backend in (be, right()):
        net = Net(spec, backend, SEED, precision=precision, fused=True)
        net.load(alive(spec))
        (part,) = net.parts
        given = {**part.params, **{f"{name}.low": low for name, low in part.low.items()}}
        given |= {f"{name}.lr": backend.asarray(np.float32(0.01)) for name in part.params}
        step = backend.asarray(np.array(STEP, np.uint32))
        rules = dict.fromkeys(part.params, (0.9, 0.0005))
        kept: dict[str, Any] = {"given": given, "steps": (step,), "seed": SEED, "rules": rules}
        found.append(Program(made, (backend,), 2, **kept))
        backend.assign(found[-1].arrays["pixels"], x)
        backend.assign(found[-1].arrays["labels"], labels)
    return found[0], found[1]


def kind(made: calls.Plan, call: calls.Call) -> tuple[Any, ...]:
    """All of a call but its arrays' values: the operation, the arrays' layouts, the settings."""
    arrays = [*call.reads.items(), *enumerate(call.writes), *call.learns.items()]
    layouts = [
        (place, made.shape(one), made.arrays[calls.name_of(one)].dtype) for place, one in arrays
    ]
    return call.op, tuple(layouts), repr(call.settings)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("be", parameters(SIM), indirect=True)
@pytest.mark.parametrize("precision", plan.PRECISIONS)
@pytest.mark.parametrize("preset", ["paper", "source"])
def test_each_call_of_alexnet_at_its_full_size(
    be: Any, preset: str, precision: plan.Precision
) -> None:
    """The calls of the source's network, whose products are the paper's, that the paper's lacks."""
    own, numpy = programs(nets.alexnet(preset=preset), be, precision)
    papers = plan.make(nets.alexnet(preset="paper"), goal="update", precision=precision)
    known = {kind(papers, call) for call in papers.calls} if preset == "source" else set()
    left = [call for call in own.plan.calls if kind(own.plan, call) not in known]
    assert len(left) >= 4
    hold_alike(be, own, numpy, left)


def hold_alike(be: Any, own: Program, numpy: Program, chosen: list[calls.Call]) -> None:
    """Check that each chosen call gives the same result as NumPy's, from the same arrays."""
    for (call, run), (_, same) in zip(own.calls, numpy.calls, strict=True):
        if call not in chosen:
            same()
            continue
        touched = {calls.name_of(each) for each in call.operands()}
        for parameter in call.learns.values():
            touched |= {parameter, f"{parameter}.low", f"{parameter}.v"} & set(own.arrays)
        for name in touched:
            be.assign(own.arrays[name], np.asarray(numpy.arrays[name]))
        run()
        same()
        for name in touched:
            if own.arrays[name].dtype.kind not in "iu":  # halves and places show in later results
                expected = np.asarray(numpy.arrays[name], np.float32)
                assert_near(be.to_numpy(own.arrays[name]), expected, _ONE_CALL)
