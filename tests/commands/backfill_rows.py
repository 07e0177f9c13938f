"""Rows for the tests of scripts/backfill.py."""

from tests.database.rows import Connection

MUSIC = ("--collection", "music_knowledge")


def texts(count: int) -> list[str]:
    return [f"jazz ballad number {number}" for number in range(count)]


def embedded(owner: Connection) -> int:
    found = owner.execute("select count(embedding) from music_knowledge").fetchone()
    assert found
    return int(found[0])


def held(owner: Connection) -> int:
    found = owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone()
    assert found
    return int(found[0])
