from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway import log


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
