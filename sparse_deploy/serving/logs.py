# SPDX-License-Identifier: Apache-2.0
"""The server's log: one line per event on standard error, JSON for collectors or text for users."""

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
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # this module logs start and end


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event, without fields that are None."""
    if _LOGGER.isEnabledFor(level):
        known = {name: value for name, value in fields.items() if value is not None}
        _LOGGER.log(level, event, extra={_FIELDS: known})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        content |= getattr(record, _FIELDS, {})
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        line = orjson.dumps(content, default=str).decode()
        return line if line.isprintable() else "".join(one if one.isprintable() else _json_escape(one) for one in line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_printable(value)}" for name, value in getattr(record, _FIELDS, {}).items())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{_time(record)} {record.levelname.lower()} {_printable(record.getMessage())}{fields}{trace}"


def _json_escape(character: str) -> str:
    """Characters that orjson does not escape: DEL, 8-bit controls, line separators, direction marks."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _printable(value: Any) -> str:
    """Text on one line without control characters, because a client's text could imitate other lines."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
