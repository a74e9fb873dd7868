"""Bodies and headers taken apart, however they come."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from email.parser import BytesParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, RequestRefused
from gateway.web.media import parse_accept, parse_media_type
from gateway.web.multipart import MultipartReader, last_boundary, part_head
from gateway.web.retrieve import wanted_of

EXPLICIT = "1.2.840.10008.1.2.1"


class Kept:
    """Keeps a part as it comes."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.content = b""
        self.state = "open"

    def write(self, piece: bytes) -> None:
        self.content += piece

    def finish(self) -> None:
        self.state = "finished"

    def abandon(self) -> None:
        self.state = "abandoned"


def read(body: bytes, cuts: Sequence[int] = (), boundary: str = "B") -> list[Kept]:
    parts: list[Kept] = []

    def begin(headers: Mapping[str, str]) -> Kept:
        parts.append(Kept(headers))
        return parts[-1]

    reader = MultipartReader(boundary, begin)
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    try:
        for start, end in itertools.pairwise(edges):
            reader.feed(body[start:end])
        reader.close()
    finally:
        reader.abandon()
    return parts


# Contents full of what could be taken for a boundary.
CONTENTS = st.lists(
    st.lists(
        st.sampled_from([b"\r\n", b"--", b"--B", b"\r\n--", b"B", b"-", b"\0", b"x"])
    ).map(b"".join),
    min_size=1,
    max_size=4,
)


def is_safe(content: bytes) -> bool:
    """Whether a boundary may be B: it must not stand in what it parts."""
    return b"\r\n--B" not in b"\r\n" + content


@given(contents=CONTENTS, cuts=st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=300, deadline=None)
def test_parts_are_what_was_put_in(contents: list[bytes], cuts: list[int]) -> None:
    contents = [one for one in contents if is_safe(one)]
    body = b"preamble\r\n" if cuts and cuts[0] % 2 else b""
    for number, content in enumerate(contents):
        body += part_head("B", {"X": str(number)}, first=number == 0) + content
    body += last_boundary("B")
    parts = read(body, cuts)
    assert [part.content for part in parts] == contents
    assert [part.headers for part in parts] == [
        {"x": str(n)} for n in range(len(contents))
    ]
    assert {part.state for part in parts} <= {"finished"}
    if contents:
        parsed = BytesParser().parsebytes(
            b"Content-Type: multipart/related; boundary=B\r\n\r\n" + body
        )
        assert len(parsed.get_payload()) == len(contents)


@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_octets_are_answered(body: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(BadRequest):
        read(b"--B\r\n" + body, cuts)


def test_a_part_that_never_ends_is_let_go() -> None:
    parts: list[Kept] = []

    def begin(headers: Mapping[str, str]) -> Kept:
        parts.append(Kept(headers))
        return parts[-1]

    reader = MultipartReader("B", begin)
    reader.feed(b"--B\r\n\r\n" + b"x" * 100_000)
    with pytest.raises(BadRequest):
        reader.close()
    reader.abandon()
    assert parts[0].state == "abandoned"
    assert len(parts[0].content) > 99_000  # passed on, not gathered


@pytest.mark.parametrize("boundary", ["", "x" * 71, "ü"])
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(BadRequest):
        MultipartReader(boundary, Kept)


@pytest.mark.parametrize(
    ("accept", "multipart", "syntaxes"),
    [
        ("", True, {"*"}),
        ("*/*", True, {"*"}),
        ("multipart/related; type=application/dicom", True, {"*"}),
        (f'multipart/related;type="application/dicom";transfer-syntax={EXPLICIT}', True,
         {EXPLICIT}),
        ("application/dicom; transfer-syntax=*", False, {"*"}),
        ("image/jpeg, application/dicom;q=0.5", False, {"*"}),
        ('application/dicom;q=0.1, multipart/related; type="application/dicom"', True,
         {"*"}),
        ((f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}, '
         'multipart/related; type="application/dicom"; transfer-syntax=1.2'), True,
         {EXPLICIT, "1.2"}),
    ],
)  # fmt: skip
def test_what_a_client_takes(accept: str, multipart: bool, syntaxes: set[str]) -> None:
    wanted = wanted_of(accept, single=True)
    assert (wanted.multipart, set(wanted.syntaxes)) == (multipart, syntaxes)


@pytest.mark.parametrize(
    "accept",
    ["image/jpeg", "application/dicom;q=0", 'multipart/related; type="image/jp2"'],
)
def test_what_there_is_not_is_refused(accept: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        wanted_of(accept, single=True)
    assert refused.value.status == 406


@given(text=st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_accept_header_is_answered(text: str) -> None:
    for reads in (parse_accept, parse_media_type):
        with contextlib.suppress(BadRequest):
            reads(text)


def test_a_long_header_is_read_in_no_time() -> None:
    for text in ('a/b;c="' + "\\" * 30_000, "a/b" + ";c=d" * 7_000, "a/b," * 8_000):
        with contextlib.suppress(BadRequest):
            parse_accept(text)
