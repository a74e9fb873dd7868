"""What was found stays mended, and a short run of every entry point finds nothing."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from tests.fuzz import wire
from tests.fuzz.campaign import COVERING, KEPT
from tests.fuzz.minimize import minimized, place_under
from tests.fuzz.mutators import random_inputs
from tests.fuzz.page import unlisted
from tests.fuzz.targets import TARGETS

SHORT = {"site": 20, "protect": 25, "follow": 30, "dataset": 60, "enclosed": 60}
"""Inputs of the slow entry points; of the others 150."""

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def kept(name: str) -> list[bytes]:
    """Inputs that were found, and those that cover the entry point."""
    folder = KEPT / name
    found = [path.read_bytes() for path in sorted(folder.glob("*.bin"))]
    packed = folder / COVERING
    if packed.exists():
        with zipfile.ZipFile(packed) as archive:
            found += [archive.read(each) for each in archive.namelist()]
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_stays_mended(name: str) -> None:
    enter = TARGETS[name].build()
    for data in [*TARGETS[name].seeds(), *kept(name)]:
        enter(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str) -> None:
    target = TARGETS[name]
    enter, seeds = target.build(), target.seeds()
    make = random_inputs(target.mutator, seeds, target.longest, random.Random(6))
    for _ in range(SHORT.get(name, 150)):
        enter(make())


@pytest.mark.parametrize("name", TARGETS)
def test_most_inputs_are_changed_and_some_seeds_are_valid(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    make = random_inputs(target.mutator, seeds, target.longest, random.Random(1))
    made = [make() for _ in range(50)]
    assert all(len(data) <= target.longest for data in made)
    assert len(set(made) - set(seeds)) > 40


def test_every_input_that_is_kept_is_explained() -> None:
    assert unlisted() == []


def test_a_fault_is_found_and_made_small() -> None:
    def enter(data: bytes) -> None:
        if b"\xff\xd8" in data:
            raise LookupError("a fault")

    seed = b"x" * 200 + b"\xff" + b"y" * 10
    make = random_inputs("octets", [seed, b"\xd8" + seed], 512, random.Random(3))
    found = next(data for data in iter(make, None) if place_under(enter, data))
    assert minimized(enter, found) == b"\xff\xd8"


def test_changed_associations_of_dcmtk_leave_a_receiver_as_it_was(
    tmp_path: Path,
) -> None:
    found = wire.fuzz_wire(
        tmp_path / "wire", 150, 60.0, seed=5, peers=4, told=lambda _: None
    )
    assert found.faults == []
    assert found.associations == 150
    assert found.accepted > 20
    assert found.stored > 0
