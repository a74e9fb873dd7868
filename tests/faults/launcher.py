"""Wraps the functions that `points` names, in processes of a gateway under test.

``FAULT_POINTS`` names a folder. An order is a file ``armed/POINT`` in it (JSON, see
`Order`); the process that comes by the point first takes the order by renaming it to
``fired/POINT`` and does what it says. So an order is carried out once, by one
process, however often processes are started anew; one that is ``always`` stays.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults.points import POINTS, Point

VARIABLE = "FAULT_POINTS"
QUICK = "FAULT_QUICK_RESTARTS"
"""Seconds that the supervisor waits at most before it starts a child again."""

_open, _rename, _kill = os.open, os.rename, os.kill


@dataclass(frozen=True, kw_only=True)
class Order:
    """What happens at a point.

    Attributes
    ----------
    action
        ``kill`` (SIGKILL to the process), ``hang``, ``sleep``, ``raise``, or the name
        of an errno (``ENOSPC``, ``EROFS``, ``EIO``) or ``gaierror``.
    seconds
        Of ``sleep``.
    role
        Only in a process of this kind; empty: in any.
    skip
        So many passes of a process go by unharmed.
    always
        Every pass, until the order is taken away.
    """

    action: str
    seconds: float = 0.0
    role: str = ""
    skip: int = 0
    always: bool = False


class Controls:
    """The folder of orders, from the side of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("armed", "fired"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def arm(self, point: str, order: Order) -> None:
        """Have something happen at a point from now on."""
        (self.folder / "fired" / point).unlink(missing_ok=True)
        draft = self.folder / f".{point}"
        draft.write_text(json.dumps(asdict(order)))
        draft.rename(self.folder / "armed" / point)

    def disarm(self, point: str) -> bool:
        """Take an order away; whether it was still there."""
        try:
            (self.folder / "armed" / point).unlink()
        except FileNotFoundError:
            return False
        return True

    def fired(self, point: str) -> bool:
        """Whether an order was carried out."""
        return (self.folder / "fired" / point).exists()

    def who(self, point: str) -> int:
        """Return the process that carried an order out."""
        return int((self.folder / "fired" / f"{point}.pid").read_text())


class _Points:
    """The orders, from the side of a process under test."""

    def __init__(self, folder: str, role: str) -> None:
        self._armed, self._fired = f"{folder}/armed/", f"{folder}/fired/"
        self._role = role
        self._passes: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        order = self._order(name)
        if order is None or order.role not in ("", self._role):
            return
        self._passes[name] += 1
        if self._passes[name] <= order.skip or not self._take(name, order):
            return
        self._passes[name] = 0
        _act(order)

    def _order(self, name: str) -> Order | None:
        try:
            descriptor = _open(self._armed + name, os.O_RDONLY)
        except OSError:
            return None
        try:
            return Order(**json.loads(os.read(descriptor, 4096)))
        finally:
            os.close(descriptor)

    def _take(self, name: str, order: Order) -> bool:
        if order.always:
            os.close(_open(self._fired + name, os.O_CREAT | os.O_WRONLY, 0o600))
            return True
        try:
            _rename(self._armed + name, self._fired + name)
        except FileNotFoundError:
            return False  # another process was faster
        Path(f"{self._fired}{name}.pid").write_text(str(os.getpid()))
        return True


def _act(order: Order) -> None:
    if order.action == "kill":
        _kill(os.getpid(), signal.SIGKILL)
    elif order.action == "hang":
        threading.Event().wait()
    elif order.action == "sleep":
        time.sleep(order.seconds)
    elif order.action == "raise":
        raise RuntimeError("an order of the test")
    elif order.action == "gaierror":
        import socket

        raise socket.gaierror(socket.EAI_AGAIN, "an order of the test")
    else:
        number = getattr(errno, order.action)
        raise OSError(number, os.strerror(number))


def wrapped(point: Point, function: Callable[..., Any], reach: Callable[[str], None]):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as the function
    """Return a function with a point before or after it."""

    @wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        if point.when == "before":
            reach(point.name)
        result = function(*args, **kwargs)
        if point.when == "after":
            reach(point.name)
        return result

    return around


def place(point: Point, module: ModuleType, reach: Callable[[str], None]) -> None:
    """Wrap the function of a point in its module."""
    *classes, name = point.function.split(".")
    holder: Any = module
    for one in classes:
        holder = getattr(holder, one)
    function = holder.__dict__[name]
    setattr(holder, name, wrapped(point, function, reach))


class _Finder(MetaPathFinder):
    """Wraps functions of modules as soon as these were executed."""

    def __init__(self, points: list[Point], reach: Callable[[str], None]) -> None:
        self._wanted = {point.module for point in points}
        self._points = points
        self._reach = reach

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002 - of the protocol
        target: object = None,  # noqa: ARG002 - of the protocol
    ) -> ModuleSpec | None:
        if fullname not in self._wanted:
            return None
        self._wanted.discard(fullname)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._after_execution(fullname, spec.loader)
        return spec

    def _after_execution(self, fullname: str, loader: Loader) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for point in self._points:
                if point.module == fullname:
                    place(point, module, self._reach)

        loader.exec_module = exec_module  # type: ignore[method-assign]


def role_of(arguments: list[str]) -> str:
    """Return what a process is, from its command line."""
    known = ("receiver", "worker", "auditor", "web", "serve", "keys", "audit")
    return next((one for one in arguments if one in known), "")


def install() -> None:
    """Place all points in this process, now or when their modules are loaded."""
    import socket

    role = role_of([*sys.orig_argv])
    reach = _Points(os.environ[VARIABLE], role).reach
    ours = [point for point in POINTS if point.module not in ("os", "socket")]
    for point in POINTS:
        if point.module == "os":
            place(point, os, reach)
        elif point.module == "socket":
            place(point, socket, reach)
    finder = _Finder(ours, reach)
    sys.meta_path.insert(0, finder)
    if os.environ.get(QUICK):
        _quicken(float(os.environ[QUICK]))


def _quicken(seconds: float) -> None:
    """Let rounds follow each other quickly: the longest wait of the supervisor."""
    if role_of([*sys.orig_argv]) == "serve":
        import gateway.supervise

        gateway.supervise.LONGEST_WAIT_SECONDS = seconds
