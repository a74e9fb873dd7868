"""What can go wrong with a configuration."""

from __future__ import annotations


class ConfigurationError(Exception):
    """A configuration file is wrong; the message names file, place, remedy."""
