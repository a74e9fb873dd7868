"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "conflicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("received_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflicts")),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "sha256",
            "transfer_syntax_uid",
            name=op.f("uq_conflicts_sop_instance_uid"),
        ),
    )
    op.create_index(
        op.f("ix_conflicts_sop_instance_uid"),
        "conflicts",
        ["sop_instance_uid"],
        unique=False,
    )
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("closed_at", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decision", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revisions")),
        sa.UniqueConstraint(
            "series_instance_uid",
            "revision",
            "calling_ae",
            name=op.f("uq_revisions_series_instance_uid"),
        ),
    )
    op.create_index(op.f("ix_revisions_state"), "revisions", ["state"], unique=False)
    op.create_index(
        op.f("ix_revisions_study_instance_uid"),
        "revisions",
        ["study_instance_uid"],
        unique=False,
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("patient_name", sa.String(length=324), nullable=False),
        sa.Column("patient_birth_date", sa.String(length=8), nullable=False),
        sa.Column("patient_sex", sa.String(length=16), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("study_time", sa.String(length=16), nullable=False),
        sa.Column("accession_number", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.String(length=16), nullable=False),
        sa.Column("study_description", sa.String(length=64), nullable=False),
        sa.Column("referring_physician_name", sa.String(length=324), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("series_number", sa.String(length=12), nullable=False),
        sa.Column("series_description", sa.String(length=64), nullable=False),
        sa.Column("body_part_examined", sa.String(length=16), nullable=False),
        sa.Column("instance_number", sa.String(length=12), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=45), nullable=False),
        sa.Column("received_at", sa.String(length=32), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_instances_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint(
            "sop_instance_uid", name=op.f("uq_instances_sop_instance_uid")
        ),
    )
    op.create_index(
        op.f("ix_instances_accession_number"),
        "instances",
        ["accession_number"],
        unique=False,
    )
    op.create_index(
        "ix_instances_open",
        "instances",
        ["revision_id", "series_instance_uid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_instances_patient_id"), "instances", ["patient_id"], unique=False
    )
    op.create_index(
        op.f("ix_instances_series_instance_uid"),
        "instances",
        ["series_instance_uid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_instances_study_date"), "instances", ["study_date"], unique=False
    )
    op.create_index(
        op.f("ix_instances_study_instance_uid"),
        "instances",
        ["study_instance_uid"],
        unique=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("protect", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_deliveries_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revisions.id"], name=op.f("fk_deliveries_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint(
            "instance_id",
            "destination",
            "protect",
            name=op.f("uq_deliveries_instance_id"),
        ),
    )
    op.create_index(
        op.f("ix_deliveries_destination"), "deliveries", ["destination"], unique=False
    )
    op.create_index(op.f("ix_deliveries_state"), "deliveries", ["state"], unique=False)
    op.create_table(
        "protected",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_protected_instance_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_protected")),
        sa.UniqueConstraint("instance_id", name=op.f("uq_protected_instance_id")),
        sa.UniqueConstraint(
            "sop_instance_uid", name=op.f("uq_protected_sop_instance_uid")
        ),
    )
    op.create_index(
        op.f("ix_protected_series_instance_uid"),
        "protected",
        ["series_instance_uid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_protected_study_instance_uid"),
        "protected",
        ["study_instance_uid"],
        unique=False,
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index(op.f("ix_protected_study_instance_uid"), table_name="protected")
    op.drop_index(op.f("ix_protected_series_instance_uid"), table_name="protected")
    op.drop_table("protected")
    op.drop_index(op.f("ix_deliveries_state"), table_name="deliveries")
    op.drop_index(op.f("ix_deliveries_destination"), table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index(op.f("ix_instances_study_instance_uid"), table_name="instances")
    op.drop_index(op.f("ix_instances_study_date"), table_name="instances")
    op.drop_index(op.f("ix_instances_series_instance_uid"), table_name="instances")
    op.drop_index(op.f("ix_instances_patient_id"), table_name="instances")
    op.drop_index("ix_instances_open", table_name="instances")
    op.drop_index(op.f("ix_instances_accession_number"), table_name="instances")
    op.drop_table("instances")
    op.drop_index(op.f("ix_revisions_study_instance_uid"), table_name="revisions")
    op.drop_index(op.f("ix_revisions_state"), table_name="revisions")
    op.drop_table("revisions")
    op.drop_index(op.f("ix_conflicts_sop_instance_uid"), table_name="conflicts")
    op.drop_table("conflicts")
