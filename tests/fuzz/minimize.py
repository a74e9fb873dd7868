"""Smaller inputs that are found at the same place."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.driver import place_of

MOST_TRIES = 3000


def place_under(enter: Callable[[bytes], None], data: bytes) -> str:
    """Where an input is found; empty where it is not."""
    try:
        enter(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the Rust codec's panic is none
        return place_of(error)
    return ""


def minimized(enter: Callable[[bytes], None], data: bytes) -> bytes:
    """Leave out pieces, large ones first, as long as the place stays the same."""
    place = place_under(enter, data)
    if not place:
        return data
    size, tries = len(data) // 2, 0
    while size and tries < MOST_TRIES:
        at, smaller = 0, False
        while at < len(data) and tries < MOST_TRIES:
            shorter = data[:at] + data[at + size :]
            tries += 1
            if shorter and place_under(enter, shorter) == place:
                data, smaller = shorter, True
            else:
                at += size
        if not smaller:
            size //= 2
    return data
