"""`pyalexnet features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from pyalexnet.commands import network as given
from pyalexnet.errors import ArgumentError


def features(
    run: given.Run,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...", help="Image files, or folders of them; else a data set's."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file to write.")] = Path(
        "features.safetensors"
    ),
    layer: given.Layer = None,
    data: given.Data = None,
    split: given.Part = "test",
    which: given.Which = "best",
    batch_size: given.BatchSize = 128,
    backend: given.BackendName = None,
    device: given.Device = None,
    plain: given.Plain = False,
) -> None:
    """Write a layer's outputs for images, in evaluation: (images, numbers) float32."""
    from pyalexnet import features as write
    from pyalexnet.images import named

    part = cast(write.Part, given.train_or_test(split))
    if images and data is not None:
        raise ArgumentError("--data and images were both given; one of them was expected.")
    given.check_parent(out)
    with given.reporting(False, plain) as reporter:
        (trained,) = given.load([run], which, backend, device, reporter)
        chosen = layer or trained.last_hidden
        numbers = write.width(trained, chosen)
        done = reporter.progress("images")
        if images:
            count = write.write_files(
                out,
                trained,
                named(images),
                chosen,
                batch_size=batch_size,
                bad=lambda _, sentence: reporter.warn(f"skipped {sentence}"),
                progress=done,
            )
        else:
            dataset = trained.dataset(data, reporter.progress("reading images"))
            count = write.write_split(
                out,
                trained,
                dataset,
                part,
                chosen,
                where=trained.place_of(data),
                batch_size=batch_size,
                progress=done,
            )
        reporter.say(f"{out}: {chosen} of {count:,} images, {numbers:,} numbers each")
