"""The machine code of kernels, as nvdisasm prints it: their instructions and their loops.

Each instruction says when the next one may issue (Jia et al.: Dissecting the NVIDIA Volta GPU
architecture via microbenchmarking, arXiv 1804.06826, section 2): so many clocks later, at the
soonest, and not before what it needs has ended. Six counters, called barriers, tell of the ends of
what takes a varying time: an instruction names one for its result and one for the operands that
it reads late, and a later one the barriers that it waits for.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pyalexnet import files
from pyalexnet.data import download

from . import compiler

_TIMEOUT = 300
_SECTION = re.compile(r"\.text\.(?P<kernel>[\w$]+):")
_LABEL = re.compile(r"(?P<label>\.L\w+):")
# An address, perhaps a predicate, and the instruction: /*0130*/ @!P0 BRA `(.L_x_1) ;
_INSTRUCTION = re.compile(
    r"\s+/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@\S+\s+)?(?P<name>[A-Z]\w*)(?P<rest>[^;]*)"
)
# The upper half of its code follows in a line of its own.
_UPPER = re.compile(r"\s+/\* 0x(?P<upper>[0-9a-f]{16}) \*/$")
_FIELDS = 41  # of the upper half's bits: where those begin that the schedulers read
_NO_BARRIER = 7
_TARGET = re.compile(r"`\((?P<label>\.L\w+)\)")
# A call within the same kernel need not return: the compiler also leaves loops that way.
_JUMPS = ("BRA", "CALL")
_LAST = ("EXIT", "RET")


@dataclass(frozen=True)
class Instruction:
    """name: cut at the first dot ("HMMA", "LDSM"). rest: what follows it. predicate: on which it
    runs, such as "!P0". stall: clocks until the next one may issue. ends, frees: the barriers for
    its result and for its operands, if any. waits: those that it waits for, a bit each. Without the
    codes all are 0 or None.
    """

    name: str
    rest: str = ""
    predicate: str = ""
    stall: int = 0
    ends: int | None = None
    frees: int | None = None
    waits: int = 0


@dataclass(frozen=True)
class Code:
    """A kernel's machine code. followers: for each instruction, the numbers of those that may run
    next.
    """

    kernel: str
    listing: tuple[Instruction, ...]
    followers: tuple[tuple[int, ...], ...]

    @property
    def instructions(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(one.name for one in self.listing)

    def loops(self, name: str) -> list[tuple[str, ...]]:
        """The loops that contain an instruction `name`, inner loops included.

        The compiler may place a part of a loop anywhere: an instruction belongs to the loop if it
        leads to the named one and can be reached from it.
        """
        names = self.instructions
        before: list[list[int]] = [[] for _ in names]
        for number, following in enumerate(self.followers):
            for other in following:
                before[other].append(number)
        found: list[set[int]] = []
        for number, one in enumerate(names):
            if one == name and not any(number in loop for loop in found):
                loop = _reached(self.followers, number) & _reached(before, number)
                found += [loop] if loop else []
        return [tuple(names[number] for number in sorted(loop)) for loop in found]


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
    return list(parse(_listing(cubin)))


class Kernels:
    """The kernels of a CUDA file by their readable names, compiled once for each state of the
    sources: the listing is kept in the user's cache.

    Raises:
        RuntimeError: nvcc or nvdisasm is not installed, or refuses the file.
    """

    def __init__(self, source: Path, architecture: str) -> None:
        headers = (path for end in ("cuh", "h", "hpp") for path in source.parent.rglob(f"*.{end}"))
        content = b"\0".join(path.read_bytes() for path in (source, *sorted(headers)))
        digest = hashlib.sha256(architecture.encode() + content).hexdigest()[:16]
        kept = download.cache_folder() / "sass" / f"{source.stem}-{digest}.txt"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory() as folder, files.replacing(kept) as new:
                compiled = compiler.compiled_file(source, architecture, Path(folder))
                new.write_text(_listing(compiled.cubin))
        self._sections = _sections(kept.read_text())
        self._codes: dict[str, Code] = {}

    def find(self, *texts: str) -> list[Code]:
        """Those whose names begin with the first text and hold the others, in order."""
        pattern = re.compile(".*".join(map(re.escape, texts)))
        names = [name for name in self._sections if pattern.match(name)]
        for name in names:
            if name not in self._codes:
                self._codes[name] = _code(name, self._sections[name])
        return [self._codes[name] for name in names]


def _listing(cubin: Path) -> str:
    program = compiler.tool("nvdisasm")
    if program is None:
        raise RuntimeError("no nvdisasm was found; pip install nvidia-cuda-nvdisasm brings it")
    done = subprocess.run(
        [program, "-c", "-hex", str(cubin)],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT,
    )
    return re.sub(" {2,}", "  ", done.stdout)  # most of it are spaces


def parse(listing: str) -> Iterator[Code]:
    """The kernels in the output of `nvdisasm -c`, or `-c -hex`, under readable names."""
    return (_code(name, lines) for name, lines in _sections(listing).items())


def _sections(listing: str) -> dict[str, list[str]]:
    """The lines of each kernel."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in listing.splitlines():
        if section := _SECTION.match(line):
            lines = sections.setdefault(section["kernel"], [])
        lines.append(line)
    return dict(zip(compiler.readable(list(sections)), sections.values(), strict=True))


def _code(kernel: str, lines: list[str]) -> Code:
    labels: dict[str, int] = {}
    found: list[re.Match[str]] = []
    codes: dict[int, int] = {}
    for line in lines:
        if label := _LABEL.match(line):
            labels[label["label"]] = len(found)
        if instruction := _INSTRUCTION.match(line):
            found.append(instruction)
        elif upper := _UPPER.match(line):
            codes[len(found) - 1] = int(upper["upper"], 16) >> _FIELDS
    listing = tuple(_instruction(one, codes.get(number)) for number, one in enumerate(found))
    return Code(kernel, listing, tuple(_followers(found, labels)))


def _instruction(one: re.Match[str], code: int | None) -> Instruction:
    about = (one["name"], one["rest"].strip(), (one["predicate"] or "").strip(" @"))
    if code is None:
        return Instruction(*about)
    # From the lowest bit on: 4 for the stall, one that is not used here, 3 and 3 for the barriers,
    # 6 for those waited for.
    ends, frees = (
        None if barrier == _NO_BARRIER else barrier for barrier in (code >> 5 & 7, code >> 8 & 7)
    )
    return Instruction(*about, code & 15, ends, frees, code >> 11 & 63)


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
