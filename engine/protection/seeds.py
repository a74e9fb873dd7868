"""Seeds of draws that depend on parameters and frame only, not on order."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(seed: int, purpose: str, frame: bytes) -> int:
    """Seed of one frame's draws for one purpose.

    Parameters
    ----------
    seed
        Of all parameters.
    purpose
        ``delta`` or ``search``.
    frame
        What tells the frame from others.
    """
    text = f"{seed}/{purpose}/".encode() + frame
    return int.from_bytes(hashlib.sha256(text).digest(), "big")


def generator(seed: int, purpose: str, frame: bytes) -> np.random.Generator:
    """Make the generator of `seed_of`."""
    return np.random.default_rng(seed_of(seed, purpose, frame))
