"""Writes events for monitoring to stdout as JSON lines. They contain counts and names, never a text or a key."""

import sys
from datetime import UTC, datetime

import orjson


def emit(event: str, **fields: object) -> None:
    """Write an event. An error of stdout is ignored, so that it does not stop the caller."""
    line = orjson.dumps({"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
    try:
        # Write the line in one call, so that lines of several threads do not mix.
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return
