"""Completion of studies and routing rules."""

from __future__ import annotations
