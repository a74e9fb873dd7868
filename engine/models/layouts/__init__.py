"""Data sets in the layouts they are published in, each as a list of samples."""

from __future__ import annotations
