"""Elementwise steps that NumPy's vector loops do faster in another guise."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyalexnet.backends.cpu.cores import Cores

Floats: TypeAlias = npt.NDArray[np.float32]


def rectify(cores: Cores, x: Floats, y: Floats) -> None:
    """y = max(x, 0), with an array of zeros, which is three times as fast as with the number."""
    np.maximum(x, cores.zeros(x.size).reshape(x.shape), out=y)


def select(kept: npt.NDArray[np.bool_], x: Floats, y: Floats) -> None:
    """y = x where `kept`, else 0, whatever x is there: its bits times one or nought.

    A masked copy takes eight times as long, and x * kept would let NaN and infinity through.
    """
    np.multiply(x.view(np.int32), kept, out=y.view(np.int32))
