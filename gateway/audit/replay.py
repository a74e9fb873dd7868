"""Put what is held back on its way: recorded first, and done once."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.audit.log import AuditLog, Field
from gateway.store.index import Index


def replay(
    index: Index,
    audit: AuditLog,
    revision_id: int,
    reason: str,
    who: Mapping[str, Field],
) -> bool:
    """Send a held revision through rules, protection and export again.

    What was sent stays sent. Asked for a second time nothing happens.

    Parameters
    ----------
    index, audit
        Of the site.
    revision_id
        Its row.
    reason
        Why a person wants it; it stands in the trail.
    who
        Fields of the line that name the person.

    Returns
    -------
    bool
        False: it is not held, or not any more.

    Raises
    ------
    AuditBroken, OSError
        The trail cannot be written: nothing was done.
    """
    found = index.revision(revision_id)
    if found is None or found.state != "held":
        return False
    audit.record(
        "release",
        "success",
        **who,
        reason=reason,
        series=found.series_instance_uid,
        studies=[found.study_instance_uid],
        revision=found.revision,
        held_for=found.reason,
    )
    return index.release_revision(revision_id, only_held=True)
