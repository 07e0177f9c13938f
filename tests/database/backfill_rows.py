"""Inserts texts for the tests of the backfill, and reads their state."""

from collections.abc import Callable

from shared.embedding.backfill import BackfillOutcome
from tests.database.rows import Connection

Run = Callable[..., BackfillOutcome]


def texts(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def held(owner: Connection) -> int:
    found = owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone()
    assert found
    return int(found[0])


def embedded(owner: Connection) -> int:
    found = owner.execute("select count(embedding) from music_knowledge").fetchone()
    assert found
    return int(found[0])
