"""Builds a large table music_knowledge for scripts/bench/search.py, with clustered vectors and a natural distribution of
words.

Rows are loaded by binary COPY with the tracking triggers disabled. Each row is loaded with its model and the hash of its
text, which the triggers would check, so `verify_embeddings` returns 0.
"""

import hashlib
import json
import os
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from pydantic import SecretStr
from scratch import SCRATCH, drop_database, open_database

from shared.database.postgres import connect
from shared.embedded.migrations import list_migrations
from shared.embedded.server import start_embedded, stop_embedded

DIMENSIONS = 384
MODEL = "synthetic-384"
VOCABULARY = 50_000
CATEGORIES = (b"theory", b"history", b"genre", b"gear")
RARE = b"rare"  # every hundredth row
_CLUSTERS = 2_000
_CHUNK = 20_000
_TABLE = "public.music_knowledge"

Connection = psycopg.Connection[tuple[Any, ...]]
Vectors = NDArray[np.float32]


def start_server(shared_buffers: str) -> SecretStr:
    """Start a separate embedded server, because a change of shared_buffers needs a restart."""
    directory = SCRATCH / "search"
    url = start_embedded(directory)
    with connect(url) as owner:
        owner.execute(sql.SQL("alter system set shared_buffers = {}").format(sql.Literal(shared_buffers)))
        # The load is one long write. Checkpoints every few seconds would slow it down.
        owner.execute("alter system set max_wal_size = '16GB'")
        owner.execute("select pg_reload_conf()")
        waiting = owner.execute("select from pg_settings where name = 'shared_buffers' and pending_restart").fetchone()
    if waiting is not None:
        stop_embedded(directory)
        url = start_embedded(directory)
    return url


def quarter_of_memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4 // 2**20}MB"


@contextmanager
def loaded(rows: int, server: SecretStr, *, keep: bool) -> Iterator[tuple[SecretStr, dict[str, float]]]:
    """The database, built now or kept by an earlier run, and the seconds of each step of its build."""
    name = f"bench_search_{rows}"
    made_of = hashlib.sha256(b"".join(migration.path.read_bytes() for migration in list_migrations())).hexdigest()
    built = _built(server, name)
    if built is None or built["made_of"] != made_of:
        drop_database(name, server)
        built = {"made_of": made_of, "seconds": _build(open_database(name, server), rows)}
        with connect(server) as owner:
            # This comment marks the database as complete. It contains a digest of the migrations.
            comment = sql.Literal(json.dumps(built))
            owner.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(name), comment))
    yield open_database(name, server), built["seconds"]
    if not keep:
        drop_database(name, server)


def _built(server: SecretStr, name: str) -> dict[str, Any] | None:
    with connect(server) as owner:
        row = owner.execute(
            "select shobj_description(oid, 'pg_database')::json from pg_database where datname = %s", [name]
        ).fetchone()
    return row[0] if row else None


def _build(url: SecretStr, rows: int) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def timed(step: str, since: float) -> float:
        seconds[step] = round(time.perf_counter() - since, 1)
        print(f"  {step}: {seconds[step]:.0f} s", flush=True)
        return time.perf_counter()

    with connect(url) as owner:
        owner.execute("select register_embedding_model(%s, 'bench', %s)", [MODEL, DIMENSIONS])
        owner.execute("select set_collection_model('music_knowledge', %s)", [MODEL])
        # All indexes but that of the key are built after the load, as with any bulk load.
        indexes = owner.execute(
            "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
            " where indrelid = 'public.music_knowledge'::regclass and not indisprimary"
        ).fetchall()
        owner.execute("".join(f"drop index {name};" for name, _ in indexes))
        owner.execute(f"alter table {_TABLE} disable trigger user")
        since = time.perf_counter()
        _copy(owner, rows)
        since = timed("copy", since)
        # The index is built in memory. Each row needs 768 bytes for its vector, some 600 for its neighbours, and more for the
        # overhead of the memory allocator.
        owner.execute(f"set maintenance_work_mem = '{max(256, rows * 2_400 // 2**20)}MB'")
        owner.execute(";".join(definition for _, definition in indexes))
        since = timed("other indexes", since)
        owner.execute(f"alter table {_TABLE} enable trigger user")
        owner.execute(f"vacuum analyze {_TABLE}")
        since = timed("vacuum", since)
        owner.execute("select create_embedding_index('music_knowledge')")
        timed("vector index", since)
    return seconds


def _copy(owner: Connection, rows: int) -> None:
    words = [word.encode() for word in _vocabulary()]
    centers = _unit(np.random.default_rng(2).standard_normal((_CLUSTERS, DIMENSIONS), np.float32))
    shares = 1 / (np.arange(1, VOCABULARY + 1) + 2.7)
    upto = np.cumsum(shares / shares.sum())
    random = np.random.default_rng(3)
    statement = (
        f"copy {_TABLE} (id, topic, category, content, embedding, embedding_model, embedding_hash)"
        " from stdin with (format binary)"
    )
    with owner.cursor().copy(statement) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for first in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - first)
            vectors = scatter(centers[random.integers(0, _CLUSTERS, count)], 0.6, random).astype(">f4")
            lengths = random.integers(12, 30, count)
            drawn = iter(np.searchsorted(upto, random.random(int(lengths.sum()))))
            copy.write(
                b"".join(
                    _row(first + i, [words[next(drawn)] for _ in range(lengths[i])], vectors[i].tobytes())
                    for i in range(count)
                )
            )
        copy.write(struct.pack(">h", -1))


def _row(number: int, words: list[bytes], vector: bytes) -> bytes:
    topic, content = b" ".join(words[:3]), b" ".join(words[3:])
    category = RARE if number % 100 == 0 else CATEGORIES[number % len(CATEGORIES)]
    document = b"\n".join((topic, category, content))  # as embedding.document_text has it
    fields = (
        row_id(number).bytes,
        topic,
        category,
        content,
        struct.pack(">hh", DIMENSIONS, 0) + vector,
        MODEL.encode(),
        hashlib.sha256(document).digest(),
    )
    return struct.pack(">h", len(fields)) + b"".join(struct.pack(">i", len(field)) + field for field in fields)


def row_id(number: int) -> uuid.UUID:
    """The id of a row. Ids are distributed over all uuids, like random ones."""
    return uuid.UUID(int=(number * 2_654_435_761 % 2**32) << 96 | number)


def scatter(points: Vectors, spread: float, random: np.random.Generator) -> Vectors:
    """Unit vectors at a distance of about `spread` from the points."""
    return _unit(points + random.standard_normal(points.shape, np.float32) * np.float32(spread / DIMENSIONS**0.5))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _vocabulary() -> list[str]:
    """Invented words, the most frequent first."""
    consonants, random = "bdfgklmnprtvz", np.random.default_rng(1)
    syllables = [consonant + vowel for consonant in consonants for vowel in "aeiou"]
    words: set[str] = set()
    while len(words) < VOCABULARY:
        chosen = random.integers(0, len(syllables), random.integers(2, 5))
        words.add("".join(syllables[i] for i in chosen) + consonants[random.integers(0, len(consonants))])
    ordered = sorted(words)
    return [ordered[i] for i in random.permutation(VOCABULARY)]
