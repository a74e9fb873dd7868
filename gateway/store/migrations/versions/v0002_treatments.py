"""Treatments and parts of protected objects, and attributes of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ATTRIBUTES = {
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
INDEXED = ("patient_id", "study_date", "accession_number")


def upgrade() -> None:
    """Add the columns; what is there is plain and whole.

    Protected objects of the first version take over the attributes of their
    originals, but for the series description, which they change.
    """
    with op.batch_alter_table("protected") as table:
        table.add_column(_text("treatment", 160))
        table.add_column(
            sa.Column("part", sa.Integer(), nullable=False, server_default="0")
        )
        for name, width in ATTRIBUTES.items():
            table.add_column(_text(name, width))
        table.drop_constraint(op.f("uq_protected_instance_id"), type_="unique")
        table.create_unique_constraint(
            op.f("uq_protected_instance_id"), ["instance_id", "treatment", "part"]
        )
        for name in INDEXED:
            table.create_index(op.f(f"ix_protected_{name}"), [name], unique=False)
    taken_over = [name for name in ATTRIBUTES if name != "series_description"]
    of_original = "(SELECT {} FROM instances WHERE instances.id = instance_id)"
    values = ", ".join(f"{name} = {of_original.format(name)}" for name in taken_over)
    described = of_original.format("substr(series_description, 1, 52)")
    values += f", series_description = trim({described} || ' [MIAD-MARK]')"
    op.execute(f"UPDATE protected SET {values}")  # noqa: S608 - our own names
    with op.batch_alter_table("deliveries") as table:
        table.add_column(_text("treatment", 160))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("deliveries") as table:
        table.drop_column("treatment")
    with op.batch_alter_table("protected") as table:
        for name in INDEXED:
            table.drop_index(op.f(f"ix_protected_{name}"))
        table.drop_constraint(op.f("uq_protected_instance_id"), type_="unique")
        for name in ("treatment", "part", *ATTRIBUTES):
            table.drop_column(name)
        table.create_unique_constraint(
            op.f("uq_protected_instance_id"), ["instance_id"]
        )


def _text(name: str, width: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=width), nullable=False, server_default="")
