"""What is durable is there after the power was cut: on a real ext4 of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.store.blobs import LocalBlobs
from gateway.store.durable import WholeFile
from gateway.store.filesystem import NamesDurable
from tests.faults.disk import mounted

SIZE = 100_000
AT_ONCE = 4


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty ext4 in a file."""
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.truncate(128 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(path)], check=True, capture_output=True)
        with mounted(tmp_path / "tried", "-o", "loop", str(path)):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 of its own can be mounted: {error}")
    return path


def written(root: Path, *, synced: bool) -> Path:
    """Give a new file its name in the store, or a name without waiting for the disk."""
    name = secrets.token_hex(8)
    path = root / f"{name}.part"
    final = root / f"folder-{name[0]}" / name
    file = WholeFile(path)
    file.write(os.urandom(SIZE))
    if synced:
        LocalBlobs(root).adopt(file, path, str(final.relative_to(root)))
        path.unlink()
        return final
    final.parent.mkdir(exist_ok=True)
    os.link(path, final)
    file.close()
    return final


def test_on_ext4_a_file_that_was_synced_has_its_name_after_a_power_cut(
    image: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    with mounted(tmp_path / "before", "-o", "loop", str(image)) as before:
        descriptor = os.open(before, os.O_RDONLY)
        assert NamesDurable().with_content(descriptor)  # else this proves nothing
        os.close(descriptor)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            kept = list(pool.map(lambda _: written(before, synced=True), range(60)))
        lost = [written(before, synced=False) for _ in range(5)]
        shutil.copyfile(image, cut)  # what the disk was given up to now
        wanted = {path.relative_to(before): path.read_bytes() for path in kept}
        gone = [path.relative_to(before) for path in lost]
    with mounted(tmp_path / "after", "-o", "loop", str(cut)) as after:
        for name, content in wanted.items():
            assert (after / name).read_bytes() == content
        assert not any((after / name).exists() for name in gone)


@pytest.mark.parametrize(
    ("kinds", "durable"),
    [
        (("ext4",), True),
        (("ext4", "ext4"), True),
        (("overlay",), False),
        (("ext4", "fuse"), False),
        ((), False),
    ],
)
def test_what_is_not_known_of_a_file_system_is_not_taken_for_granted(
    kinds: tuple[str, ...], durable: bool, tmp_path: Path
) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    other = "24 1 0:99999 / /other rw shared:1 - ext4 /dev/none rw"
    lines = [f"25 1 {number} / /data rw - {kind} /dev/x rw" for kind in kinds]
    mounts.write_text("\n".join([other, *lines]) + "\n")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        assert NamesDurable(mounts).with_content(descriptor) is durable
        assert not NamesDurable(tmp_path / "absent").with_content(descriptor)
    finally:
        os.close(descriptor)
