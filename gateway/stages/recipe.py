"""How the protected objects of one treatment are finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from gateway.dicom.derive import Target
from gateway.errors import Unprotectable
from gateway.route.treatment import PLAIN as AS_PLAIN
from gateway.route.treatment import Treatment

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from gateway.store.octets import Octets

    class Change(Protocol):
        """Makes a data set without identity."""

        def __call__(self, dataset: Dataset, /, *, own: Collection[str]) -> Dataset:
            """Return it; UIDs in ``own`` are of protected objects and stay."""

    Enclose = Callable[[Dataset, bytes, Dataset], None]


LONGEST_ENCLOSED: Final = 64 << 20
"""Octets of a key record that travels: signing and enveloping hold all of it, and
copies."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A treatment with what carries it out.

    Attributes
    ----------
    treatment
        What the rule asks for.
    deidentify
        Takes identity out of a derived data set; None where it stays.
    maps_uids
        Whether that maps study and frame of reference as well.
    enclose
        Puts a record's octets, and attributes of the original, into a data set,
        readable for its recipients only; None where no key travels.
    """

    treatment: Treatment = AS_PLAIN
    deidentify: Change | None = None
    maps_uids: bool = False
    enclose: Enclose | None = None

    def target(self, sop_instance_uid: str) -> Target:
        """Identity of one protected object."""
        key = self.treatment.key
        return Target(
            sop_instance_uid=sop_instance_uid,
            series_purpose=f"series {key}" if key else "series",
            map_study=self.treatment.uids == "map" and not self.maps_uids,
        )

    def finished(self, dataset: Dataset, own: Collection[str] = frozenset()) -> Dataset:
        """Return a derived data set as the treatment wants it.

        Parameters
        ----------
        dataset
            Derived from a source.
        own
            UIDs of other protected objects that it refers to.
        """
        if self.deidentify is None:
            return dataset
        return self.deidentify(dataset, own=own)

    def enclosed(
        self, datasets: Sequence[Dataset], record: Octets, original: Dataset
    ) -> Sequence[Dataset]:
        """Put the record into the first data set, where a key is to travel."""
        if self.enclose is not None:
            if len(record) > LONGEST_ENCLOSED:
                raise Unprotectable(
                    "key-too-large",
                    f"the key has {len(record)} octets; in an object {LONGEST_ENCLOSED}"
                    " can travel to its recipients; send it to a destination without",
                )
            self.enclose(datasets[0], record[:], original)
        return datasets


PLAIN: Final = Recipe()
