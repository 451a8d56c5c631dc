"""The machine code of kernels, as nvdisasm prints it: their instructions and their loops."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import compiler

_TIMEOUT = 300
_SECTION = re.compile(r"\.text\.(?P<kernel>[\w$]+):")
_LABEL = re.compile(r"(?P<label>\.L\w+):")
# An address, perhaps a predicate, and the instruction: /*0130*/ @!P0 BRA `(.L_x_1) ;
_INSTRUCTION = re.compile(
    r"\s+/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@\S+\s+)?(?P<name>[A-Z]\w*)(?P<rest>[^;]*)"
)
_TARGET = re.compile(r"`\((?P<label>\.L\w+)\)")
# A call within the same kernel need not return: the compiler also leaves loops that way.
_JUMPS = ("BRA", "CALL")
_LAST = ("EXIT", "RET")


@dataclass(frozen=True)
class Code:
    """A kernel's machine code.

    instructions: names in order, cut at the first dot ("HMMA", "LDSM"). followers: for each
    instruction, the numbers of those that may run next.
    """

    kernel: str
    instructions: tuple[str, ...]
    followers: tuple[tuple[int, ...], ...]

    def loops(self, name: str) -> list[tuple[str, ...]]:
        """The loops that contain an instruction `name`, inner loops included.

        The compiler may place a part of a loop anywhere: an instruction belongs to the loop if it
        leads to the named one and can be reached from it.
        """
        before: list[list[int]] = [[] for _ in self.instructions]
        for number, following in enumerate(self.followers):
            for other in following:
                before[other].append(number)
        found: list[set[int]] = []
        for number, one in enumerate(self.instructions):
            if one == name and not any(number in loop for loop in found):
                loop = _reached(self.followers, number) & _reached(before, number)
                found += [loop] if loop else []
        return [tuple(self.instructions[number] for number in sorted(loop)) for loop in found]


def _reached(edges: Sequence[Sequence[int]], start: int) -> set[int]:
    """What can be reached along edges; the start itself only if they lead back to it."""
    reached: set[int] = set()
    waiting = [start]
    while waiting:
        new = set(edges[waiting.pop()]) - reached
        reached |= new
        waiting += new
    return reached


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
    labels: dict[str, int] = {}
    found: list[re.Match[str]] = []
    for line in lines:
        if label := _LABEL.match(line):
            labels[label["label"]] = len(found)
        if instruction := _INSTRUCTION.match(line):
            found.append(instruction)
    names = tuple(one["name"] for one in found)
    return Code(kernel, names, tuple(_followers(found, labels)))


def _followers(found: list[re.Match[str]], labels: dict[str, int]) -> Iterator[tuple[int, ...]]:
    for number, one in enumerate(found):
        target = _TARGET.search(one["rest"]) if one["name"] in _JUMPS else None
        # `BRA P0, ...` and the like fall through if their condition does not hold.
        always = not one["predicate"] and (
            one["name"] in _LAST
            or (one["name"] == "BRA" and target is not None and "," not in one["rest"])
        )
        following = [] if always else [number + 1]
        if target:
            following.append(labels[target["label"]])
        yield tuple(other for other in following if other < len(found))
