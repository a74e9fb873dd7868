"""Logo, semantic-invariant transform and blending (Alg. 1)."""

from __future__ import annotations
