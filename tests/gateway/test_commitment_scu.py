"""Destinations asked to commit: what they say is believed of what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom.events import Event

from gateway.store.commitments import Report
from gateway.store.index import utc_now
from tests.gateway.committing import (
    Archive,
    commitment_to,
    pairs_of,
    report,
    tell,
)
from tests.gateway.exporting import CT, MR, Exports
from tests.gateway.outside import unused_port
from tests.gateway.scp import gateway, node, site

FILES = ("CT_small.dcm", "MR_small.dcm")


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[Exports]:
    opened = Exports(tmp_path, 0)
    yield opened
    opened.close()


def sent(
    exports: Exports, archive: Archive, **settings: object
) -> list[tuple[str, str]]:
    """Send two objects to an archive that listens; what they are."""
    exports.at(archive.port, commitment=True, **settings)
    uids = exports.owe(*FILES)
    assert exports.attempt() is False
    assert exports.states == ["sent", "sent"]
    return [(CT, uids[0]), (MR, uids[1])]


def later(exports: Exports, hours: float) -> None:
    """Let time pass for the index."""
    exports.index._clock = lambda: utc_now() + timedelta(hours=hours)


def says(make: Callable[[Dataset], tuple[int, Dataset]]) -> Callable[[Event], int]:
    """Report on the same association, before the answer to the request."""

    def on_action(event: Event) -> int:
        kind, dataset = make(event.action_information)
        tell(event.assoc, dataset, event=kind)
        return 0

    return on_action


def test_a_report_on_the_same_association_commits(exports: Exports) -> None:
    archive = Archive(says(lambda a: (1, report(a.TransactionUID, pairs_of(a)))))
    with archive.listening([CT, MR]):
        sent(exports, archive)
        assert exports.committer().due() == [(exports.revision, "outside")]
        assert exports.commit() is False

    assert exports.states == ["committed", "committed"]
    assert exports.committer().due() == []
    steps = [e["step"] for e in exports.audit.entries() if e["action"] == "commitment"]
    assert sorted(steps) == ["report", "request"]


def test_a_report_to_the_receiver_commits(exports: Exports, tmp_path: Path) -> None:
    archive = Archive()
    nodes = [node("OUTSIDE", "commit"), node("MODALITY", "store")]
    with archive.listening([CT, MR]):
        pairs = sent(exports, archive)
        assert exports.commit(linger_seconds=0.0) is False
        assert exports.states == ["sent", "sent"]
        [asked] = archive.asked
        settings = site(
            tmp_path / "site",
            nodes=nodes,
            grants=[],
            destinations=[exports.destination.model_dump()],
        )
    with gateway(settings) as running:
        # The receiver's own index has its row, as both processes share one.
        running.index.database.close()
        for service in (s.service for s in running.running._servers):
            commitment = getattr(service, "_commitment", None)
            if commitment is not None:
                object.__setattr__(commitment, "index", exports.index)
        answered = report(asked.TransactionUID, pairs)
        with commitment_to(running.port, "MODALITY") as association:
            assert tell(association, answered) == 0x0124
        assert exports.states == ["sent", "sent"]
        with commitment_to(running.port, "OUTSIDE", provider=True) as association:
            assert tell(association, report("1.2.3.99", pairs)) == 0x0115
            assert tell(association, None) == 0x0120
            assert tell(association, answered, event=3) == 0x0113
            assert tell(association, answered, instance="1.2.3") == 0x0112
            assert exports.states == ["sent", "sent"]
            assert tell(association, answered) == 0
            assert exports.states == ["committed", "committed"]
            assert tell(association, answered) == 0  # twice changes nothing
        assert exports.states == ["committed", "committed"]
        refused = running.audited("commitment", "refused")
        assert [line["status"] for line in refused] == [
            "0x0124",
            "0x0115",
            "0x0120",
            "0x0113",
            "0x0112",
        ]


def test_only_the_destination_itself_may_report(exports: Exports) -> None:
    archive = Archive()
    with archive.listening([CT, MR]):
        pairs = sent(exports, archive)
        exports.commit(linger_seconds=0.0)
    said = Report(transaction_uid=archive.asked[0].TransactionUID, kept=pairs)

    assert exports.index.report_commitment(said, ["another"]) is None
    assert exports.states == ["sent", "sent"]
    effect = exports.index.report_commitment(said, ["another", "outside"])
    assert effect is not None
    assert (effect.destination, effect.committed) == ("outside", 2)


def test_what_was_not_asked_for_changes_nothing(exports: Exports) -> None:
    archive = Archive()
    with archive.listening([CT, MR]):
        (_, first), second = sent(exports, archive)
        exports.commit(linger_seconds=0.0)
    said = Report(
        transaction_uid=archive.asked[0].TransactionUID,
        kept=[(CT, "1.2.3.99"), (MR, first), second],
    )
    effect = exports.index.report_commitment(said, ["outside"])

    assert effect is not None
    assert (effect.committed, effect.strangers) == (1, 2)
    assert exports.states == ["sent", "committed"]


def test_what_is_not_kept_is_sent_again_once_and_then_held(exports: Exports) -> None:
    def lies(asked: Dataset) -> tuple[int, Dataset]:
        kept = [pair for pair in pairs_of(asked) if pair[0] == MR]
        lost = [pair for pair in pairs_of(asked) if pair[0] == CT]
        return 2, report(asked.TransactionUID, kept, lost)

    archive = Archive(says(lies))
    with archive.listening([CT, MR]):
        (_, ct), (_, mr) = sent(exports, archive)
        exports.index.set_revision(exports.revision, "delivered")
        exports.commit()
        assert exports.states == ["pending", "committed"]
        revision = exports.index.revision(exports.revision)
        assert revision is not None
        assert revision.state == "routed"  # the round sees that it is sent again
        assert exports.attempt() is False
        assert exports.states == ["sent", "committed"]
        exports.commit()

    assert archive.arrivals == [ct, mr, ct]
    assert exports.states == ["held", "committed"]
    [part, _] = exports.parts
    assert "0x0112" in part.error
    assert "twice" in part.error
    exports.index.release_revision(exports.revision)
    assert exports.states == ["pending", "committed"]


def test_a_silent_destination_is_asked_twice_and_then_shown(exports: Exports) -> None:
    archive = Archive()
    with archive.listening([CT, MR]):
        sent(exports, archive, commitment_hours=1.0)
        exports.commit(linger_seconds=0.0)
        assert exports.committer().due() == []
        later(exports, 1.1)
        assert exports.committer().due() == [(exports.revision, "outside")]
        exports.commit(linger_seconds=0.0)
        assert exports.states == ["sent", "sent"]
        later(exports, 2.2)
        exports.commit(linger_seconds=0.0)

    assert len(archive.asked) == 2
    assert archive.asked[0].TransactionUID != archive.asked[1].TransactionUID
    assert exports.states == ["uncommitted", "uncommitted"]
    assert exports.committer().due() == []
    late = Report(
        transaction_uid=archive.asked[1].TransactionUID, kept=pairs_of(archive.asked[1])
    )
    exports.index.report_commitment(late, ["outside"])
    assert exports.states == ["committed", "committed"]


def test_a_request_nobody_knows_the_end_of_is_made_again(exports: Exports) -> None:
    """As after kill -9 between the note and the answer."""
    archive = Archive()
    with archive.listening([CT, MR]):
        sent(exports, archive)
        parts = exports.index.parts_to_commit(exports.revision, "outside")
        exports.index.begin_commitment("1.2.9.9", "outside", parts)
        assert exports.committer().due() == []
        later(exports, 0.2)
        assert exports.committer().due() == [(exports.revision, "outside")]
        assert exports.commit(linger_seconds=0.0) is False

    assert [one.TransactionUID != "1.2.9.9" for one in archive.asked] == [True]


def test_one_that_is_away_is_asked_later_one_that_cannot_is_shown(
    exports: Exports,
) -> None:
    archive = Archive()
    with archive.listening([CT, MR], commits=False):
        sent(exports, archive)
        exports.at(unused_port(), commitment=True)
        assert exports.commit() is True
        assert exports.states == ["sent", "sent"]
        exports.at(archive.port, commitment=True)
        assert exports.commit() is False

    assert exports.states == ["uncommitted", "uncommitted"]
    [first, _] = exports.index.deliveries_of(exports.revision)
    assert "does not take storage commitment" in first.last_error


@pytest.mark.parametrize(("status", "again"), [(0x0110, True), (0x0124, False)])
def test_a_refused_request(exports: Exports, status: int, again: bool) -> None:
    archive = Archive(lambda _event: status)
    with archive.listening([CT, MR]):
        sent(exports, archive)
        assert exports.commit() is again

    state = "sent" if again else "uncommitted"
    assert exports.states == [state, state]


def test_garbage_instead_of_an_answer_changes_nothing(exports: Exports) -> None:
    def on_action(event: Event) -> int:
        for made in (None, Dataset(), report("1.2.3.99", [(CT, "1.2.3.98")])):
            tell(event.assoc, made)
        event.assoc.abort()
        return 0

    archive = Archive(on_action)
    with archive.listening([CT, MR]):
        sent(exports, archive)
        assert exports.commit() is True

    assert exports.states == ["sent", "sent"]


def test_another_ae_may_be_asked(exports: Exports) -> None:
    archive, other = Archive(), Archive()
    with archive.listening([CT, MR]), other.listening([]):
        place = {"ae_title": "OUTSIDE", "host": "127.0.0.1", "port": other.port}
        sent(exports, archive, commitment_at=place | {"plain": True})
        exports.commit(linger_seconds=0.0)

    assert (len(archive.asked), len(other.asked)) == (0, 1)
