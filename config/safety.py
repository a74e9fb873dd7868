"""What a site has chosen that is less safe than it could be.

Each is allowed, and each is the site's to answer for: ``check-config`` tells of
them, ``check-config --strict`` refuses warnings, and the log says so at start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from config.schema import Network, Node, Site
from config.sources import Key, dotted

WIDEST_IPV4_PREFIX = 16
WIDEST_IPV6_PREFIX = 48
ANYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - looked for, not bound

Severity = Literal["warning", "notice"]


@dataclass(frozen=True, kw_only=True)
class Insecurity:
    """One choice, what it opens, and what would close it.

    Attributes
    ----------
    key
        Where in the settings.
    severity
        ``warning``: what could be stolen or changed by who is not known;
        ``notice``: a protection that is not in use.
    text
        One line.
    """

    key: Key
    severity: Severity
    text: str

    @property
    def setting(self) -> str:
        """The setting as it is written, list positions counted from 1."""
        return dotted(self.key)


def insecurities(site: Site) -> list[Insecurity]:
    """Return what is less safe than it could be, the worst first."""
    found = [
        *_ports(site),
        *_nodes(site),
        *_places(site),
        *_originals(site),
        *_grants(site),
        *_transport(site),
        *_keys_and_trail(site),
        *_servers(site),
    ]
    return sorted(found, key=lambda one: one.severity != "warning")


def _warning(key: Key, text: str) -> Insecurity:
    return Insecurity(key=key, severity="warning", text=text)


def _notice(key: Key, text: str) -> Insecurity:
    return Insecurity(key=key, severity="notice", text=text)


def _ports(site: Site) -> Iterator[Insecurity]:
    if site.tls is None:
        yield _warning(
            ("tls",),
            "there is no [tls] table: names, images and AE titles pass in clear and"
            " can be claimed by anybody; see miad-gateway pki",
        )
    for name, end in (("receiver", site.receiver), ("recovery", site.recovery)):
        if end.plain_port is None:
            continue
        yield _warning(
            (name, "plain_port"),
            f"the {name} listens without TLS on port {end.plain_port}: who calls is"
            " known by AE title and address only",
        )
        if end.host in ANYWHERE or not _is_loopback(end.host):
            yield _warning(
                (name, "host"),
                f"the {name} listens without TLS on {end.host or 'every address'},"
                " which others can reach",
            )


def _nodes(site: Site) -> Iterator[Insecurity]:
    for position, node in enumerate(site.nodes):
        key: Key = ("nodes", position)
        if node.plain:
            rights = " and may have originals" if "recover" in node.roles else ""
            yield _warning(
                (*key, "plain"),
                f"node {node.name!r} may call without TLS{rights}: anybody at its"
                " addresses can claim to be it",
            )
            yield from _wide(node, key)
        if node.certificate_names:
            yield _notice(
                (*key, "certificate_names"),
                f"node {node.name!r} is known by a name in a certificate: whoever the"
                " authorities give that name is it; pin its certificates instead",
            )


def _wide(node: Node, key: Key) -> Iterator[Insecurity]:
    for network in node.addresses:
        if _is_wide(network):
            yield _warning(
                (*key, "addresses"),
                f"node {node.name!r} may call from all of {network} without TLS",
            )


def _is_wide(network: Network) -> bool:
    widest = WIDEST_IPV4_PREFIX if network.version == 4 else WIDEST_IPV6_PREFIX
    return network.prefixlen < widest


def _places(site: Site) -> Iterator[Insecurity]:
    for position, destination in enumerate(site.destinations):
        if destination.plain:
            yield _warning(
                ("destinations", position, "plain"),
                f"objects go to {destination.name!r} without TLS",
            )
    for position, place in enumerate(site.recovery.destinations):
        if place.plain:
            yield _warning(
                ("recovery", "destinations", position, "plain"),
                f"originals go to {place.ae_title!r} without TLS",
            )


def _originals(site: Site) -> Iterator[Insecurity]:
    for position, destination in enumerate(site.destinations):
        key: Key = ("destinations", position)
        if destination.originals:
            yield _warning(
                (*key, "originals"),
                f"unprotected originals may go to {destination.name!r}",
            )
        if destination.recipients:
            yield _notice(
                (*key, "recipients"),
                f"what goes to {destination.name!r} carries its own key for"
                f" {len(destination.recipients)} recipients, which cannot be called"
                " back",
            )
    if site.protection.when_not_fooled == "send":
        yield _notice(
            ("protection", "when_not_fooled"),
            "images whose mark did not change the prediction are sent all the same;"
            " when_not_fooled = 'hold' keeps them",
        )


def _grants(site: Site) -> Iterator[Insecurity]:
    for position, grant in enumerate(site.grants):
        key: Key = ("grants", position)
        if grant.until is None:
            yield _notice(
                (*key, "until"),
                f"grant {grant.name!r} has no end; set until",
            )
        if grant.when.strip() == "true":
            yield _notice(
                (*key, "when"), f"grant {grant.name!r} is for every original there is"
            )
    if site.grants and site.recovery.two_person_above is None:
        yield _notice(
            ("recovery", "two_person_above"),
            "one node may recover any number of originals with nobody asked; set"
            " recovery.two_person_above",
        )


def _transport(site: Site) -> Iterator[Insecurity]:
    if site.tls is None:
        return
    if not site.tls.revocation_lists:
        yield _warning(
            ("tls", "revocation_lists"),
            "there are no revocation lists: a stolen certificate is good until it"
            " expires",
        )
    if site.tls.minimum_version == "1.2":
        yield _notice(
            ("tls", "minimum_version"),
            "TLS 1.2 is accepted beside 1.3; set minimum_version = '1.3' once every"
            " node has it",
        )


def _keys_and_trail(site: Site) -> Iterator[Insecurity]:
    if site.vault.master_key.startswith("file:"):
        yield _notice(
            ("vault", "master_key"),
            "the master key lies in a file of this machine: who has the whole disk has"
            " it; see credential: and pkcs11:",
        )
    if site.vault.master_key.startswith("env:"):
        yield _warning(
            ("vault", "master_key"),
            "the master key is in an environment variable, which the tools of a service"
            " manager show; see credential: and pkcs11:",
        )
    if site.audit.collector is None:
        yield _notice(
            ("audit", "collector"),
            "the audit trail is on this machine only: who has it can cut off its end;"
            " set audit.collector",
        )


def _servers(site: Site) -> Iterator[Insecurity]:
    """Tell of what leaves this machine for a database or an object store."""
    if site.database is not None:
        if site.database.plain and not site.database.is_local:
            yield _warning(
                ("database", "plain"),
                "names of patients go to the database without TLS, and its answers"
                " may be another's",
            )
        yield _notice(
            ("database", "url"),
            "the index is in PostgreSQL, which the gateway does not encrypt: names and"
            " dates of patients lie in its files, log and backups; see"
            " docs/operations.md",
        )
    if site.objects is not None:
        if site.objects.endpoint.startswith("http://"):
            yield _warning(
                ("objects", "plain"),
                "sealed objects go to the object store without TLS: others see how many"
                " and how large, and may cut or replay them",
            )
        if site.vault.master_key.startswith("file:secrets/"):
            yield _notice(
                ("vault", "master_key"),
                "every machine of this site needs the same master key; see"
                " docs/cluster.md",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
