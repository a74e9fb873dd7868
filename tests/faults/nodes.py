"""The nodes around the gateway: they keep what they get, on the disk."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom.dimse_primitives import C_STORE

from gateway.demo.nodes import StorageNode

if TYPE_CHECKING:
    from pynetdicom.events import Event

SUCCESS = 0x0000


@dataclass(frozen=True, kw_only=True)
class Reception:
    """One C-STORE that a node answered.

    Attributes
    ----------
    at
        Seconds since 1970.
    sha256
        Of the data set octets; they lie in the node's folder under this name.
    """

    at: float
    uid: str
    sha256: str
    path: Path


class KeepingNode(StorageNode):
    """A storage SCP that writes what it gets into a folder, and a line for each.

    Parameters
    ----------
    folder
        Continued where it holds something.
    answer
        The status of each, by SOP Instance UID; what is not Success is not kept.
    """

    def __init__(
        self,
        ae_title: str,
        folder: Path,
        port: int = 0,
        answer: Callable[[str], int] = lambda _uid: SUCCESS,
    ) -> None:
        super().__init__(ae_title, port)
        self.folder = folder
        self.answer = answer
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "receptions"
        self._writing = threading.Lock()
        self.count = sum(1 for _ in self.receptions())

    def pause(self) -> int:
        """Stop listening, hang up; the port, which `resume` takes again."""
        self._port = self.port
        self.__exit__(None, None, None)
        return self._port

    def resume(self) -> None:
        """Listen again where it did."""
        self.__enter__()

    def _on_store(self, event: Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        uid = str(request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status == SUCCESS:
            assert request.DataSet is not None
            self._keep(uid, event.encoded_dataset(), request.DataSet.getvalue())
        return status

    def _keep(self, uid: str, part10: bytes, data_set: bytes) -> None:
        digest = hashlib.sha256(data_set).hexdigest()
        path = self.folder / f"{digest}.dcm"
        with self._writing:
            if not path.exists():
                path.write_bytes(part10)
            with self._lines.open("a") as stream:
                stream.write(f"{time.time()} {uid} {digest}\n")
            self.count += 1

    def receptions(self) -> Iterator[Reception]:
        """Yield all there were, in order."""
        if not self._lines.exists():
            return
        for line in self._lines.read_text().splitlines():
            at, uid, digest = line.split()
            path = self.folder / f"{digest}.dcm"
            yield Reception(at=float(at), uid=uid, sha256=digest, path=path)
