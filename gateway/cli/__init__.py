"""The command line: miad-gateway."""

from __future__ import annotations
