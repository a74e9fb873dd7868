"""Durable files and the SQL index."""

from __future__ import annotations
