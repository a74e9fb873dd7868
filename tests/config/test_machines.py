from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from config.errors import ConfigurationError
from config.load import load_site
from config.safety import insecurities
from config.schema import Database, Machine, Site

DATABASE = "[database]\nurl = 'postgresql://miad@{host}/miad'\n"
OBJECTS = """\
[objects]
endpoint = '{scheme}://objects.example.org:9000'
bucket = 'miad'
access_key = 'env:ACCESS'
secret_key = 'env:SECRET'
"""


def site_of(folder: Path, *tables: str) -> Site:
    path = folder / "site.toml"
    path.write_text("\n".join(["data_directory = 'data'", *tables]))
    return load_site(path, environ={})


def told(site: Site) -> set[tuple[str, str]]:
    return {(one.setting, one.severity) for one in insecurities(site)}


def test_a_site_of_one_machine_needs_none_of_it(tmp_path: Path) -> None:
    site = site_of(tmp_path)

    assert (site.database, site.objects) == (None, None)
    assert site.machine.name


def test_a_machine_is_named_as_its_host_or_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "pacs 1.example.org")
    assert Machine().name == "pacs-1.example.org"
    monkeypatch.setattr("socket.gethostname", lambda: "..")
    assert Machine().name == "machine"
    assert site_of(tmp_path, "[machine]\nname = 'b'").machine.name == "b"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://miad@db.example.org:5432/miad", False),
        ("postgresql://miad@db.example.org/miad", False),
        ("postgresql://miad@127.0.0.1:5433/miad", True),
        ("postgresql://miad@localhost/miad", True),
        ("postgresql://miad@[::1]:5432/miad", True),
        ("postgresql://miad@[2001:db8::1]/miad", False),
        ("postgresql://miad@/miad?host=/run/postgresql", True),
    ],
)
def test_urls_say_whether_the_database_is_elsewhere(url: str, local: bool) -> None:
    assert Database(url=url).is_local is local


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://miad:secret@db/miad",
        "postgresql://db/miad",
        "postgresql://miad@db",
        "mysql://miad@db/miad",
        "postgresql://miad@db/miad?sslmode=disable",
        "sqlite:///index.sqlite",
    ],
)
def test_urls_with_a_password_or_of_something_else_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Database(url=url)


def test_an_object_store_needs_a_shared_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="add a \\[database\\] table"):
        site_of(tmp_path, OBJECTS.format(scheme="https"))


def test_an_object_store_without_tls_has_to_be_wanted(tmp_path: Path) -> None:
    database = DATABASE.format(host="127.0.0.1")
    with pytest.raises(ConfigurationError, match="write https://, or plain = true"):
        site_of(tmp_path, database, OBJECTS.format(scheme="http"))

    wanted = OBJECTS.format(scheme="http") + "plain = true\n"
    site = site_of(tmp_path, database, wanted)

    assert ("objects.plain", "warning") in told(site)


def test_authorities_are_found_from_the_site_file_and_must_be_there(
    tmp_path: Path,
) -> None:
    database = DATABASE.format(host="db.example.org") + "authorities = 'ca.pem'\n"
    with pytest.raises(ConfigurationError, match=r"ca\.pem cannot be read"):
        site_of(tmp_path, database)

    (tmp_path / "ca.pem").write_text("")
    site = site_of(tmp_path, database)

    assert site.database is not None
    assert site.database.authorities == tmp_path / "ca.pem"


def test_what_is_less_safe_about_a_database_is_told(tmp_path: Path) -> None:
    elsewhere = DATABASE.format(host="db.example.org")

    assert ("database.url", "notice") in told(site_of(tmp_path, elsewhere))
    assert ("database.plain", "warning") not in told(site_of(tmp_path, elsewhere))
    plain = told(site_of(tmp_path, elsewhere + "plain = true\n"))
    assert ("database.plain", "warning") in plain
    here = DATABASE.format(host="localhost") + "plain = true\n"
    assert ("database.plain", "warning") not in told(site_of(tmp_path, here))
