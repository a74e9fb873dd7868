"""The composition root: the parts of a gateway put together, per process."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from config.safety import insecurities
from config.schema import Site
from gateway import log
from gateway.access.access import Access
from gateway.access.ledger import KEY_LENGTH, Books
from gateway.audit.log import AuditLog
from gateway.audit.process import recorded
from gateway.audit.sealer import KEY_LENGTH as AUDIT_KEY_LENGTH
from gateway.audit.sealer import AesFieldSealer
from gateway.errors import GatewayError
from gateway.route.completion import idle_times
from gateway.route.rules import compile_router, load_checked
from gateway.sealing.process import harden_process
from gateway.sealing.ring import open_ring
from gateway.sealing.secrets import SecretStore
from gateway.store.cipher import KEY_BYTES
from gateway.store.convert import seal_clear_files
from gateway.store.durable import write_durably
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index, utc_now
from gateway.store.names import SECRET_BYTES
from gateway.store.private import close_to_others, use_private_temporary
from gateway.supervise import Child, Supervisor, end_with_parent, on_stop_signal
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from gateway.dicom.listener import Records
    from gateway.sealing.master import Keys
    from gateway.sealing.ring import KeyRing
    from gateway.stages.gate import Gate
    from gateway.stages.workflows import Jobs
    from gateway.tls.identity import TlsIdentity


TICK_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Places:
    """What lies where in a data directory."""

    root: Path

    @property
    def index(self) -> Path:
        """The SQL index."""
        return self.root / "index.sqlite"

    @property
    def jobs(self) -> Path:
        """The database of the job queue."""
        return self.root / "jobs.sqlite"

    @property
    def store(self) -> Path:
        """Received and protected objects."""
        return self.root / "store"

    @property
    def vault(self) -> Path:
        """Sealed records."""
        return self.root / "vault"

    @property
    def secrets(self) -> Path:
        """Sealed secrets; and the master key, if it is nowhere else."""
        return self.root / "secrets"

    @property
    def anchor(self) -> Path:
        """How far the tables of grants had come."""
        return self.root / "access" / "anchor.json"

    @property
    def audit(self) -> Path:
        """The audit trail."""
        return self.root / "audit" / "audit.jsonl"

    @property
    def ports(self) -> Path:
        """The ports in use, while the receiver listens."""
        return self.root / "run" / "ports.json"

    @property
    def web_port(self) -> Path:
        """The port in use, while the web server listens."""
        return self.root / "run" / "web.json"

    @property
    def attempts(self) -> Path:
        """Notes of the objects under work."""
        return self.root / "run" / "attempts"

    def temporary(self, process: str) -> Path:
        """Return where a process makes temporary files; emptied at its start."""
        return self.root / "run" / "tmp" / process

    def lock(self, process: str) -> Path:
        """Return the file whose lock makes a process the only one of its kind."""
        return self.root / "run" / f"{process}.lock"


def open_keys_of(site: Site) -> KeyRing:
    """Open the master keys of a site, once per process; made on first use.

    Raises
    ------
    ConfigurationError
        One is missing, others may reach it, or it is not a key.
    """
    return open_ring(site.vault, site.data_directory)


def open_secrets_of(site: Site, keys: Keys) -> SecretStore:
    """Open what a site keeps sealed under its master key."""
    return SecretStore(Places(site.data_directory).secrets, keys)


def open_index_of(site: Site, keys: Keys) -> Index:
    """Open the index of a site; made where there is none.

    Raises
    ------
    ConfigurationError
        It belongs to another key, or is damaged.
    """
    key = open_secrets_of(site, keys).get("index.key", KEY_BYTES)
    return open_index(Places(site.data_directory).index, key)


def open_store_of(site: Site, keys: Keys) -> FileStore:
    """Open the store of a site, made where there is none."""
    secret = open_secrets_of(site, keys).get("store.key", SECRET_BYTES)
    return FileStore(Places(site.data_directory).store, keys, secret)


def open_vault_of(site: Site, keys: Keys) -> Vault:
    """Open the vault of a site."""
    return Vault(Places(site.data_directory).vault, keys)


def open_audit_of(site: Site, keys: Keys) -> AuditLog:
    """Open the audit trail of a site; personal fields are sealed."""
    key = open_secrets_of(site, keys).get("audit", AUDIT_KEY_LENGTH)
    return AuditLog(Places(site.data_directory).audit, sealer=AesFieldSealer(key))


def open_access_of(
    site: Site, index: Index, audit: AuditLog, keys: Keys, *, check: bool = True
) -> Access:
    """Open grants, approvals and their clock.

    Parameters
    ----------
    site, index, audit, keys
        What else is open.
    check
        Whether tables with rows have to have an anchor.

    Raises
    ------
    ConfigurationError
        The secret cannot be read, or a node's or person's certificate.
    AccessTampered
        The tables of grants are not what was recorded.
    """
    places = Places(site.data_directory)
    key = open_secrets_of(site, keys).get("grants.key", KEY_LENGTH)
    books = Books(index.database, key, places.anchor, check=check)
    return Access(site=site, index=index, books=books, audit=audit)


# serve: receiver, worker and auditor as children


def serve(config: Path, site: Site) -> None:
    """Supervise the parts of a gateway until SIGTERM or SIGINT."""
    harden_process()
    log.configure(site.log.level, site.log.format)
    _check_tls(site)
    _tell_insecurities(site)
    close_to_others(site.data_directory)
    places = Places(site.data_directory)
    # Not a key is opened here: one in the environment is left to the children.
    audit = AuditLog(places.audit)
    with _only_one(places, "serve"), recorded(audit, "serve", site):
        places.ports.unlink(missing_ok=True)
        supervisor = Supervisor(
            [_child(name, config) for name in _children(site)],
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


def _children(site: Site) -> tuple[str, ...]:
    web = ("web",) if site.web.enabled else ()
    return ("receiver", "worker", "auditor", *web)


def _child(name: str, config: Path) -> Child:
    command = [sys.executable, "-m", "gateway.cli.main", name]
    options = ["--config", str(config.absolute()), "--lifeline", "{lifeline}"]
    return Child(name=name, command=[*command, *options])


# receiver: storage SCP and recovery SCP; never loads torch


def run_receiver(config: Path, lifeline: int | None = None) -> None:
    """Receive and give back until SIGTERM or SIGINT."""
    site, places = _begin(config, lifeline)
    with _only_one(places, "receiver"):
        use_private_temporary(places.temporary("receiver"))
        keys = open_keys_of(site)
        with closing(open_index_of(site, keys)) as index:
            _receive(site, places, index, keys)


def _receive(site: Site, places: Places, index: Index, keys: Keys) -> None:
    from gateway.dicom.listener import start_receiver

    _check_tls(site)
    store = _sealed_store(site, places, index, keys)
    audit = open_audit_of(site, keys)
    records = _records(site, store, keys)
    access = open_access_of(site, index, audit, keys)
    try:
        running = start_receiver(site, store, index, audit, records, access)
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {_addresses(site)}: {error.strerror or error}"
        ) from error
    try:
        with recorded(audit, "receiver", site):
            ready = partial(_write_ports, places.ports, asdict(running.ports))
            _wait_for_stop(ready, access.tick)
            places.ports.unlink(missing_ok=True)
    finally:
        places.ports.unlink(missing_ok=True)
        running.stop()


def _addresses(site: Site) -> str:
    ends = (site.receiver, site.recovery)
    ports = [(end.host, end.port) for end in ends if site.tls is not None]
    ports += [(e.host, e.plain_port) for e in ends if e.plain_port is not None]
    return ", ".join(f"{host}:{port}" for host, port in ports)


def _records(site: Site, store: FileStore, keys: Keys) -> Records:
    """Return what rebuilds originals and checks protected objects."""
    from gateway.dicom.listener import Records
    from gateway.dicom.restore import restorer
    from gateway.stages.export import verified_part

    vault = open_vault_of(site, keys)
    return Records(
        restore=restorer(store, vault),
        verify=lambda row: verified_part(row, store, vault),
    )


def _write_ports(path: Path, ports: dict[str, int | None]) -> None:
    write_durably(path, json.dumps(ports | {"pid": os.getpid()}).encode())


# web: console and DICOMweb; never loads torch


def run_web(config: Path, lifeline: int | None = None) -> None:
    """Answer over HTTPS until SIGTERM or SIGINT.

    Raises
    ------
    ConfigurationError
        There is no ``[tls]`` table, or its files cannot be used.
    """
    site, places = _begin(config, lifeline)
    with _only_one(places, "web"):
        use_private_temporary(places.temporary("web"))
        keys = open_keys_of(site)
        with closing(open_index_of(site, keys)) as index:
            _answer(site, places, index, keys)


def _answer(site: Site, places: Places, index: Index, keys: Keys) -> None:
    from gateway.web.parts import WebParts
    from gateway.web.server import start_web

    store = _sealed_store(site, places, index, keys)
    audit = open_audit_of(site, keys)
    access = open_access_of(site, index, audit, keys)
    parts = WebParts(
        store=store,
        index=index,
        audit=audit,
        records=_records(site, store, keys),
        access=access,
    )
    running = start_web(site, parts)

    def tick() -> None:
        access.tick()
        running.tick()

    try:
        with recorded(audit, "web", site):
            ready = partial(_write_ports, places.web_port, {"web": running.port})
            _wait_for_stop(ready, tick)
            places.web_port.unlink(missing_ok=True)
    finally:
        places.web_port.unlink(missing_ok=True)
        running.stop()


# worker: completion, routing, protection, export


def run_worker(config: Path, lifeline: int | None = None) -> None:
    """Work until SIGTERM or SIGINT, then hand back what is under way.

    The process ends without waiting for parked steps: their jobs are durable
    and are taken up again at the next start.
    """
    site, places = _begin(config, lifeline)
    with _only_one(places, "worker"):
        use_private_temporary(places.temporary("worker"))
        keys = open_keys_of(site)
        audit = open_audit_of(site, keys)
        with closing(open_index_of(site, keys)) as index:
            _limit_threads(site.worker.cpu_threads)
            with recorded(audit, "worker", site):
                _work(site, places, index, keys)
            _leave()


def _work(site: Site, places: Places, index: Index, keys: Keys) -> None:
    from dbos import DBOS

    from gateway.stages.attempts import Attempts
    from gateway.stages.gate import Gate
    from gateway.stages.sweep import Sweep
    from gateway.stages.workflows import declare_queues, jobs_config

    gate = Gate()
    DBOS(config=jobs_config(f"sqlite:///{places.jobs}", application_version()))
    store = _sealed_store(site, places, index, keys)
    jobs = build_jobs(site, index, store, keys, gate)
    DBOS.launch()
    declare_queues()
    sweep = Sweep(index=index, jobs=jobs, idle=idle_times(site), clock=utc_now)
    stop = threading.Event()
    log.get_logger("worker").info("working")
    with on_stop_signal(stop.set):
        sweep.run(stop, site.completion.poll_seconds)
    if not gate.close(site.worker.stop_seconds):
        log.get_logger("worker").warning("handed-back-unfinished")
    Attempts(places.attempts).forget()


def build_jobs(
    site: Site, index: Index, store: FileStore, keys: Keys, gate: Gate
) -> Jobs:
    """Put the steps of a site together, behind the job queue."""
    from gateway.dicom.parse import Bounds
    from gateway.dicom.sender import send_objects
    from gateway.stages.attempts import Attempts
    from gateway.stages.export import Exporter
    from gateway.stages.flow import Flow
    from gateway.stages.recipes import build_protection
    from gateway.stages.workflows import Jobs

    places = Places(site.data_directory)
    vault = open_vault_of(site, keys)
    flow = Flow(
        index=index,
        store=store,
        router=compile_router(site),
        protection=build_protection(
            site, open_secrets_of(site, keys), index, store, vault
        ),
        attempts=Attempts(places.attempts),
        bounds=Bounds.of(site.limits),
    )
    exporter = Exporter(
        index=index,
        store=store,
        vault=vault,
        audit=open_audit_of(site, keys),
        destinations={d.name: d for d in site.destinations},
        calling_ae=site.receiver.ae_title,
        send=partial(send_objects, tls=_tls_of(site)),
    )
    return Jobs(flow, exporter, gate)


def _check_tls(site: Site) -> None:
    """Refuse settings with which nothing would listen, or nobody be let in."""
    from gateway.sealing.providers import Environment, read_secret
    from gateway.tls.check import check_tls

    # A copy: the processes that are started after this need the passphrase too.
    environment = Environment(dict(os.environ))

    def read(source: str) -> bytes:
        return read_secret(source, site.data_directory, environment)

    check_tls(site, read, datetime.now(UTC))


def _tls_of(site: Site) -> TlsIdentity | None:
    """Return what destinations know this side by; None: no ``[tls]`` table."""
    from gateway.sealing.providers import read_secret
    from gateway.tls.identity import TlsIdentity

    if site.tls is None:
        return None
    return TlsIdentity(
        site.tls, partial(read_secret, base_directory=site.data_directory)
    )


def application_version() -> str:
    """Return the version jobs are recorded under: the major one.

    A job begun by one release is finished by the next, as long as workflows
    keep their steps; one that changes them raises the major version.
    """
    return version("miad-gateway").split(".", 1)[0]


def _limit_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _leave() -> None:
    """End now: threads of parked steps would keep the interpreter alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


# auditor: checkpoints of the trail, and its way to a collector


def run_auditor(config: Path, lifeline: int | None = None) -> None:
    """Sign the trail and bring it to the collector until SIGTERM or SIGINT."""
    from gateway.audit.compose import build_auditor

    site, places = _begin(config, lifeline)
    keys = open_keys_of(site)
    audit = open_audit_of(site, keys)
    stop = threading.Event()
    with (
        _only_one(places, "auditor"),
        on_stop_signal(stop.set),
        recorded(audit, "auditor", site),
    ):
        build_auditor(site, audit, open_secrets_of(site, keys)).run(stop)


# what all processes share


def _begin(config: Path, lifeline: int | None) -> tuple[Site, Places]:
    harden_process()
    site = load_checked(config)
    log.configure(site.log.level, site.log.format)
    if lifeline is not None:
        end_with_parent(lifeline)
    close_to_others(site.data_directory)
    return site, Places(site.data_directory)


def _sealed_store(site: Site, places: Places, index: Index, keys: Keys) -> FileStore:
    """Open the store; whoever starts first seals what an earlier build left clear."""
    store = open_store_of(site, keys)
    with _only_one(places, "store"):
        seal_clear_files(store, index)
    return store


def _wait_for_stop(ready: Callable[[], None], tick: Callable[[], None]) -> None:
    """Say that all is ready, and wait for SIGTERM or SIGINT; see the time pass."""
    stop = threading.Event()
    with on_stop_signal(stop.set):
        ready()
        while not stop.wait(TICK_SECONDS):
            try:
                tick()
            except (GatewayError, SQLAlchemyError) as error:
                log.get_logger("receiver").error(
                    "clock-not-kept", error=log.described(error)
                )


@contextmanager
def _only_one(places: Places, process: str) -> Iterator[None]:
    """Wait until no other process of the kind works in this data directory.

    After a kill -9 of its supervisor, a child of before may still be ending;
    two workers on one queue would do the same work twice.
    """
    path = places.lock(process)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.get_logger(process).warning("waiting-for-other", lock=str(path))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
