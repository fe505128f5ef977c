# SPDX-License-Identifier: Apache-2.0
"""The server's log: one line per event on standard error, JSON for collectors or text for people."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from sparse_deploy.serving.settings import LogFormat

_LOGGER = logging.getLogger("sparse_deploy.serving")
_FIELDS = "sparse_deploy_fields"


def set_up(log_format: LogFormat) -> None:
    """Write this package's and uvicorn's events to standard error in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    for name in ("sparse_deploy.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    _LOGGER.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says of start and end, our own events say


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event; fields that are None are left out."""
    if _LOGGER.isEnabledFor(level):
        known = {name: value for name, value in fields.items() if value is not None}
        _LOGGER.log(level, event, extra={_FIELDS: known})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        content |= getattr(record, _FIELDS, {})
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(content, default=str).decode()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in getattr(record, _FIELDS, {}).items())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{_time(record)} {record.levelname.lower()} {record.getMessage()}{fields}{trace}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
