"""`pyalexnet probe`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pyalexnet.commands import network as given


def probe(
    run: given.Run,
    data: given.Data = None,
    layer: given.Layer = None,
    decay: Annotated[
        float | None,
        typer.Option(help="Weight decay; chosen on a held-out tenth if none is named."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the classifier into this safetensors file.",
        ),
    ] = None,
    which: given.Which = "best",
    where: given.RunsFolder = given.RUNS,
    batch_size: given.BatchSize = 128,
    backend: given.BackendName = None,
    device: given.Device = None,
    exact: given.Exact = False,
    as_json: given.Json = False,
    plain: given.Plain = False,
) -> None:
    """Train a linear classifier on a layer's outputs; the network itself stays as it is."""
    from pyalexnet.trained import probe as fit

    given.check_parent(output)
    with given.reporting(as_json, plain) as reporter:
        (trained,) = given.load([run], where, which, backend, device, exact, reporter)
        chosen = layer or trained.last_hidden
        trained.check_layer(chosen)
        dataset = trained.dataset(data, reporter.progress("reading images"))
        classes = len(dataset.class_names)
        done = reporter.progress("training images")
        x = fit.collected(trained, dataset.train, chosen, batch_size=batch_size, progress=done)
        labels = dataset.train.labels
        best = decay
        if best is None:
            best = fit.choose_decay(
                x,
                labels,
                classes,
                say=reporter.say,
                progress=reporter.progress("fitting, percent"),
            )
        found = fit.Problem(x, labels, classes).solve(best, reporter.progress("fitting, percent"))
        scores = {
            "train": fit.scores(found, x, labels),
            "test": fit.judged(
                found,
                trained,
                dataset.test,
                chosen,
                batch_size=batch_size,
                progress=reporter.progress("test images"),
            ),
            "chance": fit.chance(dataset),
        }
        if output is not None:
            fit.write(output, found, trained, chosen, dataset.classes)
        if not as_json:
            reporter.say(f"data      {dataset.note}, {classes} classes")
            reporter.say(
                f"probe     softmax regression on {chosen} of {trained.name}, decay {best:g}; "
                f"{found.steps} steps"
            )
            reporter.say(f"converged: the gradient fell to {found.gradient:.1e} of its start")
            reporter.say(f"{'':6}  {'loss':>8}  {'top-1 error':>11}  {'top-5 error':>11}")
            for name, one in scores.items():
                errors = f"{100 * one.top1_error:>9.2f} %  {100 * one.top5_error:>9.2f} %"
                reporter.say(f"{name:6}  {one.loss:>8.4f}  {errors}")
            if output is not None:
                reporter.say(f"written   {output}")
    if as_json:
        given.print_json(
            {
                "data": dataset.note,
                "layer": chosen,
                "decay": best,
                "steps": found.steps,
                "gradient": found.gradient,
            }
            | {name: asdict(one) for name, one in scores.items()}
        )
