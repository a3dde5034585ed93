"""The log of the launcher and of the models: text for people, or one JSON object a line for collectors.

A record's ``extra={FIELDS: {...}}`` becomes members of the object, or ``key=value`` behind the text.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

FORMAT_VARIABLE = "OFA_LOG_FORMAT"
"""Environment variable by which the launcher tells the models how to log."""

FIELDS = "fields"

_TRITON_LINE = re.compile(r"(\S+Z) ([IWEF]) \d+ (\S+)\] (.*)", re.DOTALL)
_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}


class LogFormat(StrEnum):
    """How a record becomes a line."""

    TEXT = "text"
    JSON = "json"


def configure_logs(log_format: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Sends this process's log to standard error; without ``log_format`` as the launcher says."""
    chosen = LogFormat(log_format or environ.get(FORMAT_VARIABLE) or LogFormat.TEXT)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if chosen is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """The record as text, and its fields behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line; an exception follows on lines of its own."""
        fields = getattr(record, FIELDS, {})
        return " ".join([super().formatMessage(record), *(f"{key}={value}" for key, value in fields.items())])


class JsonFormatter(logging.Formatter):
    """The record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """``time`` (UTC), ``level``, ``logger``, ``message``, the fields, and ``exception`` if there is one."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = _line(moment.replace("+00:00", "Z"), record.levelname, record.name, record.getMessage())
        line.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def json_of_triton(line: str) -> str:
    """A line of Triton's own log as JSON; what the models log is JSON already and stays as it is."""
    if line.startswith("{") and line.endswith("}"):
        return line
    found = _TRITON_LINE.fullmatch(line)
    if not found:  # its tables, and what libraries write
        moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return json.dumps(_line(moment, "INFO", "triton", line), ensure_ascii=False)
    moment, level, source, text = found.groups()
    fields = _line(moment, _LEVELS[level], "triton", _unquoted(text)) | {"source": source}
    return json.dumps(fields, ensure_ascii=False)


def _line(moment: str, level: str, logger: str, message: str) -> dict[str, Any]:
    return {"time": moment, "level": level, "logger": logger, "message": message}


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except (ValueError, RecursionError):
        return text
