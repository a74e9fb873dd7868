"""Workers that share a site."""

from __future__ import annotations

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Change the tables."""


def downgrade() -> None:
    """Change them back."""
