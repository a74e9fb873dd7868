"""What TLS costs, and what a scanner finds: a running receiver from outside.

    python -m benchmarks.tls throughput [--images 200] [--rounds 3]
    python -m benchmarks.tls scan

``throughput`` sends the same images with DCMTK's storescu to the receiver's plain
port and to its TLS port in turn, in rounds; the ratio inside one run is what
counts. ``scan`` runs sslscan and testssl.sh against the TLS port with a
certificate of either kind, and ends with code 1 where one of them finds anything
above low.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.receive import (
    ENVIRONMENT,
    Images,
    Load,
    free_port,
    program,
    serving,
)
from gateway.tls.authority import SiteAuthority, Wanted
from gateway.tls.issuing import KeyType

NAME = "gateway.test"
LIST_URL = "http://pki.test/crl.pem"
DAYS = 365
SITE = """\
data_directory = "{data}"
[tls]
certificate = "{pki}/issued/gateway.pem"
key = "{pki}/issued/gateway.key"
authorities = ["{pki}/ca.pem"]
revocation_lists = ["{pki}/crl.pem"]
[receiver]
port = {secure}
plain_port = {plain}
[recovery]
port = 0
[limits]
connection_burst = 100000
connections_per_second = 10000.0
[[nodes]]
name = "storescu"
ae_titles = ["STORESCU"]
roles = ["store"]
certificate_names = ["storescu.test"]
plain = true
addresses = ["127.0.0.1/32"]
"""

NO_FINDING = {"OK", "INFO", "LOW", "DEBUG", "WARN"}
"""Severities of testssl.sh up to low; WARN: something it could not try."""


@dataclass(frozen=True)
class Receiver:
    """A running receiver: its ports, and the certificates of its peers."""

    plain: int
    secure: int
    pki: Path


@contextmanager
def receiving(directory: Path, kind: KeyType) -> Iterator[Receiver]:
    """Run ``miad-gateway receiver`` with both ports and an authority of its own."""
    pki = directory / "pki"
    authority = SiteAuthority(pki)
    authority.create("Benchmark", "ecdsa", None, DAYS, LIST_URL)
    issuer = authority.unlock(None)
    own = Wanted.of("gateway", [NAME, "localhost"], ["127.0.0.1"])
    authority.issue(issuer, own, kind, DAYS)
    authority.issue(issuer, Wanted.of("storescu", ["storescu.test"]), kind, DAYS)
    made = Receiver(free_port(), free_port(), pki)
    config = directory / "site.toml"
    data = (directory / "data").as_posix()
    config.write_text(
        SITE.format(data=data, pki=pki.as_posix(), plain=made.plain, secure=made.secure)
    )
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    command += ["--config", str(config)]
    with serving(command, "MIAD-GATEWAY", made.plain):
        yield made


def send(paths: list[Path], made: Receiver, *, tls: bool) -> float:
    """Send with storescu in one association; return the seconds."""
    issued = made.pki / "issued"
    own = ["+tls", issued / "storescu.key", issued / "storescu.pem"]
    trust = ["+cf", made.pki / "ca.pem"]
    command = [program("storescu"), *(own + trust if tls else [])]
    command += ["-aec", "MIAD-GATEWAY"]
    command += ["127.0.0.1", str(made.secure if tls else made.plain), *paths]
    start = time.monotonic()
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    return time.monotonic() - start


def throughput(images: int, rounds: int) -> None:
    """Print seconds and rates of both ports, by kind of key, and their ratio."""
    print(
        f"{images} images a round, {rounds} rounds; {os.cpu_count()} cores"
        f" {platform.machine()}, Python {platform.python_version()}"
    )
    load = Load(name="CT", large=False, count=images, associations=1)
    for kind in ("ecdsa", "rsa"):
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            seconds: dict[bool, list[float]] = {False: [], True: []}
            with receiving(directory, kind) as made:  # type: ignore[arg-type]
                for number in range(rounds):
                    for tls in (False, True):
                        source = directory / f"{number}-{tls}"
                        source.mkdir()
                        paths = Images(source).new(load)
                        megabytes = sum(p.stat().st_size for p in paths) / 1e6
                        seconds[tls].append(send(paths, made, tls=tls))
                        shutil.rmtree(source)
            plain, secure = (statistics.median(seconds[tls]) for tls in (False, True))
            for name, taken in (("plain", plain), (f"TLS, {kind}", secure)):
                print(
                    f"{name:12s} {taken:7.2f} s {images / taken:7.0f} images/s"
                    f" {megabytes / taken:6.0f} MB/s   rate / plain rate"
                    f" {plain / taken:5.2f}"
                )


def scan() -> int:
    """Print what scanners find above low; return how much that is."""
    findings = 0
    for kind in ("ecdsa", "rsa"):
        with (
            tempfile.TemporaryDirectory() as temporary,
            receiving(Path(temporary), kind) as made,  # type: ignore[arg-type]
        ):
            found = testssl(made, Path(temporary) / "report.json")
        above = [one for one in found if one["severity"] not in NO_FINDING]
        low = [one for one in found if one["severity"] == "LOW"]
        print(
            f"testssl.sh, {kind} certificate: {len(found)} results,"
            f" {len(low)} low, {len(above)} above low"
        )
        for one in (*low, *above):
            print(f"  {one['severity']}  {one['id']}: {one['finding']}")
        findings += len(above)
    return findings


def testssl(made: Receiver, report: Path) -> list[dict[str, str]]:
    """Run every check of testssl.sh that needs no certificate of its own."""
    scanner = shutil.which("testssl") or shutil.which("testssl.sh")
    if scanner is None:
        raise SystemExit("testssl is not installed: apt-get install testssl.sh")
    command = [scanner, "--quiet", "--color", "0", "--warnings", "off"]
    command += ["--add-ca", str(made.pki / "ca.pem"), "--jsonfile", str(report)]
    command += ["--ip", "127.0.0.1", "--nodns", "none", f"{NAME}:{made.secure}"]
    subprocess.run(command, check=False, capture_output=True)
    found = json.loads(report.read_text())
    if len(found) < 50:
        raise SystemExit(f"testssl.sh ended early: {found[-1]}")
    return list(found)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("throughput", "scan"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "throughput":
        throughput(arguments.images, arguments.rounds)
    elif scan():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
