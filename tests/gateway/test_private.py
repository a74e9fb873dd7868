"""What a site writes is out of others' reach; an earlier build's data is sealed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.errors import ConfigurationError
from gateway.store.database import Database
from gateway.store.part10 import encode_head
from gateway.store.private import close_to_others, use_private_temporary
from tests.gateway.test_index_sealed import NAME, clear_index
from tests.gateway.test_store_sealed import META, clear_file
from tests.waiting import wait_until

SITE = """
data_directory = "data"

[receiver]
plain_port = 0

[recovery]
plain_port = 0
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_data_directory_others_can_reach_is_closed_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    close_to_others(data)
    assert mode_of(data) == 0o700
    assert "data-directory-closed-to-others" in capsys.readouterr().out
    close_to_others(data)
    assert capsys.readouterr().out == ""
    close_to_others(tmp_path / "new" / "data")
    assert mode_of(tmp_path / "new" / "data") == 0o700


def test_a_data_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o750)

    def not_owner(_path: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", not_owner)
    with pytest.raises(ConfigurationError, match=r"0750.*chmod 700"):
        close_to_others(tmp_path)


def test_temporary_files_lie_in_a_private_directory_that_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    private = tmp_path / "run" / "tmp" / "worker"
    private.mkdir(parents=True)
    (private / "left-over").write_bytes(b"from a run that was killed")
    use_private_temporary(private)
    with tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == private
    assert os.environ["TMPDIR"] == str(private)
    assert list(private.iterdir()) == []
    assert mode_of(private) == 0o700


def test_an_index_elsewhere_is_told_to_be_in_clear(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(OperationalError):
            Database(f"postgresql+psycopg://127.0.0.1:{port}/index")
    told = capsys.readouterr().out
    assert "index-not-encrypted-here" in told
    assert "docs/operations.md" in told


def test_a_receiver_seals_what_an_earlier_build_left_in_clear(tmp_path: Path) -> None:
    """As it is after an upgrade: a clear index, a clear store, open to others."""
    config = tmp_path / "site.toml"
    config.write_text(SITE)
    site = load_site(config, environ={})
    data = site.data_directory
    data.mkdir(mode=0o755)
    clear_index(data / "index.sqlite", rows=1)
    store = open_store_of(site, open_keys_of(site))
    part10 = encode_head(META) + NAME.encode() * 100
    before = clear_file(store, "originals", f"{'a' * 64}.1.2.840.10008.1.2.1", part10)
    with closing(open_index_of(site, open_keys_of(site))) as index:
        index.rename_file("originals/0.dcm", before)
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [*command, "--config", str(config)], stdout=log, stderr=log
        )
        try:
            ports = data / "run" / "ports.json"
            wait_until(lambda: ports.exists() or running.poll() is not None)
        finally:
            running.terminate()
            assert running.wait(60) == 0
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        (row,) = index.instances_in_state("received")
    assert row.patient_name == f"{NAME} 0"
    with open_store_of(site, keys).open(row.path) as stream:
        assert stream.read() == part10
    octets = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    assert [path for path, content in octets.items() if NAME.encode() in content] == []
    modes = {mode_of(path) for path in octets if path.parent.name != "secrets"}
    assert modes <= {0o600, 0o644}  # those of the earlier build keep theirs
    assert mode_of(data) == 0o700
    assert "clear-files-sealed" in (tmp_path / "log").read_text()
