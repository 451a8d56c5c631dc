"""A run's log lines in cuda-convnet's style: per step, per epoch, and each layer's motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyalexnet.runs.run import EpochReport, Motion, StepReport


def step_line(report: StepReport) -> str:
    """`12.345... loss 1.2345, top-1 error 45.12 %, top-5 error 12.34 %, 3.456 s, ...`.

    The first two numbers are the epoch, counted from 1, and its steps done.
    """
    train = report.train
    exchanged = f", {report.exchanged / 1e6:.2f} MB exchanged" if report.exchanged else ""
    errors = f"top-1 error {percent(train.top1_error)}, top-5 error {percent(train.top5_error)}"
    speed = f"{report.seconds:.3f} s, {report.images_per_second:,.0f} images/s, lr {report.lr:.3g}"
    left = f"ETA {duration(report.seconds_left)}{exchanged}"
    return f"{report.epoch}.{report.batch}... loss {train.loss:.4f}, {errors}, {speed}, {left}"


def epoch_line(report: EpochReport) -> str:
    """`epoch 1/3 done: train loss 1.2345, top-1 error 45.12 %; test loss ...`."""
    train, test = (
        f"loss {scores.loss:.4f}, top-1 error {percent(scores.top1_error)}"
        for scores in (report.train, report.test)
    )
    ended = f"{' (best)' if report.best else ''}; lr {report.lr:.3g}; {report.seconds:.1f} s"
    return f"epoch {report.epoch}/{report.epochs} done: train {train}; test {test}{ended}"


def layer_lines(layers: Mapping[str, Motion]) -> Iterator[str]:
    """`conv1  mean |w| 1.2e-02  mean |dw| 3.4e-05  ratio 2.8e-03`, in columns.

    layers: by the name to print. A ratio of about a thousandth is healthy.
    """
    width = max(map(len, layers), default=0)
    for name, motion in layers.items():
        means = f"mean |w| {motion.weight:.1e}  mean |dw| {motion.update:.1e}"
        yield f"{name:<{width}}  {means}  ratio {motion.ratio:.1e}"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(fraction: float) -> str:
    """`0.1234` as `12.34 %`."""
    return f"{100 * fraction:.2f} %"
