"""Sealed files: what opens them, and everything that must not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import (
    CHUNK,
    EnvelopeReader,
    EnvelopeWriter,
    open_bytes,
    open_envelope,
    open_sealed,
    seal_bytes,
)
from gateway.sealing.head import FIXED, MAX_CONTEXT, SLOT, START, key_ids
from gateway.sealing.master import TAG_LENGTH, LocalMasterKey

KEYS = LocalMasterKey(b"k" * 32)
OTHER = LocalMasterKey(b"o" * 32)
CONTEXT = b'{"belongs":"here"}'
BODY = START + len(CONTEXT)
SMALL = 16
"""Octets of content per chunk in most tests: many chunks, few octets."""

SPARE_SLOT = range(FIXED.size + SLOT.size, START)
"""Empty but during rotation: what stands there opens nothing and changes nothing."""


def sealed_of(content: bytes, context: bytes = CONTEXT, chunk: int = SMALL) -> bytes:
    stream = io.BytesIO()
    writer = EnvelopeWriter(stream, KEYS, context, chunk=chunk)
    writer.write(content)
    writer.finish()
    return stream.getvalue()


def opened(sealed: bytes) -> EnvelopeReader:
    return open_envelope(io.BytesIO(sealed), KEYS)


def chunks_of(sealed: bytes) -> list[bytes]:
    body, size = sealed[BODY:], SMALL + TAG_LENGTH
    return [body[at : at + size] for at in range(0, len(body), size)]


def with_chunks(sealed: bytes, chunks: list[bytes]) -> bytes:
    return sealed[:BODY] + b"".join(chunks)


contents = st.binary(max_size=5 * SMALL + 1)
many_chunks = st.binary(min_size=2 * SMALL + 1, max_size=5 * SMALL)


@given(contents, st.binary(max_size=300), st.integers(1, 40))
def test_what_was_sealed_comes_back(content: bytes, context: bytes, chunk: int) -> None:
    assert open_bytes(sealed_of(content, context, chunk), KEYS) == (context, content)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 200001])
def test_every_size_around_a_chunk(size: int) -> None:
    content = os.urandom(size)
    sealed = seal_bytes(content, KEYS)
    assert open_bytes(sealed, KEYS) == (b"", content)
    chunks = max(1, -(-size // CHUNK))
    assert len(sealed) == START + size + chunks * TAG_LENGTH


@given(st.lists(st.binary(max_size=3 * SMALL), max_size=8))
def test_pieces_of_any_size_make_one_content(pieces: list[bytes]) -> None:
    stream = io.BytesIO()
    writer = EnvelopeWriter(stream, KEYS, chunk=SMALL)
    for piece in pieces:
        assert writer.write(piece) == len(piece)
    writer.finish()
    writer.finish()
    assert writer.size == len(b"".join(pieces))
    assert open_bytes(stream.getvalue(), KEYS)[1] == b"".join(pieces)
    with pytest.raises(ValueError, match="finished"):
        writer.write(b"more")


@given(contents, st.lists(st.tuples(st.integers(0, 90), st.integers(-1, 90))))
def test_reading_anywhere_is_as_in_a_plain_file(
    content: bytes, reads: list[tuple[int, int]]
) -> None:
    plain, reader = io.BytesIO(content), opened(sealed_of(content))
    assert reader.size == len(content)
    for at, size in reads:
        assert reader.seek(at) == plain.seek(at)
        assert reader.read(size) == plain.read(size)
        assert reader.tell() == plain.tell()
    assert reader.seek(0, os.SEEK_END) == len(content)
    if content:
        assert reader.seek(-1, os.SEEK_CUR) == len(content) - 1
        assert reader.read() == content[-1:]
    with pytest.raises(ValueError, match="no such position"):
        reader.seek(-1)


def test_it_serves_as_a_stream(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK + 5)
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(content, KEYS, CONTEXT))
    with open_sealed(path, KEYS) as reader, io.BufferedReader(reader) as buffered:
        assert reader.context == CONTEXT
        assert buffered.read(10) == content[:10]
        buffered.seek(CHUNK - 3)
        assert buffered.read(7) == content[CHUNK - 3 : CHUNK + 4]
        assert buffered.read() == content[CHUNK + 4 :]
    assert reader.closed


def test_no_more_than_a_chunk_is_read_at_once() -> None:
    class Watched(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            octets = super().read(size)
            self.largest = max(self.largest, len(octets))
            return octets

    stream = Watched(seal_bytes(bytes(10 * CHUNK), KEYS))
    reader = open_envelope(stream, KEYS)
    assert len(reader.read()) == 10 * CHUNK
    assert stream.largest == CHUNK + TAG_LENGTH


@given(many_chunks, st.data())
def test_any_flipped_bit_is_noticed(content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(sealed_of(content))
    places = st.integers(0, len(sealed) - 1).filter(lambda at: at not in SPARE_SLOT)
    sealed[data.draw(places)] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidSeal):
        open_bytes(bytes(sealed), KEYS)


def test_every_octet_counts() -> None:
    sealed = sealed_of(bytes(range(40)))
    for at in range(len(sealed)):
        altered = sealed[:at] + bytes([sealed[at] ^ 0xFF]) + sealed[at + 1 :]
        if at in SPARE_SLOT:
            assert open_bytes(altered, KEYS) == open_bytes(sealed, KEYS)
            assert len(key_ids(altered)) == 2  # and a census sees it
        else:
            with pytest.raises(InvalidSeal):
                open_bytes(altered, KEYS)


@given(many_chunks, st.data())
def test_damage_is_met_where_it_lies_and_nothing_of_it_returned(
    content: bytes, data: st.DataObject
) -> None:
    sealed = sealed_of(content)
    chunks = chunks_of(sealed)
    bad = data.draw(st.integers(0, len(chunks) - 2))
    chunks[bad] = bytes([chunks[bad][0] ^ 1]) + chunks[bad][1:]
    reader = opened(with_chunks(sealed, chunks))
    before = bad * SMALL
    assert reader.read(before) == content[:before]
    with pytest.raises(InvalidSeal):
        reader.read(1)
    reader.seek(before + SMALL)
    assert reader.read() == content[before + SMALL :]


@given(contents, st.data())
def test_any_cut_is_noticed_at_once(content: bytes, data: st.DataObject) -> None:
    sealed = sealed_of(content)
    length = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(InvalidSeal):
        opened(sealed[:length])


def test_every_cut_is_noticed_at_once() -> None:
    sealed = sealed_of(bytes(3 * SMALL))
    for length in range(len(sealed)):
        with pytest.raises(InvalidSeal):
            opened(sealed[:length])


@given(contents, st.binary(min_size=1, max_size=3 * (SMALL + TAG_LENGTH)))
def test_anything_appended_is_noticed_at_once(content: bytes, more: bytes) -> None:
    with pytest.raises(InvalidSeal):
        opened(sealed_of(content) + more)


@given(many_chunks)
def test_chunks_in_another_order_are_noticed(content: bytes) -> None:
    sealed = sealed_of(content)
    chunks = chunks_of(sealed)
    for first in range(len(chunks) - 1):
        swapped = chunks.copy()
        swapped[first], swapped[first + 1] = swapped[first + 1], swapped[first]
        with pytest.raises(InvalidSeal):
            open_bytes(with_chunks(sealed, swapped), KEYS)
        for altered in (
            chunks[:first] + chunks[first + 1 :],
            [*chunks[: first + 1], chunks[first], *chunks[first + 1 :]],
        ):
            with pytest.raises(InvalidSeal):
                open_bytes(with_chunks(sealed, altered), KEYS)


@given(st.integers(0, 2))
def test_chunks_of_another_file_are_noticed(number: int) -> None:
    """Of the same content, context and master key, even."""
    content = bytes(3 * SMALL)
    first, second = sealed_of(content), sealed_of(content)
    chunks = chunks_of(first)
    chunks[number] = chunks_of(second)[number]
    with pytest.raises(InvalidSeal):
        open_bytes(with_chunks(first, chunks), KEYS)


def test_parts_of_another_file_are_noticed() -> None:
    first, second = sealed_of(b"first"), sealed_of(b"other")
    slots = slice(FIXED.size, START)
    for altered in (
        first[: slots.start] + second[slots] + first[slots.stop :],
        second[: slots.start] + first[slots.start :],
        first[:START] + b'{"belongs":"else"}' + first[BODY:],
        first[:BODY] + second[BODY:],
    ):
        assert len(altered) == len(first)
        with pytest.raises(InvalidSeal):
            open_bytes(altered, KEYS)


def test_a_slot_does_not_open_under_the_name_of_another_key() -> None:
    """Two keys that hold the same octets under two names, say."""

    class Renamed(LocalMasterKey):
        key_id = OTHER.key_id

    sealed = bytearray(sealed_of(b"content"))
    sealed[FIXED.size : FIXED.size + 8] = bytes.fromhex(OTHER.key_id)
    with pytest.raises(InvalidSeal):
        open_bytes(bytes(sealed), Renamed(b"k" * 32))


def test_another_master_key_opens_nothing_and_is_named() -> None:
    with pytest.raises(InvalidSeal, match=KEYS.key_id):
        open_bytes(sealed_of(b"content"), OTHER)


def test_two_envelopes_of_one_content_share_nothing() -> None:
    first, second = sealed_of(bytes(100)), sealed_of(bytes(100))
    assert first[FIXED.size + 8 : START] != second[FIXED.size + 8 : START]
    assert not set(chunks_of(first)) & set(chunks_of(second))
    assert len(set(chunks_of(first))) == len(chunks_of(first))


@pytest.mark.parametrize(
    ("context", "chunk"),
    [(bytes(MAX_CONTEXT + 1), CHUNK), (b"", 0), (b"", 1 << 25)],
)
def test_bounds_of_an_envelope(context: bytes, chunk: int) -> None:
    with pytest.raises(ValueError, match="bounds"):
        EnvelopeWriter(io.BytesIO(), KEYS, context, chunk=chunk)


def test_a_head_that_asks_for_much_memory_is_refused() -> None:
    sealed = sealed_of(b"content")
    for at in (12, 16):  # chunk size, length of the context
        huge = sealed[:at] + b"\xff\xff\xff\xff" + sealed[at + 4 :]
        with pytest.raises(InvalidSeal):
            opened(huge)


def test_a_key_that_changes_while_an_envelope_is_written() -> None:
    """What is finished after a rotation began is under the new key."""

    class Changing(LocalMasterKey):
        now = KEYS

        def current(self) -> LocalMasterKey:
            return self.now

    keys = Changing(b"k" * 32)
    stream = io.BytesIO(b"before")
    stream.seek(0, os.SEEK_END)
    writer = EnvelopeWriter(stream, keys, CONTEXT, chunk=SMALL)
    writer.write(bytes(100))
    keys.now = OTHER
    writer.finish()
    assert writer.key_id == OTHER.key_id
    assert stream.tell() == len(stream.getvalue())
    sealed = stream.getvalue().removeprefix(b"before")
    assert key_ids(sealed) == {OTHER.key_id}
    assert open_bytes(sealed, OTHER) == (CONTEXT, bytes(100))


def test_a_stream_that_cannot_go_back_is_written_all_the_same() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    stream = Pipe()
    writer = EnvelopeWriter(stream, KEYS)
    writer.write(b"content")
    writer.finish()
    assert open_bytes(stream.getvalue(), KEYS) == (b"", b"content")


def test_a_stream_is_closed_with_its_reader_only() -> None:
    sealed = sealed_of(b"content")
    for octets in (sealed[:-1], sealed + b"!", sealed[:150], b""):
        stream = io.BytesIO(octets)
        with pytest.raises(InvalidSeal):
            open_envelope(stream, KEYS)
        assert not stream.closed
    stream = io.BytesIO(sealed)
    open_envelope(stream, KEYS).close()
    assert stream.closed


def test_a_file_that_does_not_open_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "sealed"
    path.write_bytes(b"MIADSEAL, or not")
    with pytest.raises(InvalidSeal):
        open_sealed(path, KEYS)  # a ResourceWarning would fail the test
    with pytest.raises(FileNotFoundError):
        open_sealed(tmp_path / "none", KEYS)
