"""Threads of the backend cpu: the same bits for any number, forks, two callers at once, exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import pytest

import pyalexnet
from bench import memory
from cases import OF_EACH_ELEMENT
from pyalexnet import nets
from pyalexnet.backends.cores import THREADS
from pyalexnet.step.net import Net
from pyalexnet.step.plan import Precision
from pyalexnet.step.sgd import SGD
from samples import normal
from test_cpu import environment
from test_net import SEED, batch, host
from test_plan import FUSIBLE
from tolerance import same_bits
from trial import run
from variants import CPU, CPU_EXACT, parameters

EXACT = pytest.param(CPU_EXACT, id=str(CPU_EXACT), marks=pytest.mark.slow)
ON_CPU = pytest.mark.parametrize("be", [*parameters(CPU), EXACT], indirect=True)
WINOGRADS = nets.cifar_18pct()  # 5 x 5 of 32 channels
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
MOST = 5
LIMIT = 120
"""Seconds after which a process counts as hung."""


def begin(work: Callable[[Any], object], exact: bool, workers: int = MOST) -> subprocess.Popen[str]:
    """A process that calls `work`, from this module, with a backend of this many workers."""
    code = (
        f"import pyalexnet, test_cpu_threads as here; "
        f"here.{work.__name__}(pyalexnet.backend('cpu', exact={exact}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(), THREADS: str(workers)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Check that it ends without error, and return its output."""
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


def steps(be: Any, precision: Precision, count: int = 2) -> Iterator[Any]:
    """The parameters after some steps of training."""
    for spec in (FUSIBLE, WINOGRADS):
        net = Net(spec, be, SEED, precision=precision, fused=True)
        sgd = SGD(net)
        for step in range(count):
            sgd.step(*batch(spec, 5, step), step=step, epoch=0)
        yield from host(net, net.params).values()


def calls(be: Any) -> Iterator[Any]:
    """The results of every op's example."""
    for each in OF_EACH_ELEMENT:
        example = each.values[0] if hasattr(each, "values") else each
        yield from run(be, example.op, *example.inputs.values(), **example.keywords(be))


def digest(be: Any) -> str:
    """A digest of all these numbers."""
    found = sha256()
    for array in chain(calls(be), *(steps(be, precision) for precision in PRECISIONS)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def on_any_number(be: Any) -> None:
    found = set()
    for workers in (1, 2, 3, MOST):
        if workers <= be._ext.workers():
            be._ext.use_workers(workers)
            found.add(digest(be))
    print(*found)


@ON_CPU
def test_the_number_of_workers_changes_no_bit(be: Any) -> None:
    """Neither the number of existing workers nor of those in use."""
    said = {end(begin(on_any_number, be.exact, there)) for there in (1, MOST)}
    assert len(said) == 1 and len(said.pop().split()) == 1


def in_a_child(be: Any) -> None:
    expected = digest(be)
    child = os.fork()
    if child == 0:
        os._exit(digest(be) != expected)
    assert digest(be) == expected
    _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.slow
@ON_CPU
def test_a_forked_child_computes_the_same(be: Any) -> None:
    """It has no helpers until it starts its own."""
    end(begin(in_a_child, be.exact))


def twice_at_once(be: Any) -> None:
    backends = [be, pyalexnet.backend("cpu", exact=be.exact)]  # each with its own scratch
    expected = digest(be)
    meet = threading.Barrier(len(backends))

    def work(one: Any) -> str:
        meet.wait()
        return digest(one)

    with ThreadPoolExecutor(len(backends)) as pool:
        assert set(pool.map(work, backends)) == {expected}


@ON_CPU
def test_two_python_threads_at_once(be: Any) -> None:
    end(begin(twice_at_once, be.exact))


@pytest.mark.slow
@ON_CPU
def test_two_processes_side_by_side(be: Any) -> None:
    """Each with more workers than there are cores."""
    for process in [begin(digest, be.exact) for _ in range(2)]:
        end(process)


def awake_at_exit(be: Any) -> None:
    digest(be)


def asleep_at_exit(be: Any) -> None:
    run(be, "relu_fprop", normal(1000, 1000))
    threading.Event().wait(0.05)


@pytest.mark.every(9)
@pytest.mark.parametrize("work", [awake_at_exit, asleep_at_exit])
def test_helpers_do_not_keep_a_process_from_its_end(work: Callable[[Any], None]) -> None:
    end(begin(work, False))


# The amount of work at once changes no bit of fprop


@pytest.mark.parametrize("shape", [(3, 9, 8, 40), (3, 9, 8, 6)], ids=["winograd", "direct"])
@pytest.mark.parametrize("size", [3, 5])
@ON_CPU
def test_a_tower_a_group_and_the_whole_layer(be: Any, size: int, shape: tuple[int, ...]) -> None:
    channels, filters = shape[-1], 2 * 22
    x, w, b = normal(*shape), normal(filters, size, size, channels // 2), normal(filters)
    (both,) = run(be, "conv_fprop", x, w, b, stride=1, pad=size // 2, groups=2)
    for group in range(2):
        ins = slice(group * channels // 2, (group + 1) * channels // 2)
        outs = slice(group * filters // 2, (group + 1) * filters // 2)
        alone = run(be, "conv_fprop", x[..., ins], w[outs], b[outs], stride=1, pad=size // 2)[0]
        assert same_bits(alone, both[..., outs])
    whole = normal(filters, size, size, channels)
    (all_filters,) = run(be, "conv_fprop", x, whole, b, stride=1, pad=size // 2)
    for outs in (slice(0, 22), slice(22, 44), slice(5, 18)):
        (tower,) = run(be, "conv_fprop", x, whole[outs], b[outs], stride=1, pad=size // 2)
        assert same_bits(tower, all_filters[..., outs])


@pytest.mark.parametrize("shape", [(7, 9, 8, 40), (7, 9, 8, 6)], ids=["winograd", "direct"])
@ON_CPU
def test_one_image_and_many(be: Any, shape: tuple[int, ...]) -> None:
    x, w, b = normal(*shape), normal(21, 3, 3, shape[-1]), normal(21)
    (many,) = run(be, "conv_fprop", x, w, b, stride=1, pad=1)
    flat = x.reshape(len(x), -1)
    weights = normal(21, flat.shape[1])
    (features,) = run(be, "linear_fprop", flat, weights, b)
    for image in range(len(x)):
        one = slice(image, image + 1)
        assert same_bits(run(be, "conv_fprop", x[one], w, b, stride=1, pad=1)[0], many[one])
        assert same_bits(run(be, "linear_fprop", flat[one], weights, b)[0], features[one])


# Memory


ALLOWED = 64 << 10
"""Bytes per step, for Python's own objects. The smallest array of such a step is larger."""


def step_again(be: Any) -> None:
    images, labels = batch(WINOGRADS, 128)

    def made() -> Callable[[int], Any]:
        sgd = SGD(Net(WINOGRADS, be, SEED, fused=True))
        return lambda step: sgd.step(images, labels, step=step, epoch=0)

    _, fresh, arrays = memory.taken(made)
    assert fresh <= ALLOWED, fresh
    assert arrays <= ALLOWED, arrays


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
@ON_CPU
def test_a_step_takes_no_memory_after_the_first(be: Any) -> None:
    """With one worker: others may allocate stack and scratch long after, with their first piece."""
    end(begin(step_again, be.exact, workers=1))
