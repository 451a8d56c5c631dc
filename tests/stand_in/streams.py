"""cupy.cuda: devices, streams, events and graphs, with CuPy 14's names and signatures."""

from __future__ import annotations

import time
import weakref
from typing import Any, ClassVar, Self

from stand_in.machine import Capture, CUDARuntimeError, Line, Machine, Work


class Device:
    """As cupy.cuda.Device."""

    machine: ClassVar[Machine]

    def __init__(self, device: Any = None) -> None:
        self.id = self.machine.device if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Self:
        self._before.append(self.machine.device)
        self.machine.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.device = self._before.pop()

    def use(self) -> None:
        self.machine.device = self.id

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id + 1:02X}:00.0"

    def synchronize(self) -> None:
        self.machine.wait_for_device(self.id)

    @property
    def compute_capability(self) -> str:
        return "90" if self.machine.hopper else "80"


class Event:
    """As cupy.cuda.Event; it belongs to the device that is current when it is made."""

    machine: ClassVar[Machine]

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        self.device, self.timed = self.machine.device, not disable_timing
        self.work: Work | None = None
        self.captured: tuple[Capture, Work | None] | None = None
        self.when: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        device = self.machine.device
        ptr = self.machine.current_address(device) if stream is None else stream.ptr
        self.record_on(self.machine.line(ptr))

    def record_on(self, line: Line) -> None:
        if line.device != self.device:
            raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle")
        if line.capture is not None:
            self.work, self.captured = None, (line.capture, line.capture.tails[line])
            return
        self.captured = None
        self.work = self.machine.enqueue(line, "an event", self._tick if self.timed else None)

    def _tick(self) -> None:
        self.when = time.perf_counter()

    def synchronize(self) -> None:
        if self.captured is not None:
            raise CUDARuntimeError(907, "cudaErrorCapturedEvent")
        if self.work is not None:
            self.work.complete()


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    if not (start_event.timed and end_event.timed):
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle")
    if start_event.when is None or end_event.when is None:
        raise CUDARuntimeError(600, "cudaErrorNotReady")
    return (end_event.when - start_event.when) * 1e3


class Stream:
    """As cupy.cuda.Stream."""

    machine: ClassVar[Machine]

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        self.ptr, self.device_id = 0, -1
        if null:
            return
        if not non_blocking:
            self.machine.fault("a stream is made that waits for the null stream")
        self.ptr, self.device_id = self.machine.new_line(), self.machine.device
        weakref.finalize(self, self.machine.end_line, self.ptr).atexit = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Self:
        device = self.machine.device
        if self.device_id not in (-1, device):
            raise RuntimeError(f"the stream is of device {self.device_id}, not {device}")
        self.machine.streams(device).append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.streams(self.machine.device).pop()

    @property
    def _line(self) -> Line:
        return self.machine.line(self.ptr)

    def synchronize(self) -> None:
        self.machine.wait_for_line(self._line)

    def record(self, event: Event) -> Event:
        event.record_on(self._line)
        return event

    def wait_event(self, event: Event) -> None:
        wait_for(self.machine, self._line, event)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        line = self._line
        if line.capture is not None:
            raise CUDARuntimeError(401, "cudaErrorIllegalState")
        line.capture = Capture(line)
        self.machine.captures.append(line.capture)

    def end_capture(self) -> Graph:
        line = self._line
        capture = line.capture
        if capture is None or capture.origin is not line:
            raise CUDARuntimeError(901, "cudaErrorStreamCaptureUnmatched")
        joined = _reached([capture.tails[line], *line.waits])
        line.waits = []
        for member in capture.tails:
            member.capture = None
        self.machine.captures.remove(capture)
        if any(id(work) not in joined for work in capture.works):
            raise CUDARuntimeError(904, "cudaErrorStreamCaptureUnjoined")
        return Graph(self.machine, capture)


def wait_for(machine: Machine, line: Line, event: Event) -> None:
    """Later work on the stream comes after the work that the event was recorded after."""
    if event.captured is not None:
        _join(machine, line, *event.captured)
    elif event.work is not None:
        if line.capture is not None:
            raise CUDARuntimeError(905, "cudaErrorStreamCaptureIsolation")
        line.waits.append(event.work)


def _join(machine: Machine, line: Line, capture: Capture, work: Work | None) -> None:
    """A stream waits for an event of a capture: it captures too, from then on."""
    if line.capture is None:
        if line.is_null or capture not in machine.captures:
            raise CUDARuntimeError(905, "cudaErrorStreamCaptureMerge")
        line.capture = capture
        capture.tails[line] = work
    elif line.capture is not capture:
        raise CUDARuntimeError(905, "cudaErrorStreamCaptureMerge")
    elif work is not None:
        line.waits.append(work)


def _reached(works: list[Work | None]) -> set[int]:
    """These pieces and everything captured before them."""
    reached: set[int] = set()
    left = [work for work in works if work is not None]
    while left:
        work = left.pop()
        if id(work) not in reached:
            reached.add(id(work))
            left += work.after
    return reached


class Graph:
    """Like cupy.cuda.Graph: it keeps none of the arrays that it uses alive."""

    def __init__(self, machine: Machine, capture: Capture) -> None:
        self._machine = machine
        places = {id(work): place for place, work in enumerate(capture.works)}
        self._works = capture.works
        self._after = [{places[id(one)] for one in work.after} for work in capture.works]
        self._touches = {block: block.turn for work in capture.works for block in work.touches}

    def launch(self, stream: Stream | None = None) -> None:
        machine = self._machine
        for block, turn in self._touches.items():
            if block.turn != turn:
                machine.fault("a graph is launched whose memory was given back")
        ptr = machine.current_address(machine.device) if stream is None else stream.ptr
        machine.enqueue(machine.line(ptr), "a graph", self._run, self._touches)

    def _run(self) -> None:
        done: set[int] = set()
        while len(done) < len(self._works):
            ready = [
                place
                for place, after in enumerate(self._after)
                if place not in done and after <= done
            ]
            place = self._machine.pick(ready)
            run = self._works[place].run
            if run is not None:
                run()
            done.add(place)
