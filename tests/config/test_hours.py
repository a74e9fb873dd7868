"""Settings of when and how fast destinations are sent to."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import ConfigurationError
from config.load import load_site
from config.schema import Site

SITE = """\
data_directory = "data"
{above}
[receiver]
plain_port = 0

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130
plain = true
{more}
[[routing.rules]]
name = "all"
when = "true"
destinations = ["outside"]
protect = true
priority = "urgent"
"""


def loaded(directory: Path, *, above: str = "", more: str = "") -> Site:
    path = directory / "site.toml"
    path.write_text(SITE.format(above=above, more=more))
    return load_site(path, environ={})


def test_hours_are_read_as_a_clock_shows_them(tmp_path: Path) -> None:
    site = loaded(
        tmp_path,
        above='timezone = "Europe/Berlin"',
        more='hours = [{ days = ["fri"], from = "20:00", to = "06:00" }]\n'
        "rate_per_minute = 30\ngive_up_after_hours = 0\n",
    )
    (destination,) = site.destinations
    (window,) = destination.hours
    assert (window.days, window.start.hour, window.until.hour) == (("fri",), 20, 6)
    assert (destination.rate_per_minute, destination.concurrency) == (30, 2)
    assert site.routing.rules[0].priority == "urgent"


@pytest.mark.parametrize(
    ("above", "more", "told"),
    [
        (
            "",
            'hours = [{ from = "20:00", to = "06:00" }]',
            "destination 'outside' has hours of no time zone; set timezone",
        ),
        ('timezone = "Europe/Berlim"', "", "'Europe/Berlim' is no time zone"),
        (
            'timezone = "UTC"',
            'hours = [{ from = "20:00", to = "20:00" }]',
            "the same time; leave hours out",
        ),
        (
            'timezone = "UTC"',
            'hours = [{ days = ["friday"], from = "20:00", to = "21:00" }]',
            "destinations[1].hours[1].days",
        ),
        (
            "",
            "retry_first_seconds = 60\nretry_cap_seconds = 30",
            "the longest wait is shorter than retry_first_seconds",
        ),
        ("", "concurrency = 0", "concurrency"),
    ],
)
def test_mistakes_are_named_with_their_remedy(
    tmp_path: Path, above: str, more: str, told: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, above=above, more=more)
    assert told in str(caught.value)
    assert "site.toml" in str(caught.value)
