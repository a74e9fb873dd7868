"""The durable jobs: route, protect, export, recover."""

from __future__ import annotations
