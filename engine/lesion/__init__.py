"""Grad-CAM lesion masks and boxes (Alg. 2)."""

from __future__ import annotations
