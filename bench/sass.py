"""The machine code of kernels, as nvdisasm prints it: their instructions and their loops."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import compiler

_TIMEOUT = 300
_SECTION = re.compile(r"\.text\.(?P<kernel>[\w$]+):")
_LABEL = re.compile(r"(?P<label>\.L\w+):")
# An address, perhaps a predicate, and what is done: /*0130*/ @!P0 BRA `(.L_x_1) ;
_INSTRUCTION = re.compile(
    r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z]\w*)(?P<rest>[^;]*)"
)
_TARGET = re.compile(r"`\((?P<label>\.L\w+)\)")


@dataclass(frozen=True)
class Code:
    """A kernel's machine code.

    instructions: names in their order, without what follows the first point ("HMMA", "LDSM").
    loops: the first and last instruction of each loop, by number.
    """

    kernel: str
    instructions: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]

    def innermost(self, name: str) -> list[tuple[str, ...]]:
        """The loops that have an instruction `name` and no other such loop within them."""
        found: list[tuple[int, int]] = []
        for first, last in sorted(self.loops, key=lambda loop: loop[1] - loop[0]):
            within = any(first <= inner and end <= last for inner, end in found)
            if not within and name in self.instructions[first : last + 1]:
                found.append((first, last))
        return [self.instructions[first : last + 1] for first, last in found]


def disassembled(cubin: Path) -> list[Code]:
    """The kernels in a file of machine code, under readable names.

    Raises:
        RuntimeError: nvdisasm is not installed.
    """
    program = compiler.tool("nvdisasm")
    if program is None:
        raise RuntimeError("no nvdisasm was found; pip install nvidia-cuda-nvdisasm brings it")
    done = subprocess.run(
        [program, "-c", str(cubin)], capture_output=True, text=True, check=True, timeout=_TIMEOUT
    )
    return list(parse(done.stdout))


def parse(listing: str) -> Iterator[Code]:
    """The kernels in the output of `nvdisasm -c`, under readable names."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in listing.splitlines():
        if section := _SECTION.match(line):
            lines = sections.setdefault(section["kernel"], [])
        lines.append(line)
    names = compiler.readable(list(sections))
    for name, body in zip(names, sections.values(), strict=True):
        yield _code(name, body)


def _code(kernel: str, lines: list[str]) -> Code:
    """A loop is what lies between a label and a branch that leads back to it."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in lines:
        if label := _LABEL.match(line):
            labels[label["label"]] = len(instructions)
        if found := _INSTRUCTION.match(line):
            target = _TARGET.search(found["rest"])
            if found["name"] == "BRA" and target and target["label"] in labels:
                loops.append((labels[target["label"]], len(instructions)))
            instructions.append(found["name"])
    return Code(kernel, tuple(instructions), tuple(loops))
