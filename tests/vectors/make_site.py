"""Made the data directories of earlier builds, once; see README.md.

Run in a checkout of the build whose directory it is to be, with the packages of
that time: ``PYTHONPATH=CHECKOUT python make_site.py TARGET``. It starts that build's
own ``serve``, sends, waits for what is delivered, and kills it while a second study
is owed to a node that is down. Kept to say what they are: they are never made again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np

from gateway.demo.nodes import StorageNode, move_study
from tests.endtoend.support import OUTSIDE, WORKSTATION, Gateway, Ports
from tests.gateway.object_cases import grey_dataset
from tests.gateway.scp import encoded, send

STUDIES = {
    "delivered": "1.2.826.0.1.3680043.8.498.600",
    "owed": "1.2.826.0.1.3680043.8.498.700",
}


def picture(study: str, number: int) -> object:
    """A phantom of a patient who never was."""
    y, x = np.mgrid[:96, :96]
    body = (y - 48) ** 2 + (x - 48) ** 2 < 40**2
    lesion = (y - 40) ** 2 + (x - 56) ** 2 < 8**2
    values = np.where(body, 900 + 4 * y + number * 10, 0)[None]
    values = np.where(lesion[None], 2400, values)
    dataset = grey_dataset(values, bits_stored=12)
    dataset.PatientName, dataset.PatientID = "Phantom^Upgrade", "PH-1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.SOPInstanceUID = f"{study}.1.{number}"
    dataset.InstanceNumber = str(number)
    dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    return dataset


def main(target: Path) -> None:
    """Write ``site.tar.xz`` and ``site.json``."""
    target.mkdir(parents=True, exist_ok=True)
    objects = {
        name: [encoded(picture(study, number)) for number in (1, 2)]
        for name, study in STUDIES.items()
    }
    outside, station = StorageNode(OUTSIDE), StorageNode(WORKSTATION)
    with station:
        with outside:
            ports = Ports(outside=outside.port, workstation=station.port)
            gateway = Gateway(target / "work", ports)
            with gateway:
                live(gateway, outside, objects)
        tell(gateway, objects, target)


def live(gateway: Gateway, outside: StorageNode, objects: dict[str, list]) -> None:
    """Deliver the first study; be killed while the second is owed."""
    assert send(gateway.ports.receiver, *objects["delivered"]) == [0, 0]
    with closing(gateway.index()) as index:
        gateway.wait(
            lambda: (
                {r.state for r in index.revisions()} == {"delivered"}
                and not index.open_series()
            )
        )
        assert len(outside.arrivals) == 2
        moved = move_study(
            STUDIES["delivered"],
            calling_ae=WORKSTATION,
            called_ae="MIAD-RECOVERY",
            port=gateway.ports.recovery,
            destination=WORKSTATION,
        )
        assert moved == 0
        outside.__exit__(None, None, None)
        assert send(gateway.ports.receiver, *objects["owed"]) == [0, 0]
        gateway.wait(
            lambda: (
                len(index.deliveries_in_state("pending")) == 2
                and {r.state for r in index.revisions()} == {"delivered", "routed"}
                and all(d.attempts for d in index.deliveries_in_state("pending"))
            )
        )
    gateway.kill()


def tell(gateway: Gateway, objects: dict[str, list], target: Path) -> None:
    """Pack what is left, and what has to come out of it."""
    told = {
        name: {
            item.sop_instance_uid: hashlib.sha256(item.data).hexdigest()
            for item in items
        }
        for name, items in objects.items()
    }
    (target / "site.json").write_text(json.dumps(told, indent=2) + "\n")
    (target / "site.toml").write_text(gateway.config.read_text())
    with tarfile.open(target / "site.tar.xz", "w:xz") as packed:
        for path in sorted(gateway.data.iterdir()):
            if path.name != "run":
                packed.add(path, path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
