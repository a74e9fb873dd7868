"""The DICOM gateway around the protection engine."""

from __future__ import annotations
