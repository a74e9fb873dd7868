"""Structured logs on standard error; no patient attribute ever in them.

A line is an action and fields: UIDs, AE titles, states, counts, paths. What
could name a person is withheld by field name, whoever logs it. Exceptions of
libraries quote what they met, an attribute's value or the parameters of a
statement, so of them only the kind and the place are told.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor
from typing_extensions import override

WITHHELD = "(withheld)"

_PERSONAL_PARTS = ("patient", "birth", "accession", "physician", "operator", "person")
_PERSONAL_NAMES = frozenset(
    {"study_id", "study_description", "series_description", "protocol_name"}
    | {"dataset", "data_set", "attributes", "identifier", "institution_name"}
)
_OURS = frozenset({"config", "engine", "gateway"})
_LONGEST_CHAIN = 5
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_THIRD_PARTIES = ("dbos", "alembic", "sqlalchemy")
_QUOTING = ("pynetdicom", "pydicom")


def get_logger(component: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry the name of their component."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
) -> None:
    """Set the logs of this process up; call it once, at the start.

    Libraries that could write data sets at their lower levels are kept to
    warnings, whatever the level asked for; those that quote in their warnings the
    value they do not like, to errors.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        _PlainFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in _THIRD_PARTIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=UserWarning, module=name)
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=target.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            withhold_personal,
            plain_exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )


def withhold_personal(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace the value of every field whose name speaks of a person."""
    return {
        name: WITHHELD if is_personal(name) else value for name, value in event.items()
    }


def described(error: BaseException) -> str:
    """Return what an error is, without quoting the object it arose from.

    Our own errors speak of UIDs, paths and settings only, so their text stays,
    and so does the system's; of all others the kind and the place.
    """
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in _OURS:
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{name} at {_place(frames[-1])}" if frames else name


def plain_exceptions(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Tell an exception by kinds and places, and errors in fields likewise."""
    told = {
        name: described(value) if isinstance(value, BaseException) else value
        for name, value in event.items()
        if name != "exc_info"
    }
    found = event.get("exc_info")
    error = sys.exc_info()[1] if found is True else found
    if isinstance(error, BaseException):
        told["exception"] = _chain(error)
    return told


def _chain(error: BaseException) -> str:
    """Describe an error, those it came from, and where it passed."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < _LONGEST_CHAIN:
        places = map(_place, traceback.extract_tb(current.__traceback__))
        parts.append(f"{described(current)} ({' > '.join(places)})")
        current = current.__cause__ or current.__context__
    return " from ".join(parts)


def _place(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}:{frame.lineno}"


class _PlainFormatter(logging.Formatter):
    """Lines of libraries: one line each, and no text of an exception."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        plain = logging.makeLogRecord(record.__dict__)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None or isinstance(record.msg, BaseException):
            known = error if error is not None else record.msg
            plain.msg = described(known) if isinstance(known, BaseException) else ""
            plain.args = ()
        plain.exc_info, plain.exc_text, plain.stack_info = None, None, None
        return _UNPRINTABLE.sub("?", super().format(plain))


def is_personal(name: str) -> bool:
    """Whether a field of this name could tell of a person."""
    plain = name.lower()
    spelled = plain.replace("_", "")
    return (
        plain in _PERSONAL_NAMES
        or spelled in {known.replace("_", "") for known in _PERSONAL_NAMES}
        or any(part in plain for part in _PERSONAL_PARTS)
    )
