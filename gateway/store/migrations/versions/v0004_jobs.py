"""Workers that share a site: their heartbeats, their notes, and what is due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables and columns; every revision's first job is still due.

    A job asked for twice is one job: asking for those that have one is harmless.
    """
    with op.batch_alter_table("revisions") as table:
        table.add_column(_number("priority", "20"))
        table.add_column(_number("run", "1"))
        table.add_column(_number("enqueued", "0"))
        table.add_column(
            sa.Column(
                "changed_at", sa.String(length=32), nullable=False, server_default=""
            )
        )
    op.execute("UPDATE revisions SET changed_at = closed_at")
    op.create_index(op.f("ix_deliveries_revision_id"), "deliveries", ["revision_id"])
    op.create_table(
        "executors",
        sa.Column("id", sa.String(length=160), nullable=False),
        sa.Column("machine", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.String(length=32), nullable=False),
        sa.Column("beat_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executors")),
    )
    op.create_table(
        "attempts",
        sa.Column("instance_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("executor", sa.String(length=160), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_attempts")),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("attempts")
    op.drop_table("executors")
    op.drop_index(op.f("ix_deliveries_revision_id"), "deliveries")
    with op.batch_alter_table("revisions") as table:
        for name in ("changed_at", "enqueued", "run", "priority"):
            table.drop_column(name)


def _number(name: str, default: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=default)
