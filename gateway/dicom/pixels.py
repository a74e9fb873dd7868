"""The one bridge from DICOM data sets to the engine's frames."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydicom.uid import UID

from engine.types import Frame, Rendering
from gateway.dicom.decode import FrameDecoder, open_frames
from gateway.dicom.image_pixel import GREY, PALETTE, ImagePixel, read_image_pixel
from gateway.dicom.lenient import lenient, text
from gateway.dicom.parse import (
    BOUNDS,
    NATIVE,
    Bounds,
    ParsedObject,
    parse_object,
)
from gateway.dicom.voi import Windows
from gateway.errors import Unprotectable
from gateway.vault.layout import PixelLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from gateway.dicom.parse import PixelElement
    from gateway.store.octets import Octets

SAMPLED_FRAMES: Final = 64
SAMPLED_VALUES: Final = 1 << 20
"""Frames, and values of all of them, that are looked at for a made window."""

LEAST_SAMPLED: Final = 1 << 14
"""Values of each sampled frame at least."""


WORKING_FRAME: Final = 96 << 20
WORKING_SAMPLE: Final = 40
"""Octets that a frame under work takes at its peak, and further for each sample:
the engine's passes on its own grid, and the frame in native size
(docs/large-objects.md says how they were measured)."""

DEFAULT_MEMORY: Final = 2 << 30
"""Octets for frames under work, where no setting says so."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a site says about reading.

    Attributes
    ----------
    max_frames
        Most frames an object may have.
    windows
        Centre and width, in rescaled units, of presets beside the image's own.
    max_own_windows
        How many of the windows an image brings are judged.
    one_bit
        Whether bitmaps are held, or converted to 8 bits.
    split_frames
        Which frames become objects of their own, as for ``plan_parts``.
    bounds
        What a data set may be at most.
    memory_bytes
        Octets that the frames under work may take.
    """

    max_frames: int
    windows: tuple[tuple[float, float], ...] = ()
    max_own_windows: int = 2
    one_bit: Literal["hold", "convert"] = "hold"
    split_frames: Literal["auto", "never", "always"] = "auto"
    bounds: Bounds = BOUNDS
    memory_bytes: int = DEFAULT_MEMORY


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeValue:
    """Where uncompressed frames lie in the received data set, and how.

    ``start`` and ``end`` (exclusive) bound the whole value, padding included.
    """

    start: int
    end: int
    layout: PixelLayout


@dataclass(frozen=True, kw_only=True)
class Source:
    """A received object as the engine and the derived object need it.

    It holds the received octets and no frame: each is decoded when asked for.

    Attributes
    ----------
    dataset
        The attributes before the pixel data, which it does not hold.
    transfer_syntax_uid
        Of the received object.
    count, shape
        How many frames, and the shape of each: ``(rows, columns)``, or
        ``(rows, columns, 3)`` for colour, RGB whatever the object stores.
    renderings
        Windows of each frame: the one of the mark first, then presets.
    windows
        Windows of each frame that the object itself has, all of them, or the
        one that was made; empty for colour.
    bits_stored, signed, minimum, maximum
        Of the frames; ``minimum`` and ``maximum`` are what the bits hold.
    own_window
        Whether every frame is shown with a window of the object itself.
    native
        Where the frames' values lie in the received octets; None when they
        cannot be put back there (compressed, deflated, YBR, palette, bitmap).
    pixel_bytes
        Octets of the received pixel data value.
    decoder
        Gives the frames.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    count: int
    shape: tuple[int, ...]
    renderings: tuple[tuple[Rendering, ...], ...]
    windows: tuple[tuple[Rendering, ...], ...]
    bits_stored: int
    signed: bool
    minimum: int
    maximum: int
    own_window: bool
    native: NativeValue | None
    pixel_bytes: int
    decoder: FrameDecoder = field(repr=False)

    @property
    def colour(self) -> bool:
        """Whether the frames are RGB."""
        return len(self.shape) == 3

    def frame(self, index: int) -> Frame:
        """One frame, decoded now.

        Parameters
        ----------
        index
            From 0.

        Raises
        ------
        Unprotectable
            ``undecodable``: only where the received octets are damaged so that
            the frame decodes to something else than when they were read.
        """
        rendering, *presets = self.renderings[index]
        return Frame(
            stored=self.decoder.decode(index),
            rendering=rendering,
            minimum=self.minimum,
            maximum=self.maximum,
            presets=tuple(presets),
        )

    def frames(self) -> Iterator[Frame]:
        """Every frame in order, one at a time."""
        return map(self.frame, range(self.count))


@dataclass(frozen=True, kw_only=True)
class StoredValues:
    """Stored values of a protected object, frame by frame.

    ``uid`` is its SOP Instance UID; ``count`` and ``shape`` are as in `Source`.
    """

    uid: str
    count: int
    shape: tuple[int, ...]
    decoder: FrameDecoder = field(repr=False)

    def frame(self, index: int) -> NDArray[np.int32]:
        """Decode the stored values of one frame; ``index`` counts from 0.

        Raises
        ------
        Unprotectable
            ``undecodable``.
        """
        return self.decoder.decode(index)


def read_source(
    data_set: Octets, transfer_syntax_uid: str, *, reading: Reading
) -> Source:
    """Attributes and frames of a received data set.

    Sizes are checked against limits and against the octets that are there
    before anything is decoded or allocated. Compressed frames are decoded once,
    one after another, so that what a `Source` says can be had.

    Parameters
    ----------
    data_set
        As received, without file meta information; a frame is read at a time.
    transfer_syntax_uid
        How it is encoded.
    reading
        What the site says.

    Raises
    ------
    Unprotectable
        With the stated reason; the message has no patient attribute.
    """
    with lenient():
        decoder = _open(
            data_set,
            transfer_syntax_uid,
            max_frames=reading.max_frames,
            one_bit=reading.one_bit,
            bounds=reading.bounds,
            memory_bytes=reading.memory_bytes,
        )
        return _source(decoder, reading)


def read_stored_values(data_set: Octets, transfer_syntax_uid: str) -> StoredValues:
    """SOP Instance UID and stored values of a protected object.

    Parameters
    ----------
    data_set, transfer_syntax_uid
        As for `read_source`; any lossless syntax gives the same values.

    Raises
    ------
    Unprotectable
        They cannot be read.
    """
    with lenient():
        decoder = _open(
            data_set, transfer_syntax_uid, max_frames=sys.maxsize, one_bit="hold"
        )
        return StoredValues(
            uid=text(decoder.parsed.dataset, "SOPInstanceUID"),
            count=decoder.pixel.frames,
            shape=_shape(decoder.pixel),
            decoder=decoder,
        )


def _open(
    data_set: Octets,
    transfer_syntax_uid: str,
    *,
    max_frames: int,
    one_bit: Literal["hold", "convert"],
    bounds: Bounds = BOUNDS,
    memory_bytes: int = sys.maxsize,
) -> FrameDecoder:
    parsed = parse_object(data_set, transfer_syntax_uid, bounds)
    if parsed.pixels is None:
        raise Unprotectable("no-pixel-data", "the object has no Pixel Data")
    pixel = read_image_pixel(parsed.dataset, max_frames, one_bit)
    _check_fits(pixel, memory_bytes)
    return open_frames(parsed, parsed.pixels, pixel)


def _check_fits(pixel: ImagePixel, memory_bytes: int) -> None:
    """Refuse frames of which not even one can be worked on."""
    needed = working_bytes(pixel.rows * pixel.columns * pixel.samples)
    if needed > memory_bytes:
        raise Unprotectable(
            "too-large",
            f"a frame of {pixel.columns}x{pixel.rows} pixels takes about "
            f"{needed >> 20} MiB to protect; worker.memory_bytes leaves "
            f"{memory_bytes >> 20} MiB: raise it",
        )


def working_bytes(samples: int) -> int:
    """Octets of memory that a frame of so many samples takes while it is worked on."""
    return WORKING_FRAME + WORKING_SAMPLE * samples


def _source(decoder: FrameDecoder, reading: Reading) -> Source:
    parsed, pixel = decoder.parsed, decoder.pixel
    windows = Windows(dataset=parsed.dataset, pixel=pixel, little=parsed.little)
    own = _own_windows(windows)
    seen = _look(decoder, sample=not own and pixel.photometric in GREY)
    bits_stored = _bits_needed(pixel, seen)
    shown = _shown(windows, own, seen, bits_stored)
    return Source(
        dataset=parsed.dataset,
        transfer_syntax_uid=parsed.transfer_syntax_uid,
        count=pixel.frames,
        shape=_shape(pixel),
        renderings=_renderings(windows, shown, reading, bits_stored),
        windows=shown,
        bits_stored=bits_stored,
        signed=pixel.signed,
        minimum=-(1 << (bits_stored - 1)) if pixel.signed else 0,
        maximum=(1 << (bits_stored - pixel.signed)) - 1,
        own_window=bool(own) or pixel.photometric not in GREY,
        native=_native_value(parsed, decoder.element, pixel),
        pixel_bytes=decoder.element.end - decoder.element.start,
        decoder=decoder,
    )


def _shape(pixel: ImagePixel) -> tuple[int, ...]:
    plane = (pixel.rows, pixel.columns)
    return plane if pixel.photometric in GREY else (*plane, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What the frames hold: their extremes and a sample of their values."""

    low: int
    high: int
    sample: NDArray[np.int32]


def _look(decoder: FrameDecoder, *, sample: bool) -> _Seen:
    """Decode compressed frames, or as few uncompressed ones as tell enough."""
    count = decoder.pixel.frames
    sampled = range(0, count, -(-count // SAMPLED_FRAMES)) if sample else range(0)
    every = range(count) if not decoder.uncompressed else sampled or range(1)
    most = max(LEAST_SAMPLED, SAMPLED_VALUES // max(1, len(sampled)))
    extremes, samples = [], []
    for index in every:
        frame = decoder.decode(index)
        extremes += [int(frame.min()), int(frame.max())]
        if index in sampled:
            flat = frame.reshape(-1)
            # A copy: a view would keep the whole frame.
            samples.append(flat[:: max(1, flat.size // most)].copy())
    return _Seen(
        low=min(extremes),
        high=max(extremes),
        sample=np.concatenate(samples or [np.empty(0, np.int32)]),
    )


def _bits_needed(pixel: ImagePixel, seen: _Seen) -> int:
    """Bits stored of the frames.

    Palettes and bitmaps become 8 bits. Lossy decoders overshoot what BitsStored
    allows; then all allocated bits count as stored.
    """
    if pixel.photometric == PALETTE or pixel.one_bit:
        return 8
    fits = pixel.minimum <= seen.low and seen.high <= pixel.maximum
    return pixel.bits_stored if fits else pixel.bits_allocated


def _own_windows(windows: Windows) -> tuple[tuple[Rendering, ...], ...]:
    """Windows of every frame itself; none at all where a frame has none.

    Those of a bitmap are in units of the bits, which are converted.
    """
    pixel = windows.pixel
    if pixel.photometric not in GREY or pixel.one_bit:
        return ()
    own = tuple(windows.own(index) for index in range(pixel.frames))
    return own if all(own) else ()


def _shown(
    windows: Windows,
    own: tuple[tuple[Rendering, ...], ...],
    seen: _Seen,
    bits_stored: int,
) -> tuple[tuple[Rendering, ...], ...]:
    pixel = windows.pixel
    if own or pixel.photometric not in GREY:
        return own or ((),) * pixel.frames
    return tuple((made,) for made in windows.made(seen.sample, bits_stored))


def _renderings(
    windows: Windows,
    shown: tuple[tuple[Rendering, ...], ...],
    reading: Reading,
    bits_stored: int,
) -> tuple[tuple[Rendering, ...], ...]:
    """Windows under which each frame is judged."""
    pixel = windows.pixel
    if pixel.photometric not in GREY:
        full = Rendering(lo=0.0, hi=float((1 << bits_stored) - 1))
        return ((full,),) * pixel.frames
    presets = () if pixel.one_bit else reading.windows
    return tuple(
        tuple(
            dict.fromkeys(
                own[: reading.max_own_windows]
                + windows.of_presets(index, presets, inverted=own[0].inverted)
            )
        )
        for index, own in enumerate(shown)
    )


def _native_value(
    parsed: ParsedObject, element: PixelElement, pixel: ImagePixel
) -> NativeValue | None:
    if not parsed.verbatim or parsed.transfer_syntax_uid not in NATIVE:
        return None
    if pixel.photometric not in (*GREY, "RGB") or pixel.one_bit:
        return None
    layout = PixelLayout(
        rows=pixel.rows,
        columns=pixel.columns,
        samples=pixel.samples,
        frames=pixel.frames,
        bits_allocated=pixel.bits_allocated,
        signed=pixel.signed,
        big_endian=not UID(parsed.transfer_syntax_uid).is_little_endian,
        planar=pixel.planar,
    )
    return NativeValue(start=element.start, end=element.end, layout=layout)
