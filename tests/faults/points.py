"""The named points at which a gateway is made to fail: one for each durable step.

The product knows nothing of them: `launcher` wraps the functions that this table
names. A function that is renamed or moved makes `test_points` fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

When = Literal["before", "after"]
Role = Literal["receiver", "worker", "any"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where something can be made to happen.

    Attributes
    ----------
    name
        As orders and the table of docs/reliability.md say it.
    module, function
        What is wrapped; a dotted function is a method of a class.
    when
        Before it is called, or after it has returned well.
    role
        The process that comes by there in ordinary work.
    step
        In words: what is done, and what is not, when a process dies there.
    """

    name: str
    module: str
    function: str
    when: When
    role: Role
    step: str


def _point(name: str, place: str, role: Role, step: str) -> Point:
    module, _, function = place.partition(":")
    when: When = "before" if name.endswith(":before") else "after"
    return Point(
        name=name, module=module, function=function, when=when, role=role, step=step
    )


RECEIVING = (
    _point(
        "incoming.begin:after",
        "gateway.store.files:FileStore.begin_original",
        "receiver",
        "an object has begun to come in",
    ),
    _point(
        "incoming.sync:before",
        "gateway.store.durable:WholeFile.sync",
        "receiver",
        "all octets came; the disk was not waited for",
    ),
    _point(
        "incoming.sync:after",
        "gateway.store.durable:WholeFile.sync",
        "receiver",
        "the disk has the octets; they have no name yet",
    ),
    _point(
        "store.adopt:after",
        "gateway.store.files:FileStore.adopt",
        "receiver",
        "the file has its name; no row names it",
    ),
    _point(
        "index.add:before",
        "gateway.store.committer:Committer.add",
        "receiver",
        "as before, at the door of the index",
    ),
    _point(
        "index.add:after",
        "gateway.store.committer:Committer.add",
        "receiver",
        "the row is committed; the sender was told nothing",
    ),
    _point(
        "index.group:before",
        "gateway.store.index:Index.add_instances",
        "receiver",
        "rows of several objects are about to be committed together",
    ),
    _point(
        "index.group:after",
        "gateway.store.index:Index.add_instances",
        "receiver",
        "they are committed; nobody was told",
    ),
    _point(
        "response:before",
        "gateway.dicom.handlers:_respond",
        "receiver",
        "all is durable; Success was not sent",
    ),
    _point(
        "response:after",
        "gateway.dicom.handlers:_respond",
        "receiver",
        "Success was sent",
    ),
)

WORKING = (
    _point(
        "close:before",
        "gateway.store.index:Index.close_series",
        "worker",
        "a series is whole; it is not closed",
    ),
    _point(
        "close:after",
        "gateway.store.index:Index.close_series",
        "worker",
        "the series is closed; it has no job",
    ),
    _point(
        "enqueue:before",
        "gateway.stages.workflows:Jobs.start_route",
        "worker",
        "the sweep has met a closed revision",
    ),
    _point(
        "enqueue:after",
        "gateway.stages.workflows:Jobs.start_route",
        "worker",
        "the job is in the queue",
    ),
    _point(
        "enqueue.mark:after",
        "gateway.store.work:Work.mark_enqueued",
        "worker",
        "the index has noted that the job is in the queue",
    ),
    _point(
        "route:before",
        "gateway.stages.flow:Flow.route",
        "worker",
        "the job runs; nothing is decided",
    ),
    _point(
        "route:after",
        "gateway.stages.flow:Flow.route",
        "worker",
        "decided; the queue has not noted it",
    ),
    _point(
        "protect:before",
        "gateway.stages.flow:Flow.protect",
        "worker",
        "decided; no object is protected",
    ),
    _point(
        "vault.put:before",
        "gateway.vault.vault:Vault.put",
        "worker",
        "an object is marked; nothing of it is kept",
    ),
    _point(
        "vault.put:after",
        "gateway.vault.vault:Vault.put",
        "worker",
        "its record is in the vault; its file is not there",
    ),
    _point(
        "protected.sync:before",
        "gateway.store.durable:WholeFile.sync",
        "worker",
        "a protected object is written under a draft's name",
    ),
    _point(
        "protected.sync:after",
        "gateway.store.durable:WholeFile.sync",
        "worker",
        "the disk has the draft; it has no name yet",
    ),
    _point(
        "store.protected:after",
        "gateway.store.files:FileStore.write_protected",
        "worker",
        "record and file are there; no row names them",
    ),
    _point(
        "index.protected:before",
        "gateway.store.index:Index.add_protected",
        "worker",
        "as before, at the door of the index",
    ),
    _point(
        "index.protected:after",
        "gateway.store.index:Index.add_protected",
        "worker",
        "the protected object has its row",
    ),
    _point(
        "protect:after",
        "gateway.stages.flow:Flow.protect",
        "worker",
        "a batch is protected; the queue has not noted it",
    ),
    _point(
        "plan:before",
        "gateway.stages.flow:Flow.plan",
        "worker",
        "all is protected; nothing is owed to anybody",
    ),
    _point(
        "plan:after",
        "gateway.stages.flow:Flow.plan",
        "worker",
        "deliveries are planned; no export is queued",
    ),
    _point(
        "export.enqueue:after",
        "gateway.stages.workflows:Jobs.enqueue_export",
        "worker",
        "an export is queued",
    ),
)

SENDING = (
    _point(
        "export.attempt:before",
        "gateway.stages.export:Exporter.attempt",
        "worker",
        "an export begins",
    ),
    _point(
        "export.verify:after",
        "gateway.stages.export:verified_protected",
        "worker",
        "record and file were verified; nothing was sent",
    ),
    _point(
        "export.send:before",
        "gateway.dicom.rawstore:store_bytes",
        "worker",
        "associated; the object was not sent",
    ),
    _point(
        "export.send:after",
        "gateway.dicom.rawstore:store_bytes",
        "worker",
        "the destination said Success; that is not recorded",
    ),
    _point(
        "export.record:before",
        "gateway.store.deliveries:Deliveries.record_part",
        "worker",
        "as before; the trail has it, the index not",
    ),
    _point(
        "export.record:after",
        "gateway.store.deliveries:Deliveries.record_part",
        "worker",
        "one delivery is recorded",
    ),
    _point(
        "finish:before",
        "gateway.stages.flow:Flow.finish",
        "worker",
        "everything is sent; the revision is open",
    ),
    _point(
        "finish:after",
        "gateway.stages.flow:Flow.finish",
        "worker",
        "the revision is closed; the job has not ended",
    ),
)

EVERYWHERE = (
    _point(
        "audit.append:before",
        "gateway.audit.log:_append",
        "any",
        "something is to be written to the trail",
    ),
    _point(
        "audit.append:after",
        "gateway.audit.log:_append",
        "any",
        "it is in the trail; who asked does not know",
    ),
    _point(
        "migrate:before",
        "gateway.store.database:Database.migrate",
        "any",
        "a process opens the index",
    ),
    _point(
        "migrate:after",
        "gateway.store.database:Database.migrate",
        "any",
        "the tables are those of this release",
    ),
)

ROTATING = (
    _point(
        "rotate.add:after",
        "gateway.sealing.slots:add_slot",
        "any",
        "a file opens under both keys",
    ),
    _point(
        "rotate.drop:before",
        "gateway.sealing.slots:drop_slots",
        "any",
        "the disk has a batch of both; no old wrap is cleared",
    ),
    _point(
        "rotate.drop:after",
        "gateway.sealing.slots:drop_slots",
        "any",
        "one old wrap is cleared",
    ),
)

SYSTEM = (
    _point("os.fsync:before", "os:fsync", "any", "a wait for the disk begins"),
    _point("os.replace:before", "os:replace", "any", "a file is about to be renamed"),
    _point(
        "dns:before", "socket:getaddrinfo", "any", "a host name is about to be resolved"
    ),
)

KILLED_IN_WORK = (*RECEIVING, *WORKING, *SENDING, *EVERYWHERE)
"""Ordinary work passes all of these: each is the place of one kill."""

POINTS = (*KILLED_IN_WORK, *ROTATING, *SYSTEM)

BY_NAME = {point.name: point for point in POINTS}
