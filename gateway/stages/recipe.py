"""How the protected objects of one treatment are finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.dicom.derive import Target
from gateway.route.treatment import PLAIN as AS_PLAIN
from gateway.route.treatment import Treatment

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    Change = Callable[[Dataset], Dataset]
    Enclose = Callable[[Dataset, bytes, Dataset], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A treatment with what carries it out.

    Attributes
    ----------
    treatment
        What the rule asks for.
    deidentify
        Takes identity out of a derived data set; None where it stays.
    enclose
        Puts a record's octets, and attributes of the original, into a data set,
        readable for its recipients only; None where no key travels.
    """

    treatment: Treatment = AS_PLAIN
    deidentify: Change | None = None
    enclose: Enclose | None = None

    def target(self, sop_instance_uid: str) -> Target:
        """Identity of one protected object."""
        key = self.treatment.key
        return Target(
            sop_instance_uid=sop_instance_uid,
            series_purpose=f"series {key}" if key else "series",
            map_study=self.treatment.uids == "map",
        )

    def finished(self, dataset: Dataset) -> Dataset:
        """Return a derived data set as the treatment wants it."""
        return dataset if self.deidentify is None else self.deidentify(dataset)

    def enclosed(
        self, datasets: Sequence[Dataset], record: bytes, original: Dataset
    ) -> Sequence[Dataset]:
        """Put the record into the first data set, where a key is to travel."""
        if self.enclose is not None:
            self.enclose(datasets[0], record, original)
        return datasets


PLAIN: Final = Recipe()
