"""The auditor: writes checkpoints, closes files, and feeds the collector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from gateway.audit.chain import Line
from gateway.audit.checkpoints import ACTION, Coverage, Signer, write_checkpoint
from gateway.audit.cursor import Cursor
from gateway.audit.forwarder import Forwarder, record_broken
from gateway.audit.log import AuditLog
from gateway.audit.mapping import Source, messages_of
from gateway.audit.messages import MAX_OCTETS, split
from gateway.audit.sealer import FieldSealer, open_fields
from gateway.audit.segments import Follower, has_line
from gateway.audit.syslog import NOTICE, WARNING, Header, frame
from gateway.errors import AuditBroken, InvalidSeal, StoreFull
from gateway.log import described

LOG = structlog.get_logger(component="audit")

HEADER_OCTETS: Final = 512
"""More than a syslog header ever has here."""
POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """When checkpoints are written and files closed.

    Attributes
    ----------
    lines, seconds
        A checkpoint after so many lines, or so long after one that none covers.
    segment_bytes
        A file above this is closed after a checkpoint.
    """

    lines: int
    seconds: float
    segment_bytes: int


class Checkpointer:
    """Follows the trail and signs it in time.

    Parameters
    ----------
    audit
        The trail.
    cursor
        The last checkpoint.
    signer
        The site's key.
    site
        Its name, in every checkpoint.
    clock
        Returns the present, aware.
    """

    def __init__(
        self,
        audit: AuditLog,
        cursor: Cursor,
        signer: Signer,
        site: str,
        rhythm: Rhythm,
        clock: Callable[[], datetime],
    ) -> None:
        self._audit = audit
        self._cursor = cursor
        self._signer = signer
        self._site = site
        self._rhythm = rhythm
        self._clock = clock
        self._coverage = Coverage()
        self._follower: Follower | None = None
        self._told = ""

    def step(self) -> None:
        """Take new lines in, and write a checkpoint if one is due."""
        try:
            self._take_in()
        except AuditBroken as error:
            if not self._report(error):
                return
            self._take_in()
        rhythm = self._rhythm
        if self._coverage.is_due(self._clock(), rhythm.lines, rhythm.seconds):
            self.cover()

    def cover(self) -> None:
        """Write a checkpoint now, unless all is covered."""
        if self._coverage.waiting:
            write_checkpoint(self._audit, self._signer, self._site)
            self._take_in()
            self._audit.close_segment(self._rhythm.segment_bytes)

    def close(self) -> None:
        """Let the trail go; `step` takes it up again."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None
            self._coverage = Coverage()

    def _take_in(self) -> None:
        if self._follower is None:
            self._follower = self._begin()
        while lines := self._follower.read():
            for line in lines:
                self._coverage.add(line, self._audit.path, frozenset())
                if line.entry["action"] == ACTION:
                    self._cursor.save(line.link)

    def _begin(self) -> Follower:
        begin = self._cursor.load()
        if not has_line(self._audit.path, begin):
            raise AuditBroken(
                f"Line {begin.count} of {self._audit.path} is not the checkpoint that"
                " was written: the trail was cut or made anew",
                self._audit.path,
                begin.count,
            )
        return Follower(self._audit.path, begin)

    def _report(self, error: AuditBroken) -> bool:
        """Tell once, in the trail too, and go on from there; whether that can be."""
        if str(error) == self._told:
            return False
        self._told = str(error)
        try:
            before = record_broken(self._audit, error)
        except (OSError, AuditBroken) as second:
            LOG.error("audit-broken", error=str(second))  # noqa: TRY400
            return False
        self.close()
        self._coverage = Coverage()
        self._follower = Follower(self._audit.path, before)
        return True


class Auditor:
    """Keeps the trail, beside the processes that write it.

    Parameters
    ----------
    checkpointer
        Signs the trail.
    forwarder
        Feeds the collector; None: there is none.
    """

    def __init__(
        self, checkpointer: Checkpointer, forwarder: Forwarder | None = None
    ) -> None:
        self._checkpointer = checkpointer
        self._forwarder = forwarder
        self._told = ""

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; a last checkpoint covers what there is then."""
        sender = self._start_sender(stop)
        try:
            while not stop.is_set():
                self._step(self._checkpointer.step)
                stop.wait(POLL_SECONDS)
            self._step(self._checkpointer.step)
            self._step(self._checkpointer.cover)
        finally:
            self._checkpointer.close()
            stop.set()
            if sender is not None:
                sender.join()

    def _step(self, act: Callable[[], None]) -> None:
        """Do something; on a full disk it is done later."""
        try:
            act()
        except (OSError, StoreFull, AuditBroken) as error:
            if described(error) != self._told:
                LOG.error("checkpoint not written", error=described(error))  # noqa: TRY400
            self._told = described(error)
        else:
            self._told = ""

    def _start_sender(self, stop: threading.Event) -> threading.Thread | None:
        if self._forwarder is None:
            return None
        sender = threading.Thread(
            target=self._forwarder.run, args=(stop,), name="forwarder", daemon=True
        )
        sender.start()
        return sender


class Translator:
    """Makes frames of lines.

    Parameters
    ----------
    source
        Whose trail it is.
    header
        Of the syslog messages.
    sealer
        Opens personal fields: the collector gets them, over TLS.
    """

    def __init__(self, source: Source, header: Header, sealer: FieldSealer) -> None:
        self._source = source
        self._header = header
        self._sealer = sealer

    def __call__(self, line: Line) -> bytes:
        """Return the frames of a line, one after the other; empty for none."""
        entry = line.entry
        try:
            personal = open_fields(self._sealer, entry)
        except InvalidSeal:
            # Sealed under a key that is gone: the line still goes, without.
            LOG.warning("sealed fields do not open", line=line.link.count)
            personal = {}
        frames = bytearray()
        for message in messages_of(entry, personal, self._source):
            severity = WARNING if message.outcome else NOTICE
            for xml in split(message, MAX_OCTETS - HEADER_OCTETS):
                frames += frame(self._header, message.at, xml, severity=severity)
        return bytes(frames)
