"""Backups of a master key: what gives it back, and everything that must not."""

from __future__ import annotations

import itertools
import json
import os

import pytest
from shamir_mnemonic import combine_mnemonics, generate_mnemonics

from gateway.errors import BackupRefused
from gateway.sealing.backup import Export, open_export, seal_export
from gateway.sealing.shamir import Share, combine, split

SECRET = bytes(range(32))
PASSPHRASE = "correct horse battery staple"
KEY_ID = "0123456789abcdef"


def shares_of(
    secret: bytes = SECRET, count: int = 3, threshold: int = 2, key_id: str = KEY_ID
) -> tuple[Share, ...]:
    return split(secret, site="north", key_id=key_id, count=count, threshold=threshold)


def documents(*shares: Share) -> dict[str, str]:
    return {share.name: share.document() for share in shares}


@pytest.mark.parametrize(("count", "threshold"), [(2, 2), (3, 2), (5, 3), (16, 9)])
def test_any_threshold_of_shares_give_the_key_back(count: int, threshold: int) -> None:
    secret = os.urandom(32)
    shares = shares_of(secret, count, threshold)
    chosen = itertools.islice(itertools.combinations(shares, threshold), 12)

    for group in chosen:
        assert combine(documents(*group)).secret == secret
    assert combine(documents(*shares)).key_id == KEY_ID


def test_words_alone_give_the_key_back() -> None:
    first, second, _ = shares_of()
    by_hand = {"a": " ".join(first.words).upper(), "b": "\r\n".join(second.words)}

    restored = combine(by_hand)

    assert restored.secret == SECRET
    assert restored.key_id == ""


def test_documents_survive_the_line_ends_of_another_system() -> None:
    texts = documents(*shares_of()[:2])
    changed = {name: text.replace("\n", "\r\n") for name, text in texts.items()}

    assert combine(changed).secret == SECRET


def test_a_document_tells_whose_key_it_is_and_no_octet_of_it() -> None:
    text = shares_of()[0].document()

    assert "site:  north" in text
    assert f"key:   {KEY_ID}" in text
    assert "share: 1 of 3, 2 are needed" in text
    assert SECRET.hex() not in text


@pytest.mark.parametrize("numbers", [(3, 1), (2, 3), (17, 2), (1, 1), (0, 0)])
def test_numbers_of_shares_that_make_no_sense(numbers: tuple[int, int]) -> None:
    with pytest.raises(BackupRefused, match="the threshold must be"):
        shares_of(count=numbers[0], threshold=numbers[1])


def test_too_few_shares() -> None:
    first, *_ = shares_of(count=5, threshold=3)

    with pytest.raises(BackupRefused, match=r"3 different shares are needed, .* 1"):
        combine(documents(first) | {"copy": first.document()})
    with pytest.raises(BackupRefused, match="here are 0"):
        combine({})


def test_a_share_of_another_site() -> None:
    ours, theirs = shares_of()[0], shares_of(key_id="fedcba9876543210")[1]

    with pytest.raises(BackupRefused, match=r"of different keys: .*fedcba9876543210"):
        combine(documents(ours, theirs))
    with pytest.raises(BackupRefused, match="are not of one backup"):
        combine({"a": " ".join(ours.words), "b": " ".join(theirs.words)})


def test_a_mistyped_word_is_named_by_its_place_only() -> None:
    first, second, _ = shares_of()
    words = list(second.words)
    words[6] = "miadgate"

    with pytest.raises(BackupRefused, match=r"mine: word 7 is not in the list") as told:
        combine(documents(first) | {"mine": " ".join(words)})
    assert "miadgate" not in str(told.value)


@pytest.mark.parametrize("change", ["other", "swapped", "missing"])
def test_words_that_do_not_fit_together(change: str) -> None:
    first, second, _ = shares_of()
    words = list(second.words)
    if change == "other":
        words[9] = "academic" if words[9] != "academic" else "zero"
    elif change == "missing":
        del words[9]
    else:
        at = next(n for n in range(6, 20) if words[n] != words[n + 1])
        words[at], words[at + 1] = words[at + 1], words[at]

    with pytest.raises(BackupRefused, match="do not fit together") as told:
        combine(documents(first) | {"mine": " ".join(words)})
    assert told.value.__cause__ is None
    assert not set(words) & set(str(told.value).split())


def test_the_library_gives_what_slip_39_publishes() -> None:
    """First vector of 256 bits of SLIP-0039: one share, passphrase TREZOR."""
    words = (
        "theory painting academic academic armed sweater year military elder discuss"
        " acne wildlife boring employer fused large satoshi bundle carbon diagnose"
        " anatomy hamster leaves tracks paces beyond phantom capital marvel lips brave"
        " detect luck"
    )

    assert combine_mnemonics([words], b"TREZOR").hex() == (
        "989baf9dcaad5b10ca33dfd8cc75e42477025dce88ae83e75a230086a0e00e92"
    )


def test_shares_of_another_secret_are_no_master_key() -> None:
    (group,) = generate_mnemonics(1, [(2, 3)], bytes(16))

    with pytest.raises(BackupRefused, match="give no master key"):
        combine(dict(zip("ab", group, strict=False)))


def exported(passphrase: str = PASSPHRASE) -> bytes:
    export = Export(site="north", key_id=KEY_ID, secret=SECRET)
    return seal_export(export, passphrase)


def test_an_export_opens_with_its_passphrase() -> None:
    opened = open_export(exported("Zähne putzen 3mal"), "Za\u0308hne putzen 3mal")

    assert opened == Export(site="north", key_id=KEY_ID, secret=SECRET)
    assert SECRET.hex() not in repr(opened)


def test_an_export_names_site_and_key_in_clear_and_hides_the_key() -> None:
    data = exported()
    told = json.loads(data)

    assert (told["version"], told["site"], told["key_id"]) == (1, "north", KEY_ID)
    assert SECRET not in data
    assert exported() != data


def test_a_wrong_passphrase() -> None:
    with pytest.raises(BackupRefused, match="of site north does not open: wrong pass"):
        open_export(exported(), PASSPHRASE + " ")


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(BackupRefused, match="has 11 characters"):
        exported("a" * 11)


@pytest.mark.parametrize(
    ("field", "value"),
    [("site", "south"), ("key_id", "fedcba9876543210"), ("sealed", "AAAA")],
)
def test_an_altered_export(field: str, value: str) -> None:
    altered = json.dumps(json.loads(exported()) | {field: value}).encode()

    with pytest.raises(BackupRefused, match="does not open"):
        open_export(altered, PASSPHRASE)


def test_an_export_of_a_newer_version_is_said_to_be_one() -> None:
    newer = json.dumps(json.loads(exported()) | {"version": 2}).encode()
    with pytest.raises(BackupRefused, match=r"of version 2, .* a newer version wrote"):
        open_export(newer, PASSPHRASE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        json.dumps(
            json.loads(exported())
            | {"kdf": {"name": "scrypt", "n": 1 << 30, "r": 8, "p": 1, "salt": "AAAA"}}
        ).encode(),
    ],
)
def test_what_is_no_export(data: bytes) -> None:
    with pytest.raises(BackupRefused, match="not a key export"):
        open_export(data, PASSPHRASE)
