"""Checks across settings that no single field can make."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import available_timezones

from config.errors import ConfigurationError
from config.explain import nearest
from config.schema import Keep, Rule, Site
from config.sources import Key, Sources

TREATMENTS = ("custody", "non_images", "deidentify", "uids")
"""Settings of a rule that say how objects are protected."""


def check_site(site: Site, sources: Sources) -> None:
    """Refuse a site whose settings contradict each other or its machine.

    Raises
    ------
    ConfigurationError
        One line per mistake.
    """
    mistakes = [
        *_duplicates(site, sources),
        *_same_ports(site, sources),
        *_association_bounds(site, sources),
        *_rule_mistakes(site, sources),
        *_time_mistakes(site, sources),
        *_identity_mistakes(site, sources),
        *_retrieval_mistakes(site, sources),
        *_address_mistakes(site, sources),
        *_audit_mistakes(site, sources),
        *_machines_mistakes(site, sources),
        *_disk_mistakes(site, sources),
        *_retention_mistakes(site, sources),
        *_data_directory(site.data_directory, sources),
        *_files(site, sources),
    ]
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))


def _duplicates(site: Site, sources: Sources) -> list[str]:
    named: list[tuple[Key, str, Sequence[str]]] = [
        (("destinations",), "name", [d.name for d in site.destinations]),
        (("routing", "rules"), "name", [r.name for r in site.routing.rules]),
        (
            ("protection", "ensembles"),
            "name",
            [e.name for e in site.protection.ensembles],
        ),
        (("nodes",), "name", [n.name for n in site.nodes]),
        (("people",), "name", [p.name for p in site.people]),
        (("grants",), "name", [g.name for g in site.grants]),
        (("deidentification",), "name", [d.name for d in site.deidentification]),
        (
            ("recovery", "destinations"),
            "ae_title",
            [d.ae_title for d in site.recovery.destinations],
        ),
    ]
    mistakes = []
    for key, field, values in named:
        for position, value in enumerate(values):
            if value in values[:position]:
                where = sources.describe((*key, position, field))
                mistakes.append(f"{where}: {value!r} is used twice; choose another")
    return mistakes


def _association_bounds(site: Site, sources: Sources) -> list[str]:
    of_node = site.receiver.max_associations_per_node
    total = site.receiver.max_associations
    if of_node is None or of_node <= total:
        return []
    where = sources.describe(("receiver", "max_associations_per_node"))
    return [f"{where}: {of_node} is above receiver.max_associations, which is {total}"]


def _same_ports(site: Site, sources: Sources) -> list[str]:
    receiver, recovery = site.receiver, site.recovery
    if receiver.ae_title == recovery.ae_title:
        where = sources.describe(("recovery", "ae_title"))
        return [f"{where}: the receiver has the same AE title; choose another"]
    mistakes: list[str] = []
    taken: dict[tuple[str, int], str] = {}
    for table, field, host, port in _listening(site):
        if port and (host, port) in taken:
            where = sources.describe((table, field))
            mistakes.append(f"{where}: {taken[host, port]} has the same port {port}")
        taken[host, port] = f"{table}.{field}"
    return mistakes


def _listening(site: Site) -> list[tuple[str, str, str, int]]:
    """Return every place this site listens at, with the setting that says so."""
    places: list[tuple[str, str, str, int]] = []
    for table, end in (("receiver", site.receiver), ("recovery", site.recovery)):
        if site.tls is not None:
            places.append((table, "port", end.host, end.port))
        if end.plain_port is not None:
            places.append((table, "plain_port", end.host, end.plain_port))
    if site.web.enabled:
        places.append(("web", "port", site.web.host, site.web.port))
    return places


def _disk_mistakes(site: Site, sources: Sources) -> list[str]:
    """Refuse marks that are not in order: the site would never accept again."""
    order = ("reserve_bytes", "stop_free_bytes", "resume_free_bytes")
    mistakes = []
    for lower, higher in itertools.pairwise((*order, "retain_free_bytes")):
        if getattr(site.disk, lower) >= getattr(site.disk, higher):
            where = sources.describe(("disk", higher))
            mistakes.append(f"{where}: has to be more than disk.{lower}; raise it")
    return mistakes


def _retention_mistakes(site: Site, sources: Sources) -> list[str]:
    """Refuse policies under which a key would go before what it opens."""
    kept = site.retention
    mistakes = []
    for field in ("days", "spare_days"):
        own = getattr(kept.keys, field)
        if own is not None and _longer(kept.protected, field, own):
            where = sources.describe(("retention", "keys", field))
            mistakes.append(
                f"{where}: keys would go before the protected objects they open; keep "
                f"protected objects no longer (retention.protected.{field})"
            )
    protected, originals = kept.protected.days, kept.originals.days
    if protected is not None and kept.keys.days is None:
        gone_first = originals is not None and originals <= protected
        if gone_first:
            where = sources.describe(("retention", "protected", "days"))
            mistakes.append(
                f"{where}: has no effect, since originals go first and their keys are "
                "kept for ever: the protected objects are needed to give originals "
                "back; leave it out, or set retention.keys.days too"
            )
    return mistakes


def _longer(keep: Keep, field: str, days: int) -> bool:
    """Whether something is kept for longer than so many days, or for ever."""
    own: int | None = getattr(keep, field)
    return own is None or own > days


def _rule_mistakes(site: Site, sources: Sources) -> list[str]:
    mistakes: list[str] = []
    for position, rule in enumerate(site.routing.rules):
        mistakes += _destination_mistakes(site, rule, position, sources)
        mistakes += _treatment_mistakes(site, rule, position, sources)
    return mistakes


def _treatment_mistakes(
    site: Site, rule: Rule, position: int, sources: Sources
) -> list[str]:
    """Refuse treatments of originals, and profiles that are not there."""
    key: Key = ("routing", "rules", position)
    mistakes = []
    if not rule.protect:
        for name in sorted(rule.model_fields_set & set(TREATMENTS)):
            where = sources.describe((*key, name))
            mistakes.append(
                f"{where}: rule {rule.name!r} sends originals as they are; set protect"
                f" = true, or leave {name} out"
            )
    known = {profile.name for profile in site.deidentification}
    if rule.deidentify is not None and rule.deidentify not in known:
        where = sources.describe((*key, "deidentify"))
        hint = nearest(rule.deidentify, known) or "; add a [[deidentification]] table"
        mistakes.append(
            f"{where}: rule {rule.name!r}: no deidentification is named"
            f" {rule.deidentify!r}{hint}"
        )
    return mistakes


def _destination_mistakes(
    site: Site, rule: Rule, position: int, sources: Sources
) -> list[str]:
    destinations = {d.name: d for d in site.destinations}
    key: Key = ("routing", "rules", position)
    mistakes = []
    for name in rule.destinations:
        if name not in destinations:
            where = sources.describe((*key, "destinations"))
            hint = nearest(name, destinations) or "; add a [[destinations]] table"
            mistakes.append(
                f"{where}: rule {rule.name!r}: no destination is named {name!r}{hint}"
            )
        elif not rule.protect and not destinations[name].originals:
            where = sources.describe((*key, "protect"))
            mistakes.append(
                f"{where}: rule {rule.name!r} would send unprotected originals to"
                f" {name!r}; set protect = true, or originals = true on that"
                " destination if they may really go there"
            )
    return mistakes


def _time_mistakes(site: Site, sources: Sources) -> list[str]:
    """Refuse hours of no time zone, and time zones that nobody knows."""
    mistakes = []
    if site.timezone is not None and site.timezone not in available_timezones():
        hint = nearest(site.timezone, available_timezones()) or ""
        mistakes.append(
            f"{sources.describe(('timezone',))}: {site.timezone!r} is no time zone;"
            f' give an IANA name such as "Europe/Berlin"{hint}'
        )
    for position, destination in enumerate(site.destinations):
        if destination.hours and site.timezone is None:
            where = sources.describe(("destinations", position, "hours"))
            mistakes.append(
                f"{where}: destination {destination.name!r} has hours of no time zone;"
                ' set timezone = "Europe/Berlin" or the like, above all tables'
            )
        if destination.retry_first_seconds > destination.retry_cap_seconds:
            where = sources.describe(("destinations", position, "retry_cap_seconds"))
            mistakes.append(
                f"{where}: destination {destination.name!r}: the longest wait is"
                " shorter than retry_first_seconds"
            )
    return mistakes


def _identity_mistakes(site: Site, sources: Sources) -> list[str]:
    """Refuse nodes that could not be known, or not be told from one another."""
    mistakes = []
    if site.web.enabled and site.tls is None:
        mistakes.append(
            f"{sources.describe(('web', 'enabled'))}: console and DICOMweb are HTTPS"
            " only; add a [tls] table, see miad-gateway pki"
        )
    titles: dict[str, str] = {}
    for position, node in enumerate(site.nodes):
        where = sources.describe(("nodes", position))
        for title in node.ae_titles:
            if title in titles:
                mistakes.append(
                    f"{where}: node {node.name!r} has the AE title {title!r} of node"
                    f" {titles[title]!r}; a title belongs to one node"
                )
            titles[title] = node.name
        if not (node.certificates or node.certificate_names or node.plain):
            mistakes.append(
                f"{where}: node {node.name!r} could never call; name its certificates,"
                " or set plain = true with its addresses if it cannot do TLS"
            )
        if node.plain and not node.addresses:
            mistakes.append(
                f"{where}: node {node.name!r} may call without TLS from anywhere; add"
                " its addresses"
            )
    return mistakes


def _retrieval_mistakes(site: Site, sources: Sources) -> list[str]:
    known = {d.ae_title for d in site.recovery.destinations}
    nodes = {node.name: node for node in site.nodes}
    # Whoever gets originals itself, with C-GET, needs no address.
    own = {title for node in site.nodes for title in node.ae_titles}
    asking: list[tuple[Key, str, str, Sequence[str]]] = [
        (("nodes", i), f"node {n.name!r}", "protected objects", n.move_destinations)
        for i, n in enumerate(site.nodes)
    ]
    asking += [
        (
            ("grants", i),
            f"grant {g.name!r}",
            "originals",
            [title for title in g.move_destinations if title not in own],
        )
        for i, g in enumerate(site.grants)
    ]
    mistakes = []
    for key, who, what, titles in asking:
        for title in titles:
            if title not in known:
                where = sources.describe(key)
                mistakes.append(
                    f"{where}: {who} lets {what} be sent to {title!r}, which has no"
                    " address; add it to [[recovery.destinations]]"
                )
    for position, grant in enumerate(site.grants):
        where = sources.describe(("grants", position, "nodes"))
        for name in grant.nodes:
            if name not in nodes:
                hint = nearest(name, nodes) or "; add a [[nodes]] table"
                mistakes.append(
                    f"{where}: grant {grant.name!r}: no node is named {name!r}{hint}"
                )
            elif "recover" not in nodes[name].roles:
                mistakes.append(
                    f"{where}: grant {grant.name!r}: node {name!r} lacks the role"
                    ' "recover"'
                )
    return mistakes


def _address_mistakes(site: Site, sources: Sources) -> list[str]:
    mistakes = []
    for position, destination in enumerate(site.destinations):
        key: Key = ("destinations", position)
        places = [(a.ae_title, a.host, a.port) for a in destination.addresses]
        for number, place in enumerate(places):
            if place in places[:number]:
                where = sources.describe((*key, "failover"))
                mistakes.append(
                    f"{where}: destination {destination.name!r} has the address"
                    f" {place[0]}@{place[1]}:{place[2]} twice; leave one out"
                )
        if destination.commitment_at is not None and not destination.commitment:
            where = sources.describe((*key, "commitment_at"))
            mistakes.append(
                f"{where}: destination {destination.name!r} is not asked to commit;"
                " set commitment = true, or leave commitment_at out"
            )
    for position, node in enumerate(site.nodes):
        if node.commitment is not None and "store" not in node.roles:
            where = sources.describe(("nodes", position, "commitment"))
            mistakes.append(
                f"{where}: node {node.name!r} stores nothing here that could be"
                ' committed to; give it the role "store", or leave commitment out'
            )
    return mistakes


def _audit_mistakes(site: Site, sources: Sources) -> list[str]:
    if site.audit.collector is None or site.tls is not None:
        return []
    where = sources.describe(("audit", "collector"))
    return [f"{where}: a collector is reached over TLS; add a [tls] table"]


def _machines_mistakes(site: Site, sources: Sources) -> list[str]:
    """Refuse what would have several machines work past one another."""
    mistakes = []
    if site.objects is not None and site.database is None:
        mistakes.append(
            f"{sources.describe(('objects',))}: what several machines keep in an"
            " object store needs an index they share; add a [database] table"
        )
    if site.objects is not None and not site.objects.is_as_wanted:
        mistakes.append(
            f"{sources.describe(('objects', 'endpoint'))}: http:// is without TLS;"
            " write https://, or plain = true if it has to be"
        )
    for table, served in (("database", site.database), ("objects", site.objects)):
        authorities = None if served is None else served.authorities
        if authorities is not None and not os.access(authorities, os.R_OK):
            where = sources.describe((table, "authorities"))
            mistakes.append(f"{where}: {authorities} cannot be read; give a PEM file")
    return mistakes


def _data_directory(directory: Path, sources: Sources) -> list[str]:
    where = sources.describe(("data_directory",))
    if directory.exists() and not directory.is_dir():
        return [f"{where}: {directory} is not a directory"]
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"{where}: {existing} is not writable by this user"]
    return []


def _files(site: Site, sources: Sources) -> list[str]:
    mistakes = []
    logo = site.protection.logo
    if logo is not None and not os.access(logo, os.R_OK):
        where = sources.describe(("protection", "logo"))
        mistakes.append(f"{where}: {logo} cannot be read; give a PNG file")
    for position, ensemble in enumerate(site.protection.ensembles):
        directory = ensemble.directory
        if directory is not None and not directory.is_dir():
            where = sources.describe(("protection", "ensembles", position, "directory"))
            mistakes.append(f"{where}: {directory} is not a directory")
    return mistakes
