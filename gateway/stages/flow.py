"""What happens to a closed revision: route, protect, plan. No queue in here.

Each method is one durable, repeatable step: done again after a crash it finds
what it did before and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypedDict

from gateway.dicom.parse import BOUNDS, Bounds, head_of
from gateway.errors import (
    GatewayError,
    RecoveryRefused,
    StoredObjectDamaged,
    StoreFull,
    Unprotectable,
)
from gateway.log import described, get_logger
from gateway.route.attributes import attributes_of
from gateway.route.router import Decision, Router
from gateway.route.treatment import Treatment
from gateway.route.urgency import most_urgent
from gateway.stages.attempts import Attempts, Crashing
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, Revision

HELD = "held"
UNREADABLE = "unreadable"
FAILED = "failed"
DAMAGED = "damaged"
UNPROTECTED = "unprotected-export"
UNRESOLVED = "unresolved-references"
NOT_RECOVERABLE = "not-recoverable"
"""The original did not come back when that was tried: nothing was kept or sent."""


class StepFailed(GatewayError):
    """A step failed in an unforeseen way; named without what it worked on."""


class Asked(TypedDict):
    """A destination and the treatment asked for it; plain values for the queue."""

    destination: str
    treatment: dict[str, str]


class Routed(TypedDict):
    """Where one instance goes; plain values, kept by the queue."""

    instance_id: int
    protected: list[Asked]
    originals: list[str]


class Ready(TypedDict):
    """The treatments whose protected objects of an instance are there."""

    instance_id: int
    treatments: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An instance to be protected, and every way it is asked for."""

    instance: Instance
    treatments: tuple[Treatment, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one instance.

    Attributes
    ----------
    ready
        The treatments whose protected objects are durable.
    failure
        Why others have none; None where nothing is missing.
    dropped
        Why it goes nowhere by a rule, or ''.
    """

    ready: tuple[Treatment, ...] = ()
    failure: GatewayError | None = None
    dropped: str = ""


class Protecting(Protocol):
    """What makes the protected objects of instances, durably."""

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Load what the protection of these needs; never raises."""

    def protect(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        """Seal records, store objects, add rows; in this order.

        Yields
        ------
        Result
            For each instance in order; the ``failure`` is Unprotectable,
            UnprotectedExport (a protected object is recorded but no longer whole)
            or StoredObjectDamaged.
        """


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The steps between a closed revision and its deliveries."""

    index: Index
    store: FileStore
    router: Router
    protection: Protecting
    attempts: Attempts
    bounds: Bounds = BOUNDS

    def route(self, revision_id: int) -> list[Routed]:
        """Decide for each instance of a revision by its own attributes.

        In the order of the series, so that neighbours are protected together.

        Instances of one series may differ and go different ways. One that no
        rule matches, or that cannot be read, is held; held ones stay so.
        """
        instances = sorted(
            self.index.instances_of_revision(revision_id), key=_place_in_series
        )
        decisions = [
            (instance, self._decide(instance))
            for instance in instances
            if instance.state != HELD
        ]
        for instance, decision in decisions:
            if decision.held:
                self.hold(instance.id, decision.held, decision.message)
        summary = _summary(decision for _, decision in decisions)
        priority = most_urgent(decision.priority for _, decision in decisions)
        self.index.set_revision(
            revision_id, "complete", decision=summary, priority=priority
        )
        return [
            Routed(
                instance_id=instance.id,
                protected=[
                    Asked(
                        destination=owed.destination, treatment=asdict(owed.treatment)
                    )
                    for owed in decision.protected
                ],
                originals=list(decision.originals),
            )
            for instance, decision in decisions
            if not decision.held
        ]

    def protect(self, routed: Sequence[Routed]) -> list[Ready]:
        """Protect instances of one revision, in order; hold what cannot be.

        Raises
        ------
        StepFailed, StoreFull
            Something unforeseen, or no room: worth trying again, one by one.
        """
        wanted = [
            Wanted(instance=instance, treatments=_treatments(item))
            for item in routed
            if (instance := self.index.instance_by_id(item["instance_id"])) is not None
            and instance.state != HELD
        ]
        ids = [one.instance.id for one in wanted]
        # Models load for seconds: a worker that ends meanwhile met no object.
        self.protection.prepare(wanted)
        try:
            with self.attempts.attempt(ids):
                results = list(self.protection.protect(wanted))
        except Crashing as error:
            self.hold(ids[0], error.reason, str(error))
            return []
        except StoreFull:
            raise
        except Exception as error:  # noqa: BLE001 - codecs and models raise anything
            # Its text and its frames may quote the object: neither is kept.
            raise StepFailed(described(error)) from None
        return [
            self._settled(one.instance, result)
            for one, result in zip(wanted, results, strict=True)
        ]

    def suspects(self, routed: Sequence[Routed]) -> bool:
        """Whether the worker once ended while it protected one of these."""
        return self.attempts.noted(item["instance_id"] for item in routed)

    def plan(
        self, revision_id: int, routed: Sequence[Routed], ready: Sequence[Ready]
    ) -> list[str]:
        """Note what is owed to whom; ``ready`` is what was protected.

        Returns
        -------
        list of str
            The destinations something is owed to.
        """
        protected: dict[tuple[str, str], list[int]] = {}
        originals: dict[str, list[int]] = {}
        made = {item["instance_id"]: item["treatments"] for item in ready}
        for item in routed:
            number = item["instance_id"]
            for asked in item["protected"]:
                if asked["treatment"] in made.get(number, ()):
                    owed = (asked["destination"], _treatment(asked).key)
                    protected.setdefault(owed, []).append(number)
            for name in item["originals"]:
                originals.setdefault(name, []).append(number)
        for (name, key), ids in protected.items():
            self.index.plan_deliveries(
                revision_id, name, protect=True, instance_ids=ids, treatment=key
            )
        for name, ids in originals.items():
            self.index.plan_deliveries(
                revision_id, name, protect=False, instance_ids=ids
            )
        self.index.set_revision(revision_id, "routed", self.shortfall(revision_id))
        return sorted({*(name for name, _ in protected), *originals})

    def wake(self, revision_id: int, ready: Sequence[Ready]) -> int:
        """Put followers back on their way that waited for these objects.

        Nothing new was protected: nobody is woken, so that objects that refer to
        what never comes do not wake each other for ever.
        """
        if not ready:
            return 0
        study = self.revision(revision_id).study_instance_uid
        waiting = self.index.revisions_held_for(study, UNRESOLVED)
        others = [number for number in waiting if number != revision_id]
        for number in others:
            self.index.release_revision(number)
        return len(others)

    def finish(self, revision_id: int) -> bool:
        """Close a routed revision when nothing of it is still to be sent.

        A step done again after a crash may find that a person has put the
        revision back in the meantime: then it is not routed, and is left so.

        Returns
        -------
        bool
            Whether it is closed: ``delivered``, or ``held`` with the reason
            when an instance is held or a destination refused one.
        """
        deliveries = self.index.deliveries_of(revision_id)
        is_pending = any(delivery.state == "pending" for delivery in deliveries)
        revision = self.index.revision(revision_id)  # none: it was erased meanwhile
        if is_pending or revision is None or revision.state != "routed":
            return False
        reason = self.shortfall(revision_id)
        self.index.set_revision(revision_id, HELD if reason else "delivered", reason)
        return True

    def _settled(self, instance: Instance, result: Result) -> Ready:
        """Record what became of an instance."""
        failure = result.failure
        if failure is not None:
            self.hold(instance.id, _reason(failure), str(failure))
        elif result.dropped and not result.ready:
            self.index.drop_instance(instance.id, result.dropped)
            get_logger("flow").info("dropped", instance_id=instance.id)
        return Ready(
            instance_id=instance.id, treatments=[asdict(one) for one in result.ready]
        )

    def hold(self, instance_id: int, reason: str, message: str) -> None:
        """Park one instance, visibly."""
        self.index.hold_instance(instance_id, reason, message)
        get_logger("flow").warning("hold", instance_id=instance_id, reason=reason)

    def hold_revision(self, revision_id: int, reason: str) -> None:
        """Park a revision, visibly."""
        self.index.set_revision(revision_id, HELD, reason)
        get_logger("flow").error("hold", revision_id=revision_id, reason=reason)

    def shortfall(self, revision_id: int) -> str:
        """Return what of a revision did not go its way, in words, or ''."""
        instances = self.index.instances_of_revision(revision_id)
        held = Counter(i.reason for i in instances if i.state == HELD)
        deliveries = self.index.deliveries_of(revision_id)
        stopped = Counter(
            f"{d.state} at {d.destination}"
            for d in deliveries
            if d.state in ("refused", HELD)
        )
        parts = [f"{n} held: {reason}" for reason, n in sorted(held.items())]
        parts += [f"{n} {what}" for what, n in sorted(stopped.items())]
        return f"of {len(instances)} instances {', '.join(parts)}" if parts else ""

    def revision(self, revision_id: int) -> Revision:
        """Return a revision that must exist.

        Raises
        ------
        LookupError
            It does not.
        """
        found = self.index.revision(revision_id)
        if found is None:
            raise LookupError(f"no revision {revision_id} in the index")
        return found

    def _decide(self, instance: Instance) -> Decision:
        try:
            with self.store.open(instance.path) as stream:
                dataset = head_of(stream, self.bounds)
            attributes = attributes_of(dataset, instance, self.router.keywords)
        except Exception as error:  # noqa: BLE001 - pydicom raises anything on a broken file
            return Decision(held=UNREADABLE, message=described(error))
        return self.router.decide(attributes)


def _place_in_series(instance: Instance) -> tuple[bool, int, int]:
    """By Instance Number; those without one in the order they came."""
    number = instance.instance_number.strip()
    known = number.lstrip("+-").isdigit()
    return not known, int(number) if known else 0, instance.id


def _treatments(item: Routed) -> tuple[Treatment, ...]:
    """Every way an instance is asked for, once."""
    return tuple(dict.fromkeys(map(_treatment, item["protected"])))


def _treatment(asked: Asked) -> Treatment:
    return Treatment(**asked["treatment"])  # type: ignore[arg-type]


def _reason(failure: GatewayError) -> str:
    if isinstance(failure, Unprotectable):
        return failure.reason
    if isinstance(failure, RecoveryRefused):
        return NOT_RECOVERABLE
    return DAMAGED if isinstance(failure, StoredObjectDamaged) else UNPROTECTED


def _summary(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    counted = Counter(decisions)
    return [
        {
            "rules": list(decision.rules),
            "protected": [
                {"destination": owed.destination, "treatment": owed.treatment.key}
                for owed in decision.protected
            ],
            "originals": list(decision.originals),
            "held": decision.held,
            "instances": number,
        }
        for decision, number in counted.items()
    ]
