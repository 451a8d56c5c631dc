"""Networks whose layers ranks divide, as two towers or as in "One weird trick", against one device.

Ranks are threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pyalexnet
from pyalexnet import nets
from pyalexnet.backends.host import HostBackend
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import Conv, Dropout, Linear, MaxPool, Relu
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.step import hybrid, plan, ranked
from pyalexnet.step.hybrid import SCHEMES, Division, Scheme
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.step.shards import WHOLE, Shards
from test_towers import (
    EVERY_LAYER,
    SEED,
    STEP,
    batch,
    divisible,
    named,
    sixteenth,
    spec_of,
    train,
)
from thread_ranks import T, ThreadRank, together
from tolerance import same_bits

# Dropout below the linear layers, which therefore see all images there; classes that no number of
# ranks divides. And eight classes, which 2 and 4 do.
DROPPED = spec_of(
    "dropped",
    (9, 9, 2),
    Conv("conv1", 6, 3, activation="relu", std=0.3, bias=0.1),
    MaxPool("pool1", 3, 2),
    Conv("conv2", 8, 2, std=0.3),
    Relu("relu2"),
    Dropout("drop3", keep=0.8, inverted=True),
    Linear("fc3", 12, activation="relu", std=0.3, bias=0.3),
    Dropout("drop4", keep=0.7),
    Linear("fc4", 16, activation="tanh", std=0.4),
    Linear("fc5", 5, std=0.5),
)
TINY = nets.alexnet_tiny(classes=8, input_shape=(12, 12, 1))
IMAGES = 16
# A sample in every run, the rest where there is time.
_SAMPLE = [("whole", 2), ("slices", 4)]
EVERY_SCHEME = pytest.mark.parametrize(
    ("scheme", "ranks"),
    [
        pytest.param(*case, marks=() if case in _SAMPLE else pytest.mark.slow)
        for case in itertools.product(SCHEMES, (2, 4))
    ],
)


def on_ranks(
    count: int, spec: NetSpec, division: Division, work: Callable[[ThreadRank, Net], T], **how: Any
) -> list[T]:
    """What `work` returns on each rank, for the rank's part of a net."""

    def part(comm: ThreadRank) -> T:
        be = pyalexnet.backend(how.get("backend", "cpu"), exact=True)
        fused = how.get("fused", False)
        return work(comm, Net(spec, be, SEED, communicator=comm, division=division, fused=fused))

    return together(part, [0] * count)


def own(scheme: Scheme, comm: Communicator, values: Any) -> Any:
    """A rank's part of a batch."""
    shards = hybrid.shards(scheme, comm.world_size, Shards())
    return values[shards.of_rank(comm.rank, np.arange(len(values))[None])]


def one_device(spec: NetSpec, fused: bool = False) -> Net:
    return Net(spec, pyalexnet.backend("cpu", exact=True), SEED, fused=fused)


# Two towers


@pytest.mark.parametrize(
    "spec",
    [
        divisible(EVERY_LAYER),
        sixteenth("source"),
        pytest.param(sixteenth("paper", preset="paper", towers_norm=True), marks=pytest.mark.slow),
    ],
    ids=named,
)
def test_towers_of_two_ranks_are_those_of_one_process(spec: NetSpec) -> None:
    x, labels = batch(spec, 2)
    be = pyalexnet.backend("cpu", exact=True)
    two = Net(spec, (be, be), SEED)
    loss, grads = two.loss_and_grads(x, labels, train=True, step=STEP)
    errors, crossed = two.last_errors, two.exchanged
    losses = train(two, 3)

    def work(comm: ThreadRank, net: Net) -> Any:
        found = net.loss_and_grads(x, labels, train=True, step=STEP)
        seen = (*found, net.last_errors, net.exchanged)
        return *seen, train(net, 3), {name: w.copy() for name, w in net.params.items()}

    ranks = on_ranks(2, spec, "towers", work)
    assert sum(rank[3] for rank in ranks) == crossed > 0
    for its_loss, its_grads, its_errors, _, its_losses, params in ranks:
        assert same_bits(its_loss, loss) and its_losses == losses
        assert its_errors == errors
        for name, grad in grads.items():
            assert same_bits(its_grads[name], grad), name
            assert same_bits(params[name], two.params[name]), name


# Hybrid


def bytes_sent(spec: NetSpec, ranks: int) -> int:
    """What all ranks together send for the gradients of a batch."""
    divided = spec.classes % ranks == 0
    linear = [one for one in spec.shapes() if one.kind == "Linear"]
    shared = 4 * sum(one.parameters for one in spec.shapes() if one.kind == "Conv")
    maps = sum(math.prod(one.in_shape) for one in linear)
    returned = maps if divided else maps - math.prod(linear[-1].in_shape)
    logits = spec.classes if divided else 0
    label = 8
    return (ranks - 1) * (2 * shared + IMAGES * (4 * (maps + returned + logits) + label))


@EVERY_SCHEME
@pytest.mark.parametrize("spec", [DROPPED, pytest.param(TINY, marks=pytest.mark.slow)], ids=named)
def test_gradients_of_a_hybrid(spec: NetSpec, scheme: Scheme, ranks: int) -> None:
    check_gradients(spec, scheme, ranks)


def check_gradients(spec: NetSpec, scheme: Scheme, ranks: int) -> None:
    """Near those of one device, the same on all ranks; with the bytes that they took."""
    x, labels = batch(spec, IMAGES)
    loss, grads = one_device(spec).loss_and_grads(x, labels, train=True, step=STEP)

    def work(comm: ThreadRank, net: Net) -> Any:
        mine = own(scheme, comm, x), own(scheme, comm, labels)
        return *net.loss_and_grads(*mine, train=True, step=STEP), net.exchanged

    found = on_ranks(ranks, spec, scheme, work)
    assert sum(sent for *_, sent in found) == bytes_sent(spec, ranks)
    for its_loss, its_grads, _ in found:
        assert same_bits(its_loss, found[0][0])
        assert float(its_loss) == pytest.approx(float(loss), rel=1e-6)
        for name, grad in grads.items():
            assert same_bits(its_grads[name], found[0][1][name])
            assert abs(its_grads[name] - grad).max() <= 2e-6 * abs(grad).max() > 0, name


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_what_alexnet_exchanges_in_a_hybrid(scheme: Scheme, ranks: int) -> None:
    """Of b images on each rank (N - 1) b (2 pool5 + 2 fc6 + 2 fc7 + fc8) floats, and b labels."""
    b, shards = 128, hybrid.shards(scheme, ranks, WHOLE)
    whole = plan.make(nets.alexnet(), goal="update", towers=ranks, scheme=scheme, shards=shards)
    maps = 2 * 9216 + 2 * 4096 + 2 * 4096 + 1000
    for rank in range(ranks):
        own = ranked.of_rank(whole, rank)
        sent = [each for call in own.calls if call.op == "exchange" for each in call.reads.values()]
        assert sum(own.nbytes(each, b) for each in sent) == (ranks - 1) * b * (4 * maps + 8)
        reduced = [call.reads["x"] for call in own.calls if call.op == "all_reduce"]
        assert sum(own.nbytes(each, b) for each in reduced) == 4 * 2_334_080


@EVERY_SCHEME
@pytest.mark.parametrize("backend", ["cpu", pytest.param("sim", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_learning_in_a_hybrid(scheme: Scheme, ranks: int, backend: str, fused: bool) -> None:
    """What ranks have learnt is that of one device, and alike where several have it."""
    one = one_device(DROPPED)
    sgd = SGD(one)
    batches = [batch(DROPPED, IMAGES, step) for step in range(3)]
    losses = [float(sgd.step(*each, step=n, epoch=1)) for n, each in enumerate(batches)]

    def work(comm: ThreadRank, net: Net) -> Any:
        sgd = SGD(net)
        mine = [tuple(own(scheme, comm, values) for values in each) for each in batches]
        found = [float(sgd.step(*each, step=n, epoch=1)) for n, each in enumerate(mine)]
        return found, net.params, sgd.momentum, net.whole().forward(batches[0][0])

    learned = on_ranks(ranks, DROPPED, scheme, work, backend=backend, fused=fused)
    for found, params, momentum, logits in learned:
        assert found == learned[0][0] and found == pytest.approx(losses, rel=1e-5)
        assert same_bits(logits, learned[0][3])
        for name, w in params.items():
            v = sgd.momentum[name]
            assert same_bits(w, learned[0][1][name]) and same_bits(
                momentum[name], learned[0][2][name]
            )
            assert abs(momentum[name] - v).max() <= 1e-4 * abs(v).max() > 0, name
            assert abs(w - one.params[name]).max() <= 1e-5 * abs(w).max(), name


@pytest.mark.parametrize("scheme", ["turns", pytest.param("slices", marks=pytest.mark.slow)])
def test_exchanges_are_waited_for(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they run at once, or when they are waited for."""
    batches = [batch(DROPPED, IMAGES, step) for step in range(2)]

    def work(comm: ThreadRank, net: Net) -> list[bytes]:
        sgd = SGD(net)
        for step, each in enumerate(batches):
            sgd.step(*(own(scheme, comm, values) for values in each), step=step, epoch=1)
        return [w.tobytes() for w in net.params.values()]

    found = []
    for begin in (at_once, lazily):
        monkeypatch.setattr(HostBackend, "begin", begin)
        found += on_ranks(2, DROPPED, scheme, work, fused=True)
    assert all(one == found[0] for one in found)


def at_once(_: Any, work: Callable[[], None]) -> Callable[[], None]:
    work()
    return lambda: None


def lazily(backend: Any, work: Callable[[], None]) -> Callable[[], None]:
    begun: list[Callable[[], None]] = backend.__dict__.setdefault("begun", [])
    begun.append(work)

    def wait() -> None:
        while work in begun:
            begun.pop(0)()

    return wait


def test_a_rank_holds_its_rows_of_linear_layers() -> None:
    def work(comm: ThreadRank, net: Net) -> Any:
        (part,), momentum = net.parts, SGD(net)._update.momentum[0]
        assert {n: w.shape for n, w in part.params.items()} == {
            n: v.shape for n, v in momentum.items()
        }
        return {name: len(w) for name, w in part.params.items() if name.endswith(".w")}

    rows = {"conv1.w": 6, "conv2.w": 8, "fc3.w": 3, "fc4.w": 4, "fc5.w": 5}
    assert on_ranks(4, DROPPED, "whole", work) == [rows] * 4


def test_parameters_make_the_round_trip() -> None:
    def work(comm: ThreadRank, net: Net) -> Any:
        zero = {name: np.zeros_like(w) for name, w in net.params.items()}
        first = {name: w.copy() for name, w in net.params.items()}
        net.load(zero)
        assert not any(w.any() for w in net.params.values())
        net.load(first)
        return net.params

    cases: list[tuple[Division, NetSpec]] = [
        ("towers", divisible(EVERY_LAYER)),
        ("turns", DROPPED),
    ]
    for division, its_spec in cases:
        whole = one_device(its_spec).params
        for params in on_ranks(2, its_spec, division, work):
            assert [*params] == [*whole]
            assert all(same_bits(params[name], w) for name, w in whole.items())


@pytest.mark.parametrize(
    ("ranks", "division", "spec", "sentence"),
    [
        (3, "towers", TINY, "run: parallel is towers and the number of ranks 3; 2 was expected."),
        (9, "whole", TINY, "run: parallel is hybrid and the number of ranks 9; at most 8 was"),
        (2, "whole", EVERY_LAYER, "fc4: groups is 2; 1 was expected where ranks divide"),
        (2, "slices", EVERY_LAYER, "fc4: groups is 2; 1 was expected where ranks divide"),
        (5, "turns", DROPPED, "fc3: 12 outputs do not divide among 5 ranks; a multiple"),
        (
            2,
            "whole",
            spec_of("one", (2, 2, 1), Linear("fc", 5)),
            "one: no convolution comes before",
        ),
    ],
)
def test_what_ranks_cannot_divide(
    ranks: int, division: Division, spec: NetSpec, sentence: str
) -> None:
    with pytest.raises(ArgumentError) as raised:
        on_ranks(ranks, spec, division, lambda comm, net: None)
    assert str(raised.value).startswith(sentence)


def test_slices_keep_no_order_for_dropout_between_convolutions() -> None:
    layers = list(DROPPED.layers)
    layers.insert(1, Dropout("drop1", keep=0.5))
    spec = spec_of("early", (9, 9, 2), *layers)
    with pytest.raises(ArgumentError, match="scheme is slices and drop1 drops before a conv"):
        on_ranks(2, spec, "slices", lambda comm, net: None)
    check_gradients(spec, "turns", 2)


def test_a_batch_in_slices_divides_twice() -> None:
    x, labels = batch(DROPPED, 3)
    with pytest.raises(
        ArgumentError, match="dropped: there are 3 images; a multiple of 2 slices was expected"
    ):
        on_ranks(2, DROPPED, "slices", lambda comm, net: net.loss_and_grads(x, labels))


def test_towers_have_no_momentum_in_common() -> None:
    shards = Shards(divides=True)
    with pytest.raises(
        ArgumentError, match="divide_momentum was given and parallel is towers, which"
    ):
        together(
            lambda comm: Net(TINY, "cpu", communicator=comm, division="towers", shards=shards),
            [0, 0],
        )


def test_bfloat16_does_not_cross() -> None:
    with pytest.raises(ArgumentError, match="precision is bf16 and there are 2 towers"):
        together(
            lambda comm: Net(TINY, "cpu", communicator=comm, division="turns", precision="bf16"),
            [0, 0],
        )


# Divided momentum


@pytest.mark.parametrize(
    ("scheme", "precision", "sent", "ranks"),
    [
        (None, "bf16", FLOAT32, 2),
        pytest.param(None, "fp32", FLOAT32, 4, marks=pytest.mark.slow),
        pytest.param("whole", "fp32", FLOAT32, 2, marks=pytest.mark.slow),
        pytest.param(None, "bf16", BFLOAT16, 4, marks=pytest.mark.slow),
        pytest.param("slices", "fp32", BFLOAT16, 4, marks=pytest.mark.slow),
    ],
)
def test_divided_momentum_changes_no_bit(
    scheme: Scheme | None, precision: Any, sent: Any, ranks: int
) -> None:
    """Of what all ranks have, each keeps its share of the momentum, and 64 bytes a tensor."""
    batches = [batch(TINY, IMAGES, step) for step in range(3)]

    def run(comm: ThreadRank, *, divides: bool) -> Any:
        shards = Shards(ranks=1 if scheme else ranks, sent=sent, divides=divides)
        how: dict[str, Any] = {"precision": precision, "shards": shards, "division": scheme}
        net = Net(TINY, "cpu", SEED, communicator=comm, **how)
        sgd = SGD(net)
        for step, each in enumerate(batches):
            mine = [own(scheme or "whole", comm, values) for values in each]
            sgd.step(*mine, step=step, epoch=1)
            if step == 1:  # as a resumed run goes on
                sgd.load(sgd.momentum)
        held = {name: v.nbytes for name, v in sgd._update.momentum[0].items()}
        return net.params, sgd.momentum, held

    for divided, whole in together(
        lambda comm: (run(comm, divides=True), run(comm, divides=False)), [0] * ranks
    ):
        for name, w in whole[0].items():
            assert same_bits(divided[0][name], w) and same_bits(divided[1][name], whole[1][name])
            common = scheme is None or name.startswith("conv")
            assert divided[2][name] <= (whole[2][name] / ranks + 64 if common else whole[2][name])
            assert whole[1][name].any(), name
