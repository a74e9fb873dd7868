"""Shared by every test: one torch thread, real files, temporary sites."""

from __future__ import annotations

import os

# Two busy threads on two shared cores make a forward pass ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
