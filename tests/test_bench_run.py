"""The bench from end to end, as far as a machine without a GPU allows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pyalexnet
import stand_in
from bench import (
    cards,
    cases,
    ceilings,
    cli,
    environment,
    gate,
    kernels,
    loops,
    peers,
    record,
    steps,
    suites,
    tables,
    unpooled,
    whole,
)
from bench.device import Gpu, Host
from bench.peers import Peers
from bench.peers.torch_steps import COMPILED, TorchForm, TorchStep
from bench.results import (
    Ceiling,
    Costs,
    KernelTime,
    OperationRow,
    PeerTime,
    Results,
    StageRow,
    StepRow,
    compared,
    label,
)
from bench.steps import OTHER_LOOP, VARIANTS, Gate, Ours
from bench.timing import Sampling, Timing
from pyalexnet import nets
from pyalexnet.backends.cpu import CpuBackend
from pyalexnet.backends.sim import SimBackend
from pyalexnet.data import Dataset, Split
from pyalexnet.data.classes import Classes
from pyalexnet.nets.layers import Conv, Linear, RNorm
from pyalexnet.step.plan import PRECISIONS
from variants import CUDA, parameters

NOBODY = Peers(None, None, {"torch": "not installed", "jax": "not installed"})
ON_GPU = pytest.mark.parametrize("be", parameters(CUDA), indirect=True)
TINY = nets.get("alexnet-tiny")(input_shape=(12, 12, 3), dropout=0)
ABOUT = {"date": "2012-12-03T10:00:00+00:00", "commit": "abc", "device": "GPU of a Test (TM) 580"}


def timing(seconds: float, doubt: float = 0.01) -> Timing:
    return Timing(seconds, seconds, seconds, seconds, 20, doubt)


def row(seconds: float, *others: PeerTime, failed: str | None = None) -> OperationRow:
    ours = None if failed else timing(seconds)
    return OperationRow("conv1 fprop", "alexnet", 128, "fp32", 2e9, 10**6, ours, failed, others)


def results() -> Results:
    """One row of every kind, with made-up times."""
    made = Results("GPU", "make gpu", dict(ABOUT))
    made.operations = [
        row(0.002, PeerTime("A", "fp32", timing(0.001)), PeerTime("B", "fp32", timing(0.004))),
        row(0.002, PeerTime("A", "fp32", timing(0.002)), PeerTime("C", "bf16", timing(0.0001))),
        row(0.0, failed="y is off by 1.0e-02 of its norm"),
    ]
    peer = PeerTime("PyTorch compile", "fp32", None, "RuntimeError: no Triton")
    made.steps = [
        StepRow("alexnet", "synthetic", 128, "fp32", timing(0.01), None, (peer,), floor=0.005)
    ]
    return made


def test_tables_hide_no_loss() -> None:
    text = tables.document(results())
    lines = [line for line in text.splitlines() if line.startswith("| alexnet conv1 fprop")]
    assert "peer 2.00x" in lines[0] and "| A |" in lines[0]
    assert "tie" in lines[1] and "FAILED" in lines[2]
    assert "B, fp32 | 4.000" in text and "C, bf16 | 0.100" in text  # the losers' forms too
    assert "not timed: RuntimeError: no Triton" in text
    assert "12,800 | 50%" in text  # images/s, and share of the floor
    assert "alexnet conv1 fprop, batch 128, fp32: y is off" in text


RECORDS = sorted((Path(__file__).parent.parent / "bench" / "records").glob("*/bench.json"))


@pytest.mark.parametrize("kept", RECORDS, ids=lambda path: path.parent.name)
def test_records_that_were_kept_can_be_read(kept: Path) -> None:
    found = record.read(kept.parent)
    assert found.operations or found.resources
    assert tables.document(found).startswith(f"# Bench, {found.form}")


def test_record(tmp_path: Path) -> None:
    where = record.folder(tmp_path, ABOUT["date"], ABOUT["device"])
    assert where.name == "2012-12-03-gpu-of-a-test-tm-580"
    for _ in range(2):  # it is rewritten after every row
        record.write(where, results())
    assert {path.name for path in where.iterdir()} == {
        "README.md",
        "bench.json",
        "env.json",
    }
    bench = json.loads((where / "bench.json").read_text())
    assert bench["operations"][0]["ours"]["median"] == 0.002
    assert bench["failures"] == results().failures and len(bench["failures"]) == 1
    assert json.loads((where / "env.json").read_text()) == ABOUT
    assert "`make gpu`" in (where / "README.md").read_text()
    assert record.read(where) == results()
    assert record.fresh(tmp_path, ABOUT["date"], ABOUT["device"]).name == f"{where.name}-2"


def test_costs_stand_beside_every_form() -> None:
    made = results()
    costs = Costs(host=0.001, kernels=0.008, memory=2 * 10**9)
    peer = PeerTime("PyTorch graph", "fp32", timing(0.016), None, costs)
    made.steps = [
        StepRow("net", "synthetic", 128, "fp32", timing(0.01), None, (peer,), costs=costs)
    ]
    text = tables.document(made)
    assert "| 8.000 (80%) | 1.000 | 2,000 |" in text  # ours
    assert "| 16.000 ± 1% ms | 8.000 (50%) | 1.000 | 2,000 |" in text
    assert "B, fp32 | 4.000 ± 1% ms | - | - | - |" in text  # an operation


def test_clocks_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program called nvidia-smi that answers every query."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.clocks("before") == {}
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in --query-gpu=clocks.sm,*) echo "1 MHz, 2 MHz, 3 MHz, 4 MHz, 5, 6 W"'
        " ;; *) exit 1;; esac\n"
    )
    program.chmod(0o755)
    assert environment.clocks("before") == {
        "gpu, before the run": "clocks.sm 1 MHz, clocks.max.sm 2 MHz, clocks.mem 3 MHz, "
        "clocks.max.mem 4 MHz, temperature.gpu 5, power.draw 6 W"
    }


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_clocks_before_and_after(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "clocks", lambda when: {when: "9 MHz"} if there else {})
    arguments = ["--dry-run", "--no-kernels", "--only", "nothing", "--record", str(tmp_path)]
    assert cli.main(arguments) == 0
    written = json.loads(next(tmp_path.glob("*/env.json")).read_text())
    assert {"before", "after"} & set(written) == ({"before", "after"} if there else set())


def run_dry(device: Host, only: str) -> Results:
    made = Results("dry", "none", {})
    suites.run(suites.dry(), device, NOBODY, made, only, None, lambda line: None)
    return made


def test_a_wrong_answer_is_reported_and_not_timed() -> None:
    class Wrong(CpuBackend):
        def _run(self, op: str, *arguments: Any) -> None:
            super()._run(op, *arguments)
            if op == "linear_dgrad":
                dx = arguments[3]
                dx *= dx.dtype.type(1.02)

    device = Host("test")
    device.backend, device.threads = Wrong(), 3
    made = run_dry(device, "fc8")
    assert len(made.operations) == 10
    wrong = [one for one in made.operations if "dgrad" in one.case]
    assert all((one.ours is None) == (one in wrong) for one in made.operations)
    assert made.failures == [
        f"AlexNet (caffe preset), tiny fc8 {name}, batch 3, {precision}, 3 threads: {one.failed}."
        for (precision, name), one in zip(
            itertools.product(("fp32", "bf16"), ("dgrad", "dgrad + relu")), wrong, strict=True
        )
    ]


def test_what_is_missing_is_named() -> None:
    made = run_dry(Host("test"), "pool5")
    assert [row.peers for row in made.operations] == [()] * 6  # in two precisions
    assert "Nothing is timed beside JAX: not installed." in made.left_out
    assert "## Left out\n\n- Nothing is timed beside PyTorch" in tables.document(made)
    assert [one.failed is not None for one in made.ceilings if "bf16" in one.name] == [True]
    assert "no peer" in tables.document(made)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny operations, PyTorch's threads cost more than they save."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.peer
@pytest.mark.usefixtures("one_thread")
def test_dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every op and both networks, in every form of the GPU's peers available on a CPU."""
    assert cli.main(["--dry-run", "--no-kernels", "--record", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    found = json.loads(next(tmp_path.glob("*/bench.json")).read_text())
    unmatched = [one["case"] for one in found["operations"] if not one["peers"]]
    assert not unmatched
    ways = [(one["precision"], one["form"]) for one in found["steps"]]
    both = [*itertools.product(("fp32", "bf16"), VARIANTS)]
    assert ways == [*both, *itertools.product(("fp32x3",), VARIANTS[1:]), *both]
    failed = [peer for one in found["operations"] + found["steps"] for peer in one["peers"]]
    reasons = {peer["failed"] for peer in failed if peer["failed"]}
    # The one op that PyTorch does not have in bf16 on a CPU.
    assert all("avg_pool3d" in reason and "BFloat16" in reason for reason in reasons)
    for form in ("groups=2", "2 convs", "shifted adds", "local_response_norm", "fused", "bf16"):
        assert form in text


@pytest.mark.peer
@pytest.mark.usefixtures("one_thread")
def test_every_op_of_a_norm_within_maps_has_its_peers() -> None:
    """Both forms in both directions agree with ours: an even size, and clipped windows."""
    import torch

    norm = RNorm("norm", size=4, alpha=0.1, beta=0.75, k=2.0)
    layers = (Conv("conv", 5, 3, pad=1), norm, Linear("fc", 10))
    recipe = dataclasses.replace(TINY.recipe, rates={})
    spec = dataclasses.replace(TINY, input_shape=(9, 7, 3), layers=layers, recipe=recipe)
    suite = dataclasses.replace(suites.dry(), operations=(steps.StepCase(spec, "n", 3),), steps=())
    made = Results("dry", "none", {})
    suites.run(suite, Host("test"), Peers(torch, None, {}), made, "norm", None, lambda line: None)
    assert [one.case for one in made.operations] == ["norm fprop", "norm dgrad"] * 2
    for one in made.operations:
        assert {peer.failed for peer in one.peers} == {None}
        assert {peer.name for peer in one.peers} == {
            f"PyTorch {how} {layout}"
            for how in ("avg_pool2d of squares", "shifted adds")
            for layout in ("channels_last", "NCHW")
        }


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # importing its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # its tracer inspects every tensor
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", COMPILED)
def test_a_compiled_step_learns_as_the_eager_one(mode: str, monkeypatch: Any) -> None:
    """As one graph, by the tracer; without the code generator, which is slow."""
    import torch
    from torch._dynamo.utils import counters

    asked: list[str] = []

    def traced(function: Any, *, mode: str, compiler: Any = torch.compile, **rules: Any) -> Any:
        asked.append(mode)
        return compiler(function, backend="aot_eager", **rules)

    monkeypatch.setattr(torch, "compile", traced)
    counters.clear()
    case = steps.StepCase(TINY, "tiny", 4)
    batches = steps.synthetic(case)
    params = pyalexnet.Net(TINY, backend="cpu").params
    place = (torch, "cpu", TINY, params, batches)
    losses = [
        [float(step.run(index)) for index in range(5)]
        for step in (
            TorchStep(*place, TorchForm("fp32", False, True, one)) for one in ("eager", mode)
        )
    ]
    assert asked == ["max-autotune"]
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][0] != losses[0][1]


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # importing its compiler
@pytest.mark.usefixtures("one_thread")
def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails when the step is first called; the other forms are still timed."""
    import torch

    def broken(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no Triton here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    case = steps.StepCase(TINY, "tiny", 4)
    modes = {"fp32": ("eager", *COMPILED)}
    found = Peers(torch, None, {})
    plan = Sampling(0.0, 2, 2, warmups=0)
    *sooner, one = whole.rows(Host("test"), case, [Ours()], Gate(), found, modes, plan, None)
    assert [one.peers[: len(row.peers)] for row in sooner] == [row.peers for row in sooner]
    assert [len(one.peers) - len(row.peers) for row in sooner] == [4, 3, 2, 1]
    eager, compiled = one.peers[:-4], one.peers[-4:]
    assert [peer.name.rpartition(", ")[2] for peer in compiled] == ["channels_last", "NCHW"] * 2
    assert eager and all(peer.timing and peer.costs == Costs() for peer in eager)
    assert [peer.failed for peer in compiled] == ["RuntimeError: no Triton here"] * 4


@pytest.mark.peer
@pytest.mark.usefixtures("one_thread")
def test_what_was_timed_is_kept_though_the_next_form_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    def compile_for_ever(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # as a stage's limit does

    monkeypatch.setattr(torch, "compile", compile_for_ever)
    suite = dataclasses.replace(
        suites.dry(), variants=VARIANTS[:1], operations=(), loops=(), sizes=()
    )
    case = suite.steps[0]
    suite = dataclasses.replace(
        suite, steps=(case,), by_kernels=(), copied=0, compiled=((case, "fp32"),)
    )
    kept = results()
    kept.steps = []
    with pytest.raises(KeyboardInterrupt):
        suites.run(suite, Host("test"), Peers(torch, None, {}), kept, None, None, lambda _: None)
    (row,) = kept.steps
    assert row.ours and row.peers and all(peer.timing for peer in row.peers)


def test_what_is_compiled() -> None:
    """First one step, in the tensor cores' precision; finally all steps in all precisions."""
    parts = suites.gpu()
    compiled = {
        name: [
            (case.label, case.batch, precision)
            for case in part.steps
            for own in part.precisions
            for precision, modes in part.modes_of(case, own).items()
            if set(COMPILED) <= set(modes)
        ]
        for name, part in parts.items()
    }
    assert compiled.pop("compile") == [("AlexNet (caffe preset)", 128, "bf16")]
    every = compiled.pop("compiled steps")
    assert len(every) == len(set(every)) == 3 * len(parts["steps"].steps)
    assert not any(compiled.values())


def test_the_parts_of_a_gpus_form() -> None:
    """A step kernel by kernel and against PyTorch comes first; each part times something."""
    parts = suites.gpu()
    assert [*parts][:5] == ["kernels", "bf16", "fp32", "compile", "jax"]
    assert all(
        part.steps or part.by_kernels or part.operations or part.copied or part.loader
        for name, part in parts.items()
        if name != "compiler"
    )
    assert parts["bf16"].modes_of(parts["bf16"].steps[0], "bf16") == {"bf16": ("eager", "graph")}
    assert parts["jax"].libraries == ("jax",) and parts["bf16"].libraries == ("torch",)
    beside = [one.variant for (*_, one) in parts["bf16"].ours(parts["bf16"].steps[0], hopper=True)]
    assert beside == ["fused, graph"]
    assert parts["compiler"].inspects and not any(part.inspects for part in [*parts.values()][:-1])


def test_peers_stand_beside_a_precision_of_ours() -> None:
    """TF32 against our float32, which uses no tensor cores; bfloat16 against bfloat16."""
    assert suites.gpu()["steps"].precisions == {"fp32": ("fp32", "tf32"), "bf16": ("bf16",)}
    assert suites.cpu(1.0).precisions == {"fp32": ("fp32",)}


def test_fp32x3_stands_beside_strict_float32() -> None:
    """A whole fused step; on a CPU, nothing."""
    parts, cpu = suites.gpu(), suites.cpu(1.0)
    graph, fused = (
        [Ours("fp32x3", VARIANTS[2])],
        [Ours("fp32x3", variant) for variant in VARIANTS[1:]],
    )
    for suite, ways in ((parts["fp32"], graph), (parts["steps"], fused), (suites.dry(), fused)):
        found = [ways for case in suite.steps for ways in suite.ours(case)]
        tripled = [ways for ways in found if ways[0].precision == "fp32x3"]
        assert tripled == [ways] * len(suite.in_fp32x3)
        assert suite.in_fp32x3
    assert not cpu.in_fp32x3
    assert [*parts["steps"].modes_of(parts["steps"].steps[0], "fp32x3")] == ["fp32"]
    strict, faster = (PeerTime(p, p, timing(t), None) for p, t in (("fp32", 4e-3), ("tf32", 1e-3)))
    step = StepRow("n", "s", 128, "fp32x3", timing(2e-3), None, (strict, faster))
    assert compared(step).startswith("ours 2.00x")
    assert compared(dataclasses.replace(step, peers=(faster,))) == "no peer"


def test_fp32x3_is_held_against_a_sixth_of_bfloat16() -> None:
    names = ("copy", "fp32 product, 32", "bf16 product, 32", "bf16 product, 64")
    reached = [
        Ceiling(name, value, "") for name, value in zip(names, (1, 2, 600, 540), strict=True)
    ]
    card = ceilings.as_card("a card", reached)
    assert card is not None and card.flops["fp32x3"] == 100e12
    assert (plain := ceilings.as_card("a card", reached[:2])) and "fp32x3" not in plain.flops


def on_a_hopper() -> tuple[Host, Any]:
    """The emulation in place of such a GPU, and its backend."""
    device, backend = Host("emulated"), SimBackend()
    device.backend = backend
    backend.hopper = True
    return device, backend


@pytest.mark.slow
def test_both_loops_beside_each_other() -> None:
    """Every product in bfloat16; the ways of a step include the other loop."""
    (device, backend), plan = on_a_hopper(), Sampling(0.0, 2, 2, warmups=0)
    of_each = [*cases.of(TINY, 2), *cases.of(TINY, 2, "bf16")]
    found = [*loops.rows(device, of_each, plan)]
    products = [case.name for case in of_each if case.flops and case.precision == "bf16"]
    assert [row.case for row in found] == products
    assert all(row.mma and row.wgmma and not row.failed for row in found)
    assert backend.hopper
    assert not [*loops.rows(Host("a CPU"), of_each, plan)]
    results = Results("form", "command", {}, loops=found)
    assert tables.document(results).count("TFLOP/s") == 2 * len(found)
    ways = [
        [one.variant for one in some] for some in suites.dry().ours(suites.dry().steps[1], True)
    ]
    assert ways == [[*VARIANTS], [*VARIANTS[:2], OTHER_LOOP, VARIANTS[2]]]


def test_a_wrong_loop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    device, _ = on_a_hopper()
    wrong = {False: None, True: "y is off"}
    monkeypatch.setattr("bench.gate.check", lambda backend, case, arrays: wrong[backend.hopper])
    case = next(case for case in cases.of(TINY, 2, "bf16") if case.flops)
    (row,) = loops.rows(device, [case], Sampling(0.0, 2, 2, warmups=0))
    assert row.failed == "wgmma: y is off"
    results = Results("form", "command", {}, loops=[row])
    assert "both loops: wgmma: y is off." in results.failures[0]
    assert "FAILED" in tables.document(results)


def test_a_step_with_the_loop_of_any_card() -> None:
    _, backend = on_a_hopper()
    other: Any = Ours("bf16", OTHER_LOOP).net(TINY, backend).backend
    own: Any = Ours("bf16", VARIANTS[2]).net(TINY, backend).backend
    assert own.hopper and not other.hopper


def test_ways_of_a_step() -> None:
    """Each has its own row, compared with the last of them; that one with the peers, here none."""
    case, plan = steps.StepCase(TINY, "tiny", 4), Sampling(0.0, 2, 2, warmups=0)
    ways = [Ours("bf16", variant) for variant in VARIANTS]
    modes = {"bf16": ("eager",)}
    made = list(whole.rows(Host("test"), case, ways, Gate(), NOBODY, modes, plan, None))
    assert [(one.precision, one.form, one.failed) for one in made] == [
        ("bf16", variant, None) for variant in VARIANTS
    ]
    assert all(one.ours and one.ours.samples == 2 for one in made)
    assert [[peer.name for peer in one.peers] for one in made] == [
        ["ours, fused, graph"],
        ["ours, fused, graph"],
        [],
    ]
    text = tables.document(dataclasses.replace(results(), steps=made))
    assert "| bf16, layer by layer |" in text and "| bf16, fused, graph |" in text


def test_a_way_with_a_wrong_answer_is_reported_and_not_timed() -> None:
    class Wrong(CpuBackend):
        def _run(self, op: str, *arguments: Any) -> None:
            super()._run(op, *arguments)
            if op == "lrn_maxpool_dgrad":
                dx = arguments[4]
                super()._run("scale", dx, dx, 0.0)  # an operation, since it is recorded

    device = Host("test")
    device.backend = Wrong()
    case, plan = suites.dry().steps[0], Sampling(0.0, 2, 2, warmups=0)
    ways = [Ours("fp32", variant) for variant in VARIANTS]
    made = list(whole.rows(device, case, ways, Gate(), NOBODY, {"fp32": ()}, plan, None))
    assert [one.ours is None for one in made] == [False, True, True]
    assert made[0].peers == ()
    assert [label(one) for one in made if one.failed] == [
        f"AlexNet (caffe preset), tiny step, synthetic, batch 3, fp32, {variant}"
        for variant in VARIANTS[1:]
    ]
    assert all("momentum of conv" in str(one.failed) for one in made[1:])


@pytest.mark.slow
def test_forms_of_jax() -> None:
    """Convolutions and norms, groups and both layouts of windows, if JAX is installed."""
    found = Peers(None, *(lambda one: (one.jax, one.missing))(peers.find("cpu")))
    suite = dataclasses.replace(suites.dry(), steps=())
    made = Results("dry", "none", {})
    suites.run(suite, Host("test"), found, made, "2 ", None, lambda line: None)
    states = {
        (one.case, peer.name, peer.precision): peer.failed
        for one in made.operations
        for peer in one.peers
    }
    convs, norms = (
        [f"{layer} {one}" for one in passes]
        for layer, passes in (("conv2", ("fprop", "dgrad", "wgrad")), ("norm2", ("fprop", "dgrad")))
    )
    each = [
        *itertools.product(convs, ("JAX jit groups=2", "JAX jit 2 convs"), cards.PRECISIONS),
        *itertools.product(norms, ("JAX jit",), cards.PRECISIONS),
    ]
    assert states == (dict.fromkeys(each) if found.jax else {})
    assert bool(found.jax) != ("jax" in found.missing)


@pytest.mark.peer
@pytest.mark.usefixtures("one_thread")
def test_a_peer_that_does_other_work_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bench.peers import torch_norms

    def other(torch: Any, x: Any, **_: Any) -> Any:
        return x

    monkeypatch.setattr(torch_norms, "shifted_lrn", other)
    made = Results("dry", "none", {})
    found = peers.Peers(torch, None, {})
    suites.run(suites.dry(), Host("test"), found, made, "norm1 fprop", None, lambda line: None)
    states = {(peer.name, peer.precision): peer.failed for peer in made.operations[0].peers}
    wrong = states["PyTorch shifted adds NCHW", "fp32"]
    assert wrong is not None and re.match(r"y is off by .* of its norm", wrong)
    assert states["PyTorch local_response_norm NCHW", "fp32"] is None


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--card", "GTX580", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: card is 'GTX580'; one of H100")
    assert cli.main(["--dry-run", "--part", "bf16"]) == 2
    refused = "error: --part is 'bf16'; the GPU's suite, which has it, is not run.\n"
    assert capsys.readouterr().err == refused


def test_a_part_is_added_to_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row as it comes; rows written by others stay, and nothing is printed twice."""
    before = results()
    before.stages = [StageRow("bf16", "stopped", left_out=("bf16: the run was stopped in it.",))]
    record.write(tmp_path, before)
    arguments = ["--dry-run", "--no-kernels", "--only", "fc8 fprop", "--into", str(tmp_path)]
    assert cli.main(arguments) == 1  # because of the failure already in the record
    after = record.read(tmp_path)
    assert after.operations[:3] == before.operations and len(after.operations) > 3
    assert (after.steps, after.stages, after.command) == (before.steps, before.stages, "make gpu")
    assert "## Whole training steps" not in capsys.readouterr().out


def test_a_step_kernel_by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch's profiler, on a GPU; in each of our ways, unless it gives wrong results."""
    ran: list[str] = []

    class Profile:
        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> Any:
            ran.append("profiled")
            return self

        def __exit__(self, *_: object) -> None: ...

        def key_averages(self) -> list[Any]:
            kernels = (("short", 3, 30.0), ("the host's", 1, 0.0), ("long", 2, 90.0))
            keys = ("key", "count", "self_device_time_total")
            return [SimpleNamespace(**dict(zip(keys, one, strict=True))) for one in kernels]

    activity = SimpleNamespace(CUDA="cuda")
    torch = SimpleNamespace(
        profiler=SimpleNamespace(profile=Profile, ProfilerActivity=activity),
        cuda=SimpleNamespace(synchronize=lambda: ran.append("waited")),
    )
    device = object.__new__(Gpu)
    device.backend = CpuBackend()
    wrong = {"fp32": "y is off", "bf16": None}
    monkeypatch.setattr(Gate, "check", lambda self, backend, case, ours: wrong[ours.precision])
    case, ways = steps.StepCase(TINY, "tiny", 4), [Ours(one, "fused, graph") for one in PRECISIONS]
    ways = [one for one in ways if one.precision in wrong]
    assert not [*kernels.rows(Host("a CPU"), case, ways, Gate(), torch)]
    assert not [*kernels.rows(device, case, ways, Gate(), None)]
    one, other = kernels.rows(device, case, ways, Gate(), torch)
    assert (one.failed, one.kernels) == ("y is off", ())
    assert [(k.kernel, k.launches, round(k.seconds * 1e6)) for k in other.kernels] == [
        ("long", 2, 90),
        ("short", 3, 30),
    ]
    assert ran == ["profiled", "waited"]
    made = Results("GPU", "c", {}, kernels=[one, other])
    assert made.failures == ["tiny step by kernels, batch 4, fp32, fused, graph: y is off."]
    text = tables.document(made)
    assert "| tiny, batch 4, bf16, fused, graph | `long` | 2 | 90.0 | 75.0% |" in text


def test_batches_from_the_host() -> None:
    """Eight batches of three from five images: mean subtracted, every image in turn."""
    case = steps.StepCase(nets.get("alexnet-tiny")(input_shape=(12, 12, 3)), "tiny", 3)
    images = np.arange(5 * 12 * 12 * 3, dtype=np.int64).reshape(5, 12, 12, 3) % 251
    split = Split(images.astype(np.uint8), np.arange(5, dtype=np.int64))
    dataset = Dataset("five", split, split, Classes.named("abcde"), "made up")
    batches = steps.packed(case, dataset)
    assert [label for _, labels in batches[:2] for label in labels] == [0, 1, 2, 3, 4, 0]
    np.testing.assert_allclose(batches[1][0][2], images[0] - images.mean(axis=0), atol=1e-4)
    for ours in (Ours(), Ours("bf16", "fused")):
        made = whole.fed(Host("test"), case, ours, dataset, Sampling(0.0, 2, 2, warmups=0))
        assert made.ours is not None and made.data == "from the host"


# ----------------------------------------------------------------------------- the GPU's checks


@ON_GPU
def test_a_captured_call_is_the_call(be: Any) -> None:
    device = Gpu()
    case = next(case for case in cases.of(nets.get("alexnet-tiny")(), 5) if "fc5 f" in case.name)
    call = gate.Call(device.backend, case, case.arrays())
    right = call.outputs()
    replay = device.ready(call.run)
    call.poison()
    assert device.stopwatch.seconds(replay) > 0
    held = device.backend.to_numpy(call.held()[0])
    assert held.tobytes() == right[0].tobytes()


@pytest.mark.slow
@ON_GPU
def test_the_gpus_form_on_one_operation(be: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.device._FLUSH_BYTES", 2**20)
    small = (steps.StepCase(TINY, "tiny", 8),)
    operations = suites.gpu()["operations"]
    suite = dataclasses.replace(operations, operations=small, loops=(), sizes=(256,), copied=2**20)
    made, device = Results("GPU", "test", {}), Gpu()
    suites.run(suite, device, peers.find(device.torch), made, "fc5 fprop", None, lambda line: None)
    assert [row.failed for row in made.operations] == [None] * 2  # in two precisions
    assert all(row.ours and row.ours.samples >= 20 for row in made.operations)


@pytest.mark.slow
@ON_GPU
def test_costs_on_a_gpu(be: Any) -> None:
    """Ours in every way, and PyTorch's in both modes if it is installed."""
    device = Gpu()
    case, modes = steps.StepCase(TINY, "tiny", 4), {"fp32": ("eager", "graph")}
    found = dataclasses.replace(peers.find(device.torch), jax=None)
    ways = [Ours("fp32", variant) for variant in VARIANTS]
    each = whole.rows(device, case, ways, Gate(), found, modes, Sampling(0.0, 2, 2), None)
    made = [*{one.form: one for one in each}.values()]
    peers_of_last = made[-1].peers
    told = [*(one.costs for one in made), *(peer.costs for peer in peers_of_last)]
    assert not any([*(one.failed for one in made), *(peer.failed for peer in peers_of_last)])
    assert len(told) == (5 if found.torch else 3)
    for costs in told:
        assert costs.host and costs.memory and (costs.kernels or not found.torch)


@pytest.mark.slow
def test_without_a_pool_every_array_has_memory_of_its_own() -> None:
    """The sanitizer's runs load this; unused memory then returns to the driver."""
    with stand_in.installed(stand_in.Machine("lazy", 1)):
        unpooled.pytest_configure()
        device = Gpu()
        before = device.memory()
        kept = device.backend.empty((1000,))
        assert before is not None and device.memory() == before + 4096
        del kept
        assert device.memory() == before


class Profiler:
    """torch.profiler, in a version that warns unless told to keep the events, or in one without
    that option.
    """

    class ProfilerActivity:
        CUDA = "CUDA"

    def __init__(self, keeps: bool) -> None:
        self.told: list[dict[str, Any]] = []
        self.profile = self.keeping if keeps else self.plain

    def keeping(self, *, activities: list[str], acc_events: bool = False) -> Any:
        return self.begun(activities=activities, acc_events=acc_events)

    def plain(self, *, activities: list[str]) -> Any:
        return self.begun(activities=activities)

    def begun(self, **told: Any) -> Any:
        self.told.append(told)
        return nullcontext(self)

    def key_averages(self) -> list[Any]:
        times = {"conv": 1500.0, "pool": 250.0, "copy": 0.0}
        return [
            SimpleNamespace(key=key, count=2, self_device_time_total=micro)
            for key, micro in times.items()
        ]


@pytest.mark.parametrize("keeps", [True, False])
def test_the_profiler_is_told_to_keep_its_events_where_it_can(keeps: bool) -> None:
    profiler, done = Profiler(keeps), []
    cuda = SimpleNamespace(synchronize=lambda: done.append("synchronize"))
    torch = SimpleNamespace(profiler=profiler, cuda=cuda)
    found = whole.kernel_times(torch, lambda: done.append("run"))
    assert found == [KernelTime("conv", 2, 1.5e-3), KernelTime("pool", 2, 2.5e-4)]
    assert done == ["run", "synchronize"]
    assert profiler.told == [{"activities": ["CUDA"], **({"acc_events": True} if keeps else {})}]
