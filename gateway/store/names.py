"""Names of stored files: they tell nobody without the store's secret anything.

A plain digest as a name would let a thief confirm that a known image is there,
a UID that a known object is. So names are HMACs (RFC 2104) with a secret.
"""

from __future__ import annotations

import hmac
from pathlib import PurePosixPath
from typing import Final

from gateway.store.part10 import FileMeta, check_uid

ORIGINALS: Final = "originals"
CONFLICTS: Final = "conflicts"
PROTECTED: Final = "protected"

SUFFIX: Final = ".sealed"
DIGITS: Final = 32
SECRET_BYTES: Final = 32


class Names:
    """Makes the names of stored files.

    Parameters
    ----------
    secret
        32 octets that never change: with others, received bytes would no longer
        be known again.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret of the store has {SECRET_BYTES} octets")
        self._secret = secret

    def label(self, meta: FileMeta) -> str:
        """Return what stands for an object's UID and syntax in its file's name."""
        return self._mark("object", meta.sop_instance_uid, meta.transfer_syntax_uid)

    def original(
        self, kind: str, sha256: str, meta: FileMeta, label: str | None = None
    ) -> str:
        """Return the relative path of received bytes.

        The same bytes of the same object in the same syntax have one name.

        Parameters
        ----------
        kind
            Originals or conflicts.
        sha256, meta
            Of the bytes, and what they are.
        label
            Of the object, where it is known already.
        """
        mark = self._mark("content", sha256, meta.transfer_syntax_uid)
        return f"{kind}/{mark[:2]}/{mark}-{label or self.label(meta)}{SUFFIX}"

    def protected(self, uid: str) -> str:
        """Return the relative path of a protected object.

        Raises
        ------
        InvalidObject
            It is no UID.
        """
        mark = self._mark("protected", check_uid(uid, "SOP Instance UID"))
        return f"{PROTECTED}/{mark[:2]}/{mark}{SUFFIX}"

    def _mark(self, *parts: str) -> str:
        text = "\0".join(parts).encode("utf-8")
        return hmac.digest(self._secret, text, "sha256").hex()[:DIGITS]


def context_of(relative: str) -> bytes:
    """Return what a sealed file must be bound to, to be the one of its name.

    Of protected objects all of the path; of received ones the label of UID and
    syntax, since the rest is known only when the last byte has come: their
    digest, which the index keeps, tells contents of one object apart.
    """
    path = PurePosixPath(relative)
    if path.parts[:1] == (PROTECTED,):
        return relative.encode("utf-8")
    return context_of_object(path.name.removesuffix(SUFFIX).rpartition("-")[2])


def context_of_object(label: str) -> bytes:
    """Return the same of received bytes that have no name yet."""
    return b"object " + label.encode("utf-8")
