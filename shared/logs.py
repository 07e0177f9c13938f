"""Writes log records to stderr with the id of their request, and removes secrets from them."""

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import orjson

from shared.errors import HIDDEN, hide_userinfo

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


_LETTERS = {"\t": "t", "\n": "n", "\r": "r", "\b": "b", "\f": "f"}


class Mask:
    """Replaces secrets in texts, also where a secret is escaped as in JSON, in a URL or by `repr`.

    The user and password of every URL are replaced too.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Replace the longest secret first, because one secret may contain another.
        longest = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._secrets = re.compile("|".join("".join(map(_written, each)) for each in longest)) if longest else None

    def hide(self, value: object) -> object:
        """The value without secrets. A value of a type that JSON does not have becomes a text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.hide_in(str(name)): self.hide(each) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.hide(each) for each in value]
        return self.hide_in(str(value))

    def hide_in(self, text: str) -> str:
        """The text without secrets."""
        text = self._secrets.sub(HIDDEN, text) if self._secrets else text
        return hide_userinfo(text)


def _written(character: str) -> str:
    """A pattern for a character: unchanged, escaped in a URL, by `repr` or by JSON, or by several of them in turn."""
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    encoded = character.encode("utf-8", "surrogatepass")
    units = character.encode("utf-16-be", "surrogatepass").hex()
    escapes = [
        "".join(f"%{byte:02x}" for byte in encoded),
        "".join(rf"\\+x{byte:02x}" for byte in encoded),
        rf"\\+x{code:02x}",
        rf"\\+U{code:08x}",
        "".join(rf"\\+u{units[start : start + 4]}" for start in range(0, len(units), 4)),
    ]
    if character in _LETTERS:
        escapes.append(rf"\\+{_LETTERS[character]}")
    if character == " ":
        escapes.append(r"\+")
    # Each further escaping adds backslashes.
    plain = r"\\+" if character == "\\" else rf"\\*{re.escape(character)}"
    return f"(?:{plain}|(?i:{'|'.join(escapes)}))"


class JsonFormatter(logging.Formatter):
    """Formats time, level, logger, message, request id and the fields of `extra={"fields": {...}}` as JSON.

    An exception is logged by its type and source lines only, because its message may quote a row.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._mask = Mask(secrets)

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
        return orjson.dumps(self._mask.hide(line)).decode()


class PlainFormatter(logging.Formatter):
    """Formats the level and the message for a terminal, without the secrets of the settings."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(f"{record.levelname} {record.getMessage()}")


_known: set[str] = set()
# Created when the first text is written, because it takes time that most commands do not need.
_mask: Mask | None = None


def remember_secrets(secrets: Iterable[str]) -> None:
    """Add secrets to those that `hide_secrets` replaces."""
    global _mask
    if not _known.issuperset(given := set(secrets)):
        _known.update(given)
        _mask = None


def hide_secrets(text: str) -> str:
    """The text without the secrets of the settings that this process has read."""
    global _mask
    mask = _mask = _mask or Mask(_known)
    return mask.hide_in(text)


def configure_logs(level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send all logs of the process through JsonFormatter; safe to repeat.

    Libraries that log every request (httpx) may log only warnings, because their other lines contain addresses.
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
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
