"""Each family of kernels once against float64, on tiny sizes: the first check on a card.

`python -m bench.families FAMILY` checks one, printing a line of JSON after each case; without a
name it names the card. It runs in its own process, so that a kernel that hangs or faults ends only
its family. Exit codes: 0 all well, 1 something is wrong, 2 there is no GPU to check.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

import pyalexnet
from pyalexnet import nets
from pyalexnet.backends import Backend
from pyalexnet.data import Dataset, Split, views
from pyalexnet.data.classes import Classes
from pyalexnet.data.loader import Loader
from pyalexnet.errors import BackendUnavailable
from pyalexnet.nets.spec import NetSpec
from pyalexnet.step.net import Net
from pyalexnet.step.plan import Precision
from pyalexnet.step.sgd import SGD

from . import calls, cases, gate, loops, unpooled
from .device import Gpu
from .results import Check
from .steps import Gate, Ours, StepCase

Wrong: TypeAlias = str | None
Trial: TypeAlias = tuple[str, Callable[[], Wrong]]

_BATCH = 8
_STEPS = 5
_PRODUCTS = ("conv_", "linear_")
_MAPS = ("relu", "dropout", "maxpool", "lrn", "softmax", "sgd")


@dataclass(frozen=True)
class Family:
    """Kernels that are checked together.

    calls: pattern for the full names of the operations' examples. precision, ops: of a small
    AlexNet's operations. hopper: which main loop bfloat16 products use; None: the card's own. more:
    other trials.
    """

    name: str
    calls: str = ""
    precision: Precision = "fp32"
    ops: tuple[str, ...] = ()
    hopper: bool | None = None
    more: Callable[[Backend], Iterator[Trial]] | None = None

    def runs_on(self, hopper: bool) -> bool:
        """Whether a card has these kernels."""
        return hopper or not self.hopper


def trials(backend: Backend, family: Family) -> Iterator[Trial]:
    """The family's cases by name; each returns what is wrong with the backend's answer."""
    loop = _loop(backend, family.hopper)
    for name, case in calls.of_every_operation().items():
        if family.calls and re.fullmatch(family.calls, name):
            yield name, _within(loop, partial(_gated, backend, case))
    for case in _cases(family):
        name = f"{case.name}, {case.op}"
        yield name, _within(loop, partial(_gated, backend, case))
    if family.more is not None:
        for name, trial in family.more(backend):
            yield name, _within(loop, trial)


def checked(backend: Backend, family: Family) -> Iterator[Check]:
    """Try everything; an exception counts as its case's error."""
    for name, trial in trials(backend, family):
        print(f"{family.name}: {name}", file=sys.stderr, flush=True)  # the last one hangs
        begun = time.perf_counter()
        try:
            wrong = trial()
            backend.synchronize()
        except Exception as error:  # any kind: it is reported, and the next case is tried
            wrong = f"{type(error).__name__}: {error}"
        yield Check(family.name, name, wrong, round(time.perf_counter() - begun, 2))


def spec() -> NetSpec:
    """A small AlexNet with the paper's layers."""
    return nets.alexnet(16, "caffe", width=1 / 4, input_shape=(67, 67, 3))


def _loop(backend: Any, hopper: bool | None) -> Callable[[], AbstractContextManager[None]]:
    return nullcontext if hopper is None else lambda: backend.with_hopper(hopper)


def _within(loop: Callable[[], AbstractContextManager[None]], trial: Callable[[], Wrong]) -> Any:
    def tried() -> Wrong:
        with loop():
            return trial()

    return tried


def _gated(backend: Backend, case: cases.Case) -> Wrong:
    return gate.check(backend, case, case.arrays())


def _cases(family: Family) -> Iterator[cases.Case]:
    if not family.ops:
        return
    step = (spec(), _BATCH, family.precision)
    for case in [*cases.of(*step), *cases.fused(*step)]:
        if case.op.startswith(family.ops):
            yield case


# ---------------------------------------------------------------------- steps, and what feeds them


def _plans(backend: Backend) -> Iterator[Trial]:
    """Whole steps: against float64, and with a graph the same bits as without."""
    case, known = StepCase(spec(), "small", _BATCH), Gate()
    for precision in ("fp32", "fp32x3", "bf16"):
        ours = Ours(precision, "fused, graph")
        yield f"step, {precision}", partial(known.check, backend, case, ours)
        yield f"steps as a graph, {precision}", partial(_graph, backend, ours.precision)


def _graph(backend: Backend, precision: Precision) -> Wrong:
    pixels = np.random.default_rng(0).uniform(-128, 127, (_BATCH, 67, 67, 3)).astype(np.float32)
    learned = []
    for graph in (False, True):
        net = Net(spec(), backend, precision=precision, fused=True, graph=graph)
        sgd = SGD(net)
        losses = [
            float(backend.to_numpy(sgd.step(pixels, np.arange(_BATCH), step=step, epoch=0)))
            for step in range(_STEPS)
        ]
        weights = {name: backend.to_numpy(w).tobytes() for name, w in net.params.items()}
        learned.append((losses, weights))
    if learned[0] == learned[1]:
        return None
    return f"losses {learned[1][0]} as a graph, {learned[0][0]} without"


def _lanes(backend: Backend) -> Iterator[Trial]:
    """How images get to the device: two loaders, and no wait between their epochs."""
    images = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3), np.uint8)
    split = Split(images, np.arange(96, dtype=np.int64))
    dataset = Dataset("96 images", split, split, Classes.numbered(96), "drawn")
    yield "batches by way of page-locked memory", partial(_batches, backend, dataset)


def _batches(backend: Backend, dataset: Dataset) -> Wrong:
    ours, right = (_loaded(be, dataset) for be in (backend, pyalexnet.backend("cpu")))
    wrong = [
        n for n, (a, b) in enumerate(zip(ours, right, strict=True)) if a.tobytes() != b.tobytes()
    ]
    return f"batches {wrong} of {len(right)} are not what was read" if wrong else None


def _loaded(backend: Backend, dataset: Dataset) -> list[Any]:
    def look(images: Any, _: Any) -> views.Views:
        return views.centre(len(images), (64, 64), (60, 60), 3)

    found = []
    for seed in range(2):
        loader = Loader(
            backend, backend.asarray(np.zeros((64, 64, 3), np.float32)), (60, 60), False, 2
        )
        for epoch in range(2):
            order = np.random.default_rng([seed, epoch]).permutation(96)
            batches = loader.batches(dataset.train, order, 16, look)
            found += [backend.copy(batch) for batch, _ in batches]
    return [np.array(backend.to_numpy(batch)) for batch in found]


# ---------------------------------------------------------------------- the list


def families() -> tuple[Family, ...]:
    """All of them, in the order in which they are tried: Hopper's loop early, as the newest."""
    products, rest = "(conv|linear)_[a-z_]+", "(relu|tanh|dropout|avgpool|maxpool|lrn|rnorm)_[a-z]+"
    plain = f"{rest}|scale|softmax_cross_entropy|sgd_update|split_weights|join_weights"
    wgmma = {
        f"wgmma-{one}": Family(
            f"wgmma-{one}", f"(conv|linear)_{one}(_sgd)?( conv\\d)? wgmma", "bf16",
            (f"conv_{one}", f"linear_{one}"), True,
        )
        for one in ("fprop", "dgrad", "wgrad")
    }  # fmt: skip
    return (
        Family("plain", plain, "fp32", _MAPS),
        Family("mma", f"{products}( conv\\d)? bf16", "bf16", _PRODUCTS, False),
        *wgmma.values(),
        Family("wgmma-patch_dgrad", "conv_dgrad in patches wgmma", hopper=True),
        Family("patch_dgrad", "conv_dgrad in patches", hopper=False),
        Family("fp32", f"{products}( conv\\d)?", "fp32", _PRODUCTS),
        Family("fp32x3", f"{products}( conv\\d)? fp32x3", "fp32x3", _PRODUCTS),
        Family("lrn_pool", "lrn_maxpool_[a-z]+( bfloat16)?"),
        Family("bf16-maps", "", "bf16", _MAPS),
        Family("images", "augment.*|images_to_depth|filters_(to|from)_depth", more=_lanes),
        Family("exchange", "exchange_[a-z_]+|sum_parts"),
        Family("plan", more=_plans),
    )


def main(arguments: Sequence[str]) -> int:
    """Check a family, or say which card there is."""
    options = parser().parse_args(arguments)
    try:
        backend = pyalexnet.backend("cuda")
    except BackendUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.family is None:
        card = Gpu()
        about = {"name": card.name, "hopper": loops.is_hopper(backend), "versions": card.versions}
        print(json.dumps(about))
        return 0
    if options.unpooled:
        unpooled.pytest_configure()
    (family,) = (one for one in families() if one.name == options.family)
    wrong = False
    for check in checked(backend, family):
        print(json.dumps(dataclasses.asdict(check)), flush=True)
        wrong = wrong or check.wrong is not None
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m bench.families", description=__doc__)
    made.add_argument("family", nargs="?", choices=[one.name for one in families()])
    made.add_argument(
        "--unpooled", action="store_true", help="every array in memory of its own (bench.unpooled)"
    )
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
