"""How fast the index takes rows of received objects, on each kind of database.

    python -m benchmarks.index_rate --rows 400 --threads 1 4

Both are durable at every commit: SQLite with synchronous = FULL, PostgreSQL with
fsync. One run measures both, in turns, so that their ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.store.committer import Committer
from gateway.store.index import Index
from tests.gateway.postgres import Cluster
from tests.gateway.test_index import new

TURNS = 3


def rate(index: Index, rows: int, threads: int, first: int) -> float:
    """Return rows a second, added by so many threads as a receiver's do."""
    committer = Committer(index)
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        numbers = range(first, first + rows)
        assert set(pool.map(lambda n: committer.add(new(n)), numbers)) == {"stored"}
    return rows / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="pg-") as served,
        tempfile.TemporaryDirectory() as folder,
    ):
        cluster = Cluster(Path(served), settings=())
        cluster.start()
        indexes = {
            "SQLCipher": Index(f"sqlite:///{folder}/index.sqlite", b"k" * 32),
            "PostgreSQL": Index(cluster.database()),
        }
        first = 0
        print("| threads | " + " | ".join(f"{k}, rows/s" for k in indexes) + " |")
        for threads in asked.threads:
            best = dict.fromkeys(indexes, 0.0)
            for _ in range(TURNS):
                for kind, index in indexes.items():
                    best[kind] = max(
                        best[kind], rate(index, asked.rows, threads, first)
                    )
                first += asked.rows
            print(
                f"| {threads} | " + " | ".join(f"{v:.0f}" for v in best.values()) + " |"
            )
        for index in indexes.values():
            index.close()
        cluster.stop()


if __name__ == "__main__":
    main()
