"""Read a site's settings once: defaults, then its file, then the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from config.checks import check_site
from config.errors import ConfigurationError
from config.explain import explain, nearest
from config.schema import Site
from config.sources import Key, Place, Sources, locate
from engine.errors import InvalidParameter

ENVIRONMENT: Mapping[str, Key] = {
    "MIAD_DATA_DIRECTORY": ("data_directory",),
    "MIAD_RECEIVER_HOST": ("receiver", "host"),
    "MIAD_RECEIVER_PORT": ("receiver", "port"),
    "MIAD_RECEIVER_PLAIN_PORT": ("receiver", "plain_port"),
    "MIAD_RECOVERY_HOST": ("recovery", "host"),
    "MIAD_RECOVERY_PORT": ("recovery", "port"),
    "MIAD_RECOVERY_PLAIN_PORT": ("recovery", "plain_port"),
    "MIAD_MACHINE": ("machine", "name"),
    "MIAD_DEVICE": ("protection", "device"),
    "MIAD_LOG_LEVEL": ("log", "level"),
    "MIAD_LOG_FORMAT": ("log", "format"),
}
"""The settings the environment may override."""

NOT_SETTINGS = frozenset({"MIAD_CONFIG", "MIAD_PKI"})
"""Variables with our prefix that are read elsewhere (by the command line)."""

PATHS_IN_TABLES: Mapping[str, tuple[str, ...]] = {
    "database": ("authorities",),
    "destinations": ("recipients", "certificates"),
    "nodes": ("certificates",),
    "objects": ("authorities",),
    "people": ("certificates",),
    "tls": ("certificate", "key", "authorities", "revocation_lists"),
}
"""Settings that name files."""

_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Loaded:
    """A valid site and where each of its settings was written."""

    site: Site
    sources: Sources


def load_site(path: Path, environ: Mapping[str, str] | None = None) -> Site:
    """Read and check a site file; routing conditions are checked by the gateway.

    Parameters
    ----------
    path
        A TOML file; ``config/site-example.toml`` shows every setting.
    environ
        Overrides, by default this process's environment.

    Raises
    ------
    ConfigurationError
        Naming the file, the line, the setting and the remedy.
    """
    return load(path, environ).site


def load(path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Do the work of `load_site` and keep the places, for further checks."""
    path = path.absolute()
    own, places = _read(path)
    own, places = _with_rules_files(path, own, places)
    sources = Sources(path, places)
    settings = _merged(_defaults(), own)
    settings = _merged(settings, _overrides(os.environ if environ is None else environ))
    _resolve_paths(settings, path.parent)
    site = _validated(settings, sources)
    check_site(site, sources)
    return Loaded(site=site, sources=sources)


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, Place]]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigurationError(f"{path}: larger than 4 MiB; is it TOML?")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; give the site file"
            " with --config or MIAD_CONFIG"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    try:
        return tomllib.loads(text), locate(path, text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error


def _defaults() -> dict[str, Any]:
    packaged = resources.files("config").joinpath("default.toml")
    return tomllib.loads(packaged.read_text(encoding="utf-8"))


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith("MIAD_") or variable in NOT_SETTINGS:
            continue
        if variable not in ENVIRONMENT:
            raise ConfigurationError(
                f"environment variable {variable} is not a setting"
                f"{nearest(variable, ENVIRONMENT)}; unset it"
            )
        *tables, name = ENVIRONMENT[variable]
        table = settings
        for part in tables:
            table = table.setdefault(cast("str", part), {})
        table[cast("str", name)] = value
    return settings


def _with_rules_files(
    path: Path, own: dict[str, Any], places: dict[Key, Place]
) -> tuple[dict[str, Any], dict[Key, Place]]:
    """Append the rules of each rules file to the site's own, places included."""
    routing = own.get("routing")
    names = routing.get("rules_files") if isinstance(routing, dict) else None
    if not isinstance(names, list) or not isinstance(routing, dict):
        return own, places
    rules = list(routing.get("rules", []))
    places = dict(places)
    files = [_beside(path.parent, name) for name in names if isinstance(name, str)]
    for file in files:
        content, inside = _read(file)
        _only_rules(file, content)
        for key, place in inside.items():
            if len(key) > 1 and isinstance(key[1], int):
                places[("routing", "rules", len(rules) + key[1], *key[2:])] = place
        rules.extend(content["rules"])
    return {**own, "routing": {**routing, "rules": rules}}, places


def _only_rules(file: Path, content: Mapping[str, Any]) -> None:
    unknown = sorted(set(content) - {"rules"})
    if unknown or not isinstance(content.get("rules"), list):
        raise ConfigurationError(
            f"{file}: a rules file holds [[rules]] tables only"
            + (f"; remove {', '.join(unknown)}" if unknown else "")
        )


def _beside(directory: Path, name: str) -> Path:
    return directory / Path(name).expanduser()


def _resolve_paths(settings: dict[str, Any], directory: Path) -> None:
    """Make paths absolute: relative ones are meant from the site file."""
    if isinstance(name := settings.get("data_directory"), str):
        settings["data_directory"] = str(_beside(directory, name))
    for table in _tables_with_paths(settings):
        for key in ("logo", "directory"):
            if isinstance(name := table.get(key), str):
                table[key] = str(_beside(directory, name))
    for name, keys in PATHS_IN_TABLES.items():
        tables = settings.get(name)
        if isinstance(tables, list):
            settings[name] = [_with_paths(t, keys, directory) for t in tables]
        elif isinstance(tables, dict):
            settings[name] = _with_paths(tables, keys, directory)
    recovery = settings.get("recovery")
    if isinstance(recovery, dict) and isinstance(recovery.get("destinations"), list):
        places = [
            _with_paths(t, ("certificates",), directory)
            for t in recovery["destinations"]
        ]
        settings["recovery"] = {**recovery, "destinations": places}


def _with_paths(table: Any, keys: Iterable[str], directory: Path) -> Any:  # noqa: ANN401 - as read
    """Make the paths of a table absolute; fingerprints stay as they are."""
    if not isinstance(table, dict):
        return table
    changed = dict(table)
    for key in keys:
        value = table.get(key)
        if isinstance(value, str):
            changed[key] = _path(value, directory)
        elif isinstance(value, list):
            changed[key] = [
                _path(v, directory) if isinstance(v, str) else v for v in value
            ]
    return changed


def _path(name: str, directory: Path) -> str:
    return name if name.startswith("sha256:") else str(_beside(directory, name))


def _tables_with_paths(settings: dict[str, Any]) -> Iterable[dict[str, Any]]:
    protection = settings.get("protection")
    if not isinstance(protection, dict):
        return
    settings["protection"] = protection = dict(protection)
    yield protection
    ensembles = protection.get("ensembles")
    if isinstance(ensembles, list):
        protection["ensembles"] = [
            dict(item) if isinstance(item, dict) else item for item in ensembles
        ]
        yield from (item for item in protection["ensembles"] if isinstance(item, dict))


def _validated(settings: Mapping[str, Any], sources: Sources) -> Site:
    try:
        return Site.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(explain(error, sources)) from error
    except InvalidParameter as error:
        place = sources.describe(("protection", "params"))
        raise ConfigurationError(f"{place}: {error}") from error
