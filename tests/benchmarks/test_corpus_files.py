"""Which files the corpus finds, and what pydicom alone makes expect of them."""

from __future__ import annotations

import pytest

from benchmarks.corpus.expect import Expectation, expectation_of
from benchmarks.corpus.find import (
    FoundFile,
    NoCorpus,
    find_corpus,
    spread,
)
from benchmarks.corpus.rounds import FRAMES, rounds_of


@pytest.fixture(scope="module")
def corpus() -> list[FoundFile]:
    return find_corpus()


def named(corpus: list[FoundFile], ending: str) -> FoundFile:
    return next(file for file in corpus if file.name.endswith(ending))


def test_all_packages_archives_and_headless_files_are_found(
    corpus: list[FoundFile],
) -> None:
    packages = {file.name.split("/")[0] for file in corpus}
    assert packages == {"pydicom", "pydicom-data", "deid-data", "pynetdicom", "nibabel"}
    assert len(corpus) > 250
    assert named(corpus, "RGB_CINE.zip!RGB_CINE.dcm").facts.frames == 51
    assert named(corpus, "philips_mprage.dcm.gz").facts.frames == 176
    assert named(corpus, "ExplVR_BigEndNoMeta.dcm").transfer_syntax_uid.endswith("2.2")
    assert named(corpus, "OT-PAL-8-face.dcm").offset == 0


def test_the_same_object_is_taken_once(corpus: list[FoundFile]) -> None:
    identities = {(f.facts.sop_instance_uid, f.sha256) for f in corpus}
    assert len(identities) == len(corpus)
    assert any(file.also for file in corpus)


def test_no_uid_comes_twice_in_a_round_and_no_file_is_lost(
    corpus: list[FoundFile],
) -> None:
    rounds = rounds_of(corpus)
    for batch in rounds:
        uids = [file.facts.sop_instance_uid for file in batch]
        assert len(uids) == len(set(uids))
        studies = [file.facts.study_instance_uid for file in batch]
        before_last = [
            f for f, s in zip(batch, studies, strict=True) if s < studies[-1]
        ]
        assert sum(f.facts.frames for f in before_last) < FRAMES
    names = sorted(file.name for batch in rounds for file in batch)
    assert names == [file.name for file in corpus]


def test_a_short_run_has_files_of_many_kinds(corpus: list[FoundFile]) -> None:
    chosen = spread(corpus, 12)
    assert len(chosen) == 12
    assert len({(f.facts.modality, f.facts.photometric) for f in chosen}) > 6


def test_packages_that_are_not_there_have_no_corpus() -> None:
    with pytest.raises(NoCorpus):
        find_corpus([])


EXPECTED = {
    "data/693_UNCR.dcm": ("protected", ""),
    "RGB_CINE.dcm": ("protected", ""),
    "rtplan.dcm": ("held", "no-pixel-data"),
    "test_files/MR_truncated.dcm": ("held", "short-pixel-data"),
    "SC_rgb_32bit.dcm": ("held", "unsupported-pixels"),
    "rtdose_1frame.dcm": ("held", "unsupported-pixels"),
    "liver_1frame.dcm": ("held", "unsupported-pixels"),
    "SC_rgb_small_odd.dcm": ("held", "too-small"),
    "DICOMDIR-empty.dcm": ("refused", ""),
    "palettes/fall.dcm": ("refused", ""),
    "bad_sequence.dcm": ("refused", ""),
    "empty_charset_LEI.dcm": ("unsendable", ""),
}


@pytest.mark.parametrize("ending", EXPECTED)
def test_what_pydicom_makes_expect(corpus: list[FoundFile], ending: str) -> None:
    outcome, reason = EXPECTED[ending]
    assert expectation_of(named(corpus, ending)).agrees(outcome, reason)


def test_another_outcome_or_reason_does_not_agree() -> None:
    expected = Expectation(outcome="held", reasons=frozenset({"too-small"}))
    assert expected.agrees("held", "too-small")
    assert not expected.agrees("held", "undecodable")
    assert not expected.agrees("protected", "")
