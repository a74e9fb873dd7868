"""DICOM objects and associations."""

from __future__ import annotations
