"""Erasure of a study or an object: keys first, then files, then rows.

What is said durably first: the study is being erased, and nothing of it may go
anywhere any more. Every step may be cut off; giving the command again goes on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gateway.audit.personal import patients_of
from gateway.errors import GatewayError, RecordMissing
from gateway.store.erasure import Erasable, Erasure

if TYPE_CHECKING:
    from gateway.audit.log import AuditLog, Field
    from gateway.store.fence import Fence
    from gateway.store.files import FileStore
    from gateway.vault.vault import Vault

WAIT_SECONDS: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What was erased.

    Attributes
    ----------
    originals, protected
        SOP Instance UIDs.
    outside
        Objects that had been sent, by destination: they are still there.
    emptied
        Whether the index's own files hold nothing of it any more; not while others
        go on reading: then give the command again.
    """

    originals: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    outside: tuple[tuple[str, int], ...] = ()
    emptied: bool = True


@dataclass(frozen=True, kw_only=True)
class Eraser:
    """Erases what a site holds of an object or a study.

    Attributes
    ----------
    erasure, store, vault, audit
        Where things are, and where it is told.
    fence
        Keeps the worker's steps away.
    operator
        Who gives the command.
    clock
        Gives the time, aware.
    """

    erasure: Erasure
    store: FileStore
    vault: Vault
    audit: AuditLog
    fence: Fence
    operator: str
    clock: Callable[[], datetime]

    def chosen(self, study: str) -> list[Erasable]:
        """Return what there is of a study, by its own UID or a protected one's.

        Raises
        ------
        GatewayError
            There is nothing, and no erasure of it was cut off.
        """
        found = self.erasure.of_study(study)
        if not found and not self.erasure.is_unfinished(study):
            raise GatewayError(
                "this site holds no such object; see miad-gateway status for what it "
                "has"
            )
        return found

    def erase_study(
        self,
        study: str,
        *,
        action: str = "erasure",
        reason: str = "",
        seconds: float = WAIT_SECONDS,
    ) -> Erased:
        """Erase all of a study, whatever is under way with it.

        Parameters
        ----------
        study
            Study Instance UID.
        action, reason
            For the trail.
        seconds
            How long work under way is waited for.

        Raises
        ------
        GatewayError
            There is nothing of it; or work did not end in time.
        """
        found = self.chosen(study)
        told: dict[str, Field] = {
            "operator": self.operator,
            "studies": [study],
            "instances": len(found),
            "reason": reason,
        }
        personal = {"patients": patients_of(self.erasure.rows_of_study(study))}
        # The trail names the study before anything of it is touched.
        self.audit.record(action, "success", personal=personal, **told, phase="begun")
        self.erasure.begin(study, self.clock())
        with self.fence.alone(seconds):
            found = self.erasure.of_study(study)  # what came in meanwhile goes too
            self._strays(found)
            for each in found:
                self._erase(each)
        emptied = self.erasure.compact()
        self.erasure.finish(study, self.clock())
        self.audit.record(action, "success", **told, phase="done")
        return _summary(found, emptied=emptied)

    def erase_objects(self, chosen: list[Erasable]) -> Erased:
        """Erase single objects that nobody works on.

        Raises
        ------
        GatewayError
            Some of it is being received, protected or sent.
        """
        self.erasure.check_settled(chosen)
        self._strays(chosen)
        for each in chosen:
            self.audit.record(
                "key-erasure",
                "success",
                operator=self.operator,
                sop_instance_uid=each.sop_instance_uid,
                protected_uids=list(each.protected_uids),
            )
            self._erase(each)
        return _summary(chosen, emptied=self.erasure.compact())

    def _erase(self, each: Erasable) -> None:
        for uid in each.protected_uids:
            # It went with another part of the same original, or before a crash.
            with contextlib.suppress(RecordMissing):
                self.vault.erase(uid)
        for relative in filter(None, each.paths):
            self.store.destroy(relative)
        self.erasure.remove(each)

    def _strays(self, chosen: Sequence[Erasable]) -> None:
        """Erase what a crash left without a row: records, and files beside them."""
        uids = {each.sop_instance_uid for each in chosen}
        for uid in self.vault.of_originals(uids):
            with contextlib.suppress(RecordMissing):
                self.vault.erase(uid)
            self.store.destroy(self.store.names.protected(uid))
        self.store.destroy_others(each.paths[0] for each in chosen)


def _summary(found: list[Erasable], *, emptied: bool) -> Erased:
    outside: Counter[str] = Counter()
    for each in found:
        outside.update(each.sent_to)
    return Erased(
        originals=tuple(each.sop_instance_uid for each in found),
        protected=tuple(uid for each in found for uid in each.protected_uids),
        outside=tuple(sorted(outside.items())),
        emptied=emptied,
    )
