"""Looks for patients and secrets in everything that tests' processes log.

A plugin of the whole suite: what pytest captured of a test, and every log and
audit file below its temporary directories, is searched for the names, numbers
and birth dates of the DICOM files the tests use, and for keys. A find fails the
session with the test, the place and the kind, never the value.

``register`` adds what a test makes up. A test that must show some is marked
``@pytest.mark.shows_phi("why")``.
"""

from __future__ import annotations

import base64
import os
import re
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

SHORTEST = 5
SHORTEST_PART = 7
SHORTEST_SECRET = 16
FEWEST_OCTETS = 8
"""A key has more different octets: zeros are no secret, and stand in every trail."""
LONGEST_SECRET = 8192
COMMON = frozenset(
    {"anonymized", "anonymous", "patient", "modality", "perfusion", "lastname"}
    | {"firstname", "last name", "first name", "compressedsamples"}
)
KEYWORDS = {
    "PatientName": "patient name",
    "PatientID": "patient ID",
    "PatientBirthDate": "birth date",
}
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
LOG_NAMES = re.compile(r"(.*\.log|audit.*\.jsonl)")
SECRET_NAMES = re.compile(r"(.*\.key|.*secret.*|.*passphrase.*)")
CACHE_KEY = "miad/phi-needles"
TOLD = "phi-scan"
"""Under which a worker of pytest-xdist tells the session what it found."""

MADE_UP = (
    *("Doe^Jane", "Doe^John", "Müller", "Schönfärber", "Lieselotte"),
    *("Secret^Name", "Somebody^Else", "Nobody^At All"),
)
"""Names that tests give to patients."""

_registered: dict[bytes, str] = {name.encode(): "patient name" for name in MADE_UP}


def register(value: str | bytes, kind: str) -> None:
    """Look for a value from now on, in every test.

    Secrets of 16 octets and more are looked for in hex and base64 too.
    """
    octets = value.encode() if isinstance(value, str) else value
    for form in _forms(octets):
        _registered.setdefault(form, kind)


def _forms(octets: bytes) -> Iterator[bytes]:
    yield octets
    if SHORTEST_SECRET <= len(octets) <= LONGEST_SECRET:
        yield octets.hex().encode()
        yield octets.hex().upper().encode()
        yield base64.b64encode(octets).rstrip(b"=")
        yield base64.urlsafe_b64encode(octets).rstrip(b"=")


def needles_of(dataset: Dataset) -> dict[str, str]:
    """What of a data set must be in no log, by value."""
    found: dict[str, str] = {}
    for keyword, kind in KEYWORDS.items():
        value = str(dataset.get(keyword) or "").strip()
        parts = value.split("^") if keyword == "PatientName" else []
        for one in (value, *(p for p in parts if len(p) >= SHORTEST_PART)):
            if len(one.strip("^")) >= SHORTEST and one.lower() not in COMMON:
                found.setdefault(one, kind)
    return found


def corpus_needles() -> dict[str, str]:
    """Those of every file of pydicom and pydicom-data."""
    found: dict[str, str] = {}
    for package in ("pydicom", "data_store"):
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in Path(spec.submodule_search_locations[0]).rglob("data/**/*"):
            if path.is_file():
                found |= _needles_of_file(path)
    return found


def _needles_of_file(path: Path) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            head = dcmread(path, stop_before_pixels=True, specific_tags=[*KEYWORDS])
            return needles_of(head)
        except Exception:  # noqa: BLE001 - pydicom raises anything on what is no file
            return {}


@dataclass(frozen=True)
class Find:
    test: str
    place: str
    kind: str


@dataclass(eq=False)
class PhiScan:
    """The plugin."""

    config: pytest.Config
    finds: list[Find] = field(default_factory=list)
    seconds: float = 0.0
    octets: int = 0
    _needles: dict[bytes, str] = field(default_factory=dict)
    _seen: dict[tuple[str, int], int] = field(default_factory=dict)
    _excused: set[str] = field(default_factory=set)

    def scan(self, octets: bytes, test: str, place: str) -> None:
        """Look into some octets; each kind is told once for a test and place."""
        if not octets:
            return
        self.octets += len(octets)
        kinds = {
            kind
            for needles in (self._corpus(), _registered)
            for needle, kind in needles.items()
            if needle in octets and _stands_alone(needle, octets)
        }
        if PRIVATE_KEY.search(octets):
            kinds.add("private key")
        self.finds += [Find(test, place, kind) for kind in sorted(kinds)]

    def _corpus(self) -> dict[bytes, str]:
        if not self._needles:
            cache = getattr(self.config, "cache", None)
            known = cache.get(CACHE_KEY, None) if cache is not None else None
            if known is None:
                known = corpus_needles()
                if cache is not None:
                    cache.set(CACHE_KEY, known)
            self._needles = {value.encode(): kind for value, kind in known.items()}
        return self._needles

    def scan_files(self, folder: Path, test: str) -> None:
        """Look into the logs of a folder, as far as they were not looked into."""
        logs = []
        for path in _files(folder, self._excused):
            if SECRET_NAMES.fullmatch(path.name) or path.parent.name == "secrets":
                _register_file(path)
            elif LOG_NAMES.fullmatch(path.name):
                logs.append(path)
        for path in logs:
            try:
                state = path.stat()
                key = (str(path), state.st_ino)
                start = self._seen.get(key, 0)
                with path.open("rb") as stream:
                    stream.seek(start)
                    octets = stream.read()
            except OSError:
                continue  # deleted meanwhile
            self._seen[key] = start + len(octets)
            self.scan(octets, test, f"{path.parent.name}/{path.name}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of a block to what the scan costs."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """Look into a test's own folder before and after its fixtures end."""
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if item.get_closest_marker("shows_phi"):
            self._excused |= {item.nodeid, str(folder)}
        elif isinstance(folder, Path):
            with self.timed():
                self.scan_files(folder, item.nodeid)
        return (yield)

    @property
    def _is_session_of_workers(self) -> bool:
        """Whether the tests run in workers, each with a scan of its own."""
        return bool(self.config.getoption("numprocesses", None))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look into what was captured."""
        if self._is_session_of_workers:
            return
        if report.when == "teardown" and report.nodeid not in self._excused:
            with self.timed():
                for name, text in report.sections:
                    self.scan(text.encode("utf-8", "replace"), report.nodeid, name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look into all that is left, and fail the session for any find."""
        factory = getattr(self.config, "_tmp_path_factory", None)
        base = getattr(factory, "_basetemp", None)
        if base is not None and not self._is_session_of_workers:
            with self.timed():
                self.scan_files(base, "(what tests left behind)")
        told = getattr(self.config, "workeroutput", None)
        if told is not None:
            finds = [(find.test, find.place, find.kind) for find in self.finds]
            told[TOLD] = {
                "finds": finds,
                "octets": self.octets,
                "seconds": self.seconds,
            }
        if self.finds and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker found."""
        told = getattr(node, "workeroutput", {}).get(TOLD)
        if told is None:
            self.finds.append(Find("(a worker)", "that ended early", "unknown"))
            return
        self.finds += [Find(*find) for find in told["finds"]]
        self.octets += told["octets"]
        self.seconds += told["seconds"]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Tell what was found where, and never the value."""
        terminalreporter.line(
            f"{self.octets / 1e6:.1f} MB of logs searched for patients and secrets in"
            f" {self.seconds:.1f} s: {len(set(self.finds)) or 'nothing'} found"
        )
        if not self.finds:
            return
        terminalreporter.section("patients or secrets in logs", red=True)
        for find in dict.fromkeys(self.finds):
            terminalreporter.line(f"{find.kind} in {find.place} of {find.test}")


def _files(folder: Path, excused: Collection[str]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if str(Path(root, n)) not in excused]
        for name in names:
            yield Path(root, name)


def _register_file(path: Path) -> None:
    try:
        if SHORTEST_SECRET <= path.stat().st_size <= LONGEST_SECRET:
            octets = path.read_bytes()
            if len(set(octets)) > FEWEST_OCTETS:
                register(octets, "secret")
    except OSError:
        pass  # deleted meanwhile


def _stands_alone(needle: bytes, octets: bytes) -> bool:
    """Whether it is no part of a longer word, number or UID."""
    pattern = rb"(?<![0-9A-Za-z.])" + re.escape(needle) + rb"(?![0-9A-Za-z]|\.[0-9])"
    return re.search(pattern, octets) is not None
