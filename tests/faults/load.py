"""Continuous load: DCMTK's storescu, one process after another, until told to stop."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.endtoend.peers import ENVIRONMENT, tool
from tests.faults.ledger import Ledger
from tests.faults.objects import Factory, Item, Route
from tests.gateway.web_cases import stow

SENDING = re.compile(r"^I: Sending file: (.*)$")
ANSWER = re.compile(r"^[IWE]: Received Store Response \((.*)\)$")
REFERENCED_SOPS, REFERENCED_UID = "00081199", "00081155"
PAUSE_SECONDS = 0.3
"""After a failure: as a modality would, somewhat later."""
LONGEST_PAUSE_SECONDS = 3.0
"""Between two series: with none the senders would leave the gateway no processor."""
REPEATED = 0.5
"""So often something is sent that was taken before, as modalities do."""
SECONDS = 60

TITLES: dict[Route, str] = {"protected": "MODALITY", "originals": "SCANNER"}


def storescu(
    items: Sequence[Item], port: int, seconds: int = SECONDS
) -> dict[str, str]:
    """Send objects in one association.

    Parameters
    ----------
    seconds
        For each answer.

    Returns
    -------
    dict
        SOP Instance UID -> what was answered, in DCMTK's words; ``Success``.
        What was not answered is not in it.
    """
    command = [tool("storescu"), "-v", "-nh", "-xe", "-R"]
    command += ["-ta", str(seconds), "-td", str(seconds), "-to", "10"]
    command += ["-aet", TITLES[items[0].route], "-aec", "MIAD-GATEWAY"]
    command += ["127.0.0.1", str(port), *(item.path for item in items)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds * (len(items) + 2),
        env=ENVIRONMENT,
    )
    return _answered(done.stdout, {item.path: item.uid for item in items})


def taken(answers: dict[str, str]) -> list[str]:
    """Return the UIDs that were answered with Success."""
    return [uid for uid, answer in answers.items() if answer == "Success"]


def _answered(output: str, uids: dict[str, str]) -> dict[str, str]:
    """Read what storescu says: which file it sends, and what it was answered."""
    answered = {}
    sending = ""
    for line in output.splitlines():
        if found := SENDING.match(line):
            sending = found[1]
        elif (found := ANSWER.match(line)) and sending:
            answered[uids[sending]] = found[1]
            sending = ""
    return answered


@dataclass(kw_only=True)
class Sender:
    """One modality: sends series until told to stop, and keeps what was not taken.

    Where too much waits to be delivered it only sends again what was taken before.

    Attributes
    ----------
    busy
        Whether so much is under way that nothing new is made.
    takes_up
        Whether it begins with what an earlier run left without an answer.
    answers
        How often it was answered Success.
    sending
        Whether an association or a request is open now, about.
    worked
        When the last association began in which something was answered Success; of
        ``time.monotonic``.
    """

    route: Route
    factory: Factory
    ledger: Ledger
    port: Callable[[], int]
    busy: Callable[[], bool]
    random: random.Random
    sizes: tuple[int, int] = (2, 6)
    takes_up: bool = True
    answers: int = 0
    sending: bool = False
    worked: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    error: Exception | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make nothing new; return when everything made is acknowledged."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait until all that was made is acknowledged."""
        assert self._thread is not None
        self._thread.join(seconds)
        if self.error is not None:
            raise self.error
        assert not self._thread.is_alive(), f"{self.route}: still not everything taken"

    def _run(self) -> None:
        try:
            waiting = [
                i for i in self.ledger.open() if i.route == self.route and self.takes_up
            ]
            sent: deque[list[Item]] = deque(maxlen=20)
            while waiting or not self._stop.is_set():
                waiting = self._turn(waiting, sent)
        except Exception as error:  # noqa: BLE001 - told by `wait`
            self.error = error

    def _turn(self, waiting: list[Item], sent: deque[list[Item]]) -> list[Item]:
        if not waiting:
            if self._stop.wait(self.random.uniform(0.0, LONGEST_PAUSE_SECONDS)):
                return []
            busy = self.busy()
            if sent and (busy or self.random.random() < REPEATED):
                self._note(self.random.choice(list(sent)))
                return []
            if busy:
                return []
            waiting = self.factory.series(self.route, self.random.randint(*self.sizes))
            self.ledger.made(waiting)
            sent.append(waiting)
        answered = self._note(waiting)
        left = [item for item in waiting if item.uid not in answered]
        if left:
            threading.Event().wait(PAUSE_SECONDS)
        return left

    def deliver(self, items: Sequence[Item]) -> list[str]:
        """Send objects; the UIDs that were answered with Success."""
        return taken(storescu(items, self.port()))

    def _note(self, items: Sequence[Item]) -> set[str]:
        self.sending, begun = True, time.monotonic()
        try:
            answered = set(self.deliver(items))
        finally:
            self.sending = False
        for uid in answered:
            self.ledger.acknowledged(uid)
        if answered:
            self.answers += len(answered)
            self.worked = begun
        return answered


@dataclass(kw_only=True)
class WebSender(Sender):
    """The same by STOW-RS: one request for each series."""

    client: Callable[[], httpx.Client]

    def deliver(self, items: Sequence[Item]) -> list[str]:
        """Send objects; the UIDs that the answer lists as stored (PS3.18 10.5.3)."""
        files = [Path(item.path).read_bytes() for item in items]
        try:
            with self.client() as client:
                answer = stow(client, *files)
        except (httpx.HTTPError, OSError, ValueError):
            return []  # no server, or it ended while it answered
        if answer.status_code not in (200, 202):
            return []
        stored = answer.json().get(REFERENCED_SOPS, {}).get("Value", [])
        return [one[REFERENCED_UID]["Value"][0] for one in stored]
