"""Data-parallel training: what a batch's parts compute together, on ranks that are threads."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGUSR1, SIGUSR2
from typing import Any

import numpy as np
import pytest

from pyalexnet import nets
from pyalexnet.backends.host import HostBackend
from pyalexnet.errors import ArgumentError, TrainingError
from pyalexnet.nets.calls import name_of
from pyalexnet.nets.recipe import Augment
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ops.elements import BFLOAT16, FLOAT32
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.runs.run import StopReport
from pyalexnet.step import plan
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.step.shards import Shards
from pyalexnet.training import start
from pyalexnet.training.summary import opening
from pyalexnet.training.train import Trainer
from test_net import batch
from test_plan import FUSIBLE
from thread_ranks import together
from training import (
    BATCH,
    CHOICES,
    STEPS_AN_EPOCH,
    Hook,
    assert_same_end,
    environment,
    fitted,
    lines,
    photographs,
    small_net,
    without_pictures,
)

pytestmark = pytest.mark.usefixtures("no_pictures")

IMAGES = 16
slow = pytest.mark.slow


# A net's steps


@dataclass
class Learned:
    """After some steps on a rank: the bits of its parameters, each step's scores, bytes it sent."""

    params: dict[str, bytes]
    scores: list[tuple[float, ...]]
    sent: int

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Learned)
        return (self.params, self.scores) == (other.params, other.scores)


def learned(
    ranks: int,
    shards: int,
    *,
    spec: NetSpec = FUSIBLE,
    steps: int = 3,
    backend: str = "cpu",
    sent: Any = FLOAT32,
    **how: Any,
) -> Learned:
    """What every rank has after some steps, on its parts of the same batches."""
    batches = [batch(spec, IMAGES, seed=seed) for seed in range(steps)]

    def learn(comm: Communicator) -> Learned:
        parts = replace(Shards.of("test", ranks, shards), sent=sent)
        net = Net(spec, backend, 3, communicator=comm, shards=parts, **how)
        sgd, scores = SGD(net), []
        own = slice(comm.rank * IMAGES // ranks, (comm.rank + 1) * IMAGES // ranks)
        for step, (x, labels) in enumerate(batches):
            loss = sgd.step(x[own], labels[own], step=step, epoch=0.0)
            scores.append(tuple(map(float, (loss, *net.last_errors))))
        bits = {name: np.asarray(x).tobytes() for name, x in (net.params | sgd.momentum).items()}
        return Learned(bits, scores, net.exchanged)

    first, *others = together(learn, [0] * ranks)
    assert all(other == first for other in others)
    return first


EVERY_WAY = [
    pytest.param({"fused": True}, id="fused"),
    *(
        pytest.param(how, marks=slow, id=name)
        for name, how in {
            "layer by layer": {},
            "fp32x3": {"precision": "fp32x3", "fused": True},
            "bf16": {"precision": "bf16", "fused": True},
            "bf16, layer by layer": {"precision": "bf16"},
            "emulated": {"backend": "sim", "spec": small_net(), "steps": 2},
            "emulated, bf16": {
                "backend": "sim",
                "spec": small_net(),
                "steps": 2,
                "precision": "bf16",
                "fused": True,
            },
        }.items()
    ),
]


@pytest.mark.parametrize("how", EVERY_WAY)
def test_bits_depend_on_the_number_of_shards_alone(how: dict[str, Any]) -> None:
    """Dropout's masks included, which go by the image's place in the whole batch."""
    alone = learned(1, 4, **how)
    for ranks in (2, 4):
        assert learned(ranks, 4, **how) == alone
    assert alone.sent == 0
    assert learned(1, 8, **how) != alone  # other sums


@slow
@pytest.mark.parametrize("shards", [1, 2, 8, 16])
def test_other_numbers_of_shards(shards: int) -> None:
    counts = [2**n for n in range(5) if 2**n <= shards]
    first, *others = (learned(ranks, shards, fused=True) for ranks in counts)
    assert all(other == first for other in others)


def lazily(_: Any, work: Callable[[], None]) -> Callable[[], None]:
    return work


def at_once(_: Any, work: Callable[[], None]) -> Callable[[], None]:
    work()
    return lambda: None


@pytest.mark.parametrize("begin", [lazily, at_once])
@pytest.mark.parametrize("sent", [FLOAT32, BFLOAT16], ids=str)
def test_updates_wait_for_the_sums(begin: Any, sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether what runs aside does so at its beginning, in between, or as late as possible."""
    expected = learned(2, 4, sent=sent)
    monkeypatch.setattr(HostBackend, "begin", begin)
    assert learned(2, 4, sent=sent) == expected


def test_one_shard_a_rank_learns_the_same_up_to_rounding() -> None:
    alone = learned(1, 1, steps=12)
    for ranks in (2, 4):
        found = learned(ranks, ranks, steps=12)
        assert np.allclose(found.scores, alone.scores, rtol=1e-6, atol=0)
        assert found.params != alone.params


def test_gradients_and_loss_are_those_of_the_whole_batch() -> None:
    x, labels = batch(FUSIBLE, IMAGES)
    loss, grads = Net(FUSIBLE, "cpu", 3).loss_and_grads(x, labels, train=True, step=5)

    def own(comm: Communicator) -> tuple[Any, dict[str, Any]]:
        net = Net(FUSIBLE, "cpu", 3, communicator=comm, shards=Shards(2, 2))
        half = slice(comm.rank * 8, comm.rank * 8 + 8)
        return net.loss_and_grads(x[half], labels[half], train=True, step=5)

    for own_loss, own_grads in together(own, [0, 0]):
        assert own_loss == pytest.approx(loss, rel=1e-6)
        for name, grad in grads.items():
            error = np.linalg.norm(own_grads[name] - grad)
            assert error < 1e-5 * np.linalg.norm(grad), name


def test_gradients_in_bfloat16_are_half_the_bytes() -> None:
    """Each is off by no more than its rounding, 2^-9, and that of the sum."""
    whole, half = (learned(2, 2, sent=sent, steps=4) for sent in (FLOAT32, BFLOAT16))
    assert whole.params != half.params
    scores = 3 * 4  # bytes, which are not rounded
    assert 2 * (half.sent - scores) == whole.sent - scores
    assert np.allclose(half.scores, whole.scores, rtol=2e-3)


def test_images_that_do_not_divide() -> None:
    net = Net(FUSIBLE, "cpu", shards=Shards(4))
    x, labels = batch(FUSIBLE, 6)
    with pytest.raises(ArgumentError, match="6 images; a multiple of 4 shards was expected"):
        net.loss_and_grads(x, labels)
    assert net.forward(x).shape == (6, 5)  # which no part of a batch has to share


# A plan's sums


def test_sums_begin_while_lower_layers_go_backward() -> None:
    made = plan.make(nets.alexnet(), goal="update", precision="bf16", shards=Shards(2, 2))
    ops = [call.op for call in made.calls]
    assert not {op for op in ops if op.endswith("_sgd")}
    sums = [n for n, call in enumerate(made.calls) if call.op == "all_reduce"]
    assert [name_of(made.calls[n].writes[0]) for n in sums[:3]] == [
        *("scores", "fc8.w.grad", "fc8.b.grad")
    ]
    assert len(sums) == 1 + len(nets.alexnet().param_shapes())
    assert all(made.calls[n].aside for n in sums)
    lowest = max(n for n, op in enumerate(ops) if op == "conv_dgrad")
    assert sum(n < lowest for n in sums) == len(sums) - 2 - 2  # all but conv1's and conv2's
    assert min(n for n, op in enumerate(ops) if op == "sgd_update") > max(sums)


def test_one_part_in_all_has_the_plan_of_one_process() -> None:
    for fused in (False, True):
        how: dict[str, Any] = {"goal": "update", "fused": fused}
        alone = plan.make(FUSIBLE, **how)
        assert plan.make(FUSIBLE, **how, shards=Shards.of("test", 1, 1)) == alone
        assert not {"sum_parts", "all_reduce"} & {call.op for call in alone.calls}


# A run


def cropping(classes: int = 4, input_shape: tuple[int, int, int] = (9, 9, 3)) -> NetSpec:
    """Crops, flips and colours are drawn; three images share a crop."""
    spec = small_net(classes, input_shape)
    augment = Augment(stored=12, chunk=3, jitter=0.2, jitter_until=1.5)
    return replace(spec, name="cropping", recipe=replace(spec.recipe, augment=augment))


@pytest.fixture(autouse=True)
def _knows_cropping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets._NETS, "cropping", cropping)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "data.npz", channels=3)


Prepare = Callable[[Trainer], None]


def nothing(trainer: Trainer) -> None:
    """No preparation."""


@dataclass
class Run:
    """A run of several ranks: where it lies, how it ended, and each rank's trainer."""

    path: Path
    report: StopReport
    trainers: list[Trainer]


def ran(
    ranks: int,
    out: Path,
    data: Path,
    prepare: Prepare = nothing,
    *,
    steps: int | None = None,
    resume: Path | None = None,
    **choices: Any,
) -> Run:
    """A run of so many ranks, or its continuation; all end alike."""
    chosen = {**CHOICES, "net": "cropping", "data": str(data), "parallel": "data", **choices}

    def train(comm: Communicator) -> tuple[Trainer, StopReport]:
        reporter = Hook(lambda step: None)
        if resume is None:
            trainer = start.new(chosen, out=out, config=None, reporter=reporter, ranks=comm)
        else:
            trainer = start.resumed(resume, {}, reporter=reporter, ranks=comm)
        without_pictures(trainer)
        prepare(trainer)
        return trainer, fitted(trainer, steps)

    done = together(train, [0] * ranks)
    report = done[0][1]
    for trainer, own in done:
        assert replace(own, seconds=report.seconds) == report
        assert trainer.at == done[0][0].at
    return Run(done[0][0].folder.path, report, [trainer for trainer, _ in done])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run of one rank in four shards, from beginning to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets._NETS, "cropping", cropping)
        return ran(1, tmp_path_factory.mktemp("straight"), data, shards=4).path


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=slow)])
def test_a_run_ends_with_the_same_bits_on_any_number_of_ranks(
    ranks: int, straight: Path, data: Path, tmp_path: Path
) -> None:
    """Its crops, colours and tests included; it leaves what a run of one rank leaves."""
    run = ran(ranks, tmp_path, data, shards=4).path
    assert_same_end(run, straight)
    assert [*tmp_path.glob("20*")] == [run]
    left, known = ({path.name for path in each.rglob("*")} for each in (run, straight))
    assert left == known
    for name in ("step", "epoch"):
        own, one = lines(run, name), lines(straight, name)
        assert [{**line, "exchanged": 0} for line in own] == [
            {**line, "exchanged": 0} for line in one
        ]


def test_a_run_goes_on_with_another_number_of_ranks(
    straight: Path, data: Path, tmp_path: Path
) -> None:
    run = ran(2, tmp_path, data, shards=4, steps=4).path
    ran(4, tmp_path, data, resume=run, steps=STEPS_AN_EPOCH + 3)
    ran(1, tmp_path, data, resume=run)
    assert_same_end(run, straight)
    assert all(line["changes"] == {} for line in lines(run, "resume"))


def test_without_shards_a_run_of_two_ranks_is_near_that_of_one(data: Path, tmp_path: Path) -> None:
    alone, both = (lines(ran(ranks, tmp_path, data, print_freq=1).path, "step") for ranks in (1, 2))
    one, two = ([line["train"]["loss"] for line in each] for each in (alone, both))
    assert len(one) == 3 * STEPS_AN_EPOCH
    assert np.allclose(one, two, rtol=1e-6, atol=0)


def test_every_rank_reads_its_own_images_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[int, list[list[int]]] = {0: [], 1: []}

    def listen(trainer: Trainer) -> None:
        rank, split = trainer.net.communicator.rank, trainer.dataset.train
        before = type(split).read

        def noted(own: Any, indices: Any, out: Any) -> None:
            if own is split:
                read[rank].append(indices.tolist())
            before(own, indices, out)

        listening.append((type(split), before))
        monkeypatch.setattr(type(split), "read", noted)

    listening: list[Any] = []
    run = ran(2, tmp_path, data, listen, steps=STEPS_AN_EPOCH, workers=0)
    order = [
        image for first, second in zip(read[0], read[1], strict=True) for image in (*first, *second)
    ]
    assert len(order) == len(set(order)) == STEPS_AN_EPOCH * BATCH
    assert {len(each) for each in (*read[0], *read[1])} == {BATCH // 2}
    assert run.report.step == STEPS_AN_EPOCH


def signalled(trainer: Trainer, number: int) -> bool:
    """As if a signal had come: Python handles none outside the main thread."""
    trainer.interrupt._note(number, None)
    return True


def test_a_signal_to_one_rank_stops_all_at_one_step(data: Path, tmp_path: Path) -> None:
    def struck(trainer: Trainer) -> None:
        if trainer.net.communicator.rank == 1:
            trainer.watchers = (Hook(lambda step: step == 4 and signalled(trainer, SIGUSR1)),)

    run = ran(2, tmp_path, data, struck)
    assert (run.report.step, run.report.reason) == (4, "SIGUSR1")
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_signal_between_two_steps_stops_all(data: Path, tmp_path: Path) -> None:
    """It comes when its rank has just agreed to go on, before the epoch's test."""

    def struck(trainer: Trainer) -> None:
        before = trainer._train_epoch

        def then_struck(stop_at: int | None) -> None:
            before(stop_at)
            if trainer.net.communicator.rank == 1:
                signalled(trainer, SIGUSR1)

        trainer.__dict__["_train_epoch"] = then_struck

    run = ran(2, tmp_path, data, struck)
    assert (run.report.step, run.report.reason) == (STEPS_AN_EPOCH, "SIGUSR1")
    assert lines(run.path, "epoch") == []


def saved_at(trainer: Trainer, step: int, what: Callable[[], Any]) -> list[int]:
    """After `what` at a step: the steps at which the rank has saved, filled while it trains."""
    found: list[int] = []

    class Watch(Hook):
        def saved(self, *given: Any) -> None:
            found.append(trainer.at.step)

    trainer.watchers = (Watch(lambda done: what() if done == step else None),)
    return found


@pytest.mark.parametrize(("rank", "saves"), [(0, [3, 5]), (1, [5])])
def test_the_clock_of_rank_0_alone_decides_when_to_save(
    rank: int, saves: list[int], data: Path, tmp_path: Path
) -> None:
    found: list[list[int]] = [[], []]

    def late(trainer: Trainer) -> None:
        own = trainer.net.communicator.rank

        def long_ago() -> None:
            if own == rank:
                trainer._saved_at = -math.inf

        found[own] = saved_at(trainer, 3, long_ago)

    ran(2, tmp_path, data, late, steps=5)
    assert found == [saves, saves]


def test_a_signal_to_save_is_heeded_by_all(data: Path, tmp_path: Path) -> None:
    found: list[list[int]] = [[], []]

    def asked(trainer: Trainer) -> None:
        own = trainer.net.communicator.rank
        found[own] = saved_at(trainer, 2, lambda: own and signalled(trainer, SIGUSR2))

    ran(2, tmp_path, data, asked, steps=4)
    assert found == [[2, 4], [2, 4]]


def test_all_ranks_fail_at_once_with_the_same_sentence(data: Path, tmp_path: Path) -> None:
    chosen = {**CHOICES, "net": "cropping", "data": str(data), "parallel": "data", "lr": 1e30}

    def failed(comm: Communicator) -> str:
        reporter = Hook(lambda step: None)
        trainer = start.new(chosen, out=tmp_path, config=None, reporter=reporter, ranks=comm)
        without_pictures(trainer)
        with pytest.raises(TrainingError) as failure:
            fitted(trainer)
        return str(failure.value)

    one, other = together(failed, [0, 0])
    assert one == other
    assert "try a smaller learning rate" in one


@pytest.mark.parametrize(
    ("ranks", "choices", "sentence"),
    [
        (2, {"batch_size": 9}, "batch_size is 9; a multiple of 2 ranks was expected"),
        (3, {}, "batch_size is 8; a multiple of 3 ranks was expected"),
        (
            2,
            {"batch_size": 64, "shards": 4},
            "batch_size is 50; a multiple of 4 shards was",
        ),
        (2, {"shards": 3}, "shards is 3; 2 ranks times a power of two, at most 64, was expected"),
        (2, {"shards": 6}, "shards is 6; 2 ranks times a power of two, at most 64, was expected"),
        (1, {"shards": 128}, "shards is 128; a power of two, at most 64, was expected"),
        (2, {"parallel": ""}, "parallel is not given and there are 2 ranks; one of data, towers"),
        (1, {"parallel": "model"}, "parallel is 'model'; one of data, towers, hybrid was expected"),
        (1, {"devices": (0, 1)}, "devices of two towers too; one of them was expected"),
    ],
    ids=str,
)
def test_what_does_not_divide_is_refused(
    ranks: int, choices: dict[str, Any], sentence: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError) as refusal:
        ran(ranks, tmp_path, data, **choices)
    assert sentence in str(refusal.value)
    assert list(tmp_path.glob("20*")) == []


def test_the_opening_says_how_a_batch_is_divided(data: Path, tmp_path: Path) -> None:
    run = ran(2, tmp_path, data, steps=1, shards=4, batch_size=12)
    told = "\n".join(opening(run.trainers[0]))
    assert "batch 12 = 2 ranks x 2 shards x 3," in told
    assert "cropping's own batch is 8; rates stay as given" in told
    run = ran(1, tmp_path, data, steps=1, batch_size=12)
    told = "\n".join(opening(run.trainers[0]))
    assert "batch 12, lr" in told
    assert "own batch" not in told


def test_a_run_of_one_process_imports_no_engine(data: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pyalexnet.ranks import launch\n"
        "from pyalexnet.training import progress, start\n"
        f"choices = {{'backend': 'cpu', 'net': 'alexnet-tiny', 'data': {str(data)!r}}}\n"
        f"how = {{'out': Path({str(tmp_path)!r}), 'config': None, 'ranks': launch.start()}}\n"
        "trainer = start.new(choices, reporter=progress.Silent(), **how)\n"
        "trainer._train_epoch(1)\n"
        "assert trainer.at.step == 1\n"
        "print(*sys.modules)\n"
    )
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "check": True}
    done = subprocess.run([sys.executable, "-c", program], env=environment(), **how)
    engines = {"mpi4py", "cupy", "pyalexnet.ranks.mpi", "pyalexnet.ranks.nccl"}
    assert not engines & set(done.stdout.split())
