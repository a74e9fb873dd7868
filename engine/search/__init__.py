"""Search for position and opacity of the mark (Alg. 3)."""

from __future__ import annotations
