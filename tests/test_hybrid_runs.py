"""Runs whose ranks divide the layers, or the momentum; ranks are threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyalexnet import nets
from pyalexnet.errors import ArgumentError
from pyalexnet.nets.layers import LRN
from pyalexnet.nets.recipe import Augment
from pyalexnet.nets.spec import NetSpec
from pyalexnet.ranks.communicator import Communicator
from pyalexnet.training import start
from pyalexnet.training.progress import Silent
from pyalexnet.training.summary import opening
from pyalexnet.training.train import Trainer
from thread_ranks import together
from training import CHOICES, fitted, last, lines, photographs, small_net, without_pictures

pytestmark = pytest.mark.usefixtures("no_pictures", "made_up_nets")
STEPS = 8  # more than an epoch


def cropping(
    classes: int = 4, input_shape: tuple[int, int, int] = (9, 9, 3), towers_norm: bool = False
) -> NetSpec:
    """Crops are drawn, two images share one; may be divided into towers."""
    spec = small_net(classes, input_shape)
    layers = (
        replace(layer, groups=2) if towers_norm and isinstance(layer, LRN) else layer
        for layer in spec.layers
    )
    recipe = replace(spec.recipe, augment=Augment(stored=12, chunk=2))
    return NetSpec("cropping", input_shape, classes, tuple(layers), recipe)


@pytest.fixture
def made_up_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets._NETS, "cropping", cropping)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "data.npz", channels=3)


def ran(ranks: int, out: Path, data: Path, *, steps: int = STEPS, **choices: Any) -> Path:
    """A run of so many ranks; or, of one that `resume` names, its continuation."""

    def train(comm: Communicator) -> Path:
        trainer = made(comm, out, data, choices)
        without_pictures(trainer)
        fitted(trainer, steps)
        return trainer.folder.path

    first, *_ = together(train, [0] * ranks)
    return first


def made(comm: Communicator, out: Path, data: Path, choices: dict[str, Any]) -> Trainer:
    own = dict(choices)
    if run := own.pop("resume", None):
        return start.resumed(run, own, reporter=Silent(), ranks=comm)
    chosen = {**CHOICES, "net": "cropping", "data": str(data), "print_freq": 1, **own}
    return start.new(chosen, out=out, config=None, reporter=Silent(), ranks=comm)


def files(run: Path) -> dict[str, bytes]:
    """The files of the newest checkpoint."""
    newest = max((run / "checkpoints").iterdir())
    return {path.name: path.read_bytes() for path in newest.iterdir()}


def losses(run: Path) -> list[float]:
    return [line["train"]["loss"] for line in lines(run, "step")]


def scores(run: Path) -> list[Any]:
    return [line["test"] for line in lines(run, "epoch")]


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets._NETS, "cropping", cropping)
        return ran(1, tmp_path_factory.mktemp("straight"), data)


@pytest.mark.parametrize(
    "scheme", ["slices", *(pytest.param(s, marks=pytest.mark.slow) for s in ("whole", "turns"))]
)
def test_a_hybrid_run_is_that_of_one_process(
    scheme: str, straight: Path, data: Path, tmp_path: Path
) -> None:
    """Crops, masks and order of the images included, up to rounding."""
    run = ran(2, tmp_path, data, parallel="hybrid", scheme=scheme)
    assert np.allclose(losses(run), losses(straight), rtol=1e-5, atol=0)
    assert len(losses(run)) == STEPS
    assert scores(run)[0]["loss"] == pytest.approx(scores(straight)[0]["loss"], rel=1e-5)
    one, two = last(straight), last(run)
    for name, w in one.params.items():
        assert np.allclose(two.params[name], w, rtol=1e-3, atol=1e-5 * abs(w).max()), name


def test_a_run_goes_on_with_other_ranks_in_another_way(
    straight: Path, data: Path, tmp_path: Path
) -> None:
    run = ran(2, tmp_path, data, steps=3, parallel="hybrid", divide_momentum=True)
    ran(4, tmp_path, data, steps=5, resume=run, scheme="turns")
    ran(2, tmp_path, data, steps=7, resume=run, parallel="data", scheme="whole")
    ran(1, tmp_path, data, resume=run, parallel="data", divide_momentum=False)
    assert all(line["changes"] == {} for line in lines(run, "resume"))
    assert np.allclose(losses(run), losses(straight), rtol=1e-5, atol=0)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parallel", ["data", pytest.param("hybrid", marks=pytest.mark.slow)])
def test_a_checkpoint_with_divided_momentum_has_the_same_bytes(
    parallel: str, ranks: int, data: Path, tmp_path: Path
) -> None:
    runs = [
        ran(ranks, tmp_path / str(divides), data, parallel=parallel, divide_momentum=divides)
        for divides in (False, True)
    ]
    whole, divided = map(files, runs)
    assert whole == divided and len(whole) > 0


@pytest.fixture(scope="module")
def towers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two towers in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets._NETS, "cropping", cropping)
        return ran(1, tmp_path_factory.mktemp("towers"), data, devices=(0, 0))


def test_towers_of_two_ranks_train_as_those_of_one_process(
    towers: Path, data: Path, tmp_path: Path
) -> None:
    """Bit for bit, also stopped and resumed."""
    run = ran(2, tmp_path, data, steps=4, parallel="towers")
    ran(2, tmp_path, data, resume=run)
    assert losses(run) == losses(towers)
    one, two = last(towers), last(run)
    for name, w in one.params.items():
        assert two.params[name].tobytes() == w.tobytes(), name
        assert two.momentum[name].tobytes() == one.momentum[name].tobytes(), name
    assert scores(run)[0]["loss"] == pytest.approx(scores(towers)[0]["loss"], rel=1e-6)


def test_one_process_goes_on_with_the_towers_of_two(
    towers: Path, data: Path, tmp_path: Path
) -> None:
    """Their norms still end at a tower's edge."""
    run = ran(2, tmp_path, data, steps=4, parallel="towers")
    ran(1, tmp_path, data, resume=run, parallel="data")
    assert losses(run)[:4] == losses(towers)[:4]
    assert np.allclose(losses(run), losses(towers), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("ranks", "choices", "sentence"),
    [
        (3, {"parallel": "towers"}, "run: parallel is towers and the number of ranks 3; 2 was"),
        (1, {"parallel": "towers"}, "run: parallel is towers and the number of ranks 1; 2 was"),
        (2, {"parallel": "towers", "net": "alexnet-tiny"}, "towers is 2 and net alexnet-tiny"),
        (1, {"parallel": "towers", "shards": 2}, "run: shards is 2 and parallel towers; data was"),
        (1, {"parallel": "hybrid", "shards": 2}, "run: shards is 2 and parallel hybrid; data was"),
        (
            1,
            {"parallel": "data", "scheme": "turns"},
            "run: scheme is turns and parallel data; hybrid was",
        ),
        (
            1,
            {"parallel": "towers", "bf16_gradients": True},
            "run: bf16_gradients is True and parallel towers; data or hybrid was expected.",
        ),
        (1, {"parallel": "hybrid", "scheme": "all"}, "run: scheme is 'all'; one of whole, turns"),
        (1, {"parallel": "model"}, "run: parallel is 'model'; one of data, towers, hybrid was"),
        (2, {}, "run: parallel is not given and there are 2 ranks; one of data, towers, hybrid"),
        (3, {"parallel": "hybrid"}, "run: batch_size is 8; a multiple of 3 ranks was expected."),
        (4, {"parallel": "hybrid", "scheme": "slices"}, "run: batch_size is 8; a multiple of 16 s"),
        (1, {"parallel": "hybrid", "precision": "bf16"}, "run: precision is bf16 and there are 2"),
        (
            2,
            {"parallel": "towers", "divide_momentum": True},
            "run: divide_momentum was given and parallel is towers, which share no parameters;",
        ),
    ],
    ids=str,
)
def test_what_is_refused(
    ranks: int, choices: dict[str, Any], sentence: str, data: Path, tmp_path: Path
) -> None:
    def refused(comm: Communicator) -> str:
        with pytest.raises(ArgumentError) as raised:
            made(comm, tmp_path, data, choices)
        return str(raised.value)

    said = together(refused, [0] * ranks)
    assert said[0].startswith(sentence)
    assert not [*tmp_path.glob("20*")]


def test_a_last_layer_that_does_not_divide_is_said_once(data: Path, tmp_path: Path) -> None:
    def told(comm: Communicator) -> list[str]:
        trainer = made(comm, tmp_path, data, {"parallel": "hybrid"})
        with trainer.folder:
            return [line for line in opening(trainer) if "is whole" in line]

    first = together(told, [0] * 8)[0]
    assert first == ["          fc4 is whole on each: 4 classes do not divide by 8"]
