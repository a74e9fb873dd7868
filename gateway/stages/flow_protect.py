"""Make and keep the protected objects of received ones, exactly once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO, Protocol

from gateway.dicom.follow import Counterpart, may_pass
from gateway.dicom.header import read_attributes
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.parse import BOUNDS, Bounds, head_of
from gateway.errors import (
    ConfigurationError,
    GatewayError,
    StoredObjectDamaged,
    StoreFull,
    Unprotectable,
)
from gateway.log import get_logger
from gateway.route.attributes import attributes_of
from gateway.route.keywords import Value
from gateway.stages.draft import Original
from gateway.stages.export import verified_protected
from gateway.stages.flow import Result, Wanted
from gateway.stages.followers import follower_of
from gateway.stages.guard import unguarded
from gateway.stages.marking import FrameProtector, Marking, Memory
from gateway.stages.protect import (
    ObjectProtection,
    ProtectedObject,
    Task,
    WhenNotFooled,
)
from gateway.stages.recipe import Recipe
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.octets import FileOctets, Octets, sha256_of, stream_of
from gateway.store.rows import Instance, NewProtected
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from gateway.dicom.pixels import Reading
    from gateway.route.treatment import Treatment

NO_PICTURE = "no-pixel-data"
"""Reason of objects that have nothing to be marked."""


AT_ONCE = 4 << 20
"""Octets up to which an original is read at once: most are, and it is faster."""

DROPPED = "a rule drops objects without pictures (non_images)"


class Choosing(Protocol):
    """Chooses by its attributes who protects an object, and how it is read."""

    @property
    def keywords(self) -> Collection[str]:
        """What it needs to know."""

    def choose(self, attributes: Mapping[str, Value]) -> FrameProtector:
        """Return the protector of an object with these attributes."""

    def reading(self, attributes: Mapping[str, Value]) -> Reading:
        """Return how an object with these attributes is read."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An instance with what is still to be made of it, and by whom."""

    wanted: Wanted
    ready: frozenset[str]
    open: tuple[Treatment, ...]
    recipes: tuple[Recipe, ...]
    protector: FrameProtector
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Protects instances of the store.

    Attributes
    ----------
    index, store, vault
        Where instances come from, and objects and records go.
    protectors
        Chooses the protector and the reading of each instance.
    recipe
        Gives the recipe of a treatment.
    uids
        Maps UIDs.
    when_not_fooled, batch_frames, batch_bytes
        As in `ObjectProtection` and `Marking`.
    memory
        What the series under work has taught so far.
    check
        Returns only while this process may keep what it made.
    """

    index: Index
    store: FileStore
    vault: Vault
    protectors: Choosing
    recipe: Callable[[Treatment], Recipe]
    uids: UidMapper
    when_not_fooled: WhenNotFooled
    batch_frames: int
    batch_bytes: int = sys.maxsize
    bounds: Bounds = BOUNDS
    memory: Memory = field(default_factory=Memory)
    check: Callable[[], None] = unguarded

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Load the models that these need.

        What cannot be read or loaded is told of where it is asked for.
        """
        for one in filter(_is_picture, wanted):
            with suppress(Exception):  # codecs and models raise anything
                self.protectors.choose(self._attributes(one.instance))

    def protect(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        """Seal records, store objects, add rows; in this order.

        A crash in between leaves a record or a file without a row: they are
        written anew, and nothing has left. With a row nothing is made again,
        since the object of that row may have left; it has to verify instead.

        Yields
        ------
        Result
            For each instance in order.

        Raises
        ------
        StoreFull
            There is no room.
        """
        for picture, group in groupby(wanted, key=_is_picture):
            if picture:
                yield from self._pictures(list(group))
            else:
                yield from map(self._follower, group)

    # Pictures: neighbours of a series are marked together

    def _pictures(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        chosen = map(self._chosen, wanted)
        for ready, group in groupby(chosen, key=_has_to_wait_for):
            if ready is None:
                yield from (one for one in group if isinstance(one, Result))
            else:
                yield from self._marked([c for c in group if isinstance(c, Chosen)])

    def _chosen(self, wanted: Wanted) -> Chosen | Result:
        """Look at what is there already, and at who has to make the rest."""
        try:
            ready = frozenset(
                t.key for t in wanted.treatments if self._is_made(wanted, t)
            )
        except GatewayError as error:
            return Result(failure=error)
        missing = {t.key: t for t in wanted.treatments if t.key not in ready}
        if not missing:
            return Result(ready=wanted.treatments)
        try:
            recipes = tuple(map(self._recipe, missing.values()))
        except Unprotectable as error:
            return Result(failure=error)
        attributes = self._attributes(wanted.instance)
        return Chosen(
            wanted=wanted,
            ready=ready,
            open=tuple(missing.values()),
            recipes=recipes,
            protector=self.protectors.choose(attributes),
            reading=self.protectors.reading(attributes),
        )

    def _is_made(self, wanted: Wanted, treatment: Treatment) -> bool:
        rows = self.index.protected_parts(wanted.instance.id, treatment.key)
        if rows:
            verified_protected(rows, self.store, self.vault)
        return bool(rows)

    def _marked(self, chosen: Sequence[Chosen]) -> Iterator[Result]:
        """Protect instances that share a protector."""
        first = chosen[0].wanted.instance
        marking = Marking(
            protector=chosen[0].protector,
            batch_frames=self.batch_frames,
            series=f"{first.series_instance_uid} {first.calling_ae}",
            memory=self.memory,
            progress=_silent,
            batch_bytes=self.batch_bytes,
        )
        protection = ObjectProtection(
            marking=marking, uids=self.uids, when_not_fooled=self.when_not_fooled
        )
        tasks = [
            Task(
                load=partial(self._original, one.wanted.instance),
                reading=one.reading,
                recipes=one.recipes,
            )
            for one in chosen
        ]
        for one, outcome in zip(chosen, protection.protect(tasks), strict=True):
            if isinstance(outcome, GatewayError):
                yield _without_picture(one, outcome)
            else:
                for made in outcome:
                    self._keep(one.wanted.instance, made)
                yield Result(ready=one.wanted.treatments)

    # Followers: objects without pictures that a rule lets pass

    def _follower(self, wanted: Wanted) -> Result:
        ready: list[Treatment] = []
        dropped = ""
        for treatment in wanted.treatments:
            if treatment.non_images == "drop":
                dropped = DROPPED
                continue
            try:
                if not self._is_made(wanted, treatment):
                    self._follow(wanted.instance, treatment)
            except StoreFull:
                raise
            except GatewayError as error:
                return Result(ready=tuple(ready), failure=error)
            ready.append(treatment)
        return Result(ready=tuple(ready), dropped=dropped)

    def _follow(self, instance: Instance, treatment: Treatment) -> None:
        if treatment.non_images == "hold":
            raise Unprotectable(
                NO_PICTURE,
                "the rule holds objects without pictures; non_images = 'pass' sends "
                "them with references rewritten, 'drop' leaves them here",
            )
        original = self._original(instance)
        try:
            made = follower_of(
                original,
                recipe=self._recipe(treatment),
                resolve=partial(self._counterparts, treatment=treatment.key),
                uids=self.uids,
            )
        finally:
            original.close()
        self._keep(instance, made)

    def _counterparts(self, original: str, treatment: str) -> tuple[Counterpart, ...]:
        """Protected objects that stand for an original at the same destination."""
        instance = self.index.instance(original)
        if instance is None:
            return ()
        return tuple(
            Counterpart(
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
                series_instance_uid=row.series_instance_uid,
                study_instance_uid=row.study_instance_uid,
            )
            for row in self.index.protected_parts(instance.id, treatment)
        )

    # Both

    def _recipe(self, treatment: Treatment) -> Recipe:
        """Return a recipe; without its recipients' certificates nothing leaves."""
        try:
            return self.recipe(treatment)
        except ConfigurationError as error:
            raise Unprotectable("recipients-unusable", str(error)) from error

    def _original(self, instance: Instance) -> Original:
        """Open an instance; a small one is read, a large one stays in its file."""
        stream, syntax = self.store.open_data_set(instance.path)
        data: Octets = FileOctets(stream, stream.tell())
        file: BinaryIO | None = stream
        try:
            if len(data) <= AT_ONCE:
                data, file = data[:], None
            as_recorded = sha256_of(data) == instance.sha256
        except BaseException:
            stream.close()
            raise
        if file is None or not as_recorded:
            stream.close()
        if not as_recorded:
            raise StoredObjectDamaged(
                f"The stored file {instance.path} is not what was received"
            )
        return Original(
            data=data,
            kind="data-set",
            transfer_syntax_uid=syntax,
            file=file,
        )

    def _keep(self, instance: Instance, made: ProtectedObject) -> None:
        self.check()
        self.vault.put(made.record)
        rows = []
        for number, part in enumerate(made.parts):
            self.check()
            stored = self.store.write_protected(
                part.sop_instance_uid, stream_of(part.octets)
            )
            attributes = read_attributes(
                stream_of(part.octets), part.transfer_syntax_uid
            )
            rows.append(
                NewProtected(
                    **asdict(attributes),
                    instance_id=instance.id,
                    treatment=made.treatment,
                    part=number,
                    transfer_syntax_uid=part.transfer_syntax_uid,
                    path=stored.path,
                    sha256=stored.sha256,
                    report={} if number else made.report,
                )
            )
        self.check()
        self.index.add_protected(*rows)
        get_logger("protect").info(
            "protected",
            instance_id=instance.id,
            parts=len(rows),
            record_bytes=made.record_bytes,
        )

    def _attributes(self, instance: Instance) -> dict[str, Value]:
        with self.store.open(instance.path) as stream:
            dataset = head_of(stream, self.bounds)
        return attributes_of(dataset, instance, self.protectors.keywords)


def _is_picture(wanted: Wanted) -> bool:
    """Whether it is treated as one: what rules hold is told why by its pixels."""
    held = all(treatment.non_images == "hold" for treatment in wanted.treatments)
    return held or not may_pass(wanted.instance.sop_class_uid)


def _has_to_wait_for(one: Chosen | Result) -> int | None:
    """Tell neighbours that share a protector from others; None: nothing to do."""
    return id(one.protector) if isinstance(one, Chosen) else None


def _without_picture(one: Chosen, error: GatewayError) -> Result:
    """Say what becomes of an object that turned out to have no picture."""
    ready = tuple(t for t in one.wanted.treatments if t.key in one.ready)
    has_none = isinstance(error, Unprotectable) and error.reason == NO_PICTURE
    if has_none and all(t.non_images == "drop" for t in one.open):
        return Result(ready=ready, dropped=DROPPED)
    return Result(ready=ready, failure=error)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""
