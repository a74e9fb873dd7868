"""One module per revision of the tables."""

from __future__ import annotations
