"""`pyalexnet similar`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from pyalexnet.commands import network as given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyalexnet.trained.similar import Index, Match


_INDEX = "Where to search: a folder of images, a dataset, or a file written by pyalexnet features."


@given.grouped
def similar(
    run: given.Run,
    queries: Annotated[list[Path], Argument(metavar="QUERY...", help=given.FILES)],
    *,
    index: Annotated[Path, Option(help=_INDEX)],
    layer: given.Layer = None,
    k: given.Neighbours = 6,
    sheet: given.Sheet = None,
    network: given.Network,
    lines: given.Lines,
) -> None:
    """Find the images most similar to given ones, by Euclidean distance of a layer's features."""
    from pyalexnet.data.images import named
    from pyalexnet.trained import similar as search

    given.check_parent(sheet)
    with lines.reporting() as reporter:
        bad = given.skipping(reporter)
        (trained,) = network.load([run], reporter)
        chosen = layer or trained.last_hidden
        trained.check_layer(chosen)
        done = reporter.progress("images of the index")
        opened = search.open_index(trained, index, chosen, bad=bad, progress=done, say=reporter.say)
        queried = named(queries, reporter.say)
        matches = search.similar(trained, queried, opened, chosen, k=k, bad=bad)
        metric = f"Euclidean distance of {chosen} features"
        fewest = min(len(match.indices) for match in matches)
        if fewest < k:
            reporter.say(f"neighbours: all {fewest} in the index; {k} were requested")
        if sheet is not None:
            _draw(opened, matches, sheet, f"{trained.name}: nearest by {metric}")
            rest = len(matches) > given.ON_A_SHEET
            note = f", the first {given.ON_A_SHEET} queries" if rest else ""
            reporter.say(f"written   {sheet}{note}")
        lines.tell(reporter, *_found(matches, opened, metric))


def _found(
    matches: Sequence[Match], index: Index, metric: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The neighbours as a document for JSON, and as lines."""
    from pyalexnet.files import shown

    document, lines = [], [metric]
    for match in matches:
        lines.append(shown(match.query))
        neighbours = []
        for number, distance in zip(match.indices, match.distances, strict=True):
            name = shown(index.name(number))
            neighbours.append({"name": name, "index": number, "distance": distance})
            lines.append(f"  {distance:10.4f}  {name}")
        document.append({"query": shown(match.query), "metric": metric, "neighbours": neighbours})
    return document, lines


def _draw(index: Index, matches: Sequence[Match], path: Path, title: str) -> None:
    import numpy as np

    from pyalexnet import show

    chosen = matches[: given.ON_A_SHEET]
    # If all are shown, a query that is itself in the index has one neighbour fewer.
    fewest = min(len(match.indices) for match in chosen)
    queries = np.stack([match.image for match in chosen])
    neighbours = np.stack([index.images(match.indices[:fewest]) for match in chosen])
    distances = np.array([match.distances[:fewest] for match in chosen])
    names = [match.query.name for match in chosen]
    show.similar(queries, neighbours, distances, path, captions=names, title=title)
