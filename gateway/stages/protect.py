"""Protects received objects: pixels, engine, derived objects, key records."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydicom.uid import ExplicitVRLittleEndian

from gateway.dicom.derive import derive, part10_around
from gateway.dicom.restore import check_restores
from gateway.errors import GatewayError, RecoveryRefused, Unprotectable
from gateway.stages.draft import Draft, Original, Refused, Report
from gateway.stages.frame_reports import frames_json
from gateway.stages.marking import Marking
from gateway.stages.recipe import PLAIN, Recipe
from gateway.vault.container import decode_key_record, encoded_record
from gateway.vault.record import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydicom.dataset import Dataset

    from engine.search.trace import Trace
    from gateway.dicom.identifiers import UidMapper
    from gateway.dicom.pixels import Reading
    from gateway.store.octets import Octets

WhenNotFooled = Literal["send", "hold"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One protected object, encoded: ``octets`` are a complete Part 10 file."""

    octets: Octets = field(repr=False)
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str = str(ExplicitVRLittleEndian)

    @property
    def part10(self) -> bytes:
        """The whole file, in memory."""
        return self.octets[:]


@dataclass(frozen=True, kw_only=True)
class ProtectedObject:
    """What was made of one original, which was rebuilt from it before it was returned.

    Attributes
    ----------
    parts
        The derived objects: one, or one for each frame.
    treatment
        Key of the treatment that made them.
    record
        Their key record, not yet sealed.
    reports
        What the engine says of each frame.
    traces
        How the mark of each frame was searched; None where it was not, or was not
        asked for.
    record_bytes
        Octets of the record.
    """

    parts: tuple[Part, ...]
    treatment: str
    record: KeyRecord
    reports: tuple[Report, ...] = field(repr=False)
    traces: tuple[Trace | None, ...] = field(repr=False)
    record_bytes: int

    @property
    def report(self) -> dict[str, Any]:
        """What was done, for JSON; bounded, however many frames there are."""
        return {
            "custody": self.record.custody_name,
            "record_bytes": self.record_bytes,
            **frames_json(self.reports),
        }

    @property
    def sop_instance_uid(self) -> str:
        """The object under which the record is kept."""
        return self.parts[0].sop_instance_uid

    @property
    def part10(self) -> bytes:
        """The first object as a complete file."""
        return self.parts[0].part10


@dataclass(frozen=True, kw_only=True)
class Task:
    """One original to protect.

    Attributes
    ----------
    load
        Gives it when its turn comes.
    reading
        What the site says about reading.
    recipes
        How its protected objects are made; one set of them for each.
    """

    load: Callable[[], Original]
    reading: Reading
    recipes: tuple[Recipe, ...] = (PLAIN,)


Outcome = tuple[ProtectedObject, ...] | GatewayError
"""What was made for each recipe; or why nothing was."""


@dataclass(frozen=True, kw_only=True)
class ObjectProtection:
    """Protects originals of a series, in the order of their frames.

    Attributes
    ----------
    marking
        Marks frames.
    uids
        Maps UIDs; the new SOP Instance UID stands for the original's and for its
        octets (and file name), so that other octets under the same UID are another
        object.
    when_not_fooled
        ``hold``: an object one of whose frames did not change the models' opinion
        is refused.
    traces
        Whether to keep how each mark was searched.
    """

    marking: Marking
    uids: UidMapper
    when_not_fooled: WhenNotFooled = "send"
    traces: bool = False

    def protect(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Protect originals and prove of each that it comes back.

        The record is encoded, read again, and the whole of the received octets
        rebuilt from the protected objects and compared, before anything is given
        out. The caller stores the record first (`Vault.put`), objects second.

        Yields
        ------
        tuple of ProtectedObject, or GatewayError
            In the order of the tasks: one object for each recipe; or why there is
            none (Unprotectable with a stated reason; RecoveryRefused: the original
            did not come back, nothing may be sent).
        """
        with ExitStack() as files:
            opened = (self._open(task, files) for task in tasks)
            drafts = self.marking.mark(opened)
            for task, draft in zip(tasks, drafts, strict=True):
                try:
                    yield self._made(draft, task.recipes)
                except GatewayError as error:
                    yield error
                finally:
                    draft.close()

    def _open(self, task: Task, files: ExitStack) -> Draft | Refused:
        original = None
        try:
            original = task.load()
            if original.file is not None:
                files.callback(original.close)
            return Draft(original, task.reading, traces=self.traces)
        except GatewayError as error:
            if original is not None:
                original.close()
            return Refused(error)

    def _made(
        self, draft: Draft | Refused, recipes: Sequence[Recipe]
    ) -> tuple[ProtectedObject, ...]:
        if draft.error is not None:
            raise draft.error
        assert isinstance(draft, Draft)
        _check_fooled(draft.reports, self.when_not_fooled)
        when = datetime.now(UTC)
        return tuple(_object(draft, recipe, self.uids, when) for recipe in recipes)


def protect_object(
    original: Original,
    *,
    protection: ObjectProtection,
    reading: Reading,
    recipe: Recipe = PLAIN,
) -> ProtectedObject:
    """Protect one original with one recipe; see `ObjectProtection.protect`.

    Raises
    ------
    Unprotectable
        With the reason; nothing was made.
    RecoveryRefused
        The original did not come back: nothing may be sent.
    """
    task = Task(load=lambda: original, reading=reading, recipes=(recipe,))
    (outcome,) = protection.protect([task])
    if isinstance(outcome, GatewayError):
        raise outcome
    return outcome[0]


def _check_fooled(reports: Sequence[Report], when: WhenNotFooled) -> None:
    missed = sum(not report.success for report in reports)
    if missed and when == "hold":
        raise Unprotectable(
            "not-fooled",
            f"the best mark left the models' opinion as it was in {missed} of "
            f"{len(reports)} frames; protection.when_not_fooled is hold",
        )


def _object(
    draft: Draft, recipe: Recipe, uids: UidMapper, when: datetime
) -> ProtectedObject:
    names = _new_uids(draft, recipe, uids)
    datasets = (
        recipe.finished(
            derive(
                draft.source,
                part,
                b"",
                target=recipe.target(names[number]),
                uids=uids,
                when=when,
            )
        )
        for number, part in enumerate(draft.parts)
    )
    first = next(datasets)
    # All parts but the first are done; into that a record may go.
    finished = tuple(
        _part(dataset, draft, number) for number, dataset in enumerate(datasets, 1)
    )
    candidates = draft.records(names, recipe.treatment.custody)
    for octets in sorted(map(encoded_record, candidates), key=len):
        record = decode_key_record(octets)
        (enclosed,) = recipe.enclosed([first], octets, draft.source.dataset)
        parts = (_part(enclosed, draft, 0), *finished)
        if _comes_back(parts, record):
            return ProtectedObject(
                parts=parts,
                treatment=recipe.treatment.key,
                record=record,
                reports=tuple(draft.reports),
                traces=tuple(draft.traces),
                record_bytes=len(octets),
            )
    raise RecoveryRefused(
        f"the original of {names[0]} does not come back from any record: nothing may "
        "be sent"
    )


def _comes_back(parts: Sequence[Part], record: KeyRecord) -> bool:
    """Whether the received octets come back from what would be kept and sent."""
    files = {part.sop_instance_uid: part.octets for part in parts}
    try:
        check_restores(files.__getitem__, record)
    except RecoveryRefused:
        return False
    return True


def _new_uids(draft: Draft, recipe: Recipe, uids: UidMapper) -> list[str]:
    """SOP Instance UIDs of the protected objects."""
    original = draft.original
    whole = ("instance", original.sha256, original.name, recipe.treatment.key)
    many = len(draft.parts) > 1
    return [
        uids.map(
            draft.uid, " ".join(filter(None, (*whole, f"part {n}" if many else "")))
        )
        for n in range(len(draft.parts))
    ]


def _part(dataset: Dataset, draft: Draft, number: int) -> Part:
    file = part10_around(dataset, draft.value(number))
    return Part(
        octets=file,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        study_instance_uid=str(dataset.StudyInstanceUID),
    )
