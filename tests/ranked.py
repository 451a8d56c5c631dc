"""What tests run as ranks: `python -m ranked NAME ARGUMENTS...`; rank 0 prints a line of JSON."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyalexnet
import stand_in
from pyalexnet.ops.elements import BFLOAT16
from pyalexnet.ranks import launch
from pyalexnet.ranks.communicator import Communicator, Message
from pyalexnet.ranks.ending import ending_all
from pyalexnet.step.hybrid import Division
from pyalexnet.step.net import Net
from pyalexnet.step.sgd import SGD
from pyalexnet.step.shards import Shards
from stand_in import Machine
from training import BATCH, CLASSES, small_net

SIZES = (1, 3, 100, 100_003)
DIVISIONS: tuple[Division | None, ...] = (None, "whole", "slices")


def data_of(rank: int, size: int, dtype: Any) -> NDArray[Any]:
    return np.random.default_rng([rank, size]).normal(size=size).astype(np.float32).astype(dtype)


def collectives(ranks: Communicator) -> Any:
    """Digests of what MPI's ranks have got, and the bytes they sent."""
    found = []
    for dtype in (np.float32, BFLOAT16, np.int64):
        for size in SIZES:
            x, y, z = (data_of(ranks.rank, size, dtype) for _ in range(3))
            ranks.all_reduce(x)
            own = np.empty_like(ranks.slices(y)[ranks.rank])
            ranks.reduce_scatter(y, own)
            ranks.all_gather(own, y)
            ranks.broadcast(z, ranks.world_size - 1)
            found.append([digest(x), digest(y), digest(z)])
    ranks.barrier()
    own_facts = [ranks.rank, ranks.local_rank, ranks.local_size, found]
    return ranks.gather(own_facts), ranks.most(ranks.rank), ranks.sent


def over_a_link(ranks: Communicator, size: str) -> Any:
    """The digest of a sum, and the bytes sent to the other host, the ranks of which are half."""
    across, right = 0, ranks.exchange

    def counted(sends: Sequence[Message], receives: Sequence[Message]) -> None:
        nonlocal across
        half = ranks.world_size // 2
        across += sum(x.nbytes for to, x in sends if to // half != ranks.rank // half)
        right(sends, receives)

    ranks.exchange = counted  # type: ignore[method-assign]
    x = data_of(ranks.rank, int(size), np.float32)
    ranks.all_reduce(x)
    return ranks.gather([digest(x), across])


def on_gpus(host: Communicator, order: str) -> Any:
    """Sums and three steps on made-up GPUs, and the same on the emulation of their kernels."""
    found: dict[str, Any] = {}
    found["sim"] = _trained(host, pyalexnet.backend("sim")), _summed(host, None)
    with stand_in.installed(Machine(order, 1), host.exchange):
        nccl = importlib.import_module("pyalexnet.ranks.nccl")
        gpu = pyalexnet.backend("cuda")
        ranks = launch.connected(host, gpu)
        assert isinstance(ranks, nccl.Nccl) and ranks.most(ranks.rank) == ranks.world_size - 1
        found["cuda"] = _trained(ranks, gpu), _summed(ranks, gpu)
    return found, ranks.gather(found), ranks.sent


def _summed(ranks: Communicator, backend: Any) -> list[str]:
    found = []
    for dtype in (np.float32, BFLOAT16):
        for size in SIZES:
            x = data_of(ranks.rank, size, dtype)
            there = x if backend is None else backend.asarray(x)
            ranks.all_reduce(there)
            found.append(digest(there if backend is None else backend.to_numpy(there)))
    return found


def _trained(ranks: Communicator, backend: Any) -> list[str]:
    """Digests of the parameters after steps on a rank's own images; as data, and as a hybrid."""
    spec, shards = small_net(), Shards(1, ranks.world_size)
    images = data_of(ranks.rank, BATCH * 144, np.float32).reshape(BATCH, 12, 12, 1)
    labels, found = np.arange(BATCH) % CLASSES, []
    for division in DIVISIONS:
        how: dict[str, Any] = {"communicator": ranks, "shards": shards, "division": division}
        sgd = SGD(Net(spec, backend, 3, **how), spec.recipe)
        for step in range(3):
            sgd.step(backend.asarray(images), backend.asarray(labels), step=step, epoch=0.0)
            found.append(digest(*(backend.to_numpy(w) for w in sgd.net.params.values())))
    return found


def digest(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


if __name__ == "__main__":
    with ending_all():
        world = launch.start()
        result = globals()[sys.argv[1]](world, *sys.argv[2:])
        if world.rank == 0:
            print(json.dumps(result))
