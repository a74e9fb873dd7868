"""Signed checkpoints, and a trail verified as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.audit.auditor import Checkpointer, Rhythm
from gateway.audit.chain import START, Link, chained
from gateway.audit.checkpoints import CheckpointSigner, write_checkpoint
from gateway.audit.cursor import Cursor
from gateway.audit.log import AuditLog
from gateway.audit.sealer import AesFieldSealer
from gateway.audit.segments import Follower
from gateway.audit.verify import verify_trail
from gateway.errors import AuditBroken

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SIGNER = CheckpointSigner(bytes(range(32)))
STRANGER = CheckpointSigner(bytes(32))
PINNED = frozenset([SIGNER.public])


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(tmp_path: Path, clock: Clock) -> AuditLog:
    sealer = AesFieldSealer(bytes(32))
    return AuditLog(tmp_path / "audit" / "audit.jsonl", clock, sealer)


def fill(audit: AuditLog, count: int) -> None:
    for number in range(count):
        patient = {"id": f"P{number}", "name": "DOE^J", "studies": {"1.2": 1}}
        audit.record(
            "move",
            "success",
            calling_ae="WORKSTATION",
            studies=["1.2", f"1.3.{number}"],
            personal={"patients": [patient]},
        )


class Make:
    """Makes checkpointers of a trail, and closes them."""

    def __init__(self, audit: AuditLog, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self.made: list[Checkpointer] = []

    def __call__(self, *, lines: int = 5, segment_bytes: int = 1 << 30) -> Checkpointer:
        made = Checkpointer(
            self._audit,
            Cursor(self._audit.path.with_name("checkpoint.json")),
            SIGNER,
            "site",
            Rhythm(lines=lines, seconds=300.0, segment_bytes=segment_bytes),
            self._clock,
        )
        self.made.append(made)
        return made


@pytest.fixture
def checkpointer(audit: AuditLog, clock: Clock) -> Iterator[Make]:
    make = Make(audit, clock)
    yield make
    for made in make.made:
        made.close()


def test_a_report_says_what_is_covered_and_what_is_not(audit: AuditLog) -> None:
    fill(audit, 3)
    assert write_checkpoint(audit, SIGNER, "site")
    fill(audit, 2)
    report = verify_trail(audit.path, trusted=PINNED)
    assert (report.end.count, report.checkpoints) == (6, 1)
    assert (report.covered, report.uncovered) == (3, 2)
    assert report.keys == PINNED


def test_nothing_is_covered_without_a_checkpoint(audit: AuditLog) -> None:
    fill(audit, 3)
    report = verify_trail(audit.path)
    assert (report.covered, report.uncovered, report.keys) == (0, 3, frozenset())


def test_an_empty_trail_gets_no_checkpoint(audit: AuditLog) -> None:
    assert not write_checkpoint(audit, SIGNER, "site")
    assert verify_trail(audit.path).end == START


def test_checkpoints_come_after_so_many_lines(
    audit: AuditLog, checkpointer: Make
) -> None:
    keeper = checkpointer()
    fill(audit, 4)
    keeper.step()
    assert verify_trail(audit.path).checkpoints == 0
    fill(audit, 1)
    keeper.step()
    keeper.step()
    report = verify_trail(audit.path, trusted=PINNED)
    assert (report.checkpoints, report.uncovered) == (1, 0)


@pytest.mark.parametrize("moved", [timedelta(seconds=300), timedelta(hours=-5)])
def test_one_line_is_covered_after_a_while_also_when_the_clock_was_set_back(
    audit: AuditLog, clock: Clock, checkpointer: Make, moved: timedelta
) -> None:
    keeper = checkpointer()
    fill(audit, 1)
    keeper.step()
    assert verify_trail(audit.path).checkpoints == 0
    clock.now += moved
    keeper.step()
    assert verify_trail(audit.path).checkpoints == 1


def test_a_new_process_goes_on_after_the_last_checkpoint(
    audit: AuditLog, checkpointer: Make
) -> None:
    fill(audit, 5)
    checkpointer().step()
    fill(audit, 4)
    again = checkpointer()
    again.step()
    assert verify_trail(audit.path).checkpoints == 1
    again.cover()
    report = verify_trail(audit.path, trusted=PINNED)
    assert (report.checkpoints, report.uncovered) == (2, 0)


def test_files_are_closed_and_the_chain_goes_on(
    audit: AuditLog, checkpointer: Make
) -> None:
    keeper = checkpointer(lines=3, segment_bytes=2000)
    for _ in range(6):
        fill(audit, 3)
        keeper.step()
    report = verify_trail(audit.path, trusted=PINNED)
    assert (report.end.count, report.checkpoints) == (24, 6)
    assert len(report.files) == 3
    assert [entry["n"] for entry in audit.entries()] == list(range(1, 25))
    AuditLog(audit.path).record("query", "success")
    assert verify_trail(audit.path).end.count == 25


def test_a_closed_file_that_is_missing_is_found(
    audit: AuditLog, checkpointer: Make
) -> None:
    keeper = checkpointer(lines=3, segment_bytes=2000)
    for _ in range(6):
        fill(audit, 3)
        keeper.step()
    second = verify_trail(audit.path).files[1]
    second.unlink()
    with pytest.raises(AuditBroken, match="does not follow"):
        verify_trail(audit.path)


def positions(audit: AuditLog) -> Iterator[tuple[Path, int, int]]:
    """Yield file, offset and line number of every octet of a trail."""
    number = 1
    for path in verify_trail(audit.path).files:
        for offset, octet in enumerate(path.read_bytes()):
            yield path, offset, number
            number += octet == ord("\n")


@pytest.mark.slow
def test_every_flipped_octet_is_found_by_file_and_line(
    audit: AuditLog, checkpointer: Make
) -> None:
    keeper = checkpointer(lines=4, segment_bytes=4000)
    for _ in range(3):
        fill(audit, 4)
        keeper.step()
    whole = verify_trail(audit.path, trusted=PINNED)
    assert (whole.end.count, len(whole.files)) == (15, 2)
    for path, offset, number in list(positions(audit)):
        flip = 1 << (offset % 8)
        with path.open("r+b") as stream:
            stream.seek(offset)
            octet = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([octet ^ flip]))
            stream.flush()
            with pytest.raises(AuditBroken) as caught:
                verify_trail(audit.path, trusted=PINNED)
            stream.seek(offset)
            stream.write(bytes([octet]))
        assert (caught.value.path, caught.value.line) == (path, number)
        assert f"Line {number} of {path}" in str(caught.value)
    assert verify_trail(audit.path, trusted=PINNED) == whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Link]:
    trail = AuditLog(tmp_path_factory.mktemp("whole") / "audit.jsonl")
    fill(trail, 12)
    write_checkpoint(trail, SIGNER, "site")
    return trail.path, trail.path.read_bytes(), trail.verify()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_cut_out_or_put_in_is_found(
    whole: tuple[Path, bytes, Link], data: st.DataObject
) -> None:
    path, octets, end = whole
    first = data.draw(st.integers(0, len(octets)))
    last = data.draw(st.integers(first, min(len(octets), first + 3000)))
    put = data.draw(st.binary(max_size=40) | st.just(octets[first - 900 : first]))
    changed = octets[:first] + put + octets[last:]
    assume(changed != octets)
    path.write_bytes(changed)
    with pytest.raises(AuditBroken):
        verify_trail(path, trusted=PINNED, at_least=end)


def test_a_trail_made_anew_shows_against_the_kept_key(audit: AuditLog) -> None:
    fill(audit, 3)
    write_checkpoint(audit, STRANGER, "site")
    assert verify_trail(audit.path).keys == {STRANGER.public}
    with pytest.raises(AuditBroken, match=r"Line 4 .*signed by another key"):
        verify_trail(audit.path, trusted=PINNED)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("signature", "AAAA", "signature of the checkpoint is wrong"),
        ("site", "elsewhere", "signature of the checkpoint is wrong"),
        ("public_key", "", "signature of the checkpoint is wrong"),
        ("line", 7, "is of another line"),
    ],
)
def test_a_forged_checkpoint_in_a_whole_chain_is_found(
    audit: AuditLog, field: str, value: str | int, message: str
) -> None:
    fill(audit, 2)
    write_checkpoint(audit, SIGNER, "site")
    *_, before, entry = audit.entries()
    forged = {k: v for k, v in entry.items() if k not in {"n", "previous", "hash"}}
    lines = audit.path.read_bytes().splitlines(keepends=True)
    link = Link(2, before["hash"])
    audit.path.write_bytes(b"".join(lines[:2]) + chained(forged | {field: value}, link))
    with pytest.raises(AuditBroken, match=f"Line 3 .*{message}"):
        verify_trail(audit.path)


def test_a_cut_off_end_shows_against_what_was_kept(audit: AuditLog) -> None:
    fill(audit, 4)
    kept = verify_trail(audit.path).end
    verify_trail(audit.path, at_least=kept)
    lines = audit.path.read_bytes().splitlines(keepends=True)
    audit.path.write_bytes(b"".join(lines[:3]))
    with pytest.raises(AuditBroken, match="its end was cut off") as caught:
        verify_trail(audit.path, at_least=kept)
    assert caught.value.line == 4
    audit.record("query", "success")
    with pytest.raises(AuditBroken, match=r"Line 4 .*not the one that was kept"):
        verify_trail(audit.path, at_least=kept)


def test_a_running_auditor_tells_in_the_trail_that_it_was_cut(
    audit: AuditLog, checkpointer: Make
) -> None:
    keeper = checkpointer()
    fill(audit, 5)
    keeper.step()
    lines = audit.path.read_bytes().splitlines(keepends=True)
    audit.path.write_bytes(b"".join(lines[:3]))
    fill(audit, 1)
    keeper.step()
    keeper.step()
    (alarm,) = [e for e in audit.entries() if e["action"] == "audit-broken"]
    assert alarm["outcome"] == "failure"
    assert "was cut" in str(alarm["error"])


def test_a_started_auditor_tells_that_the_trail_is_another(
    audit: AuditLog, checkpointer: Make
) -> None:
    fill(audit, 5)
    checkpointer().step()
    audit.path.unlink()
    fill(audit, 2)
    again = checkpointer()
    again.step()
    again.cover()
    report = verify_trail(audit.path, trusted=PINNED)
    assert report.uncovered == 0
    alarms = [e for e in audit.entries() if e["action"] == "audit-broken"]
    assert len(alarms) == 1
    assert "cut or made anew" in str(alarms[0]["error"])


def test_processes_write_on_while_files_are_closed(
    audit: AuditLog, checkpointer: Make
) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from gateway.audit.log import AuditLog
log = AuditLog(Path({str(audit.path)!r}))
for number in range(150):
    log.record("query", "success", number=number)
"""
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(3)
    ]
    keeper = checkpointer(lines=10, segment_bytes=1 << 12)
    follower = Follower(audit.path)
    followed = 0
    while any(child.poll() is None for child in children):
        keeper.step()
        followed += len(follower.read())
    assert [child.wait(60) for child in children] == [0, 0, 0]
    keeper.cover()
    while lines := follower.read():
        followed += len(lines)
    follower.close()
    report = verify_trail(audit.path, trusted=PINNED)
    assert report.end.count == 450 + report.checkpoints == followed
    assert report.checkpoints > 5
    assert len(report.files) > 5
