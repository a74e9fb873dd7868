"""auditor: checkpoints of the trail, and its way to a collector."""

from __future__ import annotations

import threading
from pathlib import Path

from gateway.app.openers import open_audit_of, open_keys_of, open_secrets_of
from gateway.app.process import begin, only_one
from gateway.audit.compose import build_auditor
from gateway.audit.process import recorded
from gateway.supervise import on_stop_signal


def run_auditor(config: Path) -> None:
    """Sign the trail and bring it to the collector until SIGTERM or SIGINT."""
    site, places = begin(config)
    keys = open_keys_of(site)
    audit = open_audit_of(site, keys)
    stop = threading.Event()
    with (
        only_one(places, "auditor"),
        on_stop_signal(stop.set),
        recorded(audit, "auditor", site),
    ):
        build_auditor(site, audit, open_secrets_of(site, keys)).run(stop)
