"""User identity negotiation (PS3.7 D.3.3.7), on top of mutual TLS only.

A node names the user in whose name it asks. The node vouches for that: nothing
here could check a passcode, a Kerberos ticket, a SAML assertion or a JSON web
token, so that these are refused, not ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pynetdicom.pdu_primitives import UserIdentityNegotiation

USERNAME: Final = 1
LONGEST: Final = 64  # characters


@dataclass(frozen=True, kw_only=True)
class UserIdentity:
    """What an association request says of its user.

    Attributes
    ----------
    kind
        User-Identity-Type: 1 is a username.
    primary
        Primary-field, as sent.
    response_requested
        Whether a positive response is asked for.
    """

    kind: int
    primary: bytes = field(repr=False)
    response_requested: bool

    @property
    def name(self) -> str | None:
        """The username; None where it is none that could be recorded."""
        try:
            name = self.primary.decode("utf-8")
        except UnicodeDecodeError:
            return None
        usable = name.isprintable() and name.strip() == name
        return name if usable and 0 < len(name) <= LONGEST else None

    def why_not(self, *, secure: bool) -> str | None:
        """Return why an association that brings it is rejected, or None.

        Parameters
        ----------
        secure
            Whether the node has shown its certificate.
        """
        if not secure:
            return "user-identity-without-tls"
        if self.kind != USERNAME:
            return "user-identity-type-not-supported"
        return None if self.name is not None else "user-identity-malformed"

    def response(self) -> UserIdentityNegotiation | None:
        """Return the positive response, if one is asked for: empty for usernames."""
        if not self.response_requested:
            return None
        answer = UserIdentityNegotiation()
        answer.server_response = b""
        return answer


def identity_in(request: UserIdentityNegotiation | None) -> UserIdentity | None:
    """Return what the user identity item of an association request says."""
    if request is None:
        return None
    return UserIdentity(
        kind=request.user_identity_type or 0,
        primary=request.primary_field or b"",
        response_requested=bool(request.positive_response_requested),
    )
