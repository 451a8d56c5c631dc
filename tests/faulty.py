"""The command, in which a rank fails: `python -m faulty KIND RANK STEP FILE ARGUMENTS...`.

Before that step, rank RANK writes the time into FILE, and does what KIND says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pyalexnet import __main__
from pyalexnet.runs.run import RunFolder
from pyalexnet.training.train import Trainer


def fail() -> NoReturn:
    raise ValueError("this rank is odd")


FAULTS: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(1000),
    "exit": lambda: sys.exit(5),
    "raise": fail,
}
SLOW = 12.0  # seconds that a save takes as "slow"


def main(kind: str, rank: str, step: str, file: str, *arguments: str) -> None:
    own = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK"))
    right = Trainer._step

    def wrong(self: Trainer, *batch: Any) -> None:
        if own == rank and self.at.step + 1 == int(step):
            Path(file).write_text(str(time.time()))
            FAULTS[kind]()
        right(self, *batch)

    def slow(self: RunFolder, *what: Any) -> None:
        time.sleep(SLOW)
        save(self, *what)

    save = RunFolder.save
    if kind == "slow":  # rank 0, which saves
        RunFolder.save = slow  # type: ignore[method-assign, assignment]
    elif own == rank:
        Trainer._step = wrong  # type: ignore[method-assign, assignment]
        arguments += ("--seed=3",) if kind == "disagree" else ()
    sys.argv[1:] = arguments
    __main__.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
