"""Whole files in an S3-compatible object store, for machines that share them.

An object is stored when its PUT was acknowledged. The store checks the SHA-256
that comes with each, so that what it acknowledges is what was sent. Who reads
before writing holds a lock of the shared database (`Locks`). What must be made once,
by whichever machine is first, is put with ``If-None-Match: *``.
"""

from __future__ import annotations

import contextlib
import io
import math
import secrets
import threading
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store
from typing_extensions import override

from gateway.errors import StoreFull, StoreUnavailable
from gateway.log import get_logger
from gateway.sealing.head import EMPTY, FIXED, MAGIC, START
from gateway.sealing.reading import SeekableReader
from gateway.store.blobs import Blobs, checked
from gateway.store.durable import (
    ClaimedFile,
    WholeFile,
    make_directory,
    refused_when_full,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from config.schema import Objects

Result = TypeVar("Result")

PART_BYTES: Final = 16 << 20
"""Larger ones go in parts of so many octets,"""
PARTS_AT_ONCE: Final = 4
FIRST_READ: Final = 256 << 10
LARGEST_READ: Final = 4 << 20
"""Octets asked for at once by who reads on; doubled from the first."""
FULL_CODES: Final = ("507 ", "QuotaExceeded", "StorageFull", "InsufficientStorage")
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """How a bucket is reached.

    Attributes
    ----------
    settings
        Of the site.
    access_key, secret_key
        The key pair.
    """

    settings: Objects
    access_key: str
    secret_key: str

    def open(self) -> S3Store:
        """Open the bucket; nothing is sent yet.

        Raises
        ------
        OSError
            The file of authorities cannot be read.
        """
        settings = self.settings
        client: dict[str, object] = {
            "allow_http": settings.plain,
            "connect_timeout": timedelta(seconds=settings.connect_seconds),
            "timeout": timedelta(seconds=settings.timeout_seconds),
        }
        if settings.authorities is not None:
            client["root_certificate"] = settings.authorities.read_bytes()
        return S3Store(
            settings.bucket,
            prefix=settings.prefix or None,
            config={
                "endpoint": settings.endpoint.rstrip("/"),
                "region": settings.region,
                "access_key_id": self.access_key,
                "secret_access_key": self.secret_key,
                "virtual_hosted_style_request": settings.virtual_hosts,
                "checksum_algorithm": "sha256",
                "conditional_put": "etag",
                "disable_bulk_delete": True,
            },
            client_options=client,  # type: ignore[arg-type] # a TypedDict, as built
            retry_config={
                "max_retries": settings.retries,
                "retry_timeout": timedelta(seconds=settings.retry_seconds),
            },
        )


class ObjectBlobs(Blobs):
    """Files as objects of a bucket.

    Parameters
    ----------
    store
        The bucket, with the prefix of the site.
    spool
        Folder of this machine for what is written piece by piece.
    alone
        Keeps other machines from what has a name; see `Locks`.
    patience_seconds
        How long a store that does not answer is waited for, beyond the retries
        of a request. Infinity: until it does.
    """

    def __init__(
        self,
        store: S3Store,
        spool: Path,
        alone: Callable[[str], AbstractContextManager[None]],
        patience_seconds: float = 0.0,
    ) -> None:
        self._store = store
        self._spool = spool
        self._alone = alone
        self._patience = patience_seconds

    @property
    @override
    def is_shared(self) -> bool:
        return True

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep other machines from changing what has a name meanwhile."""
        return self._alone(name)

    @override
    def adopt(self, file: WholeFile, path: Path, name: str) -> None:
        self._put_file(checked(name), path)
        file.close()
        path.unlink(missing_ok=True)

    @override
    def move(self, name: str, other: str) -> None:
        before, after = checked(name), checked(other)
        try:
            self._asked(before, lambda: obstore.copy(self._store, before, after))
        except FileNotFoundError:
            if not self.exists(other):  # another took it there
                raise
        self.remove(name)

    @override
    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        with refused_when_full():
            make_directory(self._spool)
        path = self._spool / f"{secrets.token_hex(16)}.part"
        file = ClaimedFile(path)
        try:
            yield cast("BinaryIO", file)
            self.adopt(file, path, name)
        finally:
            file.close()
            path.unlink(missing_ok=True)

    @override
    def open(self, name: str) -> BinaryIO:
        return cast("BinaryIO", self.reader(name))

    def reader(self, name: str) -> ObjectReader:
        """Open for reading; see `open`."""
        path = checked(name)

        def first() -> tuple[int, bytes]:
            found = obstore.get(self._store, path, options={"range": (0, FIRST_READ)})
            return found.meta["size"], bytes(found.bytes())

        size, start = self._asked(path, first)
        return ObjectReader(lambda at, n: self._range(path, at, n), size, start)

    @override
    def size(self, name: str) -> int:
        path = checked(name)
        return self._asked(path, lambda: obstore.head(self._store, path)["size"])

    def read(self, name: str) -> bytes:
        """Return a whole file.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        path = checked(name)
        return self._asked(path, lambda: bytes(obstore.get(self._store, path).bytes()))

    def put(self, name: str, content: bytes) -> None:
        """Put octets under a name; what has it is replaced as a whole."""
        path = checked(name)
        self._changed(
            path, lambda: obstore.put(self._store, path, content, use_multipart=False)
        )

    def create(self, name: str, content: bytes) -> bool:
        """Put octets under a name that nothing has; False where something does.

        Of machines that ask at once, one is told True. Where an answer was lost,
        the one whose octets are there may be told False.
        """
        path = checked(name)

        def make() -> bool:
            try:
                obstore.put(self._store, path, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

        return self._changed(path, make)

    @override
    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    @override
    def remove(self, name: str) -> None:
        path = checked(name)
        with contextlib.suppress(FileNotFoundError):
            self._asked(path, lambda: obstore.delete(self._store, path))

    @override
    def destroy(self, name: str) -> None:
        """Overwrite a sealed file with its head, without keys, and remove it.

        A bucket that keeps versions keeps those of before, too.
        """
        with self.locked(name):
            try:
                start = self.start(name)
            except FileNotFoundError:
                return
            fixed = start[: FIXED.size] if start[: len(MAGIC)] == MAGIC else b""
            self.put(name, fixed + 2 * EMPTY)
            self.remove(name)

    def start(self, name: str) -> bytes:
        """Return the head of a sealed file.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        return self._range(checked(name), 0, START)

    def replace_start(self, name: str, start: bytes) -> None:
        """Put a sealed file anew with another head; the rest stays as it is.

        The caller holds its lock.
        """
        with self.open(name) as old, self.writing(name) as new:
            old.seek(len(start))
            new.write(start)
            while piece := old.read(LARGEST_READ):
                new.write(piece)

    @override
    def alone(self, name: str) -> AbstractContextManager[None]:
        return self._alone(f"{checked(name)}/decided-on")  # not what `destroy` holds

    @override
    def names(self, prefix: str) -> Iterator[str]:
        folder = checked(prefix)
        pages = iter(obstore.list(self._store, folder))
        while page := self._asked(folder, lambda: next(pages, None)):
            yield from (each["path"] for each in page)

    @override
    def check(self) -> None:
        self._asked("", lambda: next(iter(obstore.list(self._store, "checks")), None))

    def check_conditions(self) -> None:
        """See that what is there is not replaced by who asked for that.

        Raises
        ------
        StoreUnavailable
            Two machines would both be told to be the first, or the bucket cannot
            be written to, read, or reached.
        """
        name = f"checks/{secrets.token_hex(8)}"
        try:
            if self.create(name, b"1") and not self.create(name, b"2"):
                return
        finally:
            with contextlib.suppress(StoreUnavailable):
                self.remove(name)
        raise StoreUnavailable(
            "the object store takes no conditions (If-None-Match: *): two machines"
            " would make two secrets of one name; use one that does"
        )

    def _put_file(self, path: str, file: Path) -> None:
        size = file.stat().st_size
        self._changed(
            path,
            lambda: obstore.put(
                self._store,
                path,
                file,
                use_multipart=size > PART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            ),
        )

    def _range(self, path: str, at: int, size: int) -> bytes:
        return self._asked(
            path,
            lambda: bytes(obstore.get_range(self._store, path, start=at, length=size)),
        )

    def _changed(self, path: str, work: Callable[[], Result]) -> Result:
        """Run what changes something: no bucket is no file that is not there."""
        try:
            return self._asked(path, work)
        except FileNotFoundError as error:
            raise _unavailable(error) from error

    def _asked(self, path: str, work: Callable[[], Result]) -> Result:
        """Run a request; wait for a store that does not answer.

        Raises
        ------
        FileNotFoundError
            The bucket has no such object.
        StoreFull, StoreUnavailable
            Whatever else is wrong.
        """
        until = time.monotonic() + self._patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return work()
            except FileNotFoundError as error:
                if "NoSuchBucket" not in str(error):
                    raise
                failure: Exception = error
            except (BaseError, OSError, ValueError) as error:
                failure = error
            if any(code in str(failure) for code in FULL_CODES):
                raise StoreFull("The object store has no room: enlarge it") from failure
            left = until - time.monotonic()
            if left <= 0:
                raise _unavailable(failure) from failure
            get_logger("store").warning(
                "object-store-waited-for", object=path, error=type(failure).__name__
            )
            threading.Event().wait(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class ObjectReader(SeekableReader):
    """An object read in ranges, larger ones as it is read on.

    Parameters
    ----------
    fetch
        Returns octets from a position on, so many.
    size
        Of the object.
    start
        Its first octets.
    """

    def __init__(
        self, fetch: Callable[[int, int], bytes], size: int, start: bytes
    ) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._held_at, self._held = 0, start
        self._next = FIRST_READ

    @override
    def _length(self) -> int:
        return self._size

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._wanted(size)
        gathered = io.BytesIO()
        while wanted:
            piece = self._piece(wanted)
            gathered.write(piece)
            self._at += len(piece)
            wanted -= len(piece)
        return gathered.getvalue()

    def _piece(self, wanted: int) -> bytes:
        offset = self._at - self._held_at
        if not 0 <= offset < len(self._held):
            self._load(wanted)
            offset = 0
        return self._held[offset : offset + wanted]

    def _load(self, wanted: int) -> None:
        if self._at == self._held_at + len(self._held):  # read on, not sought
            self._next = min(2 * self._next, LARGEST_READ)
        else:
            self._next = FIRST_READ
        length = min(max(wanted, self._next), LARGEST_READ, self._size - self._at)
        self._held = b""  # not two of them in memory
        held = self._fetch(self._at, length)
        if len(held) != length:
            raise StoreUnavailable("the object store returned fewer octets than asked")
        self._held_at, self._held = self._at, held


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, FileNotFoundError):
        return StoreUnavailable(
            "the bucket of the object store is not there; make it, or correct"
            " objects.bucket"
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreUnavailable(
            "the object store refuses this site's access key: see that it may get,"
            " put, list and delete objects of its bucket"
        )
    return StoreUnavailable(
        f"the object store does not answer as it should ({type(error).__name__})"
    )


UNTIL_IT_ANSWERS: Final = math.inf
