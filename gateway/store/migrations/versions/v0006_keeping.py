"""How long things are kept."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Change the tables."""


def downgrade() -> None:
    """Change them back."""
