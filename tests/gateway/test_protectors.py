"""How an object is read, by the site's windows and settings; no model is loaded."""

from __future__ import annotations

import pytest

from config.schema import Protection
from gateway.route.conditions import ConditionError
from gateway.stages.protectors import Protectors

SITE = Protection.model_validate(
    {
        "windows": [
            {
                "when": 'Modality == "CT" && BodyPartExamined == "HEAD"',
                "windows": [
                    {"center": 40, "width": 80},
                    {"center": 600, "width": 2800},
                ],
            },
            {"when": 'Modality == "CT"', "windows": [{"center": 50, "width": 400}]},
            {
                "when": "SliceThickness < 2.0",
                "windows": [{"center": 300, "width": 1500}],
            },
        ],
        "max_own_windows": 1,
        "one_bit": "convert",
        "split_frames": "never",
        "max_frames": 7,
    }
)


def test_the_first_presets_whose_condition_holds_are_taken() -> None:
    protectors = Protectors(SITE)
    assert {"Modality", "BodyPartExamined", "SliceThickness"} <= protectors.keywords
    head = {"Modality": "CT", "BodyPartExamined": "HEAD", "SliceThickness": 1.0}
    chest = {"Modality": "CT", "BodyPartExamined": "CHEST", "SliceThickness": 1.0}
    assert protectors.reading(head).windows == ((40.0, 80.0), (600.0, 2800.0))
    assert protectors.reading(chest).windows == ((50.0, 400.0),)


def test_a_condition_that_cannot_be_decided_adds_nothing() -> None:
    protectors = Protectors(SITE)
    unknown = {"Modality": "CR", "BodyPartExamined": "", "SliceThickness": None}
    assert protectors.reading(unknown).windows == ()


def test_the_rest_of_the_reading_is_the_sites() -> None:
    reading = Protectors(SITE).reading({"Modality": "US", "BodyPartExamined": ""})
    assert (reading.max_frames, reading.max_own_windows) == (7, 1)
    assert (reading.one_bit, reading.split_frames) == ("convert", "never")


def test_a_wrong_condition_is_found_at_once() -> None:
    wrong = {"windows": [{"when": "Modalityy == 1", "windows": [_WINDOW]}]}
    with pytest.raises(ConditionError, match="Modalityy"):
        Protectors(Protection.model_validate(wrong))


_WINDOW = {"center": 40, "width": 80}
