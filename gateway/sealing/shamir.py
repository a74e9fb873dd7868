"""A master key as shares for several people, some of whom together have it.

Shares are SLIP-39 mnemonics: words of a fixed list with a checksum, made for
paper, by Trezor's reference implementation. Fewer than the threshold say
nothing about the key. The words carry no passphrase: who holds the threshold
holds the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import shamir_mnemonic as slip39
from shamir_mnemonic.constants import MAX_SHARE_COUNT
from shamir_mnemonic.wordlist import WORD_INDEX_MAP

from gateway.errors import BackupRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LENGTH: Final = 32
TITLE: Final = "MIAD GATEWAY: SHARE OF A MASTER KEY"
HEADER: Final = re.compile(r"^(site|key):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
WORDS: Final = re.compile(r"^words:[ \t]*$", re.MULTILINE)
WORD: Final = re.compile(r"[^\W\d_]+")
WORDS_A_LINE: Final = 4
ADVICE: Final = (
    "Any {threshold} of these {count} shares give the key back, which opens every\n"
    "record and original of the site. Keep each with another person, off the\n"
    "network; never keep {threshold} in one place. The words are all that counts:\n"
    "they can be written by hand and typed again.\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One person's part of a key.

    Attributes
    ----------
    site, key_id
        What it is of, in clear, so that it is found again after years.
    number, count, threshold
        It is share ``number`` of ``count``; ``threshold`` of them are needed.
    words
        The SLIP-39 mnemonic.
    """

    site: str
    key_id: str
    number: int
    count: int
    threshold: int
    words: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name for its file."""
        return f"share-{self.number}-of-{self.count}.txt"

    def document(self) -> str:
        """Text for the person who keeps it."""
        numbered = [f"{n:2} {word:<10}" for n, word in enumerate(self.words, start=1)]
        starts = range(0, len(numbered), WORDS_A_LINE)
        lines = [" ".join(numbered[at : at + WORDS_A_LINE]).rstrip() for at in starts]
        return "\n".join(
            [
                TITLE,
                "",
                f"site:  {self.site}",
                f"key:   {self.key_id}",
                f"share: {self.number} of {self.count}, {self.threshold} are needed",
                "",
                ADVICE.format(threshold=self.threshold, count=self.count),
                "words:",
                *lines,
                "",
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedKey:
    """A key put together again; ``key_id`` is what the papers say, or ''."""

    secret: bytes = field(repr=False)
    key_id: str


def split(
    secret: bytes, *, site: str, key_id: str, count: int, threshold: int
) -> tuple[Share, ...]:
    """Split a key.

    Parameters
    ----------
    secret
        32 octets.
    site, key_id
        Written on the shares.
    count, threshold
        How many shares to make, and how many give the key back.

    Raises
    ------
    BackupRefused
        The numbers make no sense: a threshold of 1 would be a plain copy.
    """
    if not 2 <= threshold <= count <= MAX_SHARE_COUNT:
        raise BackupRefused(
            f"{count} shares with a threshold of {threshold}: the threshold must be "
            f"at least 2 and at most the number of shares, of which there are at "
            f"most {MAX_SHARE_COUNT}"
        )
    (group,) = slip39.generate_mnemonics(1, [(threshold, count)], secret)
    shares = tuple(
        Share(
            site=site,
            key_id=key_id,
            number=number,
            count=count,
            threshold=threshold,
            words=tuple(mnemonic.split()),
        )
        for number, mnemonic in enumerate(group, start=1)
    )
    if combine({share.name: share.document() for share in shares}).secret != secret:
        raise BackupRefused("the shares do not give the key back; nothing was written")
    return shares


def combine(documents: Mapping[str, str]) -> SharedKey:
    """Put a key together from the texts of shares.

    Parameters
    ----------
    documents
        Texts by the name to call them in errors: a whole document as
        `Share.document` made it, or its words alone.

    Raises
    ------
    BackupRefused
        A word is mistyped, there are too few shares, or they are not all of one
        backup. No message holds a word.
    """
    texts = {name: "\n".join(text.splitlines()) for name, text in documents.items()}
    key_id = _one_key(texts)
    parts = {name: _part(name, text) for name, text in texts.items()}
    _check_together(parts)
    distinct = list({part.index: part for part in parts.values()}.values())
    threshold = distinct[0].member_threshold if distinct else 2
    if len(distinct) < threshold:
        raise BackupRefused(
            f"{threshold} different shares are needed, here are {len(distinct)}"
        )
    # More than are needed must agree: each end of the list gives the key.
    first, last = _joined(distinct[:threshold]), _joined(distinct[-threshold:])
    if first != last or len(first) != LENGTH:
        raise BackupRefused("the shares give no master key; are they all of one site?")
    return SharedKey(secret=first, key_id=key_id)


def _one_key(texts: Mapping[str, str]) -> str:
    """Key id that the documents name, which must be one."""
    named = {name: _header(text).get("key", "") for name, text in texts.items()}
    ids = {each for each in named.values() if each}
    if len(ids) > 1:
        told = ", ".join(
            f"{name} is of key {key}" for name, key in named.items() if key
        )
        raise BackupRefused(f"the shares are of different keys: {told}")
    return next(iter(ids), "")


def _header(text: str) -> dict[str, str]:
    start = WORDS.search(text)
    return dict(HEADER.findall(text[: start.start()])) if start else {}


def _part(name: str, text: str) -> slip39.Share:
    body = WORDS.split(text, maxsplit=1)[-1]
    words = WORD.findall(body)
    for number, word in enumerate(words, start=1):
        if word.lower() not in WORD_INDEX_MAP:
            raise BackupRefused(
                f"{name}: word {number} is not in the list of words (SLIP-39); "
                "compare it with the paper"
            )
    try:
        return slip39.Share.from_mnemonic(" ".join(words))
    except slip39.MnemonicError:
        raise BackupRefused(
            f"{name}: its {len(words)} words do not fit together: one is mistyped, "
            "missing or in another place"
        ) from None  # the library's message quotes words


def _check_together(parts: Mapping[str, slip39.Share]) -> None:
    groups = {name: part.group_parameters() for name, part in parts.items()}
    first = next(iter(groups), "")
    others = [name for name, each in groups.items() if each != groups[first]]
    if others:
        raise BackupRefused(
            f"{', '.join(others)} and {first} are not of one backup: shares of "
            "another site, or of a backup made at another time, cannot be mixed in"
        )


def _joined(parts: Sequence[slip39.Share]) -> bytes:
    try:
        secret: bytes = slip39.combine_mnemonics(part.mnemonic() for part in parts)
    except slip39.MnemonicError:
        raise BackupRefused(
            "the shares give no master key; are they all of one site?"
        ) from None
    return secret
