"""serve: the parts of a gateway as children of one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from config.safety import insecurities
from config.schema import Site
from gateway import log
from gateway.app.places import Places
from gateway.app.process import check_tls, only_one
from gateway.audit.log import AuditLog
from gateway.audit.process import recorded
from gateway.sealing.process import harden_process
from gateway.store.private import close_to_others
from gateway.supervise import Child, Supervisor, on_stop_signal


def serve(config: Path, site: Site) -> None:
    """Supervise the parts of a gateway until SIGTERM or SIGINT."""
    harden_process()
    log.configure(site.log.level, site.log.format)
    check_tls(site)
    _tell_insecurities(site)
    close_to_others(site.data_directory)
    places = Places(site.data_directory)
    # Not a key is opened here: one in the environment is left to the children.
    audit = AuditLog(places.audit)
    with only_one(places, "serve"), recorded(audit, "serve", site):
        places.ports.unlink(missing_ok=True)
        supervisor = Supervisor(
            list(_children(site, config)),
            stop_seconds=site.worker.stop_seconds + 5.0,
        )
        with on_stop_signal(supervisor.stop):
            supervisor.run()
        places.ports.unlink(missing_ok=True)


def _tell_insecurities(site: Site) -> None:
    """Say at every start what is less safe than it could be."""
    logger = log.get_logger("configuration")
    for one in insecurities(site):
        say = logger.warning if one.severity == "warning" else logger.info
        say("less-safe", setting=one.setting, what=one.text)


def _children(site: Site, config: Path) -> Iterator[Child]:
    yield _child(config, "receiver")
    for slot in range(site.worker.processes):
        yield _child(config, "worker", "--slot", str(slot))
    yield _child(config, "auditor")
    if site.web.enabled:
        yield _child(config, "web")


def _child(config: Path, name: str, *more: str) -> Child:
    command = [sys.executable, "-m", "gateway.cli.main", name]
    options = ["--config", str(config.absolute()), "--lifeline", "{lifeline}"]
    return Child(name="-".join((name, *more[1:])), command=[*command, *options, *more])
