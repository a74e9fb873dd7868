"""The scanner finds what it is to find, however it is wrapped."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.endtoend.scan import Scanner, pixels_of, text_needles

NAME = "Schönfärber^Änne Lieselotte"
PIXELS = bytes((n * n) % 251 for n in range(4096))
NOISE = os.urandom(5000)

WRAPPED = {
    "plain": lambda octets: octets,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "zstd": lambda octets: zstandard.ZstdCompressor().compress(octets),
    "base64": base64.b64encode,
    "shifted base64": lambda octets: base64.b64encode(b"x" + octets),
    "hex": lambda octets: octets.hex().encode(),
    "pickle in base64": lambda octets: base64.b64encode(pickle.dumps([octets])),
    "base64 behind text": lambda octets: b"finish" + base64.b64encode(b"??" + octets),
    "zlib in zlib": lambda octets: zlib.compress(NOISE + zlib.compress(octets)),
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("lead", range(3))
def test_a_name_and_a_picture_are_found_however_wrapped(how: str, lead: int) -> None:
    scanner = Scanner([*text_needles(NAME, "name"), *pixels_of(PIXELS, "pixels")])
    around = NOISE[:lead]
    for encoded in (NAME.encode(), NAME.encode("utf-16-le")):
        wrapped = WRAPPED[how](encoded)
        assert scanner.octets(NOISE + around + b"|" + wrapped + b"|" + NOISE) == {
            "name"
        }
    assert scanner.octets(NOISE + b"|" + WRAPPED[how](PIXELS) + b"|") == {"pixels"}


def test_json_swapped_pixels_and_file_names_are_found(tmp_path: Path) -> None:
    scanner = Scanner([*text_needles(NAME, "name"), *pixels_of(PIXELS, "pixels")])
    assert scanner.octets(json.dumps({"n": NAME}).encode()) == {"name"}
    swapped = bytes(PIXELS[n ^ 1] for n in range(len(PIXELS)))
    assert scanner.octets(swapped) == {"pixels"}
    (tmp_path / f"{NAME}.dcm").write_bytes(b"")
    assert scanner.tree(tmp_path) == {f"{NAME}.dcm": {"name"}}


def test_random_octets_and_background_are_no_find() -> None:
    scanner = Scanner([*text_needles("4MR1", "id"), *pixels_of(bytes(9999), "pixels")])
    assert scanner.octets(os.urandom(4 << 20)) == set()
    assert scanner.octets(bytes(4 << 20)) == set()
    assert scanner.octets(b"calling 4MR1 back") == {"id"}
    assert list(text_needles("2721", "number")) == []
