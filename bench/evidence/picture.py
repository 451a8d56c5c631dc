"""A claim's picture, from its record: the measurements on the left, the effects on the right."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyalexnet.files import replacing
from pyalexnet.show.page import check_matplotlib

from .claim import Claim, Effect
from .record import Finding, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct in every kind of colour blindness (Okabe and Ito's).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5609a", "#8a6d00", "#1f2328", "#3a9bd9", "#777777")
_INK, _SOFT, _PRINTED = "#1f2328", "#59636e", "#c2410c"
_DPI = 130
_LINE = 74  # letters above an effect
_BOLD: Mapping[str, Any] = {
    "fontsize": 9,
    "weight": "bold",
    "color": _INK,
    "ha": "right",
    "va": "top",
}


def draw(claim: Claim, record: Record, path: Path) -> None:
    """Draw a record into a PNG."""
    check_matplotlib()
    from matplotlib.figure import Figure

    rows = len(record.effects)
    figure = Figure(figsize=(11, max(3.6, 1.2 + rows)), dpi=_DPI, layout="constrained")
    title = f"Claim {claim.number}: {claim.title}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK, weight="bold")
    grid = figure.add_gridspec(rows, 2, width_ratios=(1.15, 1))
    left = figure.add_subplot(grid[:, 0])
    if claim.picture == "chroma":
        _chroma(left, record)
    else:
        _lines(left, claim, record)
    _plain(left)
    for row, (effect, finding) in enumerate(zip(claim.effects, record.effects, strict=True)):
        _effect(figure.add_subplot(grid[row, 1]), effect, finding)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _lines(axes: Axes, claim: Claim, record: Record) -> None:
    """A line for each seed, by variant: a curve against epochs, or the signal by layer."""
    layers = claim.picture == "signal"
    for (variant, seeds), colour in zip(record.runs.items(), _COLOURS, strict=False):
        rate = f", rate {record.rates[variant]:g}" if variant in record.rates else ""
        for number, run in enumerate(seeds.values()):
            points: Any = run.curve(claim.picture) if not layers else run.signal.items()
            xs, ys = zip(*points, strict=True)
            if layers:
                ys = tuple(100 * max(share, 1e-7) for share in ys)
            name = "_" if number else variant + rate
            axes.plot(xs, ys, color=colour, linewidth=1.2, alpha=0.8, label=name)
    if layers:
        axes.set_yscale("log")
        axes.set_ylabel("% of a layer's output that depends on the image, at the start")
        axes.tick_params(axis="x", rotation=60)
    else:
        target = claim.train.get("stop_below")
        if target:
            axes.axhline(target, color=_SOFT, linewidth=0.8, linestyle=":")
        unit = "nats" if claim.picture.endswith("loss") else "%"
        axes.set_ylabel(f"{claim.picture.replace('train', 'training').replace('_', ' ')}, {unit}")
        axes.set_xlabel("epochs")
        axes.set_xlim(left=0)
        if not target:
            _show_ends(axes, claim.picture, record)
    axes.legend(frameon=False, fontsize=8)


def _show_ends(axes: Axes, curve: str, record: Record) -> None:
    """Cut off the first quarter's heights, beside which all ends look alike."""
    points = [point for run in record.every for point in run.curve(curve)]
    last = max(epoch for epoch, _ in points)
    seen = [value for epoch, value in points if epoch > last / 4]
    margin = (max(seen) - min(seen)) / 20
    if margin > 0:
        axes.set_ylim(min(seen) - margin, max(seen) + margin)


def _chroma(axes: Axes, record: Record) -> None:
    """The share of chroma in either half of the first layer's filters, joined for each seed."""
    for place, seeds in enumerate(record.runs.values()):
        for number, run in enumerate(seeds.values()):
            x = place + (number - (len(seeds) - 1) / 2) * 0.5 / len(seeds)
            ys: Any = [100 * share for share in run.chroma]
            axes.plot([x, x], ys, color=_SOFT, linewidth=1)
            for half, marker in enumerate("os"):
                axes.plot(x, ys[half], marker, color=_COLOURS[half])
    for marker, colour, name in zip("os", _COLOURS, ("first", "second"), strict=False):
        axes.plot([], [], marker, color=colour, label=f"{name} half of the filters")
    axes.set_xticks(range(len(record.runs)), [*record.runs])
    axes.set_ylabel("chroma in conv1's filters, % of their energy")
    axes.legend(
        title="half of conv1's filters (a tower, where there are two)", frameon=False, fontsize=8
    )


def _effect(axes: Axes, effect: Effect, finding: Finding) -> None:
    """Each seed's value, the interval of their mean, what was printed, and no effect."""
    values = [value for value in finding.values.values() if value is not None]
    axes.plot(values, [0] * len(values), "o", color=_COLOURS[0], alpha=0.5, markersize=4)
    if finding.mean is not None and finding.low is not None and finding.high is not None:
        axes.plot([finding.low, finding.high], [0, 0], color=_COLOURS[0], linewidth=2.5)
        axes.plot(finding.mean, 0, "|", color=_COLOURS[0], markersize=14, markeredgewidth=2.5)
    for level, style, colour in ((effect.none, ":", _SOFT), (effect.printed, "--", _PRINTED)):
        if level is not None:
            axes.axvline(level, color=colour, linewidth=1.2, linestyle=style)
    printed = "" if effect.printed is None else f" (2012: {effect.printed:g})"
    unit = f", {effect.unit}" if effect.unit else ""
    title = textwrap.fill(f"{effect.says}{unit}{printed}", _LINE)
    axes.set_title(title, fontsize=8.5, loc="left", color=_INK)
    said = axes.text(1, 0.98, finding.verdict, transform=axes.transAxes, **_BOLD)
    said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_yticks([])
    axes.set_ylim(-1, 1)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK, length=2)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    low, high = axes.get_xlim()
    if not math.isfinite(high - low):
        axes.set_xlim(0, 1)
