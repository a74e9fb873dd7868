"""How each custody lies in a record: its description and its named blobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from gateway.vault.codec import FAST_LEVEL, LEVEL, Blob, pack_bytes, unpack_bytes
from gateway.vault.large import blob_of, octets_of
from gateway.vault.layout import PixelLayout
from gateway.vault.record import (
    Custody,
    FramePlanes,
    KeyCustody,
    PixelCustody,
    WholeCustody,
)
from gateway.vault.shell import Shell


def custody_json(custody: Custody) -> dict[str, Any]:
    """Describe a custody, without its blobs."""
    if isinstance(custody, WholeCustody):
        return {"form": "whole"}
    return {
        "form": "key" if isinstance(custody, KeyCustody) else "pixels",
        "layout": asdict(custody.shell.layout),
        "value_length": custody.shell.value_length,
    }


def custody_blobs(custody: Custody) -> Iterator[tuple[str, Blob]]:
    """Yield the blobs of a custody by name."""
    if isinstance(custody, WholeCustody):
        yield "received", blob_of(custody.received, FAST_LEVEL)
        return
    yield "prefix", pack_bytes(custody.shell.prefix)
    yield "suffix", pack_bytes(custody.shell.suffix)
    yield "correction", blob_of(custody.shell.correction, LEVEL)
    if isinstance(custody, PixelCustody):
        for index, frame in enumerate(custody.frames):
            yield f"frame {index}", frame
        return
    for index, planes in enumerate(custody.planes):
        for plane in fields(FramePlanes):
            yield f"{plane.name} {index}", getattr(planes, plane.name)


def read_custody(
    header: Mapping[str, Any], blobs: Mapping[str, Blob], count: int
) -> Custody:
    """Read a custody of so many frames.

    Raises
    ------
    LookupError, TypeError, ValueError, InvalidSeal
        It is malformed.
    """
    form = header["form"]
    if form == "whole":
        return WholeCustody(received=octets_of(blobs["received"]))
    shell = Shell(
        prefix=unpack_bytes(blobs["prefix"]),
        suffix=unpack_bytes(blobs["suffix"]),
        correction=octets_of(blobs["correction"]),
        layout=PixelLayout(**header["layout"]),
        value_length=header["value_length"],
    )
    if form == "pixels":
        frames = tuple(blobs[f"frame {index}"] for index in range(count))
        return PixelCustody(shell=shell, frames=frames)
    if form != "key":
        raise ValueError("unknown custody")
    names = [plane.name for plane in fields(FramePlanes)]
    planes = tuple(
        FramePlanes(**{name: blobs[f"{name} {index}"] for name in names})
        for index in range(count)
    )
    return KeyCustody(shell=shell, planes=planes)
