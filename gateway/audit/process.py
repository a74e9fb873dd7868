"""Starts, stops and changes of configuration, as lines of the trail."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from config.schema import Site
from gateway.audit.log import AuditLog, Field
from gateway.store.durable import write_durably

Digests = dict[str, str]


@contextmanager
def recorded(audit: AuditLog, process: str, site: Site) -> Iterator[None]:
    """Record the start of a process, and its end if it is an orderly one.

    A configuration that differs from the last one is recorded first.

    Raises
    ------
    OSError, AuditBroken
        The trail cannot be written: the process does not start.
    """
    digests = digests_of(site)
    record_configuration(audit, digests, audit.path.with_name("configuration.json"))
    fields: dict[str, Field] = {
        "process": process,
        "pid": os.getpid(),
        "version": version("miad-gateway"),
        "configuration": whole_digest(digests),
    }
    audit.record("start", "success", **fields)
    try:
        yield
    finally:
        audit.note("stop", "success", **fields)


def record_configuration(audit: AuditLog, digests: Digests, kept: Path) -> bool:
    """Record a configuration that is not the last one; processes ask at once.

    Parameters
    ----------
    digests
        Of the settings in effect, as `digests_of`.
    kept
        File with those of the last one.

    Returns
    -------
    bool
        Whether a line was written: it names the tables that changed, not what
        is in them.
    """
    with kept.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _load(kept)
        if before == digests:
            return False
        changed = {n for n in {*before, *digests} if before.get(n) != digests.get(n)}
        audit.record(
            "config",
            "success",
            configuration=whole_digest(digests),
            before=whole_digest(before) if before else None,
            changed=sorted(changed),
        )
        write_durably(kept, json.dumps(digests).encode())
    return True


def digests_of(site: Site) -> Digests:
    """Return a digest of every table of the settings in effect.

    Settings hold no secrets, only where they are; digests hide the rest.
    """
    tables = site.model_dump(mode="json")
    return {name: _sha256(table) for name, table in sorted(tables.items())}


def whole_digest(digests: Digests) -> str:
    """Return one digest of all."""
    return _sha256(digests)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _load(kept: Path) -> Digests:
    try:
        digests: Digests = json.loads(kept.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return digests
