"""The demonstration: the main job on loopback, with real images."""

from __future__ import annotations
