"""Key sequences, sealed."""

from __future__ import annotations
