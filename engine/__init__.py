"""The MIAD-MARK protection engine: pixels and models, no DICOM."""

from __future__ import annotations
