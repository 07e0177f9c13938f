"""Events: one JSON line each on stdout, for whoever collects them. They hold counts and names, never a text or a key."""

import sys
from datetime import UTC, datetime

import orjson


def emit(event: str, **fields: object) -> None:
    """Write an event; a reader that went away is no reason to fail the work."""
    line = orjson.dumps({"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
    try:
        # One write: lines of several threads do not mix.
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return
