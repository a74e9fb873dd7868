"""The composition root: the parts of a gateway put together, per process."""

from __future__ import annotations
