"""Lines of a log in cuda-convnet's manner: one per step, and one per layer for how far it moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyalexnet.runs.run import Motion, Scores


def step_line(
    epoch: int,
    batch: int,
    scores: Scores,
    seconds: float,
    lr: float,
    images_per_second: float,
    eta: float,
) -> str:
    """`12.345... loss 1.2345, top-1 error 45.12 %, top-5 error 12.34 %, 3.456 s, ...`.

    epoch: the current one, counted from 1. batch: its steps done. scores: since the previous line,
    `seconds` ago. eta: seconds left.
    """
    return (
        f"{epoch}.{batch}... loss {scores.loss:.4f}, top-1 error {100 * scores.top1_error:.2f} %, "
        f"top-5 error {100 * scores.top5_error:.2f} %, {seconds:.3f} s, "
        f"{images_per_second:,.0f} images/s, lr {lr:.3g}, ETA {duration(eta)}"
    )


def layer_lines(layers: Mapping[str, Motion]) -> Iterator[str]:
    """`conv1  mean |w| 1.2e-02  mean |dw| 3.4e-05  ratio 2.8e-03`, in columns.

    layers: by the name to print. A ratio of about a thousandth is healthy.
    """
    width = max(map(len, layers), default=0)
    for name, motion in layers.items():
        yield (
            f"{name:<{width}}  mean |w| {motion.weight:.1e}  mean |dw| {motion.update:.1e}  "
            f"ratio {motion.ratio:.1e}"
        )


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
