"""The device's ceilings in the same run: copies, products, launches. Shares refer to these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from .cards import PRECISIONS, PRODUCTS_OF_THREE, Card
from .device import Device
from .peers import Peers
from .peers.torch_tensors import set_precision
from .results import Ceiling
from .timing import Run, Sampling, interleaved

_GIGA = 1e9
_TERA = 1e12
_LAUNCHES = 1000
_WARMUPS = 3


def measured(
    device: Device, peers: Peers, sizes: tuple[int, ...], copied: int, precisions: tuple[str, ...]
) -> Iterator[Ceiling]:
    """The ceilings: a copy of `copied` bytes, products of `sizes` in each precision, launches."""
    yield _copy(device, peers, copied)
    for precision in precisions:
        for size in sizes:
            yield _product(device, peers, size, precision)
    yield from _launches(device, peers)


def as_card(name: str, ceilings: list[Ceiling]) -> Card | None:
    """The best of the ceilings as rates; None where copy or float32 products are missing."""
    reached = {one.name: one.value for one in ceilings if one.value is not None}
    flops = {
        precision: max(values) * _TERA
        for precision in PRECISIONS
        if (values := [v for n, v in reached.items() if n.startswith(f"{precision} product")])
    }
    if "copy" not in reached or "fp32" not in flops:
        return None
    if "bf16" in flops:
        flops["fp32x3"] = flops["bf16"] / PRODUCTS_OF_THREE
    return Card(name, flops, reached["copy"] * _GIGA, "measured in this run")


def _copy(device: Device, peers: Peers, nbytes: int) -> Ceiling:
    """Bytes read and written a second, by the faster of the array library and PyTorch. All threads
    share them.
    """
    source = device.backend.zeros((nbytes // 4,))
    target = device.backend.zeros((nbytes // 4,))
    runs: dict[str, Run] = {"arrays": _array_copy(source, target, device.threads or 1)}
    if peers.torch:
        tensor = peers.torch.zeros(nbytes // 4, device=device.torch)
        other = peers.torch.zeros_like(tensor)
        runs["PyTorch"] = lambda: other.copy_(tensor)
    seconds = _least(device, runs)
    return Ceiling("copy", 2 * nbytes / seconds / _GIGA, "GB/s")


def _array_copy(source: Any, target: Any, threads: int) -> Run:
    if threads == 1:
        return lambda: target.__setitem__(slice(None), source)
    pool = ThreadPoolExecutor(threads)
    shares = [np.array_split(array, threads) for array in (target, source)]
    return lambda: [*pool.map(np.copyto, *shares)]


def _product(device: Device, peers: Peers, size: int, precision: str) -> Ceiling:
    """A size x size x size matrix product through the vendor's library."""
    name = f"{precision} product, {size}"
    runs: dict[str, Run] = {}
    if peers.torch:
        runs["PyTorch"] = _torch_product(peers.torch, device.torch, size, precision)
    if precision == "fp32":
        runs["arrays"] = _array_product(device, size)
    if not runs:
        return Ceiling(name, None, "TFLOP/s", "no library here computes it (PyTorch would)")
    return Ceiling(name, 2 * size**3 / _least(device, runs) / _TERA, "TFLOP/s")


def _torch_product(torch: Any, device: str, size: int, precision: str) -> Run:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        set_precision(torch, precision)
        torch.mm(a, b, out=out)

    return run


def _array_product(device: Device, size: int) -> Run:
    """Through the array library: BLAS, or cuBLAS by way of CuPy (strict float32 by default)."""
    source = np.random.Generator(np.random.Philox(size))
    a, b = (
        device.backend.asarray(source.standard_normal((size, size), np.float32)) for _ in range(2)
    )
    out = device.backend.empty((size, size))
    return lambda: np.matmul(a, b, out=out)


def _launches(device: Device, peers: Peers) -> Iterator[Ceiling]:
    """The smallest possible call: one after another on the device, and its cost to the host."""
    x = device.backend.zeros((1,))

    def ours() -> None:
        device.backend.relu_fprop(x, out=x)

    calls: dict[str, Callable[[], Any]] = {"ours": ours}
    if peers.torch:
        tensor = peers.torch.zeros(1, device=device.torch)
        calls["PyTorch"] = tensor.relu_
    for name, call in calls.items():
        seconds = _least(device, {name: partial(_repeat, call)}) / _LAUNCHES
        yield Ceiling(f"smallest call in a row, {name}", seconds * 1e6, "us")
        host = device.enqueue_seconds(call, _LAUNCHES)
        yield Ceiling(f"host's part of a call, {name}", host * 1e6, "us")


def _repeat(call: Callable[[], Any]) -> None:
    for _ in range(_LAUNCHES):
        call()


def _least(device: Device, runs: dict[str, Run]) -> float:
    """Median seconds of the fastest of several ways to do the same."""
    sampling = Sampling(seconds=0.5, least=5, most=20, warmups=_WARMUPS)
    timings = interleaved(device.stopwatch, runs, sampling)
    return min(timing.median for timing in timings.values())
