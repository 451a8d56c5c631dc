"""The bench's suites on a CPU: comparisons, threads, memory, errors; never a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import pyalexnet
from bench import ceilings, cli, errors, memory, peers, steps, suites, tables, whole
from bench.device import Host
from bench.peers import Peers
from bench.peers.torch_steps import COMPILED, UNTUNED, TorchForm, TorchStep
from bench.results import Ceiling, PeerTime, Results, StepRow, compared, label, ratios
from bench.steps import VARIANTS, Gate, Ours
from bench.timing import Sampling, Timing
from pyalexnet import nets
from pyalexnet.nets.layers import Conv, Linear
from tolerance import SUM

TINY = nets.get("alexnet-tiny")(input_shape=(12, 12, 3), dropout=0)
LAYERS = (Conv("conv1", 16, 3, pad=1), Conv("conv2", 32, 5, pad=2), Linear("fc", 10))
PLAIN = dataclasses.replace(
    TINY, input_shape=(16, 16, 3), layers=LAYERS, recipe=dataclasses.replace(TINY.recipe, rates={})
)
CASE = steps.StepCase(TINY, "tiny", 4)
FUSED = VARIANTS[1]
EACH = [Ours("bf16", FUSED), Ours("fp32", FUSED, exact=True), Ours("fp32", FUSED)]
ONCE = Sampling(0.0, 2, 2, warmups=0)
MEGABYTE = 2**20


def timing(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, seconds / 2, 20, 0.01)


def test_what_takes_minutes_is_of_the_longer_form() -> None:
    short, full = suites.cpu(0.1), suites.cpu_full(0.1)
    assert short.modes == ("eager",) and not short.memory
    assert [(case.label, case.batch) for case in full.steps] == [
        ("cifar-18pct", 128),
        ("alexnet-tiny", 64),
        ("AlexNet (caffe preset)", 32),
        ("AlexNet (source preset)", 32),
    ]
    assert {case.label for case in full.operations} == {
        "AlexNet (caffe preset)", *(name for name in nets.names() if name != "alexnet"),
    }  # fmt: skip
    assert full.modes == ("eager", UNTUNED, COMPILED[0])
    for suite in (short, full):
        assert [*suite.ours(suite.steps[0])] == [EACH]


def test_the_longer_form_is_the_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--dry-run", "--full"]) == 2
    assert capsys.readouterr().err == "error: --full is given; --cpu was expected beside it.\n"


def test_exact_is_a_backend_of_its_own() -> None:
    backend: Any = pyalexnet.backend("cpu")
    for ours in EACH:
        own: Any = ours.net(TINY, backend).backend
        assert own.exact == ours.exact
    assert not backend.exact


@pytest.mark.peer
def test_every_arithmetic_of_ours_stands_beside_every_form() -> None:
    found = peers.find("cpu", ("torch",))
    modes = {"fp32": ("eager",)}
    rows = list(whole.rows(Host("test"), CASE, EACH, Gate(), found, modes, ONCE, None))
    assert [(row.precision, row.form) for row in rows] == [
        ("fp32", "fused"),
        ("fp32", "fused, exact"),
        ("bf16", "fused"),
    ]
    names = [[peer.name for peer in row.peers] for row in rows]
    assert names[0] and names == names[:1] * 3
    assert {name.rpartition(", ")[2] for name in names[0]} == {"channels_last", "NCHW"}
    for row in rows:
        assert all(peer.beside == row.ours for peer in row.peers)
    assert len({row.ours for row in rows}) == 3


def test_a_ratio_is_of_the_same_turns() -> None:
    """Not of our most certain time, which may come from the turns with another peer."""
    peer = PeerTime("peer", "fp32", timing(6.0), beside=dataclasses.replace(timing(3.0), least=1.0))
    row = StepRow("net", "synthetic", 8, "fp32", timing(1.0), None, (peer,), threads=1)
    assert ratios(row) == (2.0, 3.0) and compared(row) == "ours 2.00x"
    assert label(row) == "net step, synthetic, batch 8, fp32, 1 thread"


def test_threads_stand_apart() -> None:
    """Only this run's ceilings count; each number of threads has its own mean."""
    one = [Ceiling("copy", 1.0, "GB/s", threads=1), Ceiling("fp32 product, 8", 2.0, "", threads=1)]
    made, device = Results("t", "none", {}, ceilings=[*one]), Host("t")
    device.threads = 2
    nobody = Peers(None, None, {})
    suite = dataclasses.replace(suites.dry(), steps=(), by_kernels=(), loops=(), loader=False)
    for _ in range(2):  # the second run's rows replace the first's
        suites.run(suite, device, nobody, made, "fc8 fprop", None, lambda line: None)
    names = [(ceiling.name, ceiling.threads) for ceiling in made.ceilings]
    assert len(set(names)) == len(names) and made.ceilings[:2] == one
    assert {"copy", "fp32 product, 32"} <= {name for name, threads in names if threads == 2}
    row = made.operations[0]
    assert row.threads == 2 and row.share is not None
    both = [
        dataclasses.replace(
            row, threads=threads, peers=(PeerTime("p", "fp32", row.ours, beside=x),)
        )
        for threads, x in ((1, timing(1.0)), (1, row.ours), (2, row.ours))
    ]
    text = tables.document(dataclasses.replace(made, operations=both))
    assert "Geometric mean of peer / ours, 1 thread: " in text
    assert f"2 threads: 1.00; the least: 1.00, {label(row)}." in text


@pytest.mark.parametrize("threads", [1, 3])
def test_all_threads_copy_all(threads: int) -> None:
    source, target = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    ceilings._array_copy(source, target, threads)()
    assert (source == target).all()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_both_layouts_of_pytorch_learn_alike() -> None:
    import torch

    place = (torch, "cpu", TINY, TINY.initial(0), steps.synthetic(CASE))
    both = [TorchStep(*place, TorchForm("fp32", False, True, layout=one)) for one in Host.layouts]
    losses = [[float(step.run(index)) for index in range(4)] for step in both]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    maps = [step._batches[0][0] for step in both]
    assert [one.is_contiguous() for one in maps] == [False, True]


def test_fresh_pages_and_the_peak_are_seen() -> None:
    """64 MB is more than the heap keeps: a freed array is mapped anew."""
    count = 64 * MEGABYTE // 8
    kept = np.ones(count)

    def fills(index: int) -> None:
        kept[:] = 2.0

    assert min(memory.taken(lambda: lambda index: np.ones(count))) >= 60 * MEGABYTE
    assert max(memory.taken(lambda: fills)) < MEGABYTE


@pytest.mark.peer
def test_memory_of_each_side() -> None:
    found = peers.find("cpu", ("torch",))
    case = steps.StepCase(PLAIN, "plain", 4)
    rows = list(memory.rows(case, [Ours("fp32", FUSED, exact=True)], found))
    assert rows[0].side == "ours, fp32, fused, exact"
    assert [row.side.partition(" ")[0] for row in rows[1:]] == ["PyTorch"] * 2
    assert all(row.peak > 0 for row in rows)
    assert [row.arrays is None for row in rows] == [False, True, True]
    text = tables.document(Results("t", "none", {}, memory=rows))
    assert "## Memory of a training step" in text and rows[0].side in text


def test_errors_on_a_cpu() -> None:
    """The exact ones are within any sum's bound. Winograd's differ if there are enough channels."""
    ways = errors.of_cpu(pyalexnet.backend("cpu"))
    found = {row.name: row.errors for row in errors.rows(ways, PLAIN)}
    assert [*found][:2] == ["conv1 fprop", "conv1 wgrad"] and len(found) == 8
    for one in found.values():
        assert 0 < one["exact"].mean < one["exact"].worst <= SUM
    assert found["conv2 fprop"]["Winograd"] != found["conv2 fprop"]["exact"]
    assert found["fc fprop"]["Winograd"] == found["fc fprop"]["exact"]
    text = errors.document(ways, PLAIN)
    assert "| layer | terms | exact: worst | Winograd: worst | exact: mean |" in text


def test_blocks_have_their_errors_too() -> None:
    spec = nets.alexnet(10, "caffe", width=1 / 32, input_shape=(67, 67, 3))
    last = [row.name for row in errors.rows({}, spec)][-2:]
    assert last == ["conv1 fprop in blocks", "conv1 wgrad in blocks"]
