"""Diagnosis classifiers, their ensemble (Eq. 12) and training."""

from __future__ import annotations
