"""Watermark-removal networks: the adversary δ is made against."""

from __future__ import annotations
