from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.audit.log import AuditLog
from gateway.errors import AuditBroken

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit" / "audit.jsonl", clock=lambda: NOON)


def fill(audit: AuditLog) -> list[bytes]:
    audit.record("association", "refused", calling_ae="X")
    audit.record("move", "success", studies=["1.2"], instances=3)
    audit.record("query", "success", matches=0)
    return audit.path.read_bytes().splitlines(keepends=True)


def test_a_line_says_what_was_recorded_and_when(audit: AuditLog) -> None:
    fill(audit)
    first, second, _ = audit.entries()
    assert (first["n"], first["action"], first["outcome"]) == (
        1,
        "association",
        "refused",
    )
    assert first["at"] == "2026-01-02T12:00:00.000000+00:00"
    assert second["studies"] == ["1.2"]
    assert second["previous"] == first["hash"]


def test_an_untouched_log_verifies_and_a_new_object_goes_on(audit: AuditLog) -> None:
    fill(audit)
    end = audit.verify()
    assert end.count == 3
    AuditLog(audit.path).record("query", "success")
    assert AuditLog(audit.path).verify().count == 4


def test_an_empty_log_verifies(audit: AuditLog) -> None:
    assert audit.verify().count == 0
    assert list(audit.entries()) == []


def test_only_the_owner_may_read_it(audit: AuditLog) -> None:
    fill(audit)
    assert audit.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("alter", "line"),
    [
        (lambda lines: [lines[0].replace(b'"X"', b'"Y"'), *lines[1:]], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [*lines, lines[2]], 4),
        (lambda lines: [*lines[:2], lines[2][:-1]], 3),
        (lambda lines: [*lines, b"garbage\n"], 4),
        (lambda lines: [*lines, b"[1]\n"], 4),
        (lambda lines: [lines[0].replace(b',"calling', b', "calling'), *lines[1:]], 1),
    ],
    ids=[
        "changed",
        "removed",
        "swapped",
        "repeated",
        "cut",
        "garbage",
        "no-object",
        "respaced",
    ],
)
def test_every_alteration_is_found_by_its_line(
    audit: AuditLog, alter: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    audit.path.write_bytes(b"".join(alter(fill(audit))))
    with pytest.raises(AuditBroken, match=f"Line {line} "):
        audit.verify()


def test_a_forged_line_with_its_own_hash_breaks_the_next(audit: AuditLog) -> None:
    lines = fill(audit)
    forged = AuditLog(audit.path.with_name("forged"), clock=lambda: NOON)
    forged.record("association", "refused", calling_ae="Y")
    audit.path.write_bytes(forged.path.read_bytes() + b"".join(lines[1:]))
    with pytest.raises(AuditBroken, match="Line 2 "):
        audit.verify()


def test_lines_cut_off_the_end_show_against_a_digest_kept_elsewhere(
    audit: AuditLog,
) -> None:
    lines = fill(audit)
    kept = audit.verify()
    audit.path.write_bytes(b"".join(lines[:2]))
    assert audit.verify() != kept


def test_a_piece_left_by_a_crash_is_cut_off_before_the_next_line(
    audit: AuditLog,
) -> None:
    lines = fill(audit)
    audit.path.write_bytes(b"".join(lines) + b'{"n":4,"act')
    audit.record("query", "success")
    assert audit.verify().count == 4


def test_a_log_that_ends_in_something_else_does_not_go_on(audit: AuditLog) -> None:
    fill(audit)
    with audit.path.open("ab") as stream:
        stream.write(b"garbage\n")
    with pytest.raises(AuditBroken, match="not an audit line"):
        audit.record("query", "success")


def test_long_lines_do_not_break_the_chain(audit: AuditLog) -> None:
    audit.record("move", "failure", failed_uids=["1.2.3"] * 50_000)
    audit.record("query", "success")
    assert audit.verify().count == 2


def test_fields_cannot_replace_those_of_the_chain(audit: AuditLog) -> None:
    audit.record("query", "success", n=99, hash="x", previous="y", at="z")
    (entry,) = audit.entries()
    assert entry["n"] == 1
    assert audit.verify().count == 1


def test_a_line_that_finds_no_room_leaves_nothing_of_itself(audit: AuditLog) -> None:
    fill(audit)
    before = audit.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        audit.note("query", "refused")
        with pytest.raises(OSError, match="File too large"):
            audit.record("query", "success")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert audit.path.read_bytes() == before
    audit.record("query", "success")
    assert audit.verify().count == 4


def test_threads_and_processes_append_to_one_chain(audit: AuditLog) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from gateway.audit.log import AuditLog
log = AuditLog(Path({str(audit.path)!r}))
for number in range(20):
    log.record("query", "success", number=number)
"""
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(2)
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: audit.record("move", "success", n2=n), range(20)))
    assert [child.wait(120) for child in children] == [0, 0]
    assert audit.verify().count == 60
    numbers = [json.loads(line)["n"] for line in audit.path.read_bytes().splitlines()]
    assert numbers == list(range(1, 61))
