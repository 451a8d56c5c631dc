"""What makes the peers' times fair: they wait for what they have to, and bear none of our costs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import cases, device, operations, peers, steps, whole
from bench.device import Gpu, Host
from bench.peers import Candidate, Peers, jax_steps, torch_tensors
from bench.peers.jax_steps import JaxStep
from bench.peers.torch_steps import TorchForm, TorchStep
from bench.steps import VARIANTS, Gate, Ours
from bench.timing import Elsewhere, Sampling
from pyalexnet import nets
from pyalexnet.nets.spec import NetSpec

TINY = nets.get("alexnet-tiny")(input_shape=(12, 12, 3), dropout=0)
GROUPED = nets.alexnet(10, "caffe", width=1 / 32, input_shape=(67, 67, 3), dropout=0)
ONCE = Sampling(0.0, 2, 2, warmups=0)


class Told:
    """Replaces a library: keeps the names of the calls, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, name: str, result: Any = None) -> Any:
        def made(*_: Any, **__: Any) -> Any:
            self.calls.append(name)
            return result

        return made


def events(told: Told) -> Any:
    """The stopwatch for operations, on a CuPy that only records its calls."""

    @contextmanager
    def chosen() -> Iterator[None]:
        yield

    class Number:
        def __init__(self, _: int) -> None:
            self.synchronize = told.call("all done")

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def event() -> Any:
        waited = told.call("end waited for")
        return SimpleNamespace(record=told.call("event"), synchronize=waited)

    cuda = SimpleNamespace(Device=Number, Event=event, get_elapsed_time=lambda *_: 1500.0)
    array = SimpleNamespace(fill=told.call("caches filled"))
    return device._Events(SimpleNamespace(cuda=cuda, zeros=lambda *_: array), 0)


def test_who_has_streams_of_its_own_starts_behind_the_fill() -> None:
    """Otherwise its kernels run alongside the fill, and that work is missing from its time."""
    told = Told()
    watch, run = events(told), told.call("run")
    assert watch.seconds(run) == 1.5
    assert told.calls == ["caches filled", "event", "run", "event", "end waited for"]
    told.calls.clear()
    watch.seconds(Elsewhere(run))
    order = ["caches filled", "all done", "event", "run", "event", "end waited for"]
    assert told.calls == order


def candidate(library: str, run: Any) -> Candidate:
    return Candidate("form", "fp32", run, lambda got: (got,), library)


def test_a_peers_first_call_waits_for_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()

    @contextmanager
    def on(stream: Any) -> Iterator[None]:
        told.calls.append("on the side")
        yield

    side = SimpleNamespace(wait_stream=lambda other: told.calls.append(f"waits for {other}"))
    cuda = SimpleNamespace(
        Stream=lambda: side,
        current_stream=lambda: "the current one",
        stream=on,
        synchronize=told.call("all done"),
    )
    monkeypatch.setattr(operations, "graph_of_torch", lambda torch, run, stream: run)
    torch = SimpleNamespace(cuda=cuda)
    gpu = object.__new__(Gpu)
    form = candidate("torch", told.call("run", "answer"))
    assert operations._ready(gpu, Peers(torch, None, {}), form)[1] == "answer"
    assert told.calls == ["waits for the current one", "on the side", "run", "all done"]


def test_jax_runs_elsewhere() -> None:
    """On a GPU it uses neither a graph nor our stream; the stopwatch knows this."""
    for place in (object.__new__(Gpu), Host("a CPU")):
        *_, run = operations._ready(place, Peers(None, None, {}), candidate("jax", lambda: 3))
        assert isinstance(run, Elsewhere)
        assert run() == 3


@pytest.mark.parametrize("start", [*itertools.product((False, True), repeat=2)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_float32_is_strict_in_products_and_convolutions(
    precision: str, start: tuple[bool, bool]
) -> None:
    """PyTorch's own defaults: off in products, on in convolutions."""
    matmul, cudnn = (SimpleNamespace(allow_tf32=allowed) for allowed in start)
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
    torch_tensors.set_precision(SimpleNamespace(backends=backends), precision)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (precision != "fp32",) * 2


class Drawn:
    """Counts how often a network's parameters are drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, right = 0, NetSpec.initial

        def initial(spec: NetSpec, seed: int) -> Any:
            self.count += 1
            return right(spec, seed)

        monkeypatch.setattr(NetSpec, "initial", initial)


def test_each_way_is_checked_once_and_parameters_are_drawn_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, checked = Drawn(monkeypatch), []
    right = Gate.check

    def check(self: Gate, backend: Any, case: Any, ours: Any) -> Any:
        checked.append(ours)
        return right(self, backend, case, ours)

    monkeypatch.setattr(Gate, "check", check)
    gate, nobody, modes = Gate(), Peers(None, None, {}), {"bf16": ("eager",)}
    for batch in (2, 3):
        case = steps.StepCase(TINY, "tiny", batch)
        ways = [Ours("bf16", variant) for variant in VARIANTS]
        made = whole.rows(Host("test"), case, ways, gate, nobody, modes, ONCE, None)
        assert [one.failed for one in made] == [None] * 3
    assert checked == ways * 2
    assert drawn.count == 1


@pytest.mark.peer
def test_a_graph_of_pytorchs_adds_to_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay does exactly what was captured: as much as in eager mode."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    names: list[str] = []

    def dispatched(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names.append(str(func))
        return func(*args, **(kwargs or {}))

    watching = type("Watching", (TorchDispatchMode,), {"__torch_dispatch__": dispatched})

    def uncaptured(torch: Any, run: Any, stream: Any = None) -> Any:
        run()
        return run

    monkeypatch.setattr(device, "graph_of_torch", uncaptured)
    place = (torch, "cpu", TINY, TINY.initial(0), steps.synthetic(steps.StepCase(TINY, "t", 4)))
    done = {}
    for mode in ("eager", "graph"):
        step = TorchStep(*place, TorchForm("fp32", False, True, mode))
        names.clear()
        with watching():
            step.run(2)
        # The batch is copied to the address that the graph captured.
        done[mode] = [name for name in names if name != "aten.copy_.default"]
    assert done["graph"] == done["eager"]
    assert not [name for name in done["graph"] if "zero_" in name]


def jax() -> Any:
    found = peers.find("cpu")
    return found.jax or pytest.skip(found.missing["jax"])


@pytest.mark.peer
def test_jax_in_both_forms() -> None:
    """Groups, or a convolution for each: the same losses, starting from ours."""
    precision = "fp32"
    found, case = jax(), steps.StepCase(GROUPED, "t", 4)
    batches, params = steps.synthetic(case), GROUPED.initial(0)
    forms = list(jax_steps.forms(GROUPED, precision))
    assert [str(form) for form in forms] == [
        f"jit, {precision}, groups",
        f"jit, {precision}, split convs",
    ]
    ungrouped = nets.alexnet(10, "owt", width=1 / 32, input_shape=(64, 64, 3))
    assert [form.split for form in jax_steps.forms(ungrouped, precision)] == [False]
    made = [JaxStep(found, GROUPED, params, batches, form) for form in forms]
    ours = steps.Step(Host("t").backend, case, batches, Ours("fp32", "fused")).loss()
    near = whole._LOSS[precision]
    for step in made:
        assert step.first_loss == pytest.approx(ours, rel=near)
    losses = [[float(step.run(index)) for index in range(3)] for step in made]
    np.testing.assert_allclose(losses[0], losses[1], rtol=near)
    assert len(set(losses[0])) == 3


@pytest.mark.peer
def test_jax_draws_other_masks_in_every_step() -> None:
    """From a key passed on by its one compiled function; nothing is learned here."""
    found = jax()
    spec = nets.get("alexnet-tiny")(input_shape=(12, 12, 3), dropout=0.5)
    rate = dataclasses.replace(spec.recipe.rate, lr_w=0.0, lr_b=0.0)
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, rate=rate, rates={}))
    batches = steps.synthetic(steps.StepCase(spec, "t", 4))[:1]
    form, _ = jax_steps.forms(spec, "fp32")
    step = JaxStep(found, spec, spec.initial(0), batches, form)
    assert len({float(step.run(index)) for index in range(3)}) == 3


@pytest.mark.peer
def test_a_grouped_convolution_of_jax_has_two_forms() -> None:
    found = jax()
    case = next(one for one in cases.of(GROUPED, 3) if one.name == "conv2 fprop")
    from bench.peers import jax_ops

    forms = list(jax_ops.candidates(found, "cpu", case, case.arrays(), "fp32"))
    assert [one.name for one in forms] == ["JAX jit groups=2", "JAX jit 2 convs"]
    one, other = (form.outputs(form.run())[0] for form in forms)
    assert one is not None and other is not None
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
