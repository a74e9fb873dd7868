"""Migrations of the index, run when it is opened."""

from __future__ import annotations
