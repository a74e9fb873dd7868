"""Tables of the index (SQLAlchemy Core).

Files hold the bytes, the index says what they are and how far they have come.
Times are UTC ISO 8601 text so that SQLite and PostgreSQL agree.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_INDEXED = frozenset({"patient_id", "study_date", "accession_number"})
_WIDTHS = {
    "patient_id": 64,
    "patient_name": 324,
    "patient_birth_date": 8,
    "patient_sex": 16,
    "study_date": 8,
    "study_time": 16,
    "accession_number": 16,
    "study_id": 16,
    "study_description": 64,
    "referring_physician_name": 324,
    "modality": 16,
    "series_number": 12,
    "series_description": 64,
    "body_part_examined": 16,
    "instance_number": 12,
}


def _attribute_columns() -> list[Column[str]]:
    """Make the columns that queries match, of received and protected objects."""
    return [
        Column(name, String(width), nullable=False, default="", index=name in _INDEXED)
        for name, width in _WIDTHS.items()
    ]


# Revisions: one closed batch of a series. Instances that arrive after a close
# form the next revision, so nothing late is lost or mixed in. Jobs go by the ids
# of revisions and instances: one of an erased row is never given again
# (sqlite_autoincrement; PostgreSQL's sequences do the same).
revisions = Table(
    "revisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("closed_at", String(32), nullable=False),
    # complete -> routed -> delivered, or held
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    # a list: which rule matched, its destinations, whether it protects
    Column("decision", JSON, nullable=True),
    # of its jobs, the smaller first (`gateway.route.urgency`)
    Column("priority", Integer, nullable=False, default=20),
    # counts how often it went through rules from the start, and which of these
    # times has its job: a smaller number means that one is due
    Column("run", Integer, nullable=False, default=1),
    Column("enqueued", Integer, nullable=False, default=0),
    Column("changed_at", String(32), nullable=False, default=""),  # its state
    UniqueConstraint("series_instance_uid", "revision", "calling_ae"),
    sqlite_autoincrement=True,
)

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),  # of the data set as received
    Column("size_bytes", BigInteger, nullable=False),
    Column("path", Text, nullable=False),  # relative to the store
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("series_instance_uid", String(64), nullable=False, index=True),
    *_attribute_columns(),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("peer_address", String(45), nullable=False),
    Column("received_at", String(32), nullable=False),
    Column("revision_id", Integer, ForeignKey("revisions.id"), nullable=True),
    # received -> protected, dropped by a rule, or held (with reason and message)
    Column("state", String(16), nullable=False, default="received"),
    Column("reason", String(64), nullable=False, default=""),
    Column("message", Text, nullable=False, default=""),
    # when the file began to go, by retention; then its path is '' once it has gone
    Column("gone_at", String(32), nullable=True),
    Index("ix_instances_open", "revision_id", "series_instance_uid"),
    sqlite_autoincrement=True,
)

# The same SOP Instance UID came again with other bytes: kept aside, reported.
conflicts = Table(
    "conflicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("peer_address", String(45), nullable=False),
    Column("received_at", String(32), nullable=False),
    UniqueConstraint("sop_instance_uid", "sha256", "transfer_syntax_uid"),
)

protected = Table(
    "protected",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance_id", Integer, ForeignKey("instances.id"), nullable=False),
    # which treatment of its rule made it ('' is the plain one), and which part
    # it is where frames became objects of their own; the record is part 0's
    Column("treatment", String(160), nullable=False, default=""),
    Column("part", Integer, nullable=False, default=0),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("series_instance_uid", String(64), nullable=False, index=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    # as the protected object says: queries for it never touch the original's
    *_attribute_columns(),
    Column("path", Text, nullable=False),  # Part 10 file, relative to the store
    Column("sha256", String(64), nullable=False),  # of that file
    Column("report", JSON, nullable=False),  # what the engine did, per frame
    Column("created_at", String(32), nullable=False),
    Column("gone_at", String(32), nullable=True),  # as of instances
    UniqueConstraint("instance_id", "treatment", "part"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "revision_id", Integer, ForeignKey("revisions.id"), nullable=False, index=True
    ),
    Column("instance_id", Integer, ForeignKey("instances.id"), nullable=False),
    Column("destination", String(64), nullable=False, index=True),
    Column("protect", Boolean, nullable=False),
    Column("treatment", String(160), nullable=False, default=""),
    # pending -> sent -> committed | uncommitted (no report in time), or
    # refused (the peer said no, kept apart), or held (it must not go out, or
    # was sent twice and not kept); the worst of its parts
    Column("state", String(16), nullable=False, default="pending", index=True),
    Column("status", Integer, nullable=True),  # last DIMSE status
    # whether the peer stored something of it with a remark (0xBxxx)
    Column("warned", Boolean, nullable=False, server_default=false()),
    Column("attempts", Integer, nullable=False, default=0),
    Column("last_error", Text, nullable=False, default=""),
    Column("sent_at", String(32), nullable=True),
    UniqueConstraint("instance_id", "destination", "protect"),
)

# What a destination was asked to commit to (PS3.4 J), each time anew.
commitments = Table(
    "commitments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transaction_uid", String(64), nullable=False, unique=True),
    Column("revision_id", Integer, ForeignKey("revisions.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("part_ids", JSON, nullable=False),  # of delivery_parts
    # asking -> asked -> reported, or failed (it did not take the request)
    Column("state", String(16), nullable=False, default="asking"),
    Column("asked_at", String(32), nullable=False),
    Column("deadline_at", String(32), nullable=False),
)

# Each object that is sent for a delivery: what was confirmed is not sent again.
delivery_parts = Table(
    "delivery_parts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("delivery_id", Integer, ForeignKey("deliveries.id"), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    # pending -> sent -> committed, or refused, or held (not kept, twice)
    Column("state", String(16), nullable=False, default="pending"),
    Column("status", Integer, nullable=True),
    Column("error", Text, nullable=False, default=""),
    Column("address", Text, nullable=False, default=""),  # AE@host:port that took it
    Column("transfer_syntax_uid", String(64), nullable=False, default=""),
    Column("sent_at", String(32), nullable=True),
    # the last request for commitment, how many it was part of, and how often the
    # destination reported that it does not keep it
    Column("commitment_id", Integer, ForeignKey("commitments.id"), nullable=True),
    Column("asked", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    UniqueConstraint("delivery_id", "sop_instance_uid"),
)

# What nodes asked this gateway to commit to, until they know.
commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("transaction_uid", String(64), nullable=False),
    Column("objects", JSON, nullable=False),  # pairs of SOP class and instance UID
    # waiting -> reported | given-up
    Column("state", String(16), nullable=False, default="waiting", index=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("received_at", String(32), nullable=False),
    Column("next_at", String(32), nullable=False),
    Column("last_error", Text, nullable=False, default=""),
    UniqueConstraint("node", "transaction_uid"),
)

# What is no longer kept: never a name, and of an erased study no UID either.
tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Integer, primary_key=True),
    # original, protected or key, with its SOP Instance UID; study, with the
    # SHA-256 of its Study Instance UID, hex
    Column("kind", String(16), nullable=False),
    Column("uid", String(64), nullable=False, index=True),
    Column("sha256", String(64), nullable=False, default=""),  # of what it was
    Column("at", String(32), nullable=False),
    Column("why", String(64), nullable=False),
)


def _ledger(name: str) -> Table:
    """Make a table that is only ever added to (``gateway.access.ledger``)."""
    return Table(
        name,
        metadata,
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("recorded_at", String(32), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("subject", String(64), nullable=False),
        Column("body", Text, nullable=False),  # JSON, as it was authenticated
        Column("mac", String(64), nullable=False),  # over the row and the one before
    )


# Who may have originals; what two people approved; what was given to whom.
grants = _ledger("grants")
approvals = _ledger("approvals")
releases = _ledger("releases")

# The latest time ever seen, so that a clock set back revives no grant.
trusted_clock = Table(
    "trusted_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),  # resets by a person so far
    Column("latest", String(32), nullable=False),
    Column("mac", String(64), nullable=False),
)

# The processes of all machines of a site. ``beats`` counts: that it stands still
# is what others judge by, never by the times, which are of different clocks.
executors = Table(
    "executors",
    metadata,
    Column("id", String(160), primary_key=True),  # of one run of a process
    Column("machine", String(64), nullable=False),
    Column("kind", String(16), nullable=False),  # worker, web, receiver
    Column("slot", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", String(64), nullable=False),
    Column("version", String(32), nullable=False),
    # live -> stopped (said so itself), or lost (others said so)
    Column("state", String(16), nullable=False),
    Column("beats", BigInteger, nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("beat_at", String(32), nullable=False),
)

# What is being protected now, and how often a process ended over it.
attempts = Table(
    "attempts",
    metadata,
    Column("instance_id", Integer, primary_key=True, autoincrement=False),
    Column("executor", String(160), nullable=False),
    Column("number", Integer, nullable=False),
)
