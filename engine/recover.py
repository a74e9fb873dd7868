"""Exact recovery of an original frame (Eq. 13), verified by digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import RecoveryFailed
from engine.types import stored_digest
from engine.watermark.stored import invert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.types import FrameKey


def recover(protected: NDArray[np.int32], key: FrameKey) -> NDArray[np.int32]:
    """Original stored values of a protected frame, bit for bit.

    Parameters
    ----------
    protected
        ``(rows, columns[, 3])`` int32 stored values as sent.
    key
        The key of this frame.

    Returns
    -------
    NDArray[np.int32]
        The original stored values, shape of `protected`.

    Raises
    ------
    RecoveryFailed
        The frame does not fit the key, or what comes out does not have the
        digest of the original: pixels changed on the way, or another key.
    """
    stored = invert(protected, key)
    if stored_digest(stored) != key.stored_sha256:
        raise RecoveryFailed(
            "rebuilt pixels do not have the digest of the original: the protected "
            "frame was changed after protection, or the key is of another frame"
        )
    return stored
