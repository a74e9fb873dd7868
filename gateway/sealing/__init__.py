"""What keeps data at rest unreadable: master keys, sealed files, secrets."""

from __future__ import annotations
