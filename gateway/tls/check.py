"""Checks of a site's TLS settings and files, before a gateway starts with them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from config.schema import Site
from gateway.errors import ConfigurationError
from gateway.tls.material import (
    Material,
    ReadSecret,
    material_mistakes,
    read_material,
)
from gateway.tls.reminder import site_endings

REMEDY = "make certificates with: miad-gateway pki init DIR --name SITE"


def check_tls(site: Site, read_secret: ReadSecret, now: datetime) -> None:
    """Refuse TLS settings with which this gateway could not do its work.

    Parameters
    ----------
    site
        The settings; the files they name are read.
    read_secret
        Returns the secret behind a ``KeySource``.
    now
        The present, aware.

    Raises
    ------
    ConfigurationError
        One line for each mistake, with its remedy.
    """
    if site.tls is None:
        mistakes = list(_without_tls(site))
    else:
        material = read_material(site.tls)
        mistakes = [
            *material_mistakes(material, read_secret, now),
            *_pin_mistakes(site, material),
        ]
    if mistakes:
        raise ConfigurationError("\n".join(f"[tls]: {one}" for one in mistakes))


def _without_tls(site: Site) -> Iterator[str]:
    if site.receiver.plain_port is None and site.recovery.plain_port is None:
        yield (
            f"there is no [tls] table, so nothing would listen; {REMEDY}, or set"
            " receiver.plain_port and recovery.plain_port (not safe)"
        )
    for destination in site.destinations:
        if not all(address.plain for address in destination.called):
            yield (
                f"there is no [tls] table, and destination {destination.name!r} is"
                f" sent to with TLS only; {REMEDY}, or set plain = true there (not"
                " safe)"
            )
    for place in site.recovery.destinations:
        if not place.plain:
            yield (
                f"there is no [tls] table, and move destination {place.ae_title!r} is"
                f" sent to with TLS only; {REMEDY}, or set plain = true there (not"
                " safe)"
            )
    if site.web.enabled:
        yield f"there is no [tls] table, and the console needs one; {REMEDY}"


def _pin_mistakes(site: Site, material: Material) -> Iterator[str]:
    """Refuse pinned certificates that are revoked, or whose file is no certificate."""
    for ending in site_endings(site):
        if material.revoked(ending.certificate):
            yield f"{ending.what} {ending.path} is revoked; take it out"
