"""Structured logs on standard error; no patient attribute ever in them.

A line is an action and fields: UIDs, AE titles, states, counts, paths. What
could name a person is withheld by field name, whoever logs it.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

WITHHELD = "(withheld)"

_PERSONAL_PARTS = ("patient", "birth", "accession", "physician", "operator", "person")
_PERSONAL_NAMES = frozenset(
    {"study_id", "study_description", "series_description", "protocol_name"}
    | {"dataset", "data_set", "attributes", "identifier", "institution_name"}
)
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_THIRD_PARTIES = ("pynetdicom", "pydicom", "dbos", "alembic", "sqlalchemy")


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
    warnings, whatever the level asked for.
    """
    target = sys.stderr if stream is None else stream
    logging.basicConfig(
        level=logging.WARNING,
        stream=target,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for name in _THIRD_PARTIES:
        logging.getLogger(name).setLevel(logging.WARNING)
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
            structlog.processors.format_exc_info,
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


def is_personal(name: str) -> bool:
    """Whether a field of this name could tell of a person."""
    plain = name.lower()
    spelled = plain.replace("_", "")
    return (
        plain in _PERSONAL_NAMES
        or spelled in {known.replace("_", "") for known in _PERSONAL_NAMES}
        or any(part in plain for part in _PERSONAL_PARTS)
    )
