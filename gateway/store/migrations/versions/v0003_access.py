"""Grants, approvals, releases, and the latest time ever seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

LEDGERS = ("grants", "approvals", "releases")


def upgrade() -> None:
    """Make the tables."""
    for name in LEDGERS:
        op.create_table(
            name,
            sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("recorded_at", sa.String(length=32), nullable=False),
            sa.Column("kind", sa.String(length=16), nullable=False),
            sa.Column("subject", sa.String(length=64), nullable=False),
            sa.Column("body", sa.Text(), nullable=False),
            sa.Column("mac", sa.String(length=64), nullable=False),
            sa.PrimaryKeyConstraint("number", name=op.f(f"pk_{name}")),
        )
    op.create_table(
        "trusted_clock",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("latest", sa.String(length=32), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trusted_clock")),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("trusted_clock", *LEDGERS):
        op.drop_table(name)
