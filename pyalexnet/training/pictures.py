"""A run's pictures: curves.png and filters.png in its folder."""

from __future__ import annotations

import itertools
import time

from pyalexnet import show
from pyalexnet.errors import reason
from pyalexnet.nets.spec import NetSpec
from pyalexnet.runs.checkpoint import Array, Arrays
from pyalexnet.runs.run import EpochReport, History, RunFolder, StopReport
from pyalexnet.show.page import MatplotlibMissing, check_matplotlib
from pyalexnet.training.watching import Warn, Watcher

_SECONDS_BETWEEN_PICTURES = 30.0


class Pictures(Watcher):
    """Draws at the end of training, and after epochs that took some time.

    spec: of the network. title: of the curves, before the number of steps. warn: called with a
    sentence on what prevents drawing.
    """

    def __init__(self, folder: RunFolder, spec: NetSpec, title: str, warn: Warn) -> None:
        self._folder, self._spec, self._title, self._warn = folder, spec, title, warn
        self._first: list[tuple[str, Array]] = []  # name and weights of the first layer, if saved
        self._drawn = time.perf_counter()
        self._epoch: EpochReport | None = None  # not drawn yet

    def epoch(self, report: EpochReport) -> None:
        self._epoch = report

    def saved(self, params: Arrays) -> None:
        self._first = [*itertools.islice(params.items(), 1)]
        if self._epoch and time.perf_counter() - self._drawn > _SECONDS_BETWEEN_PICTURES:
            self.draw(self._epoch.step)

    def stop(self, report: StopReport) -> None:
        if not report.failed:
            self.draw(report.step)

    def draw(self, step: int) -> None:
        """Redraw both, as after `step` steps; if that fails, training continues without them."""
        try:
            check_matplotlib()
            self._draw_curves(step)
            self._draw_filters(step)
        except MatplotlibMissing as error:
            self._warn(str(error))
        except OSError as error:
            self._warn(f"{self._folder.path} lacks a picture: {reason(error)}.")
        self._drawn, self._epoch = time.perf_counter(), None

    def _draw_curves(self, step: int) -> None:
        history = History.read(self._folder.log.path)
        if history.steps or history.epochs:
            path, title = self._folder.path / "curves.png", f"{self._title}, {step:,} steps"
            top5, drops = self._spec.classes > 10, history.rate_drops()
            show.curves(history, path, title=title, top5=top5, drops=drops)

    def _draw_filters(self, step: int) -> None:
        for name, weights in self._first:
            if weights.ndim != 4:
                continue
            count, height, width, channels = weights.shape
            shape = f"{count} filters, {height} x {width} x {channels}"
            title = f"{name.removesuffix('.w')} after {step:,} steps: {shape}"
            path = self._folder.path / "filters.png"
            show.filters(weights, path, title=title, towers=self._spec.towers)
