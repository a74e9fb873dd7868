"""Objects in another transfer syntax: the same values, the same attributes."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom import AE, evt
from typer.testing import CliRunner

from gateway.cli.main import build_app
from gateway.dicom import transcode
from gateway.dicom.offers import SYNTAXES, offers_for
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import Sender, SendResult, Verdict
from gateway.dicom.transcode import Transcoder
from gateway.errors import TranscodingRefused
from tests.gateway.object_cases import corpus_file
from tests.gateway.outside import destination
from tests.gateway.recipient_cases import key_pem, pem, recipient, site_signer, with_key
from tests.gateway.scp import encoded, example, from_file, small

EXPLICIT = str(SYNTAXES["explicit-little-endian"])
IMPLICIT = str(SYNTAXES["implicit-little-endian"])
RLE = str(SYNTAXES["rle"])
JPEG_LS = str(SYNTAXES["jpeg-ls-lossless"])
JPEG_2000 = str(SYNTAXES["jpeg-2000-lossless"])
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
MPEG_4 = "1.2.840.10008.1.2.4.102"
PREFER_JPEG_LS = {"transfer_syntaxes": ["as-stored", "jpeg-ls-lossless"]}

FILES = (
    "CT_small.dcm",  # explicit, 16 bits signed
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",  # deflated
    "MR_small_RLE.dcm",
    "emri_small_jpeg_ls_lossless.dcm",  # ten frames
    "emri_small_jpeg_2k_lossless.dcm",
    "SC_rgb_rle_2frame.dcm",  # colour by plane
    "color-pl.dcm",  # palette
    "rtplan.dcm",  # implicit, sequences, no pixels
    "test-SR.dcm",
)


def written(item: OutboundObject, target: str) -> bytes:
    with Transcoder()(item, target) as opened, opened() as stream:
        return stream.read()


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, RLE, JPEG_LS, JPEG_2000])
@pytest.mark.parametrize("name", FILES)
def test_values_and_attributes_stay_what_they_are(name: str, target: str) -> None:
    item = example(name)
    path = get_testdata_file(name, download=False)
    before = dcmread(str(path))
    if "PixelData" not in before and UID(target).is_compressed:
        with pytest.raises(TranscodingRefused, match="no pixel data"):
            written(item, target)
        return
    after = dcmread(BytesIO(written(item, target)))

    assert after.file_meta.TransferSyntaxUID == target
    if "PixelData" in before:
        assert np.array_equal(before.pixel_array, after.pixel_array)
    encoding = {"PixelData", "PlanarConfiguration", "PhotometricInterpretation"}
    kept = [e for e in before if e.keyword not in encoding and e.tag.element]
    for element in kept:
        assert after[element.tag].value == element.value or (
            isinstance(after[element.tag].value, bytes)  # private, of unknown VR
            and target == IMPLICIT
        )
    assert {e.tag for e in after} >= {e.tag for e in kept}


def test_what_a_codec_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = transcode.encoded_frames
    item = example("CT_small.dcm")
    noted: list[bytes] = []

    def changing(frames: Iterator[bytes], *rest: object) -> Iterator[bytes]:
        *options, note = rest
        every = list(frames)
        for frame in every:
            note(frame)  # type: ignore[operator]
        altered = (bytes([frame[0] ^ 1]) + frame[1:] for frame in every)
        return honest(altered, *options, noted.append)  # type: ignore[arg-type]

    monkeypatch.setattr(transcode, "encoded_frames", changing)
    with pytest.raises(TranscodingRefused, match="pixel values"):
        written(item, RLE)
    assert noted


def test_what_a_writer_leaves_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = transcode._relabelled

    def forgetful(*arguments: object) -> object:
        changed = honest(*arguments)  # type: ignore[arg-type]
        del changed.RescaleIntercept
        return changed

    monkeypatch.setattr(transcode, "_relabelled", forgetful)
    with pytest.raises(TranscodingRefused, match="attributes"):
        written(example("CT_small.dcm"), RLE)


def test_a_damaged_object_is_refused_not_sent_in_part() -> None:
    item = example("MR_small_RLE.dcm")
    assert isinstance(item.data, bytes)
    for cut in (len(item.data) - 2000, len(item.data) // 2):
        short = OutboundObject(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax_uid=item.transfer_syntax_uid,
            data=item.data[:cut],
        )
        with pytest.raises(TranscodingRefused):
            written(short, EXPLICIT)


def test_memory_holds_a_frame_and_the_disk_nothing_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = 512 * 512 * 2
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 4096, 32 * frame // 2, dtype=np.uint16).tobytes()
    dataset = small("1.2.3.4", Rows=512, Columns=512, NumberOfFrames=32)
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = pixels
    item = encoded(dataset)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    tracemalloc.start()
    try:
        for target in (IMPLICIT, RLE):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with Transcoder()(item, target) as opened, opened() as stream:
                stream.read(1)
                assert list(folder.iterdir()) == []
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 12 * frame, target
    finally:
        tracemalloc.stop()


# What is offered


def test_only_what_is_lossless_is_offered_of_what_is_not_lossy() -> None:
    place = destination(1, transfer_syntaxes=["as-stored", "jpeg-ls-lossless"])

    assert offers_for(EXPLICIT, place) == (EXPLICIT, JPEG_LS)
    assert offers_for(JPEG_BASELINE, place) == (JPEG_BASELINE,)
    allowed = place.model_copy(update={"decompress_lossy": True})
    assert offers_for(JPEG_BASELINE, allowed) == (JPEG_BASELINE, JPEG_LS)
    assert offers_for("1.2.840.10008.1.2.4.102", allowed) == (
        "1.2.840.10008.1.2.4.102",
    )


def sent(
    item: OutboundObject, *accepted: str, **settings: object
) -> tuple[SendResult, list[bytes]]:
    """Send to a peer that accepts these transfer syntaxes only."""
    arrivals: list[bytes] = []

    def keep(event: evt.Event) -> int:
        arrivals.append(event.encoded_dataset())
        return 0

    entity = AE("OUTSIDE")
    entity.add_supported_context(item.sop_class_uid, list(accepted))
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    sender = Sender(None, Transcoder())
    try:
        place = destination(server.server_address[1], **settings)
        [result] = sender.send(place, [item], "GATEWAY")
    finally:
        sender.close()
        server.shutdown()
    return result, arrivals


@pytest.mark.parametrize(
    ("name", "accepted", "settings"),
    [
        ("CT_small.dcm", IMPLICIT, {}),
        ("MR_small_RLE.dcm", EXPLICIT, {}),
        (
            "CT_small.dcm",
            JPEG_LS,
            {"transfer_syntaxes": ["as-stored", "jpeg-ls-lossless"]},
        ),
    ],
)
def test_a_destination_gets_what_it_takes(
    name: str, accepted: str, settings: dict[str, object]
) -> None:
    result, arrivals = sent(example(name), accepted, **settings)

    assert (result.verdict, result.transfer_syntax_uid) == (Verdict.SENT, accepted)
    [arrived] = arrivals
    path = str(get_testdata_file(name, download=False))
    after = dcmread(BytesIO(arrived))
    assert np.array_equal(after.pixel_array, dcmread(path).pixel_array)


def test_what_a_destination_takes_as_it_lies_here_is_not_touched() -> None:
    item = example("CT_small.dcm")
    result, [arrived] = sent(item, EXPLICIT, IMPLICIT, RLE)
    assert result.transfer_syntax_uid == EXPLICIT
    assert isinstance(item.data, bytes)
    assert arrived.endswith(item.data)


def test_compression_may_be_preferred_and_what_it_cannot_hold_goes_otherwise() -> None:
    settings = {"transfer_syntaxes": ["rle", "as-stored"]}
    result, _ = sent(example("CT_small.dcm"), EXPLICIT, RLE, **settings)
    assert result.transfer_syntax_uid == RLE
    result, _ = sent(example("liver.dcm"), EXPLICIT, RLE, **settings)  # bitmaps
    assert result.verdict is Verdict.SENT
    assert result.transfer_syntax_uid == EXPLICIT


def test_a_destination_that_takes_nothing_of_it_refuses_with_the_reason() -> None:
    result, arrivals = sent(example("CT_small.dcm"), JPEG_BASELINE)
    assert result.verdict is Verdict.REFUSED
    assert arrivals == []
    for words in ("OUTSIDE", "none of the transfer syntaxes", "Explicit VR Little"):
        assert words in result.error


def test_a_lossy_original_is_decompressed_only_where_that_is_allowed() -> None:
    name = "SC_rgb_jpeg_dcmtk.dcm"
    path = Path(str(get_testdata_file(name, download=False)))
    item = from_file(path)
    assert item.transfer_syntax_uid == JPEG_BASELINE
    result, _ = sent(item, EXPLICIT)
    assert result.verdict is Verdict.REFUSED
    result, [arrived] = sent(item, EXPLICIT, decompress_lossy=True)
    assert result.verdict is Verdict.SENT
    before, after = dcmread(path), dcmread(BytesIO(arrived))
    assert np.array_equal(before.pixel_array, after.pixel_array)
    assert after.LossyImageCompression == before.LossyImageCompression == "01"


# What it is for: originals come back from copies in other syntaxes


@pytest.mark.parametrize("target", [IMPLICIT, RLE, JPEG_LS, JPEG_2000])
def test_the_original_comes_back_from_a_copy_in_another_syntax(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-site"))
    (tmp_path / "as-stored.dcm").write_bytes(with_key("anna"))
    copy = written(from_file(tmp_path / "as-stored.dcm"), target)
    assert dcmread(BytesIO(copy)).file_meta.TransferSyntaxUID == target
    (tmp_path / "sent.dcm").write_bytes(copy)
    own = recipient("anna")
    for name, content in (
        ("anna.pem", key_pem(own.private_key)),
        ("anna.crt", pem(own.certificate)),
        ("site.crt", pem(site_signer().certificate)),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    done = CliRunner().invoke(
        build_app(),
        [
            *("recover", str(tmp_path / "sent.dcm"), "-o", str(tmp_path / "back")),
            *("--key", str(tmp_path / "anna.pem")),
            *("--certificate", str(tmp_path / "anna.crt")),
            *("--signer", str(tmp_path / "site.crt")),
        ],
    )
    assert done.exit_code == 0, done.output
    back = (tmp_path / "back" / "MR_small.dcm").read_bytes()
    assert back == corpus_file("MR_small.dcm").read_bytes()
