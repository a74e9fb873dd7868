"""The tables and figures of the paper, measured."""

from __future__ import annotations
