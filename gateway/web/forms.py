"""Forms of the console: taken only from its own pages, by the person they were for."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request

from gateway.errors import BadRequest, RequestRefused
from gateway.web.visitors import PersonVisitor

LONGEST_FORM_BYTES: Final = 1 << 16
REASON: Final = range(4, 201)
"""How long a reason is, in characters."""
KEY_BYTES: Final = 32

Form = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Gives forms their tokens, and takes them back.

    Attributes
    ----------
    key
        Secret of the tokens; of this process only.
    """

    key: bytes = field(
        default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False
    )

    def read(self, request: Request, body: bytes, visitor: PersonVisitor) -> Form:
        """Read a form, if it was sent from a page of this very console.

        Raises
        ------
        RequestRefused
            It was not (403), or is none (400, 413, 415).
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/x-www-form-urlencoded":
            raise RequestRefused(415, "Use the forms of the console")
        if len(body) > LONGEST_FORM_BYTES:
            raise RequestRefused(413, "The form is too long")
        if not _is_same_origin(request):
            raise RequestRefused(403, "The form was not sent from this console")
        try:
            fields = parse_qs(
                body.decode("utf-8"), strict_parsing=True, max_num_fields=10
            )
        except ValueError as error:
            raise BadRequest("The form cannot be read") from error
        form = {name: values[0] for name, values in fields.items()}
        if not hmac.compare_digest(form.get("token", ""), self.token(visitor)):
            raise RequestRefused(403, "The page is too old; load it again")
        return form

    def token(self, visitor: PersonVisitor) -> str:
        """Return what forms of a person's pages carry."""
        mark = visitor.certificate.sha256.encode()
        return hmac.new(self.key, mark, hashlib.sha256).hexdigest()


async def short_body(request: Request) -> bytes:
    """Read a form, and no more than one."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_FORM_BYTES:
            break
    return bytes(body)


def _is_same_origin(request: Request) -> bool:
    """Whether a browser says that a form comes from this origin (RFC 6454).

    A browser that says nothing at all is none that can be trusted to have asked.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is not None:
        return origin == f"https://{host}"
    return site == "same-origin"


def reason_of(form: Form) -> str:
    """Return the reason that a form gives.

    Raises
    ------
    BadRequest
        It gives none.
    """
    reason = " ".join(form.get("reason", "").split())
    if len(reason) not in REASON or not reason.isprintable():
        raise BadRequest(
            f"Give a reason of {REASON.start} to {REASON.stop - 1} characters;"
            " it stands in the audit trail: name no patient"
        )
    return reason
