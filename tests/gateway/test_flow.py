"""Route, protect, plan and export, step by step, without the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gateway.audit.log import AuditLog
from gateway.errors import InvalidSeal, RecordMissing, StoreFull, Unprotectable
from gateway.route.conditions import compile_condition
from gateway.route.router import CompiledRule, Router
from gateway.route.treatment import Treatment
from gateway.stages.attempts import Attempts
from gateway.stages.export import Exporter
from gateway.stages.flow import (
    Asked,
    Flow,
    Ready,
    Result,
    Routed,
    StepFailed,
    Wanted,
)
from gateway.store.index import Index, open_index, utc_now
from gateway.store.rows import Instance
from gateway.store.work import Work
from tests.gateway.doubles import MarkingDouble, RecordsDouble
from tests.gateway.outside import (
    FILES,
    Outside,
    destination,
    receive,
    send_objects,
    unused_port,
)
from tests.gateway.stored import INDEX_KEY, a_store, content_of, flip, put_in_place

CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.7",
)


class Stage:
    """Index, store, flow and exporter over one temporary directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index: Index = open_index(directory / "index.sqlite", INDEX_KEY)
        self.store = a_store(directory / "store")
        self.records = RecordsDouble()
        self.protection = MarkingDouble(self.index, self.store, self.records)
        self.audit = AuditLog(directory / "audit" / "audit.jsonl")

    def flow(self, *rules: tuple[str, bool], match: str = "first") -> Flow:
        compiled = tuple(
            CompiledRule(
                name=f"rule-{number}",
                condition=compile_condition(when),
                destinations=("outside",),
                protect=protect,
            )
            for number, (when, protect) in enumerate(rules)
        )
        return Flow(
            index=self.index,
            store=self.store,
            router=Router(compiled, "all" if match == "all" else "first"),
            protection=self.protection,
            attempts=Attempts(Work(self.index.database), "test"),
        )

    def exporter(self, port: int, *, originals: bool = False) -> Exporter:
        return Exporter(
            index=self.index,
            store=self.store,
            vault=self.records,
            audit=self.audit,
            destinations={"outside": destination(port, originals=originals)},
            calling_ae="GATEWAY",
            send=send_objects,
        )

    def close(self) -> int:
        revision = self.index.close_series("1.2.3.4", "MODALITY", utc_now())
        assert revision is not None
        return revision.id

    def through(self, flow: Flow, revision_id: int) -> list[str]:
        routed = flow.route(revision_id)
        ready = flow.protect([item for item in routed if item["protected"]])
        return flow.plan(revision_id, routed, ready)

    def states(self, revision_id: int) -> dict[str, tuple[str, str]]:
        found = self.index.instances_of_revision(revision_id)
        return {item.modality: (item.state, item.reason) for item in found}


def asked(instance: Instance) -> Routed:
    plain = Asked(destination="outside", treatment=asdict(Treatment()))
    return Routed(instance_id=instance.id, protected=[plain], originals=[])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.index.close()


def test_each_instance_goes_its_own_way(stage: Stage) -> None:
    for name in FILES[:3]:
        receive(stage.store, stage.index, name)
    revision_id = stage.close()
    flow = stage.flow(('Modality == "CT"', True), ('Modality == "MR"', False))

    assert stage.through(flow, revision_id) == ["outside"]

    assert stage.states(revision_id) == {
        "CT": ("protected", ""),
        "MR": ("received", ""),
        "NM": ("held", "no-rule"),
    }
    owed = stage.index.deliveries_of(revision_id)
    assert sorted(d.protect for d in owed) == [False, True]
    revision = stage.index.revision(revision_id)
    assert revision is not None
    assert revision.state == "routed"
    assert [part["rules"] for part in revision.decision] == [["rule-0"], ["rule-1"], []]


def test_only_who_asked_for_it_so_is_owed_it(stage: Stage) -> None:
    """Two destinations want one object treated alike but for one thing."""
    instance = receive(stage.store, stage.index)
    revision_id = stage.close()
    passing, dropping = Treatment(non_images="pass"), Treatment(non_images="drop")
    item = Routed(
        instance_id=instance.id,
        protected=[
            Asked(destination="one", treatment=asdict(passing)),
            Asked(destination="two", treatment=asdict(dropping)),
        ],
        originals=[],
    )
    ready = [Ready(instance_id=instance.id, treatments=[asdict(passing)])]
    flow = stage.flow(("true", True))

    assert flow.plan(revision_id, [item], ready) == ["one"]

    owed = stage.index.deliveries_of(revision_id)
    assert [d.destination for d in owed] == ["one"]


def test_followers_are_woken_by_what_they_waited_for(stage: Stage) -> None:
    image = receive(stage.store, stage.index)
    waiting = receive(
        stage.store, stage.index, "MR_small.dcm", series_instance_uid="1.2.3.5"
    )
    first = stage.close()
    second = stage.index.close_series("1.2.3.5", "MODALITY", utc_now())
    assert second is not None
    stage.index.hold_instance(waiting.id, "unresolved-references", "2 objects")
    stage.index.set_revision(second.id, "held", "1 held")
    flow = stage.flow(("true", True))

    assert flow.wake(first, []) == 0
    ready = [Ready(instance_id=image.id, treatments=[asdict(Treatment())])]
    assert flow.wake(first, ready) == 1

    woken = stage.index.revision(second.id)
    assert woken is not None
    assert (woken.state, woken.reason) == ("complete", "retry")
    assert flow.wake(second.id, ready) == 0


def test_what_is_dropped_by_a_rule_holds_nothing_up(stage: Stage) -> None:
    instance = receive(stage.store, stage.index)
    revision_id = stage.close()
    flow = replace(stage.flow(("true", True)), protection=Dropping())
    assert stage.through(flow, revision_id) == []
    assert flow.finish(revision_id)
    assert stage.states(revision_id) == {"CT": ("dropped", "dropped-by-rule")}
    revision = stage.index.revision(revision_id)
    assert revision is not None
    assert revision.state == "delivered"
    assert instance.state == "received"


class Dropping:
    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """There are no models."""

    def protect(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        return (Result(dropped="by a rule") for _ in wanted)


class Watching(Dropping):
    """Notes how many attempts there are while models load, and while it protects."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.seen: list[int] = []

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        self.look(wanted)

    def protect(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        self.look(wanted)
        return super().protect(wanted)

    def look(self, wanted: Sequence[Wanted]) -> None:
        ids = [one.instance.id for one in wanted]
        self.seen.append(len(self.work.attempts_of(ids)))


def test_a_worker_that_ends_while_models_load_has_attempted_nothing(
    stage: Stage,
) -> None:
    receive(stage.store, stage.index)
    watching = Watching(Work(stage.index.database))
    flow = replace(stage.flow(("true", True)), protection=watching)
    assert stage.through(flow, stage.close()) == []
    assert watching.seen == [0, 1]


def test_steps_may_be_repeated(stage: Stage) -> None:
    receive(stage.store, stage.index)
    revision_id = stage.close()
    flow = stage.flow(("true", True))

    stage.through(flow, revision_id)
    stage.through(flow, revision_id)

    assert len(stage.index.deliveries_of(revision_id)) == 1
    assert stage.protection.made == 1


def test_an_object_that_cannot_be_read_is_held(stage: Stage) -> None:
    instance = receive(stage.store, stage.index)
    put_in_place(stage.store, instance.path, b"nothing of use")
    revision_id = stage.close()

    assert stage.through(stage.flow(("true", True)), revision_id) == []
    assert stage.states(revision_id) == {"CT": ("held", "unreadable")}


def test_an_unprotectable_object_is_held_and_the_others_go_on(stage: Stage) -> None:
    for name in FILES[:2]:
        receive(stage.store, stage.index, name)
    revision_id = stage.close()
    stage.protection.fail_for["CT"] = Unprotectable("too-small", "1 by 1 pixel")
    flow = stage.flow(("true", True))

    assert stage.through(flow, revision_id) == ["outside"]

    assert stage.states(revision_id) == {
        "CT": ("held", "too-small"),
        "MR": ("protected", ""),
    }
    outside = Outside()
    with outside.listening(CLASSES):
        assert stage.exporter(outside.port).attempt(revision_id, "outside") is False
    assert flow.finish(revision_id) is True
    revision = stage.index.revision(revision_id)
    assert revision is not None
    assert revision.state == "held"
    assert revision.reason == "of 2 instances 1 held: too-small"
    assert len(outside.arrivals) == 1


def test_an_unforeseen_failure_says_nothing_of_the_object(stage: Stage) -> None:
    instance = receive(stage.store, stage.index)
    stage.protection.fail_for["CT"] = ValueError("Doe^John")

    with pytest.raises(StepFailed, match=r"^ValueError at doubles\.py:\d+$") as caught:
        stage.flow(("true", True)).protect([asked(instance)])

    assert caught.value.__cause__ is None


def test_no_room_is_worth_another_try(stage: Stage) -> None:
    instance = receive(stage.store, stage.index)
    stage.protection.fail_for["CT"] = StoreFull("no room")

    with pytest.raises(StoreFull):
        stage.flow(("true", True)).protect([asked(instance)])


def test_nothing_to_send_closes_the_revision_as_held(stage: Stage) -> None:
    receive(stage.store, stage.index)
    revision_id = stage.close()
    flow = stage.flow(("false", True))

    stage.through(flow, revision_id)

    assert flow.finish(revision_id) is True
    revision = stage.index.revision(revision_id)
    assert revision is not None
    assert (revision.state, revision.reason) == (
        "held",
        "of 1 instances 1 held: no-rule",
    )


def test_a_revision_put_back_is_not_closed_by_a_step_done_again(stage: Stage) -> None:
    receive(stage.store, stage.index)
    revision_id = stage.close()
    flow = stage.flow(("false", True))
    stage.through(flow, revision_id)
    assert flow.finish(revision_id) is True
    stage.index.release_revision(revision_id)

    assert flow.finish(revision_id) is False

    assert [r.state for r in stage.index.revisions()] == ["complete"]


# Export


def routed(stage: Stage, *, protect: bool) -> tuple[Instance, int]:
    instance = receive(stage.store, stage.index)
    revision_id = stage.close()
    stage.through(stage.flow(("true", protect)), revision_id)
    return instance, revision_id


def test_only_the_protected_object_leaves(stage: Stage) -> None:
    instance, revision_id = routed(stage, protect=True)
    row = stage.index.protected_of(instance.id)
    assert row is not None
    outside = Outside()

    with outside.listening(CLASSES):
        stage.exporter(outside.port).attempt(revision_id, "outside")

    assert outside.kept == [row.sop_instance_uid]
    assert instance.sop_instance_uid not in outside.kept
    assert outside.arrivals[0][1] == stage.store.read_data_set(row.path)[0]


def drop_record(stage: Stage, instance: Instance) -> None:
    stage.records.failure = RecordMissing("no record")
    assert instance.id


def break_seal(stage: Stage, instance: Instance) -> None:
    stage.records.failure = InvalidSeal("does not open")
    assert instance.id


def alter_file(stage: Stage, instance: Instance) -> None:
    row = stage.index.protected_of(instance.id)
    assert row is not None
    content = content_of(stage.store, row.path)
    put_in_place(stage.store, row.path, content[:-2] + b"\1\1")


def put_original_in_place(stage: Stage, instance: Instance) -> None:
    row = stage.index.protected_of(instance.id)
    assert row is not None
    original = content_of(stage.store, instance.path)
    put_in_place(stage.store, row.path, original)


def remove_file(stage: Stage, instance: Instance) -> None:
    row = stage.index.protected_of(instance.id)
    assert row is not None
    stage.store.path_of(row.path).unlink()


@pytest.mark.parametrize(
    "damage", [drop_record, break_seal, alter_file, put_original_in_place, remove_file]
)
def test_what_does_not_verify_never_leaves(
    stage: Stage, damage: Callable[[Stage, Instance], None]
) -> None:
    instance, revision_id = routed(stage, protect=True)
    damage(stage, instance)
    outside = Outside()

    with outside.listening(CLASSES):
        again = stage.exporter(outside.port).attempt(revision_id, "outside")

    assert again is False
    assert outside.arrivals == []
    assert stage.states(revision_id) == {"CT": ("held", "unprotected-export")}
    assert [d.state for d in stage.index.deliveries_of(revision_id)] == ["held"]
    failures = [e for e in stage.audit.entries() if e["outcome"] == "failure"]
    assert [entry["action"] for entry in failures] == ["export"]


def test_a_delivery_without_protected_object_never_leaves(stage: Stage) -> None:
    instance = receive(stage.store, stage.index)
    revision_id = stage.close()
    stage.index.plan_deliveries(
        revision_id, "outside", protect=True, instance_ids=[instance.id]
    )
    outside = Outside()

    with outside.listening(CLASSES):
        stage.exporter(outside.port).attempt(revision_id, "outside")

    assert outside.arrivals == []
    assert stage.states(revision_id) == {"CT": ("held", "unprotected-export")}


def test_originals_leave_only_to_who_may_have_them(stage: Stage) -> None:
    instance, revision_id = routed(stage, protect=False)
    outside = Outside()

    with outside.listening(CLASSES):
        stage.exporter(outside.port, originals=False).attempt(revision_id, "outside")
        assert outside.arrivals == []
        assert [d.state for d in stage.index.deliveries_of(revision_id)] == ["held"]
        stage.index.release_revision(revision_id)
        stage.exporter(outside.port, originals=True).attempt(revision_id, "outside")

    expected = stage.store.read_data_set(instance.path)[0]
    assert outside.arrivals == [(instance.sop_instance_uid, expected)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [("flipped", "damaged"), ("replaced", "another one"), ("removed", "missing")],
)
def test_an_original_that_is_not_what_was_received_never_leaves(
    stage: Stage, damage: str, told: str
) -> None:
    instance, revision_id = routed(stage, protect=False)
    if damage == "flipped":
        flip(stage.store, instance.path, 20_000)
    elif damage == "replaced":
        content = content_of(stage.store, instance.path)
        put_in_place(stage.store, instance.path, content[:-2] + b"\1\1")
    else:
        stage.store.path_of(instance.path).unlink()
    outside = Outside()

    with outside.listening(CLASSES):
        again = stage.exporter(outside.port, originals=True)
        assert again.attempt(revision_id, "outside") is False

    assert outside.arrivals == []
    (delivery,) = stage.index.deliveries_of(revision_id)
    assert (delivery.state, delivery.last_error) == (
        "held",
        f"the stored original is {told}",
    )


def test_a_destination_that_is_away_is_tried_again(stage: Stage) -> None:
    _, revision_id = routed(stage, protect=True)

    again = stage.exporter(unused_port()).attempt(revision_id, "outside")

    assert again is True
    (delivery,) = stage.index.deliveries_of(revision_id)
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert "cannot be reached" in delivery.last_error


def test_a_refused_object_is_kept_apart_and_visible(stage: Stage) -> None:
    _, revision_id = routed(stage, protect=True)
    outside = Outside(status_of=lambda _uid: 0xC001)
    with outside.listening(CLASSES):
        again = stage.exporter(outside.port).attempt(revision_id, "outside")

    assert again is False
    (delivery,) = stage.index.deliveries_of(revision_id)
    assert (delivery.state, delivery.status) == ("refused", 0xC001)
    flow = stage.flow(("true", True))
    assert flow.finish(revision_id) is True
    revision = stage.index.revision(revision_id)
    assert revision is not None
    assert revision.reason == "of 1 instances 1 refused at outside"


def test_what_is_confirmed_is_never_sent_again(stage: Stage) -> None:
    _, revision_id = routed(stage, protect=True)
    outside = Outside()
    with outside.listening(CLASSES):
        exporter = stage.exporter(outside.port)
        exporter.attempt(revision_id, "outside")
        stage.through(stage.flow(("true", True)), revision_id)
        exporter.attempt(revision_id, "outside")

    assert len(outside.arrivals) == 1


def test_a_destination_taken_out_of_the_site_holds(stage: Stage) -> None:
    _, revision_id = routed(stage, protect=True)
    exporter = stage.exporter(unused_port())
    stage.index.plan_deliveries(revision_id, "gone", protect=True, instance_ids=[1])

    assert exporter.attempt(revision_id, "gone") is False

    held = [d for d in stage.index.deliveries_of(revision_id) if d.state == "held"]
    assert [d.last_error for d in held] == [
        "no destination 'gone' is configured any more"
    ]
