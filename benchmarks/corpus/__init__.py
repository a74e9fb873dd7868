"""Every DICOM file of the installed packages through a whole gateway, and back."""

from __future__ import annotations
