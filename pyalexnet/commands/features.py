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
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Safetensors file to write.")
    ] = Path("features.safetensors"),
    layer: given.Layer = None,
    data: given.Data = None,
    split: given.Part = "test",
    which: given.Which = "best",
    where: given.RunsFolder = given.RUNS,
    batch_size: given.BatchSize = 128,
    backend: given.BackendName = None,
    device: given.Device = None,
    exact: given.Exact = False,
    as_json: given.Json = False,
    plain: given.Plain = False,
) -> None:
    """Write a layer's outputs for images, in evaluation, into a safetensors file.

    It holds features (images, numbers) float32 and, for a data set, labels (images,) int64; its
    metadata give the network, layer and images.
    """
    from pyalexnet.data.images import named
    from pyalexnet.files import shown
    from pyalexnet.trained import features as write

    part = cast(write.Part, given.train_or_test(split))
    if images and data is not None:
        raise ArgumentError("--data and images were both given; one of them was expected.")
    given.check_parent(output)
    with given.reporting(as_json, plain) as reporter:
        (trained,) = given.load([run], where, which, backend, device, exact, reporter)
        chosen = layer or trained.last_hidden
        numbers = write.width(trained, chosen)
        done = reporter.progress("images")
        if images:
            count = write.write_files(
                output,
                trained,
                named(images, reporter.say),
                chosen,
                batch_size=batch_size,
                bad=lambda _, sentence: reporter.warn(f"skipped {sentence}"),
                progress=done,
            )
        else:
            dataset = trained.dataset(data, reporter.progress("reading images"))
            reporter.say(f"data      {dataset.note}")
            count = write.write_split(
                output,
                trained,
                dataset,
                part,
                chosen,
                where=trained.place_of(data),
                batch_size=batch_size,
                progress=done,
            )
        if not as_json:
            reporter.say(f"{output}: {chosen} of {count:,} images, {numbers:,} numbers each")
    if as_json:
        given.print_json(
            {
                "file": shown(output),
                "checkpoint": shown(trained.path),
                "layer": chosen,
                "images": count,
                "numbers": numbers,
            }
        )
