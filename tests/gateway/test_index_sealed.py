"""The index at rest: nothing of it can be read without its key."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlcipher3 import dbapi2

from gateway.errors import ConfigurationError
from gateway.store.cipher import seal_clear_index
from gateway.store.index import Index, open_index
from gateway.store.schema import instances
from gateway.store.upgrade import SCRIPTS
from tests.gateway.stored import INDEX_KEY
from tests.gateway.test_index import new, protected_of

NAME = "Muster^Anna Luise"
OTHER_KEY = b"o" * 32


def files_of(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}


def clear_index(path: Path, rows: int = 3) -> None:
    """As an earlier build left it: clear, its log not yet written back."""
    engine = create_engine(f"sqlite:///{path}")
    event.listen(
        engine, "connect", lambda c, _: c.execute("PRAGMA journal_mode = WAL").close()
    )
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number in range(rows):
            row = new(number, patient_name=f"{NAME} {number}")
            connection.execute(instances.insert().values(**vars(row)))
    engine.dispose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def test_no_octet_of_a_row_is_on_the_disk_while_it_is_written(path: Path) -> None:
    index = open_index(path, INDEX_KEY)
    for number in range(50):
        index.add_instance(new(number, patient_name=NAME))
    index.add_protected(protected_of(1, patient_name=NAME))
    files = files_of(path)
    assert len(files[path.name + "-wal"]) > 10_000
    assert path.name + "-shm" in files
    for name, octets in files.items():
        for clear in (NAME.encode(), b"SQLite format", b"CREATE TABLE", b"1.2.3.7"):
            assert clear not in octets, name
    index.close()
    assert NAME.encode() not in path.read_bytes()
    opened = open_index(path, INDEX_KEY)
    assert opened.instance("1.2.3.7").patient_name == NAME  # type: ignore[union-attr]
    opened.close()


def test_another_key_is_told_what_to_do_and_says_nothing_of_either(path: Path) -> None:
    open_index(path, INDEX_KEY).close()
    with pytest.raises(ConfigurationError, match="put back the secrets") as refused:
        open_index(path, OTHER_KEY)
    told = str(refused.value) + repr(refused.value.__cause__)
    for key in (INDEX_KEY, OTHER_KEY):
        assert key.hex() not in told
        assert key.decode() not in told
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("SELECT * FROM instances")


def test_an_index_without_key_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs its key"):
        Index(f"sqlite:///{path}")
    with pytest.raises(ValueError, match="32 octets"):
        open_index(path, b"short")
    assert not path.exists()


def test_the_key_is_in_no_text_about_the_connection(path: Path) -> None:
    index = open_index(path, INDEX_KEY)
    engine = index.database.engine
    shown = f"{engine!r} {engine.url!r} {engine.pool!r} {engine.dialect!r}"
    assert INDEX_KEY.hex() not in shown
    assert INDEX_KEY.decode() not in shown
    index.close()


def test_an_error_names_no_value_of_a_row(path: Path) -> None:
    index = open_index(path, INDEX_KEY)
    with pytest.raises(IntegrityError) as refused:
        index.add_instance(new(patient_name=NAME, study_instance_uid=None))
    assert NAME not in str(refused.value) + repr(refused.value)
    index.close()


def test_a_flipped_octet_is_found_when_its_page_is_read(path: Path) -> None:
    index = open_index(path, INDEX_KEY)
    for number in range(200):
        index.add_instance(new(number))
    index.close()
    octets = bytearray(path.read_bytes())
    for page in range(1, len(octets) // 4096):
        octets[page * 4096 + 100] ^= 1
    path.write_bytes(octets)
    with pytest.raises((DatabaseError, ConfigurationError)):
        open_index(path, INDEX_KEY).instances_in_state("received")


# A clear index of an earlier build


def test_a_clear_index_is_encrypted_once_with_all_its_rows(path: Path) -> None:
    clear_index(path)
    assert NAME.encode() in path.read_bytes()
    index = open_index(path, INDEX_KEY)
    names = [row.patient_name for row in index.instances_in_state("received")]
    assert names == [f"{NAME} {number}" for number in range(3)]
    assert index.add_instance(new(9)) == "stored"
    index.close()
    for name, octets in files_of(path).items():
        assert NAME.encode() not in octets, name
    assert not seal_clear_index(path, INDEX_KEY)


def test_threads_that_open_a_clear_index_at_once_convert_it_once(path: Path) -> None:
    clear_index(path)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_index(path, INDEX_KEY), range(4)))
    for one in opened:
        assert len(one.instances_in_state("received")) == 3
        one.close()


def _die_half_way(path: Path, statement: str) -> None:
    """Encrypt, and end as by a power cut when that statement runs."""
    import os

    from gateway.store import cipher

    def export(clear: Path, draft: Path, key: bytes) -> None:
        whole(clear, draft, key)
        if statement == "half":
            draft.write_bytes(draft.read_bytes()[: 4096 * 2])
        os._exit(9)

    whole, cipher._export = cipher._export, export  # type: ignore[assignment]
    seal_clear_index(path, INDEX_KEY)


@pytest.mark.parametrize("how", ["half", "whole"])
def test_a_conversion_that_was_cut_off_is_done_again(path: Path, how: str) -> None:
    clear_index(path)
    child = multiprocessing.get_context("fork").Process(
        target=_die_half_way, args=(path, how)
    )
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert path.read_bytes().startswith(b"SQLite format 3\0")
    index = open_index(path, INDEX_KEY)
    assert len(index.instances_in_state("received")) == 3
    index.close()
    assert not [name for name in files_of(path) if "sealing" in name]


IN_USE = """
import sqlite3, sys
def hold(path):
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM instances").fetchone()
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_clear_index_in_use_is_left_as_it_is(path: Path) -> None:
    clear_index(path)
    other = subprocess.Popen(
        [sys.executable, "-c", f"{IN_USE}hold({str(path)!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"open\n"
    try:
        with pytest.raises(ConfigurationError, match="stop every gateway"):
            open_index(path, INDEX_KEY)
    finally:
        other.communicate(b"")
    assert path.read_bytes().startswith(b"SQLite format 3\0")


def test_the_cipher_is_the_one_that_was_chosen(path: Path) -> None:
    open_index(path, INDEX_KEY).close()
    connection = dbapi2.connect(str(path))
    connection.execute(f"PRAGMA key = \"x'{INDEX_KEY.hex()}'\"")
    settings = dict(
        line.removeprefix("PRAGMA ").rstrip(";").split(" = ")
        for (line,) in connection.execute("PRAGMA cipher_settings")
    )
    assert settings["cipher_use_hmac"] == "1"
    assert settings["cipher_hmac_algorithm"] == "HMAC_SHA512"
    connection.close()
