"""When a series counts as whole: silence of its source, or a person's word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from config.schema import Site


@dataclass(frozen=True, kw_only=True)
class IdleTimes:
    """How long each source must be silent, in seconds.

    A series is whole when its newest instance is older than its source's time.
    Instances that come later form the next revision.
    """

    default_seconds: float
    seconds_by_ae: Mapping[str, float]

    def seconds_of(self, calling_ae: str) -> float:
        """Return the idle time of one source."""
        return self.seconds_by_ae.get(calling_ae, self.default_seconds)


def idle_times(site: Site) -> IdleTimes:
    """Return the idle times a site configures."""
    own = {
        title: node.idle_seconds
        for node in site.nodes
        if node.idle_seconds is not None
        for title in node.ae_titles
    }
    return IdleTimes(
        default_seconds=site.completion.idle_seconds,
        seconds_by_ae=MappingProxyType(own),
    )
