"""The order of work on made-up GPUs: streams whose work runs late, and captures.

Work is a graph: each piece comes after the earlier work of its stream, and after whatever the
stream was told to wait for. Work ordered by neither runs when it hurts, by the machine's order:

- eager: at once.
- lazy: only when something waits for it.
- side: at once on created streams, when waited for on the null stream.
- null: the other way round.
- random: now and then, by a seed.
- first: at once on GPU 0, when waited for on others; second: the other way round. For two GPUs.

What a GPU would refuse raises `CUDARuntimeError`. What it would do silently, although it is surely
a mistake, is added to `Machine.faults`, which `installed` turns into an error.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stand_in.memory import Block
    from stand_in.streams import Stream

ORDERS = ("eager", "lazy", "side", "null", "random")
ORDERS_OF_TWO = (*ORDERS, "first", "second")

Run = Callable[[], Any]


class CUDARuntimeError(RuntimeError):
    """As in cupy.cuda.runtime."""

    def __init__(self, status: int, name: str) -> None:
        super().__init__(f"{name}: status {status}")
        self.status = status


class Work:
    """A piece of work: what to run, after what, and which memory it touches."""

    __slots__ = ("after", "done", "label", "run", "touches")

    def __init__(
        self, label: str, run: Run | None, after: Iterable[Work | None], touches: Iterable[Block]
    ) -> None:
        self.label, self.run, self.done = label, run, False
        self.after = [one for one in after if one is not None]
        self.touches = tuple(touches)

    def complete(self) -> None:
        """Run it, after everything that precedes it."""
        stack = [self]
        while stack:
            one = stack[-1]
            waiting = [other for other in one.after if not other.done]
            if waiting and not one.done:
                stack += waiting
                continue
            stack.pop()
            if one.done:
                continue
            one.done = True
            if one.run is not None:
                one.run()
            one.run, one.after, one.touches = None, [], ()


class Line:
    """What a stream's address refers to: its last work, and what it waits for."""

    def __init__(self, device: int, is_null: bool) -> None:
        self.device, self.is_null = device, is_null
        self.runs_at_once_in = ("null" if is_null else "side", "first" if device == 0 else "second")
        self.last: Work | None = None
        self.waits: list[Work] = []
        self.capture: Capture | None = None

    def tail(self) -> list[Work]:
        """The unfinished work that the next work comes after."""
        return [one for one in (self.last, *self.waits) if one is not None and not one.done]

    def complete(self) -> None:
        for one in self.tail():
            one.complete()
        self.waits = []


class Capture:
    """Work given to streams while one of them captures."""

    def __init__(self, origin: Line) -> None:
        self.origin = origin
        self.works: list[Work] = []
        self.tails: dict[Line, Work | None] = {origin: None}


class Machine:
    """The GPUs, and the state that a process's threads have of them.

    Attributes:
        order: in which unordered work runs.
        gpus: their number.
        peers: whether kernels can read the memory of another GPU.
        hopper: whether they are Hopper GPUs.
        faults: mistakes that no GPU refuses, as sentences.
        captures: those under way.
    """

    def __init__(
        self, order: str, gpus: int, *, peers: bool = True, hopper: bool = True, seed: int = 0
    ) -> None:
        if order not in ORDERS_OF_TWO:
            raise ValueError(f"order is {order!r}; one of {ORDERS_OF_TWO} was expected")
        self.order, self.gpus, self.peers, self.hopper = order, gpus, peers, hopper
        self.faults: list[str] = []
        self.captures: list[Capture] = []
        self.lines: dict[int, Line] = {}
        self.null_lines = [Line(device, is_null=True) for device in range(gpus)]
        self._random = random.Random(seed)
        self._addresses = iter(range(0x1000, 2**31, 16))
        self._freed: list[int] = []
        self._abandoned: list[Line] = []
        self._local = threading.local()

    def fault(self, sentence: str) -> None:
        if sentence not in self.faults:
            self.faults.append(sentence)

    # What is current in a thread

    @property
    def device(self) -> int:
        number: int = getattr(self._local, "device", 0)
        return number

    @device.setter
    def device(self, number: int) -> None:
        if not 0 <= number < self.gpus:
            raise CUDARuntimeError(101, "cudaErrorInvalidDevice")
        self._local.device = number

    def streams(self, device: int) -> list[Stream]:
        """The streams that a thread entered on a device; the last one is current."""
        if not hasattr(self._local, "streams"):
            self._local.streams = [[] for _ in range(self.gpus)]
        entered: list[Stream] = self._local.streams[device]
        return entered

    def current_address(self, device: int) -> int:
        entered = self.streams(device)
        return entered[-1].ptr if entered else 0

    # Streams

    def new_line(self) -> int:
        """The address of a new stream; as with the driver, old addresses are reused."""
        address = self._freed.pop() if self._freed else next(self._addresses)
        self.lines[address] = Line(self.device, is_null=False)
        return address

    def end_line(self, address: int) -> None:
        """Destroy a stream; its work is still done."""
        line = self.lines.pop(address)
        if line.capture is not None:
            self.fault("a stream is destroyed while it captures")
        self._abandoned.append(line)
        self._freed.append(address)

    def line(self, address: int, device: int | None = None) -> Line:
        """The stream at an address; 0 is the null stream of `device`, or of the current device."""
        if address in (0, 1):
            return self.null_lines[self.device if device is None else device]
        if address not in self.lines:
            raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle")
        return self.lines[address]

    # Work

    def enqueue(
        self, line: Line, label: str, run: Run | None, touches: Iterable[Block] = ()
    ) -> Work:
        """Give a stream work; `touches`: the memory that it reads and writes."""
        if line.is_null and self.captures:
            self.fault(f"the null stream is used while another stream captures: {label}")
        capture = line.capture
        if capture is not None:
            work = Work(label, run, (capture.tails[line], *line.waits), touches)
            capture.works.append(work)
            capture.tails[line] = work
        else:
            work = Work(label, run, line.tail(), touches)
            for block in work.touches:
                block.users = [one for one in block.users if not one.done] + [work]
            line.last = work
        line.waits = []
        if capture is None:
            self._run_some(line, work)
        return work

    def _run_some(self, line: Line, work: Work) -> None:
        if self.order == "random":
            for _ in range(2):
                if self._random.random() < 0.4:
                    self._run_a_part(self._random.choice(self._all_lines()))
        elif self.order in ("eager", *line.runs_at_once_in):
            work.complete()

    def _run_a_part(self, line: Line) -> None:
        chain, one = [], line.last
        while one is not None and not one.done:
            chain.append(one)
            one = one.after[0] if one.after else None
        if chain:
            self._random.choice(chain).complete()

    def pick(self, ready: list[int]) -> int:
        """Which of several mutually unordered pieces of a graph runs first."""
        if self.order == "random":
            return self._random.choice(ready)
        return ready[-1] if self.order in ("side", "lazy") else ready[0]

    def _all_lines(self) -> list[Line]:
        return [*self.null_lines, *self.lines.values(), *self._abandoned]

    def comes_before(self, work: Work, line: Line) -> bool:
        """Whether `work` is certain to be over when the stream's next work begins."""
        seen: set[int] = set()
        left = line.tail()
        while left:
            one = left.pop()
            if one is work:
                return True
            if id(one) not in seen:
                seen.add(id(one))
                left += [other for other in one.after if not other.done]
        return work.done

    # Waiting

    def wait_for_line(self, line: Line) -> None:
        if line.capture is not None:
            raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")
        line.complete()

    def wait_for_device(self, device: int) -> None:
        if self.captures:
            raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")
        lines = [line for line in self._all_lines() if line.device == device]
        if self.order == "random":
            self._random.shuffle(lines)
        for line in lines:
            line.complete()
        self._abandoned = [line for line in self._abandoned if line.tail()]

    def end(self) -> None:
        """Do all remaining work."""
        for line in self._all_lines():
            line.complete()
