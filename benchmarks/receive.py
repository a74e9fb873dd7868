"""How fast C-STORE is acknowledged, against DCMTK's storescp and the disk.

    python benchmarks/receive.py [--images 200] [--associations 1]

One run sends the same images (a real 0.5 MB CT slice under new UIDs) with
DCMTK's storescu to this gateway's receiver and to DCMTK's storescp, and writes
them with one fsync each: the limit the promise "Success means durable" sets.
Ratios inside one run are what counts; the machine is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
SITE = """\
data_directory = "{data}"
[receiver]
plain_port = {port}
[recovery]
plain_port = 0
[[nodes]]
name = "storescu"
ae_titles = ["STORESCU"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
"""


def make_images(directory: Path, count: int) -> list[Path]:
    """Write a real CT slice `count` times, each under its own UID."""
    source = get_testdata_file("693_UNCR.dcm", read=False, download=False)
    ds = dcmread(str(source))
    paths = []
    for number in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = number
        paths.append(directory / f"{number:05d}.dcm")
        ds.save_as(paths[-1])
    return paths


def dcmtk(name: str) -> str:
    """Find DCMTK's program; pynetdicom puts others of that name beside Python."""
    own = Path(sys.executable).parent.resolve()
    others = [p for p in os.get_exec_path() if Path(p).resolve() != own]
    found = shutil.which(name, path=os.pathsep.join(others))
    if found is None:
        raise SystemExit(f"{name} is not installed: apt-get install dcmtk")
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], port: int) -> Iterator[None]:
    """Run a storage SCP until the block ends."""
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            threading.Event().wait(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def listening(port: int) -> bool:
    """Whether someone accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def send(paths: list[Path], called: str, port: int, associations: int) -> float:
    """Send with storescu over some associations at once; return the seconds."""
    shares = [paths[start::associations] for start in range(associations)]
    start = time.monotonic()
    senders = [
        subprocess.Popen(
            [
                dcmtk("storescu"),
                "-aec",
                called,
                "127.0.0.1",
                str(port),
                *map(str, share),
            ],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for share in shares
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"storescu to {called} ended with {codes}")
    return time.monotonic() - start


def gateway(paths: list[Path], directory: Path, associations: int) -> float:
    """Seconds to this gateway's receiver."""
    port = free_port()
    config = directory / "site.toml"
    config.write_text(SITE.format(data=(directory / "data").as_posix(), port=port))
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    with server([*command, "--config", str(config)], port):
        return send(paths, "MIAD-GATEWAY", port, associations)


def storescp(paths: list[Path], directory: Path, associations: int) -> float:
    """Seconds to DCMTK's storescp, one process per association, no fsync."""
    port = free_port()
    out = directory / "storescp"
    out.mkdir()
    with server([dcmtk("storescp"), "--fork", "-od", str(out), "+B", str(port)], port):
        return send(paths, "ANY-SCP", port, associations)


def disk(paths: list[Path], directory: Path, _associations: int) -> float:
    """Seconds to write each image to a file of its own and fsync it."""
    images = [path.read_bytes() for path in paths]
    start = time.monotonic()
    for number, data in enumerate(images):
        with (directory / f"disk-{number}").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return time.monotonic() - start


def main() -> None:
    """Print a table of seconds, rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--associations", type=int, default=1)
    arguments = parser.parse_args()
    contenders: dict[str, Callable[[list[Path], Path, int], float]] = {
        "miad-gateway, fsynced and indexed": gateway,
        "DCMTK storescp, no fsync": storescp,
        "write and fsync, no network": disk,
    }
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "images"
        source.mkdir()
        paths = make_images(source, arguments.images)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        seconds = {}
        for number, (name, run) in enumerate(contenders.items()):
            directory = Path(temporary) / str(number)
            directory.mkdir()
            seconds[name] = run(paths, directory, arguments.associations)
    print(
        f"{arguments.images} images, {megabytes:.0f} MB, "
        f"{arguments.associations} association(s); {os.cpu_count()} cores "
        f"{platform.machine()}, Python {platform.python_version()}"
    )
    ours = next(iter(seconds.values()))
    for name, taken in seconds.items():
        rate = arguments.images / taken
        print(
            f"{name:36s} {taken:7.2f} s {rate:7.0f} images/s "
            f"{megabytes / taken:6.0f} MB/s   our rate / this rate {taken / ours:5.2f}"
        )


if __name__ == "__main__":
    main()
