"""Lines of the log in cuda-convnet's manner."""

from __future__ import annotations

import dataclasses

import pytest

from pyalexnet.runs.logline import duration, layer_lines, step_line
from pyalexnet.runs.run import Motion, Scores, StepReport


def test_step_line() -> None:
    report = StepReport(
        epoch=12,
        epochs=20,
        progress=11.5,
        step=11_345,
        steps=20_000,
        train=Scores(1.23456, 0.45123, 0.1),
        lr=0.001,
        images_per_second=1234.5,
        seconds_left=3723,
        batch=345,
        seconds=3.4564,
        exchanged=0,
    )
    line = step_line(report)
    assert line == (
        "12.345... loss 1.2346, top-1 error 45.12 %, top-5 error 10.00 %, 3.456 s, "
        "1,234 images/s, lr 0.001, ETA 1:02:03"
    )
    towers = dataclasses.replace(report, exchanged=2_345_678)
    assert step_line(towers) == f"{line}, 2.35 MB exchanged"


def test_layer_lines_stand_in_columns() -> None:
    layers = {
        "conv1": Motion.of(1.2e-2, 3.4e-5),
        "fc8": Motion.of(0.25, 0.5),
        "fc8 biases": Motion.of(0.0, 0.0),
    }
    assert list(layer_lines(layers)) == [
        "conv1       mean |w| 1.2e-02  mean |dw| 3.4e-05  ratio 2.8e-03",
        "fc8         mean |w| 2.5e-01  mean |dw| 5.0e-01  ratio 2.0e+00",
        "fc8 biases  mean |w| 0.0e+00  mean |dw| 0.0e+00  ratio 0.0e+00",
    ]
    assert list(layer_lines({})) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
