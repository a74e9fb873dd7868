"""What happens to a closed revision: route, protect, plan. No queue in here.

Each method is one durable, repeatable step: done again after a crash it finds
what it did before and changes nothing.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from pydicom import dcmread

from config.errors import ConfigurationError
from engine.errors import EngineError
from gateway.errors import (
    GatewayError,
    StoredObjectDamaged,
    StoreFull,
    Unprotectable,
    UnprotectedExport,
)
from gateway.log import get_logger
from gateway.route.attributes import attributes_of
from gateway.route.router import Decision, Router
from gateway.stages.attempts import Attempts
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, Revision

HELD = "held"
UNREADABLE = "unreadable"
FAILED = "failed"
DAMAGED = "damaged"
UNPROTECTED = "unprotected-export"


class StepFailed(GatewayError):
    """A step failed in an unforeseen way; named without what it worked on."""


class Routed(TypedDict):
    """Where one instance goes; plain values, kept by the queue."""

    instance_id: int
    protected: list[str]
    originals: list[str]


class Protecting(Protocol):
    """What makes the protected object of an instance, durably."""

    def protect(self, instance: Instance) -> None:
        """Seal the record, store the object, add its row; in this order.

        Raises
        ------
        Unprotectable
            The object cannot be protected.
        UnprotectedExport
            A protected object is recorded but no longer whole.
        """


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The steps between a closed revision and its deliveries."""

    index: Index
    store: FileStore
    router: Router
    protection: Protecting
    attempts: Attempts

    def route(self, revision_id: int) -> list[Routed]:
        """Decide for each instance of a revision by its own attributes.

        Instances of one series may differ and go different ways. One that no
        rule matches, or that cannot be read, is held; held ones stay so.
        """
        instances = self.index.instances_of_revision(revision_id)
        decisions = [
            (instance, self._decide(instance))
            for instance in instances
            if instance.state != HELD
        ]
        for instance, decision in decisions:
            if decision.held:
                self.hold(instance.id, decision.held, decision.message)
        summary = _summary(decision for _, decision in decisions)
        self.index.set_revision(revision_id, "complete", decision=summary)
        return [
            Routed(
                instance_id=instance.id,
                protected=list(decision.protected),
                originals=list(decision.originals),
            )
            for instance, decision in decisions
            if not decision.held
        ]

    def protect(self, instance_id: int) -> bool:
        """Protect one instance; False when it had to be held.

        Raises
        ------
        StepFailed, StoreFull
            Something unforeseen, or no room: worth trying again.
        """
        instance = self.index.instance_by_id(instance_id)
        if instance is None or instance.state == HELD:
            return False
        try:
            with self.attempts.attempt(instance_id):
                self.protection.protect(instance)
        except Unprotectable as error:
            self.hold(instance_id, error.reason, str(error))
        except UnprotectedExport as error:
            self.hold(instance_id, UNPROTECTED, str(error))
        except StoredObjectDamaged as error:
            self.hold(instance_id, DAMAGED, str(error))
        except StoreFull:
            raise
        except Exception as error:  # noqa: BLE001 - codecs and models raise anything
            # Its text and its frames may quote the object: neither is kept.
            raise StepFailed(described(error)) from None
        else:
            return True
        return False

    def plan(
        self, revision_id: int, routed: Sequence[Routed], ready: Sequence[int]
    ) -> list[str]:
        """Note what is owed to whom; ``ready`` are the protected instances.

        Returns
        -------
        list of str
            The destinations something is owed to.
        """
        protected: dict[str, list[int]] = {}
        originals: dict[str, list[int]] = {}
        is_ready = frozenset(ready)
        for item in routed:
            for name in item["protected"] if item["instance_id"] in is_ready else ():
                protected.setdefault(name, []).append(item["instance_id"])
            for name in item["originals"]:
                originals.setdefault(name, []).append(item["instance_id"])
        for name, ids in protected.items():
            self.index.plan_deliveries(
                revision_id, name, protect=True, instance_ids=ids
            )
        for name, ids in originals.items():
            self.index.plan_deliveries(
                revision_id, name, protect=False, instance_ids=ids
            )
        self.index.set_revision(revision_id, "routed", self.shortfall(revision_id))
        return sorted({*protected, *originals})

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
        if is_pending or self.revision(revision_id).state != "routed":
            return False
        reason = self.shortfall(revision_id)
        self.index.set_revision(revision_id, HELD if reason else "delivered", reason)
        return True

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
            dataset = dcmread(
                self.store.absolute(instance.path), stop_before_pixels=True
            )
            attributes = attributes_of(dataset, instance, self.router.keywords)
        except Exception as error:  # noqa: BLE001 - pydicom raises anything on a broken file
            return Decision(held=UNREADABLE, message=described(error))
        return self.router.decide(attributes)


def described(error: BaseException) -> str:
    """Return what an error is, without quoting the object it arose from.

    Our own errors speak of UIDs, paths and settings only, so their text stays;
    of all others the kind and the place.
    """
    if isinstance(error, GatewayError | EngineError | ConfigurationError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    )
    return f"{type(error).__name__}{where}"


def _summary(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    counted = Counter(decisions)
    return [
        {
            "rules": list(decision.rules),
            "protected": list(decision.protected),
            "originals": list(decision.originals),
            "held": decision.held,
            "instances": number,
        }
        for decision, number in counted.items()
    ]
