"""Protects frames: mask, δ, search on I + δ, blend, verify."""

from __future__ import annotations
