"""Settings of a site: schema, defaults and loading."""

from __future__ import annotations
