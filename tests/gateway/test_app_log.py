from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from pydicom.valuerep import DA

from gateway import log
from gateway.errors import StoreFull


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    "field",
    ["patient_name", "PatientID", "accession_number", "study_description", "dataset"],
)
def test_what_could_name_a_person_is_withheld(field: str) -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)

    log.get_logger("test").info("store", **{field: "Doe^John", "sop_uid": "1.2.3"})

    (line,) = lines(stream)
    assert line[field] == log.WITHHELD
    assert (line["event"], line["sop_uid"]) == ("store", "1.2.3")
    assert "Doe" not in stream.getvalue()


def test_levels() -> None:
    stream = io.StringIO()
    log.configure("warning", "json", stream)

    log.get_logger("test").info("quiet")
    log.get_logger("test").warning("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_libraries_that_print_data_sets_are_kept_to_warnings() -> None:
    log.configure("debug", "json", io.StringIO())

    assert not logging.getLogger("pynetdicom").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("pydicom").isEnabledFor(logging.INFO)


def raised() -> None:
    value = "Doe^John"
    try:
        DA(value)
    except ValueError as error:
        raise KeyError(value) from error


def test_exceptions_of_libraries_are_told_by_kind_and_place_only() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    logger = log.get_logger("test")

    try:
        raised()
    except KeyError as error:
        logger.exception("failed")
        logger.warning("failed", error=error)

    first, second = lines(stream)
    assert "Doe" not in stream.getvalue()
    assert str(first["exception"]).startswith("KeyError at test_app_log.py:")
    assert "from ValueError at valuerep.py:" in str(first["exception"])
    assert str(second["error"]).startswith("KeyError at test_app_log.py:")


def test_our_own_errors_keep_their_words() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    full = StoreFull("No space left in the store")
    try:
        raise full
    except StoreFull:
        log.get_logger("test").exception("failed")
    (line,) = lines(stream)
    assert "StoreFull: No space left in the store" in str(line["exception"])


def test_lines_of_libraries_are_one_line_without_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    log.configure("info", "text", stream)
    library = logging.getLogger("pynetdicom.dul")
    try:
        raised()
    except KeyError as error:
        library.exception(error)
        library.error("Unable to decode", exc_info=True)
    logging.getLogger("dbos").warning("title '%s'", "A\nB\x1b[2J")
    written = stream.getvalue()
    assert "Doe" not in written
    assert "Traceback" not in written
    assert len(written.splitlines()) == 3
    assert "title 'A?B?[2J'" in written


def test_libraries_that_quote_values_in_their_warnings_give_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    log.configure("debug", "text", stream)
    from pydicom import Dataset

    Dataset().StudyDate = "Doe^John"  # a warning of pydicom quotes it
    logging.getLogger("pynetdicom.utils").warning("Non-conformant '%s'", "Doe")
    logging.getLogger("pydicom").warning("Invalid value '%s'", "Doe")
    assert stream.getvalue() == ""
    assert capsys.readouterr().err == ""
