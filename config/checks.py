"""Checks across settings that no single field can make."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from config.errors import ConfigurationError
from config.explain import nearest
from config.schema import RetrievingNode, Rule, Site
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
        *_rule_mistakes(site, sources),
        *_retrieval_mistakes(site, sources),
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
        (("receiver", "peers"), "ae_title", [p.ae_title for p in site.receiver.peers]),
        (
            ("receiver", "readers"),
            "ae_title",
            [n.ae_title for n in site.receiver.readers],
        ),
        (("recovery", "nodes"), "ae_title", [n.ae_title for n in site.recovery.nodes]),
        (
            ("receiver", "readers"),
            "ae_title",
            [r.ae_title for r in site.receiver.readers],
        ),
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


def _same_ports(site: Site, sources: Sources) -> list[str]:
    receiver, recovery = site.receiver, site.recovery
    if receiver.ae_title == recovery.ae_title:
        where = sources.describe(("recovery", "ae_title"))
        return [f"{where}: the receiver has the same AE title; choose another"]
    same = (receiver.host, receiver.port) == (recovery.host, recovery.port)
    if same and receiver.port != 0:
        where = sources.describe(("recovery", "port"))
        return [f"{where}: the receiver has the same port {recovery.port}"]
    return []


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


def _retrieval_mistakes(site: Site, sources: Sources) -> list[str]:
    known = {d.ae_title for d in site.recovery.destinations}
    asking: list[tuple[Key, str, Sequence[RetrievingNode]]] = [
        (("recovery", "nodes"), "originals", site.recovery.nodes),
        (("receiver", "readers"), "protected objects", site.receiver.readers),
    ]
    mistakes = []
    for key, what, nodes in asking:
        for position, node in enumerate(nodes):
            # One that asks with C-GET only needs no address of its own.
            for title in node.move_destinations:
                if title not in known:
                    where = sources.describe((*key, position))
                    mistakes.append(
                        f"{where}: node {node.ae_title!r} may have {what} sent to"
                        f" {title!r}, which has no address; add it to"
                        " [[recovery.destinations]]"
                    )
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
