"""Drafts that a kill left behind: files that never got their name.

Nothing was promised of them and they are sealed, but they would lie there for ever.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.sealing.census import files_below, is_abandoned

if TYPE_CHECKING:
    from pathlib import Path

DRAFT: Final = re.compile(r"\..+\.[0-9a-f]{16}(\.tmp)?")
"""As `durable.durably` and `Vault.put` name what they are writing."""


def remove(*folders: Path) -> int:
    """Remove drafts that nobody can be writing any more; return how many.

    Parameters
    ----------
    folders
        Of the store and the vault; searched with all that is in them.

    Raises
    ------
    OSError
        A folder cannot be read, or a draft not removed.
    """
    number = 0
    for folder in folders:
        for path in files_below(folder):
            if DRAFT.fullmatch(path.name) and is_abandoned(path):
                path.unlink(missing_ok=True)
                number += 1
    return number
