"""UIDs of protected objects."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from gateway.dicom.identifiers import SECRET_LENGTH, UidMapper, load_secret
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.secrets import SecretStore


@given(st.binary(min_size=32, max_size=32), st.text(max_size=64))
def test_mapped_uids_are_valid(secret: bytes, uid: str) -> None:
    mapped = UID(UidMapper(secret).map(uid))
    assert mapped.is_valid
    assert mapped.startswith("2.25.")


def test_same_input_same_uid_and_nothing_else() -> None:
    mapper = UidMapper(b"a" * SECRET_LENGTH)
    assert mapper.map("1.2.3", "series") == mapper.map("1.2.3", "series")
    others = {
        mapper.map("1.2.3"),
        mapper.map("1.2.3", "series"),
        mapper.map("1.2.4", "series"),
        UidMapper(b"b" * SECRET_LENGTH).map("1.2.3", "series"),
    }
    assert len(others) == 4


def test_known_value() -> None:
    # HMAC-SHA256 of "series|1.2.3" under 32 octets "a", first 16 octets.
    expected = "2.25.322177933851495311534578198338242611122"
    assert UidMapper(b"a" * SECRET_LENGTH).map("1.2.3", "series") == expected


def test_secret_is_made_once_and_sealed(tmp_path: Path) -> None:
    secrets = SecretStore(tmp_path / "secrets", LocalMasterKey(b"m" * 32))
    secret = load_secret(secrets)
    assert len(secret) == SECRET_LENGTH
    assert load_secret(secrets) == secret
    (path,) = (tmp_path / "secrets").iterdir()
    assert path.name == "uid.key.sealed"
    assert secret not in path.read_bytes()
