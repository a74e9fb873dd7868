"""Items of a key sequence and descriptions of blobs as JSON values.

Floats are hexadecimal text (C99): exact, whatever reads them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.types import SIT, Rendering
from gateway.vault.codec import Blob
from gateway.vault.record import FrameMark

if TYPE_CHECKING:
    from gateway.store.octets import Octets


def mark_json(mark: FrameMark) -> dict[str, Any]:
    """Describe an item of a key sequence."""
    return {
        "x": mark.x,
        "y": mark.y,
        "alpha": mark.alpha,
        "sit": {name: float(each).hex() for name, each in asdict(mark.sit).items()},
        "logo_sha256": mark.logo_sha256,
        "lo": float(mark.rendering.lo).hex(),
        "hi": float(mark.rendering.hi).hex(),
        "inverted": mark.rendering.inverted,
        "minimum": mark.minimum,
        "maximum": mark.maximum,
        "delta_unit": float(mark.delta_unit).hex(),
        "stored_sha256": mark.stored_sha256,
    }


def read_mark(values: dict[str, Any]) -> FrameMark:
    """Read an item of a key sequence; the unit of δ is the window's where absent."""
    sit = {name: float.fromhex(each) for name, each in values["sit"].items()}
    rendering = Rendering(
        lo=float.fromhex(values["lo"]),
        hi=float.fromhex(values["hi"]),
        inverted=values["inverted"],
    )
    unit = values.get("delta_unit")
    return FrameMark(
        x=values["x"],
        y=values["y"],
        alpha=values["alpha"],
        sit=SIT(**sit),
        logo_sha256=values["logo_sha256"],
        rendering=rendering,
        minimum=values["minimum"],
        maximum=values["maximum"],
        delta_unit=rendering.unit if unit is None else float.fromhex(unit),
        stored_sha256=values["stored_sha256"],
    )


def blob_json(name: str, blob: Blob) -> dict[str, Any]:
    """Describe a blob, without its octets."""
    return {
        "name": name,
        "codec": blob.codec,
        "dtype": blob.dtype,
        "stored": blob.stored,
        "shape": list(blob.shape),
        "origin": blob.origin,
    }


def read_blob(entry: dict[str, Any], data: Octets) -> Blob:
    """Join the description of a blob and its octets."""
    return Blob(
        codec=entry["codec"],
        dtype=entry["dtype"],
        stored=entry["stored"],
        shape=tuple(entry["shape"]),
        origin=entry["origin"],
        data=data,
    )
