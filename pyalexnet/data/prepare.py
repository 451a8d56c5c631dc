"""Making a pack from a folder of images: `pyalexnet data prepare`.

The images are divided into shards in their listed order, training images first, and every shard is
made independently, by any process, from its own files alone. So a pack's bytes do not depend on the
number of processes, and the next call continues a killed one: it keeps each shard that is complete
and was made from the same files in the same way, and makes the others.

Sums over the pixels are integers, taken from the stored images: for a JPEG, from its decoding.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pyalexnet import files
from pyalexnet.data import colour, decode, listing, pack, processes, shard
from pyalexnet.data.colour import Moments
from pyalexnet.data.dataset import Labels, Progress
from pyalexnet.data.listing import Listing
from pyalexnet.data.pack import Part, PixelStatistics, Storage, Table
from pyalexnet.data.shard import Bad, Facts
from pyalexnet.errors import ArgumentError, DataError
from pyalexnet.files import shown
from pyalexnet.ops.checks import integer

LARGEST_SHARD = 512  # images; a killed process loses the seconds that they take
LARGEST_PIXELS = LARGEST_SHARD * 256**2  # of a shard: a process holds one in memory
PIECE = 32  # images of a shard that are decoded before their pixels are added up


@dataclass(frozen=True)
class Options:
    """How to make a pack."""

    storage: Storage = field(default_factory=Storage)
    seed: int = 0  # draws the tenth that is held out if there is no `val`
    val_labels: Path | None = None  # labels for a flat `val` (`label_files.py`)
    val_numbers: Path | None = None  # which class each number in `val_labels` is
    class_names: Path | None = None  # names for the classes

    def __post_init__(self) -> None:
        form, known = self.storage.form, " or ".join(pack.FORMS)
        if form not in pack.FORMS:
            raise ArgumentError(f"prepare: format is {form!r}; {known} was expected.")
        integer("prepare", "size", self.storage.size, low=8, high=2048)
        integer("prepare", "quality", self.storage.quality, low=1, high=100)
        integer("prepare", "seed", self.seed, high=2**64 - 1)
        if self.val_numbers is not None and self.val_labels is None:
            raise ArgumentError("prepare: val_numbers is given and val_labels is not, but needed.")


class Job(NamedTuple):
    """A shard to be made, or kept if it already exists."""

    root: Path  # the folder of the images
    target: Path
    part: Part
    files: tuple[str, ...]  # below `root`
    places: Labels  # (files,), in the listing
    labels: Labels  # (files,)
    storage: Storage


class Made(NamedTuple):
    """A finished shard."""

    facts: Facts  # for the table
    bad: Bad  # by their places in the job
    moments: Moments  # of its training images


class Preparation(NamedTuple):
    """Everything known before an image is read."""

    out: Path  # folder of the pack
    options: Options
    found: Listing
    jobs: tuple[Job, ...]  # training images first
    digest: str  # SHA-256 of the images' names, their labels and all options that matter


def prepare(
    source: Path,
    out: Path,
    options: Options | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Table:
    """Make a pack in `out` from the images in `source`; returns its table.

    An existing pack of the same images is read completely and kept, and an earlier call's
    unfinished work is continued. A file that changed but kept its name and length is noticed only
    by its modification time.

    Args:
        source: as in `listing.py`.
        out: a folder that holds nothing else.
        workers: processes; None: one for each core.
        progress: called with (images done, images in all).
        say: called first with a sentence on what is used of `source`, and one on what is not.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    integer("prepare", "workers", workers, low=1)
    _check_places(source, out)
    plan = _plan(source, out, options or Options())
    if say:
        found, seed = plan.found, plan.options.seed
        train, held_out = found.split(seed)
        say(
            f"found     {len(train):,} training and {len(held_out):,} validation images of "
            f"{len(found.classes)} classes; validation is {found.validation(seed)}"
        )
        if unused := found.not_used():
            say(f"not used  {unused}")
    with _locked(out):
        return _finished(plan) or _made(plan, workers, progress)


def _made(plan: Preparation, workers: int, progress: Progress | None) -> Table:
    """Make every shard, then the other files."""
    out, options, found, jobs, digest = plan
    (out / pack.TABLE).unlink(missing_ok=True)
    facts: dict[Path, Facts] = {}
    bad: dict[int, str] = {}
    moments, done = Moments(), 0
    with contextlib.closing(_run(jobs, workers)) as results:
        for number, one in results:
            job = jobs[number]
            facts[job.target] = one.facts
            moments += one.moments
            bad |= {int(job.places[place]): why for place, why in one.bad}
            done += len(job.files)
            if progress:
                progress(done, len(found.paths))
            found.refuse_many(bad, out / pack.BAD_FILES)
    found.readable(bad, out / pack.BAD_FILES)
    shards = {
        part: tuple(facts[job.target] for job in jobs if job.part == part) for part in pack.PARTS
    }
    table = Table(
        source=shown(found.root.resolve()),
        plan=digest,
        storage=options.storage,
        class_names=found.classes.names,
        class_ids=found.classes.ids,
        validation=found.validation(options.seed),
        skipped=len(bad) + len(found.others),
        statistics=_statistics(out, moments),
        shards=shards,
    )
    for path in (out / pack.SHARDS).iterdir():
        if path not in facts:  # of an earlier, unfinished call for more images
            path.unlink()
    pack.write_table(out, table)
    return table


# ------------------------------------------------------------------ planning


def _check_places(source: Path, out: Path) -> None:
    with files.refusing(DataError, source, "read", RuntimeError):  # from circular links
        outer, is_folder = source.resolve(), source.is_dir()
    with files.refusing(DataError, out, "read", RuntimeError):
        inner, strangers = out.resolve(), pack.strangers(out)
    if inner.is_relative_to(outer):
        raise DataError(f"{shown(out)}: is in {shown(source)}; a folder beside it was expected.")
    if outer.is_relative_to(inner):
        raise DataError(f"{shown(out)}: holds {shown(source)}; a folder beside it was expected.")
    if not is_folder:
        raise DataError(f"{shown(source)}: is no folder; one with images was expected.")
    if strangers:
        first = shown(strangers[0].relative_to(out))
        wanted = "an empty or new folder was expected"
        raise DataError(f"{shown(out)}: holds {first}, which is no part of a pack; {wanted}.")


def _plan(source: Path, out: Path, options: Options) -> Preparation:
    given = options.val_labels, options.val_numbers, options.class_names
    found = listing.of_folders(source, *given)
    found.check_counts("images")
    names = [str(path.relative_to(source)) for path in found.paths]
    digest = hashlib.sha256()
    for name, part, label in zip(names, found.parts, found.labels, strict=True):
        digest.update(os.fsencode(name) + b"\0%d %d\0" % (part, label))
    rest = [asdict(options.storage), options.seed, list(found.classes.names)]
    digest.update(json.dumps(rest, sort_keys=True).encode("ascii"))

    jobs: list[Job] = []
    images = max(1, min(LARGEST_SHARD, LARGEST_PIXELS // options.storage.size**2))
    for part, members in zip(pack.PARTS, found.split(options.seed), strict=True):
        for number, start in enumerate(range(0, len(members), images)):
            places = members[start : start + images]
            target = pack.shard_path(out, part, number)
            chosen, labels = tuple(names[place] for place in places), found.labels[places]
            jobs.append(Job(source, target, part, chosen, places, labels, options.storage))
    return Preparation(out, options, found, tuple(jobs), digest.hexdigest())


# ------------------------------------------------------------------ the folder


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder, lock it, and clean up after a killed call."""
    with files.refusing(DataError, out, "written"):
        (out / pack.SHARDS).mkdir(parents=True, exist_ok=True)
        lock = os.open(out / pack.LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.sweep(out)
        files.sweep(out / pack.SHARDS)
        yield
    except BlockingIOError as error:
        raise DataError(f"{shown(out)}: another process prepares a pack there.") from error
    finally:
        os.close(lock)


def _finished(plan: Preparation) -> Table | None:
    """The table of an existing complete pack; None if there is work to do."""
    if not pack.is_pack(plan.out):
        return None
    try:
        table = pack.read_table(plan.out)
    except pack.LaterVersion:
        raise
    except DataError:
        return None  # it will be rewritten
    if table.plan != plan.digest:
        held = "a pack of other images or options"
        raise DataError(f"{shown(plan.out)}: holds {held}; a new folder was expected.")
    classes = plan.found.classes
    with contextlib.suppress(DataError):
        pack.load(plan.out)
        if pack.is_whole(plan.out, table):
            if table.classes != classes:  # it is from before classes had ids
                table = replace(table, class_ids=classes.ids, class_names=classes.names)
                pack.write_table(plan.out, table)
            return table
    return None


def _statistics(out: Path, moments: Moments) -> PixelStatistics:
    """Write the mean image; returns the table's statistics of the training images' pixels."""
    own, shape = moments.images >= colour.FEWEST, moments.sums.shape
    means = moments.means() if own else colour.IMAGENET_MEANS
    mean = moments.sums / moments.images if own else np.broadcast_to(np.array(means), shape)
    sha256 = pack.write_mean(out, np.ascontiguousarray(mean, np.float32))
    axes, of = colour.of_set(moments), "train" if own else "imagenet"
    return PixelStatistics(of, means, axes.vectors.tolist(), axes.sigmas.tolist(), sha256)


# ------------------------------------------------------------------ one shard


def make(job: Job) -> Made:
    """Make a shard, or keep an existing one."""
    sources, latest = _sources(job)
    known = shard.examine(job.target)
    # One that is kept was written after its sources.
    if not known or known[0] != sources or job.target.stat().st_mtime_ns < latest:
        _write(job, sources)
        known = shard.examine(job.target)
        if not known or known[0] != sources:
            raise DataError(f"{shown(job.target)}: is not as it was written; is the disk in order?")
    _, bad, facts = known
    return Made(facts, bad, _moments(job, facts) if job.part == "train" else Moments())


def _sources(job: Job) -> tuple[str, int]:
    """A digest of the shard's files and options; when the last file was written, ns."""
    digest, latest = hashlib.sha256(json.dumps(asdict(job.storage)).encode("ascii")), 0
    for file, label in zip(job.files, job.labels.tolist(), strict=True):
        size = -1
        with contextlib.suppress(OSError):  # it is listed as bad
            status = (job.root / file).stat()
            size, latest = status.st_size, max(latest, status.st_mtime_ns)
        digest.update(os.fsencode(file) + b"\0%d %d\0" % (label, size))
    return digest.hexdigest(), latest


def _write(job: Job, sources: str) -> None:
    images: list[bytes] = []
    labels: list[int] = []
    bad: list[tuple[int, str]] = []
    side, form, quality = job.storage.size, job.storage.form, job.storage.quality
    with decode.pillow_warnings():
        for place, (file, label) in enumerate(zip(job.files, job.labels.tolist(), strict=True)):
            try:
                image = decode.decode(files.contents(job.root / file), (side, side))
            except Exception as error:  # decoders raise anything on damaged files
                bad.append((place, decode.fault(error)))
                continue
            stream = BytesIO()
            if form == "jpeg":  # colours are not subsampled, since it is compressed twice
                Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
            images.append(stream.getvalue() or image.tobytes())
            labels.append(label)
    shard.write(job.target, images, np.array(labels, dtype=np.int64), sources, tuple(bad))


def _moments(job: Job, facts: Facts) -> Moments:
    shape, form, classes = job.storage.shape, job.storage.form, int(job.labels.max()) + 1
    stored = shard.open_shard(job.target, form, math.prod(shape), classes, facts)
    piece, moments = np.empty((PIECE, *shape), np.uint8), Moments()
    for start in range(0, len(stored), PIECE):
        images = piece[: min(PIECE, len(stored) - start)]
        for number, image in enumerate(images, start):
            stored.read(number, image)
        moments += Moments.of(images)
    return moments


# ------------------------------------------------------------------ processes


def _run(jobs: Sequence[Job], workers: int) -> Generator[tuple[int, Made]]:
    """Each job's number and result, as they come; closing it stops the rest."""
    alone = enumerate(map(make, jobs))
    try:
        yield from alone if workers == 1 else processes.each(make, jobs, workers)
    except processes.WorkerDied as error:
        why = "a process that prepares images was killed, probably because memory ran out"
        advice = f"the same command continues, with --workers {max(1, workers // 2)} in less memory"
        raise DataError(f"{shown(jobs[0].target.parent)}: {why}; {advice}.") from error
