"""The imperceptible perturbation δ (Eqs. 1, 3, 4)."""

from __future__ import annotations
