from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from config.errors import ConfigurationError
from gateway.route.attributes import attribute, attributes_of
from gateway.route.conditions import ConditionError, compile_condition
from gateway.route.keywords import Value
from gateway.route.rules import load_checked


@dataclass(frozen=True)
class Facts:
    calling_ae: str = "MR1"
    called_ae: str = "GATEWAY"
    peer_address: str = "127.0.0.1"


# Mistakes found when a condition is compiled: text, line, column, words.
MISTAKES = [
    ('Modality = "MR"', 1, 10, "use == to compare"),
    ("Modality ==", 1, 12, "mismatched input"),
    ('Modality ==\n "MR" && && true', 2, 10, "extraneous input"),
    ('Rows > 1 && Modalty == "MR"', 1, 13, "did you mean Modality?"),
    ('"Foo" == Foo', 1, 10, "Foo is no DICOM keyword"),
    ('PixelData == ""', 1, 1, "plain attributes only"),
    ("size(SourceImageSequence) > 0", 1, 6, "plain attributes only"),
    ('Modality.lower() == "mr"', 1, 10, "there is no function lower"),
    ('false && Modality.lower() == "mr"', 1, 19, "there is no function lower"),
    ('Modality.matches("(")', 1, 1, "regex"),
    ("Rows", 1, 1, "not true or false"),
    ("WindowCenter > 40.0", 1, 1, "WindowCenter is a list"),
    ('ImageType.contains("DERIVED")', 1, 1, "ImageType is a list"),
    ("SliceThickness + 1 > 2.0", 1, 1, "float + int"),
    ("Modality > 1", 1, 1, "No such overload"),
    ("", 1, 1, "mismatched input"),
    ("true" + " || true" * 2000, 1, 1, "longer than"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), MISTAKES)
def test_a_mistake_has_a_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(text)

    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


MR: dict[str, Value] = {
    "Modality": "MR",
    "BodyPartExamined": "BRAIN",
    "ImageType": ["ORIGINAL", "PRIMARY"],
    "Rows": 256,
    "SliceThickness": 1.5,
    "WindowCenter": [40.0],
    "calling_ae": "MR1",
}

DECISIONS = [
    ('Modality == "MR"', True),
    ('Modality in ["CT", "PT"]', False),
    ('"PRIMARY" in ImageType && calling_ae.startsWith("MR")', True),
    ('ImageType.exists(value, value == "DERIVED")', False),
    ('BodyPartExamined.matches("(?i)^brain$")', True),
    ("Rows >= 256 && SliceThickness < 2.0 && SliceThickness < 2", True),
    ("WindowCenter[0] > 30.0", True),
    # What is absent: text is empty, a list is empty, a number is null.
    ('PatientPosition == ""', True),
    ("size(PatientPosition) == 0 && size(PixelSpacing) == 0", True),
    ("EchoTime == null", True),
    ("EchoTime != null && EchoTime < 2.0", False),
    ("EchoTime < 2.0 && false", False),
    ('"x" in PixelSpacing', False),
]


@pytest.mark.parametrize(("text", "expected"), DECISIONS)
def test_a_condition_decides(text: str, expected: bool) -> None:
    assert compile_condition(text).evaluate(MR) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EchoTime < 2.0", "EchoTime absent"),
        ("PixelSpacing[0] < 1.0", "PixelSpacing absent"),
        ("int(BodyPartExamined) > 3", "cannot be decided"),
        ("ImageType[3] == 'X'", "cannot be decided"),
    ],
)
def test_what_cannot_be_decided_is_not_decided(text: str, words: str) -> None:
    condition = compile_condition(text)

    with pytest.raises(ConditionError, match=words):
        condition.evaluate(MR)


def test_a_condition_knows_what_it_reads() -> None:
    condition = compile_condition(
        'Modality == "Rows" && ImageType.exists(t, t == "A") && calling_ae != ""'
    )

    assert condition.keywords == {"Modality", "ImageType", "calling_ae"}


# From data sets


def test_attributes_of_a_real_object() -> None:
    path = get_testdata_file("MR_small.dcm", download=False)
    assert isinstance(path, str)
    dataset = dcmread(path, stop_before_pixels=True)
    names = {"Modality", "ImageType", "Rows", "SliceThickness", "calling_ae"}

    found = attributes_of(dataset, Facts(), names | {"PatientBreedDescription"})

    assert found == {
        "Modality": "MR",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "Rows": 64,
        "SliceThickness": 0.8,
        "calling_ae": "MR1",
        "PatientBreedDescription": "",
    }


def test_several_values_are_a_list_even_when_there_is_one() -> None:
    dataset = Dataset()
    dataset.WindowCenter = "40"

    assert attribute(dataset, "WindowCenter") == [40.0]


@pytest.mark.parametrize("keyword", ["Rows", "SliceThickness", "Modality", "ImageType"])
def test_what_is_empty_is_absent(keyword: str) -> None:
    empty = Dataset()
    setattr(empty, keyword, None)

    assert attribute(empty, keyword) == attribute(Dataset(), keyword)


# In a site file

SITE = """\
data_directory = "data"

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130

[[routing.rules]]
name = "brain"
when = '{when}'
destinations = ["outside"]
protect = true
"""


def site_file(directory: Path, when: str, more: str = "") -> Path:
    path = directory / "site.toml"
    path.write_text(SITE.format(when=when) + more)
    return path


def test_check_names_file_line_rule_and_column(tmp_path: Path) -> None:
    path = site_file(tmp_path, 'Modalty == "MR"')

    with pytest.raises(ConfigurationError) as caught:
        load_checked(path, environ={})

    message = str(caught.value)
    assert f"{path}, line 11" in message
    assert "rule 'brain': condition, line 1, column 1" in message
    assert "did you mean Modality?" in message


def test_ensembles_are_checked_too(tmp_path: Path) -> None:
    more = "[[protection.ensembles]]\nname = 'x'\nwhen = 'Rows'\n"
    path = site_file(tmp_path, "true", more)

    with pytest.raises(ConfigurationError, match="ensemble 'x'"):
        load_checked(path, environ={})


RULE_TEST = "[[routing.rules.tests]]\nattributes = {{ {0} }}\nexpect = {1}\n"


def test_rules_carry_tests_that_pass(tmp_path: Path) -> None:
    more = RULE_TEST.format('Modality = "MR", Rows = 5', "true")
    more += RULE_TEST.format('Modality = "CT", Rows = 5', "false")
    path = site_file(tmp_path, 'Modality == "MR" && Rows > 3', more)

    site = load_checked(path, environ={})

    assert len(site.routing.rules[0].tests) == 2


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ('Modality = "CT"', "expected true, found false"),
        ('Modalty = "MR"', "did you mean Modality?"),
        ("Modality = 1", "Modality is text; put it in quotes"),
        ('Rows = "1"', "Rows is a number; write it without quotes"),
        ('Modality = ["MR"]', "Modality holds one value"),
    ],
)
def test_a_rule_test_that_fails_refuses_the_site(
    tmp_path: Path, attributes: str, words: str
) -> None:
    more = RULE_TEST.format(attributes, "true")
    path = site_file(tmp_path, 'Modality == "MR"', more)

    with pytest.raises(ConfigurationError) as caught:
        load_checked(path, environ={})

    assert words in str(caught.value)
    assert "rule 'brain', test 1" in str(caught.value)
