from __future__ import annotations

import os
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from config.errors import ConfigurationError
from config.load import ENVIRONMENT, load, load_site
from config.schema import Site

GOOD = """\
data_directory = "data"

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130

[[routing.rules]]
name = "all"
when = "true"
destinations = ["outside"]
protect = true
"""


def write(directory: Path, text: str, name: str = "site.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, GOOD), environ={})

    assert site.data_directory == tmp_path / "data"
    assert [rule.name for rule in site.routing.rules] == ["all"]
    assert site.receiver.port == 2762


def test_settings_are_frozen(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, GOOD), environ={})

    with pytest.raises(ValueError, match="frozen"):
        site.name = "other"  # type: ignore[misc]


def test_packaged_defaults_are_the_schemas() -> None:
    text = resources.files("config").joinpath("default.toml").read_text()

    packaged = Site.model_validate({**tomllib.loads(text), "data_directory": "d"})

    assert packaged == Site(data_directory=Path("d"))


def test_packaged_example_is_good(tmp_path: Path) -> None:
    text = resources.files("config").joinpath("site-example.toml").read_text()

    site = load_site(write(tmp_path, text), environ={})

    assert site.routing.rules[0].protect is True


NODE = """\
[[nodes]]
name = 'a'
ae_titles = ['A']
roles = ['recover']
plain = true
"""
GRANT = "[[grants]]\nname = 'g'\nwhen = 'true'\n"

# What is put after (or in place of) a line of GOOD, and what the message says.
MISTAKES = [
    pytest.param("data_directory =", "line 1, column 17", id="toml-syntax"),
    pytest.param("[receiver]\nportt = 1", "did you mean port?", id="unknown-key"),
    pytest.param("[receivr]\nport = 1", "did you mean receiver?", id="unknown-table"),
    pytest.param("[receiver]\nport = 70000", "receiver.port", id="port-too-large"),
    pytest.param("[receiver]\nport = 70000", "line 15, column 8", id="place"),
    pytest.param(
        "[receiver]\nplain_port = 2763\n[recovery]\nplain_port = 2763",
        "recovery.plain_port: receiver.plain_port has the same port 2763",
        id="same-ports",
    ),
    pytest.param(
        "[receiver]\nae_title = 'MIAD-RECOVERY'", "choose another", id="same-ae-titles"
    ),
    pytest.param("[receiver]\nae_title = 'A\\B'", "receiver.ae_title", id="ae-title"),
    pytest.param(
        f"{NODE}addresses = ['10.0.0.1/8']",
        "nodes[1].addresses[1]: '10.0.0.1/8' is not an address or network",
        id="network-with-host-bits",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\n" * 2,
        "nodes[2].name: 'a' is used twice",
        id="node-twice",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\n"
        + f"{NODE}addresses = ['127.0.0.1']\n".replace("'a'", "'b'"),
        "node 'b' has the AE title 'A' of node 'a'; a title belongs to one node",
        id="title-twice",
    ),
    pytest.param(
        NODE, "may call without TLS from anywhere; add its addresses", id="anywhere"
    ),
    pytest.param(
        NODE.replace("plain = true", ""),
        "node 'a' could never call; name its certificates",
        id="node-unknowable",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\nmove_destinations = ['B']",
        "node 'a' lets protected objects be sent to 'B', which has no address; add it"
        " to [[recovery.destinations]]",
        id="reader-without-address",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\n"
        f"{GRANT}nodes = ['a']\nmove_destinations = ['B']",
        "grant 'g' lets originals be sent to 'B', which has no address",
        id="grant-without-address",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\n{GRANT}nodes = ['aa']",
        "grant 'g': no node is named 'aa'; did you mean a?",
        id="grant-for-nobody",
    ),
    pytest.param(
        f"{NODE}addresses = ['127.0.0.1']\n{GRANT}nodes = ['a']".replace(
            "'recover'", "'store'"
        ),
        "grant 'g': node 'a' lacks the role \"recover\"",
        id="grant-without-role",
    ),
    pytest.param(
        "[[destinations]]\nname = 'outside'\nae_title = 'X'\nhost = 'x'\nport = 1",
        "destinations[2].name: 'outside' is used twice",
        id="destination-twice",
    ),
    pytest.param(
        "[[destinations]]\nname = 'b'\nae_title = 'X'\nhost = 'x'",
        "destinations[2].port: missing; add it",
        id="missing",
    ),
    pytest.param(
        "[[routing.rules]]\nname='b'\nwhen='true'\ndestinations=['outsid']\n"
        "protect=true",
        "rule 'b': no destination is named 'outsid'; did you mean outside?",
        id="unknown-destination",
    ),
    pytest.param(
        "[[routing.rules]]\nname='b'\nwhen='true'\ndestinations=['outside']\n"
        "protect=false",
        "rule 'b' would send unprotected originals to 'outside'; set protect = true",
        id="originals-not-allowed",
    ),
    pytest.param(
        "[[routing.rules]]\nname='b'\nwhen='true'\ndestinations=['outside']\n"
        "protect=true\ndeidentify='trail'\n[[deidentification]]\nname='trial'",
        "rule 'b': no deidentification is named 'trail'; did you mean trial?",
        id="unknown-deidentification",
    ),
    pytest.param(
        "[[routing.rules]]\nname='b'\nwhen='true'\ndestinations=['outside']\n"
        "protect=false\ncustody='key'",
        "routing.rules[2].custody: rule 'b' sends originals as they are; set protect"
        " = true, or leave custody out",
        id="treatment-of-originals",
    ),
    pytest.param(
        "[[protection.windows]]\nwhen='true'\nwindows=[{ center = 40, width = 0 }]",
        "protection.windows[1].windows[1].width",
        id="window-without-width",
    ),
    pytest.param(
        "[[routing.rules]]\nname='all'\nwhen='true'\ndestinations=['outside']\n"
        "protect=true",
        "routing.rules[2].name: 'all' is used twice",
        id="rule-twice",
    ),
    pytest.param(
        "[protection]\nlogo = 'no.png'", "no.png cannot be read; give", id="logo"
    ),
    pytest.param(
        "[protection.params.search]\nslx = 3",
        "protection.params.search.slx: unknown setting; did you mean sl?",
        id="unknown-parameter",
    ),
    pytest.param(
        "[web]\nenabled = true",
        "web.enabled: console and DICOMweb are HTTPS only; add a [tls] table",
        id="web-without-tls",
    ),
    pytest.param(
        "[protection.params.search]\nsl = 0.5", "sl=0.5", id="parameter-out-of-range"
    ),
    pytest.param(
        "[[protection.ensembles]]\nname='x'\nwhen='true'\ndirectory='nowhere'",
        "nowhere is not a directory",
        id="ensemble-directory",
    ),
]


@pytest.mark.parametrize(("added", "expected"), MISTAKES)
def test_a_mistake_is_named_with_its_place_and_remedy(
    tmp_path: Path, added: str, expected: str
) -> None:
    head = "" if added.startswith("data_directory") else GOOD
    path = write(tmp_path, f"{head}{added}\n")

    with pytest.raises(ConfigurationError) as caught:
        load_site(path, environ={})

    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, f"{GOOD}[receiver]\nportt = 1\nport = -1\n")

    with pytest.raises(ConfigurationError) as caught:
        load_site(path, environ={})

    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read"):
        load_site(tmp_path / "none.toml", environ={})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_site(path, environ={})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    path = write(tmp_path, GOOD.replace('"data"', '"closed/data"'))

    with pytest.raises(ConfigurationError, match="not writable"):
        load_site(path, environ={})


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    with pytest.raises(ConfigurationError, match="is not a directory"):
        load_site(write(tmp_path, GOOD), environ={})


# Environment


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {
        "MIAD_DATA_DIRECTORY": str(tmp_path / "elsewhere"),
        "MIAD_RECEIVER_PORT": "0",
        "MIAD_LOG_LEVEL": "debug",
        "PATH": "/bin",
    }

    site = load_site(write(tmp_path, GOOD), environ=environ)

    assert site.data_directory == tmp_path / "elsewhere"
    assert (site.receiver.port, site.log.level) == (0, "debug")


def test_every_documented_variable_is_a_setting(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    values = {"port": "1", "plain_port": "2", "level": "info", "format": "json"}

    for variable, key in ENVIRONMENT.items():
        value = values.get(str(key[-1]), "value")
        load_site(path, environ={variable: value})


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean MIAD_RECEIVER_PORT"):
        load_site(write(tmp_path, GOOD), environ={"MIAD_RECEIVER_PROT": "1"})


# Rules in files of their own

MORE = """\
[[rules]]
name = "more"
when = "true"
destinations = ["{destination}"]
protect = true
"""


def test_rules_files_follow_the_rules_of_the_site_file(tmp_path: Path) -> None:
    write(tmp_path, MORE.format(destination="outside"), "more.toml")
    path = write(tmp_path, f"{GOOD}[routing]\nrules_files = ['more.toml']\n")

    loaded = load(path, environ={})

    assert [rule.name for rule in loaded.site.routing.rules] == ["all", "more"]


def test_a_mistake_in_a_rules_file_names_that_file(tmp_path: Path) -> None:
    more = write(tmp_path, MORE.format(destination="nowhere"), "more.toml")
    path = write(tmp_path, f"{GOOD}[routing]\nrules_files = ['more.toml']\n")

    with pytest.raises(ConfigurationError) as caught:
        load_site(path, environ={})

    assert f"{more}, line 4, column 16" in str(caught.value)


def test_a_rules_file_holds_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "[receiver]\nport = 1\n", "more.toml")
    path = write(tmp_path, f"{GOOD}[routing]\nrules_files = ['more.toml']\n")

    with pytest.raises(ConfigurationError, match="tables only; remove receiver"):
        load_site(path, environ={})


PLACE = '{ ae_title = "AI", host = "10.0.0.7", port = 11112 }'


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (f"failover = [{PLACE}]", "has the address AI@10.0.0.7:11112 twice"),
        (f"commitment_at = {PLACE}", "set commitment = true"),
        ('transfer_syntaxes = ["jpeg-baseline"]', "transfer_syntaxes"),
    ],
)
def test_addresses_of_destinations_that_contradict_each_other(
    tmp_path: Path, lines: str, words: str
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        f"""
data_directory = "{(tmp_path / "data").as_posix()}"
[[destinations]]
name = "research"
ae_title = "AI"
host = "10.0.0.7"
port = 11112
{lines}
"""
    )
    with pytest.raises(ConfigurationError) as caught:
        load_site(path, environ={})
    assert words in str(caught.value)


def test_commitment_needs_a_node_that_stores(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        f"""
data_directory = "{(tmp_path / "data").as_posix()}"
[[nodes]]
name = "reader"
ae_titles = ["READER"]
roles = ["read"]
certificate_names = ["reader.example.org"]
commitment = {PLACE}
"""
    )
    with pytest.raises(ConfigurationError, match='give it the role "store"'):
        load_site(path, environ={})
