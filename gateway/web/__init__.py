"""Console and DICOMweb over HTTPS."""

from __future__ import annotations
