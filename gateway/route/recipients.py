"""Certificates of recipients that a site names: checked before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.errors import ConfigurationError
from gateway.vault.recipients import expiry_warning, load_recipients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.load import Loaded
    from config.schema import Site


def check_recipients(loaded: Loaded) -> None:
    """Read the certificates of every destination.

    Raises
    ------
    ConfigurationError
        One line per destination with a mistake: place, file and remedy.
    """
    mistakes = [*_mistakes(loaded)]
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))


def recipient_warnings(site: Site) -> list[str]:
    """Say which certificates of a checked site soon expire."""
    paths = dict.fromkeys(
        path for destination in site.destinations for path in destination.recipients
    )
    return [warning for path in paths if (warning := expiry_warning(path))]


def _mistakes(loaded: Loaded) -> Iterator[str]:
    for position, destination in enumerate(loaded.site.destinations):
        try:
            load_recipients(destination.recipients, dated=False)
        except ConfigurationError as error:
            place = loaded.sources.describe(("destinations", position, "recipients"))
            yield f"{place}: {error}"
