"""How long things are kept: files that have gone, and ids that never come again."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

NUMBERED = ("revisions", "instances")
"""Jobs go by the ids of their rows."""


def upgrade() -> None:
    """Add columns and table; SQLite makes the numbered tables anew.

    Needs foreign keys switched off on SQLite, as `gateway.store.upgrade` does:
    other tables refer to those that are made anew.
    """
    anew: Literal["auto", "always"] = "auto" if _keeps_ids() else "always"
    for name in NUMBERED:
        with op.batch_alter_table(
            name, recreate=anew, table_kwargs={"sqlite_autoincrement": True}
        ) as table:
            if name == "instances":
                table.add_column(_gone_at())
    with op.batch_alter_table("protected") as table:
        table.add_column(_gone_at())
    op.create_table(
        "tombstones",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("why", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tombstones")),
    )
    op.create_index(op.f("ix_tombstones_uid"), "tombstones", ["uid"])


def downgrade() -> None:
    """Drop them; ids stay as they are."""
    op.drop_table("tombstones")
    for name in ("protected", "instances"):
        with op.batch_alter_table(name) as table:
            table.drop_column("gone_at")


def _gone_at() -> sa.Column[str]:
    return sa.Column("gone_at", sa.String(length=32), nullable=True)


def _keeps_ids() -> bool:
    """Whether the database never gives an id again by itself."""
    return op.get_bind().dialect.name != "sqlite"
