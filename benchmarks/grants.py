"""Time of C-FIND and of selecting objects, with and without a grant's condition.

    python -m benchmarks.grants [--studies 20000] [--objects 5]

An index of so many studies is made; the query is answered without a grant's
condition (``true``) and with one that half of the studies meet. Median of five,
processor time of one process: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import insert

from config.schema import Site
from gateway.access.access import Access
from gateway.access.caller import Caller
from gateway.access.ledger import Books
from gateway.audit.log import AuditLog
from gateway.store.find import FindKeys, Level
from gateway.store.index import Index, open_index, timestamp
from gateway.store.rows import NewInstance
from gateway.store.schema import instances

KEY = bytes(32)
CONDITIONS = {
    "true": "true",
    "of half": 'PatientSex == "F" && StudyDate >= "20260101"',
    "with modalities": 'PatientSex == "F" && "CT" in ModalitiesInStudy',
}
QUERIES = {
    "all studies": (FindKeys({}), Level.STUDY),
    "all patients": (FindKeys({}), Level.PATIENT),
    "studies of a day": (FindKeys({"StudyDate": ["20260107"]}), Level.STUDY),
    "one study's images": (FindKeys({"StudyInstanceUID": ["1.2.77"]}), Level.IMAGE),
}
CHUNK = 10_000
RUNS = 5


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--objects", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index = open_index(root / "index.sqlite", KEY)
        fill(index, options.studies, options.objects)
        print(f"{options.studies} studies of {options.objects} objects; ms, median")
        print("| query | " + " | ".join(CONDITIONS) + " |")
        print("|---|" + "---|" * len(CONDITIONS))
        opened = {
            name: opened_with(root, index, CONDITIONS[name]) for name in CONDITIONS
        }
        for title, (keys, level) in QUERIES.items():
            cells = [
                timed(partial(access.listed(caller).find, keys, level))
                for access, caller in opened.values()
            ]
            print(f"| {title} | " + " | ".join(cells) + " |")
        one = FindKeys({"StudyInstanceUID": ["1.2.77"]})
        cells = [
            timed(partial(access.given(caller).matching, one))
            for access, caller in opened.values()
        ]
        print("| one study selected | " + " | ".join(cells) + " |")
        cells = []
        for access, caller in opened.values():
            given = access.given(caller)
            (row, *_) = index.originals_matching(one)
            cells.append(timed(partial(given.admits, row)))
        print("| one object, before it leaves | " + " | ".join(cells) + " |")
        index.close()


def fill(index: Index, studies: int, objects: int) -> None:
    """Make the rows."""
    at = timestamp(datetime(2026, 1, 1, tzinfo=UTC))
    rows = [
        asdict(
            NewInstance(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                sop_instance_uid=f"1.2.{study}.{number}",
                study_instance_uid=f"1.2.{study}",
                series_instance_uid=f"1.2.{study}.0",
                patient_id=f"P{study // 2}",
                patient_name=f"Doe^{study // 2}",
                patient_sex="F" if study % 2 else "M",
                study_date=f"202601{study % 28 + 1:02}",
                modality="CT" if study % 3 else "MR",
                sha256=f"{study:064x}",
                size_bytes=1000,
                path=f"originals/{study}.{number}",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                calling_ae="CT1",
                called_ae="MIAD-GATEWAY",
                peer_address="127.0.0.1",
                received_at=at,
            )
        )
        for study in range(studies)
        for number in range(objects)
    ]
    for start in range(0, len(rows), CHUNK):
        with index.database.write() as connection:
            connection.execute(insert(instances), rows[start : start + CHUNK])


def opened_with(root: Path, index: Index, when: str) -> tuple[Access, Caller]:
    """Open grants of which one has a condition."""
    node = {"name": "ward", "ae_titles": ["WARD"], "roles": ["recover"]}
    site = Site.model_validate(
        {
            "data_directory": root,
            "nodes": [node],
            "grants": [{"name": "g", "nodes": ["ward"], "when": when}],
        }
    )
    books = Books(index.database, KEY, root / "anchor" / "anchor.json")
    audit = AuditLog(root / "audit.jsonl")
    access = Access(site=site, index=index, books=books, audit=audit)
    caller = Caller(node=site.nodes[0], ae_title="WARD", address="127.0.0.1")
    return access, caller


def timed(work: Callable[[], object]) -> str:
    """Return the median time of some runs, in milliseconds."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return f"{statistics.median(times) * 1000:.1f}"


if __name__ == "__main__":
    main()
