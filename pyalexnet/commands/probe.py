"""`pyalexnet probe`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from pyalexnet.commands import network as given

_DECAY = "Weight decay; by default chosen on a held-out tenth of the images."
_OUTPUT = "Write the classifier to this safetensors file."


@given.grouped
def probe(
    run: given.Run,
    *,
    data: given.Data = None,
    layer: given.Layer = None,
    decay: Annotated[float | None, Option(help=_DECAY)] = None,
    output: Annotated[Path | None, given.written(help=_OUTPUT)] = None,
    batch_size: given.BatchSize = 128,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """Train a linear classifier on a layer's outputs; the network itself is not changed."""
    from pyalexnet.trained import features
    from pyalexnet.trained import probe as fit

    given.check_parent(output)
    with lines.reporting() as reporter:
        (trained,) = network.load([run], reporter)
        chosen = layer or trained.last_hidden
        trained.check_layer(chosen)
        dataset = trained.dataset(data, reporter.progress("reading images"))
        classes, labels = len(dataset.class_names), dataset.train.labels
        done = reporter.progress("training images")
        x = fit.collected(trained, dataset.train, chosen, batch_size=batch_size, progress=done)
        fitting = reporter.progress("fitting, percent")
        best = decay
        if best is None:
            best = fit.choose_decay(x, labels, classes, say=reporter.say, progress=fitting)
        found = fit.Problem(x, labels, classes).solve(best, reporter.progress("fitting, percent"))
        tests = trained.batches(dataset.test, batch_size, reporter.progress("test images"))
        scores = {
            "train": fit.scores(found, fit.in_batches(x, labels)),
            "test": fit.scores(found, features.of(trained, tests, chosen)),
            "chance": fit.chance(dataset),
        }
        if output is not None:
            fit.write(output, found, trained, chosen, dataset.classes)
        numbers = {"decay": best, "steps": found.steps, "gradient": found.gradient}
        told = {name: asdict(one) for name, one in scores.items()}
        document = {"data": dataset.note, "layer": chosen, **numbers, **told}
        sentences = [
            f"data      {dataset.note}, {classes} classes",
            f"probe     softmax regression on {chosen} of {trained.name}, decay {best:g}; "
            f"{found.steps} steps",
            f"converged: the gradient fell to {found.gradient:.1e} of its start",
            *given.table_of_scores([*scores.items()]),
            *([] if output is None else [f"written   {output}"]),
        ]
        lines.tell(reporter, document, sentences)
