"""What must hold whatever was killed or failed: checked from outside, all of it.

a. What a sender was told Success for is in the index, its file opens, and its
   octets are those that were sent.
b. A node that may have protected objects only holds no original: neither its UID
   nor its pixels; every object there is a marked one whose record opens.
c. An object arrives twice only where the sending process was killed, or the peer
   failed, between sending and noting; then as the same octets.
d. Every original comes back exactly, by C-MOVE and by C-GET.
e. The trail verifies; everything has come to an end; each file of the store has its
   row and each row its file; nothing half written is left at a start an hour later.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.pool import NullPool

from gateway.app.openers import (
    open_index_of,
    open_keys_of,
    open_objects_of,
    open_store_of,
    open_vault_of,
    server_of_site,
)
from gateway.app.places import Places
from gateway.demo.nodes import data_set_of
from gateway.errors import GatewayError
from gateway.store import schema
from gateway.store.files import CONFLICTS, FOLDER, ORIGINALS, PROTECTED
from gateway.store.incoming import INCOMING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from config.schema import Site
    from gateway.store.files import FileStore
    from gateway.store.index import Index
    from gateway.store.objects import ObjectBlobs
    from gateway.vault.vault import Vault
    from tests.faults.nodes import Reception
    from tests.faults.objects import Item

MARKED_SHARE = 0.01
"""Of the pixels: a mark that is burned in changes at least so many."""
SETTLED = ("delivered", "held")
JOBS = "SELECT workflow_uuid, status FROM {table}"
JOBS_THERE = "SELECT 1 FROM sqlite_master WHERE name = 'workflow_status'"
UNFINISHED = ("ENQUEUED", "DELAYED", "PENDING")
NOTED_SECONDS = 5.0
"""From an arrival until its sender has noted it, at most: a kill later than that is
no reason for a second arrival."""
ARRIVAL_SECONDS = 2.0
"""From the end of a sender until a node has noted what it had sent, at most."""


@dataclass
class Report:
    """What was looked at, and what was found wrong.

    Attributes
    ----------
    broken
        One sentence for each thing that must not be, led by the invariant's letter.
    figures
        How much was looked at.
    """

    broken: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def add(self, letter: str, what: str) -> None:
        """Note something that must not be."""
        self.broken.append(f"{letter}: {what}")

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {n}" for name, n in sorted(self.figures.items()))
        found = "".join(f"\n  {one}" for one in self.broken[:20])
        return f"{len(self.broken)} broken; {figures}{found}"


@dataclass(frozen=True)
class Parts:
    """A site opened beside its processes."""

    site: Site
    index: Index
    store: FileStore
    vault: Vault


@contextmanager
def opened(site: Site) -> Iterator[Parts]:
    """Open the parts of a site that is checked."""
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        yield Parts(site, index, open_store_of(site, keys), open_vault_of(site, keys))


# a


def check_kept(parts: Parts, kept: Iterable[Item], report: Report) -> None:
    """Check that what was acknowledged is there, octet for octet."""
    for item in kept:
        report.figures["acknowledged"] += 1
        row = parts.index.instance(item.uid)
        if row is None:
            report.add("a", f"{item.uid} was acknowledged and has no row")
            continue
        try:
            found = parts.store.digest(row.path, data_set=True)
        except GatewayError as error:
            report.add("a", f"{item.uid}: {error}")
            continue
        if not found == row.sha256 == item.sha256:
            report.add("a", f"{item.uid} is not what was sent")


# b


def check_outside(
    parts: Parts,
    receptions: Sequence[Reception],
    items: Collection[Item],
    report: Report,
) -> None:
    """Check that a node holds marked objects only, each with its record."""
    originals = {item.uid: item for item in items}
    pictures = {item.pixels for item in items}
    for path in sorted({one.path for one in receptions}):
        report.figures["objects outside"] += 1
        ds = dcmread(BytesIO(path.read_bytes()))
        uid = str(ds.SOPInstanceUID)
        if uid in originals:
            report.add("b", f"{uid} is outside under the UID of its original")
        if hashlib.sha256(ds.PixelData).hexdigest() in pictures:
            report.add("b", f"{uid} has the pixels of an original")
        for why in _not_marked(ds, originals):
            report.add("b", f"{uid}: {why}")
        try:
            parts.vault.get(uid)
        except GatewayError as error:
            report.add("b", f"{uid} is outside and has no record: {error}")
        if parts.index.protected_by_uid(uid) is None:
            report.add("b", f"{uid} is outside and has no row")


def _not_marked(ds: Dataset, originals: Mapping[str, Item]) -> Iterator[str]:
    """Yield why an object is not the marked picture of one of these originals."""
    if ds.get("BurnedInAnnotation") != "YES":
        yield "it does not say that something is burned in"
    if "DERIVED" not in ds.get("ImageType", []):
        yield "it does not say that it is derived"
    sources = ds.get("SourceImageSequence", [])
    source = sources[0].ReferencedSOPInstanceUID if sources else ""
    if source not in originals:
        yield "it refers to no original that was sent"
        return
    before = dcmread(originals[source].path).pixel_array.astype(np.int64)
    after = ds.pixel_array.astype(np.int64)
    if before.shape == after.shape and np.mean(before != after) < MARKED_SHARE:
        yield "its picture is all but that of the original"


# c


@dataclass(frozen=True)
class Causes:
    """What may let an object arrive twice, by when it was; seconds since 1970.

    Attributes
    ----------
    faults
        Something lay on the way, for some time.
    kills
        What sends was killed: at one moment.
    """

    faults: Sequence[float] = ()
    kills: Sequence[float] = ()

    def explain(self, first: float, second: float) -> bool:
        """Whether an arrival at ``first`` may have to be followed by another."""
        latest = min(second, first + NOTED_SECONDS)
        return any(first - 1.0 <= at <= second for at in self.faults) or any(
            first - ARRIVAL_SECONDS <= at <= latest for at in self.kills
        )


def check_once(
    parts: Parts,
    receptions: Sequence[Reception],
    causes: Causes,
    report: Report,
    name: str,
) -> None:
    """Check that nothing arrived twice that need not have."""
    by_uid: dict[str, list[Reception]] = defaultdict(list)
    for one in receptions:
        by_uid[one.uid].append(one)
    for uid, own in by_uid.items():
        report.figures[f"objects at {name}"] += 1
        report.figures[f"receptions at {name}"] += len(own)
        if len({one.sha256 for one in own}) > 1:
            report.add("c", f"{uid} arrived at {name} with different octets")
        for first, second in pairwise(own):
            report.figures[f"arrived again at {name}"] += 1
            if not causes.explain(first.at, second.at):
                report.add("c", f"{uid} arrived at {name} twice without a reason")
    of_original = Counter(_origin(parts, uid) for uid in by_uid)
    for origin, number in of_original.items():
        if number > 1:
            report.add("c", f"{number} objects of {origin} arrived at {name}")


def _origin(parts: Parts, uid: str) -> tuple[str, str]:
    row = parts.index.protected_by_uid(uid)
    if row is None:
        return uid, ""
    instance = parts.index.instance_by_id(row.instance_id)
    own = "" if instance is None else instance.sop_instance_uid
    return own, f"{row.treatment}/{row.part}"


# d


def check_given_back(
    receptions: Iterable[Reception], kept: Iterable[Item], report: Report
) -> None:
    """Check that every original came back as it was sent."""
    found: dict[str, set[str]] = defaultdict(set)
    for one in receptions:
        found[one.uid].add(one.sha256)
    for item in kept:
        report.figures["given back"] += 1
        if found[item.uid] != {item.sha256}:
            what = "otherwise than it was sent" if found[item.uid] else "not at all"
            report.add("d", f"{item.uid} came back {what}")


def digests_of(files: Iterable[Path]) -> dict[str, str]:
    """SOP Instance UID -> SHA-256 of the data set, of files that came by C-GET."""
    found = {}
    for path in files:
        octets = path.read_bytes()
        ds = dcmread(BytesIO(octets), stop_before_pixels=True)
        digest = hashlib.sha256(data_set_of(octets)).hexdigest()
        found[str(ds.SOPInstanceUID)] = digest
    return found


# e


def check_settled(parts: Parts, report: Report) -> None:
    """Check that everything has come to an end, with a reason where it stopped."""
    for revision in parts.index.revisions():
        report.figures["revisions"] += 1
        if revision.state not in SETTLED:
            report.add("e", f"revision {revision.id} is {revision.state}")
        if revision.state == "held" and not revision.reason:
            report.add("e", f"revision {revision.id} is held without a reason")
    for series in parts.index.open_series():
        report.add("e", f"series {series.series_instance_uid} is not closed")
    for instance in parts.index.instances_in_state("held"):
        report.figures["held"] += 1
        if not instance.reason:
            report.add("e", f"instance {instance.id} is held without a reason")
    for delivery in parts.index.deliveries_in_state("pending"):
        report.add("e", f"delivery {delivery.id} is pending: {delivery.last_error}")
    for job, state in unfinished_jobs(parts.site):
        report.add("e", f"the job {job} is {state}")


def unfinished_jobs(site: Site) -> list[tuple[str, str]]:
    """Return the jobs that are queued or run, by id and state."""
    server = server_of_site(site)
    if server is not None:
        table = f"{server.jobs_schema}.workflow_status"
        engine = create_engine(server.url, poolclass=NullPool)
        with engine.connect() as connection:
            if not inspect(connection).has_table("workflow_status", server.jobs_schema):
                return []  # no worker has come so far
            found = connection.execute(text(JOBS.format(table=table))).all()
        return [(job, state) for job, state in found if state in UNFINISHED]
    path = Places(site.data_directory).jobs
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as jobs:
        if jobs.execute(JOBS_THERE).fetchone() is None:
            return []  # the first worker has not come so far
        rows = jobs.execute(JOBS.format(table="workflow_status"))
        return [(job, state) for job, state in rows if state in UNFINISHED]


def check_files(parts: Parts, report: Report) -> None:
    """Check that files and rows belong together, and that no leftover lies about."""
    named = set(_named(parts.index))
    shared = open_objects_of(parts.site)
    there = set(_files(parts.store.root) if shared is None else _shared(shared))
    report.figures["files"] += len(there)
    for path in sorted(named - there):
        report.add("e", f"a row names {path}, which is not there")
    for path in sorted(there - named):
        report.add("e", f"{path} is there and no row names it")
    for path in leftovers(parts.site.data_directory):
        shown = path.relative_to(parts.site.data_directory)
        report.add("e", f"{shown} was left half way")


def _named(index: Index) -> Iterator[str]:
    with index.database.read() as connection:
        for table in (schema.instances, schema.conflicts, schema.protected):
            yield from connection.scalars(select(table.c.path))


def _files(root: Path) -> Iterator[str]:
    for kind in (ORIGINALS, CONFLICTS, PROTECTED, INCOMING):
        for path in (root / kind).rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(root).as_posix()


def _shared(blobs: ObjectBlobs) -> Iterator[str]:
    """Yield the names of objects in an object store, as rows have them."""
    for kind in (ORIGINALS, CONFLICTS, PROTECTED):
        for name in blobs.names(f"{FOLDER}/{kind}/"):
            yield name.removeprefix(f"{FOLDER}/")


def leftovers(data: Path) -> Iterator[Path]:
    """Yield files that are written under a name of their own and then renamed."""
    for folder in ("store", "vault"):
        for path in (data / folder).rglob(".*"):
            if path.is_file():
                yield path
