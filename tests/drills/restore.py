"""A drill of a restore: writes without triggers, an old queue and a clock that was ahead. Nothing is lost or paid twice."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from tests.database.moved_data import NOTES, PROGRAMS, documented, documented_sql, run_script
from tests.drills.audit import is_vector_of
from tests.drills.harness import ROOT, Connection, Finding, Length, Site, open_cluster, open_site, texts_sent
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

# Of each collection: rows that are embedded at first. Half as many are queued in each round.
ROWS = {Length.SHORT: 40, Length.FULL: 400, Length.LONG: 1000}
ROUNDS = {Length.SHORT: 1, Length.FULL: 4, Length.LONG: 12}
# A claim takes at most 1,000 rows.
MOST_CLAIMED = 900
LEASE_SECONDS = 1
# Of each collection, about as many rows are searched by a word of their own.
SEARCHED = 20

# How a row with a text is inserted into each collection, and the column of the text. The key is `id` everywhere.
TABLES = {
    "music_knowledge": ("insert into music_knowledge (topic, content) select '', t from unnest(%s::text[]) t", "content"),
    "datasets": ("insert into datasets (title, enrichment_status) select t, 'enriched' from unnest(%s::text[]) t", "title"),
    "code_chunks": ("insert into code_chunks (id, content) select gen_random_uuid(), t from unnest(%s::text[]) t", "content"),
    "notes": ("insert into notes (body) select t from unnest(%s::text[]) t", "body"),
}  # fmt: skip

# Times that a clock which was ahead leaves behind, in turn: a lease of another year, one of the same day, a wait. The fourth is
# long ago.
CLOCK = """
    update embedding.queue q
    set leased_at = now() + t.leased, available_at = now() + t.available
    from (
      select collection_id, row_id, row_number() over (order by row_id) % 5 as turn
      from embedding.queue where failed_at is null
    ) r
    join (values
      (0, interval '10 years', interval '10 years 1 minute'),
      (1, '3 hours', '4 hours'),
      (2, null, '3 hours'),
      (3, null, '-10 years')
    ) t (turn, leased, available) on t.turn = r.turn
    where q.collection_id = r.collection_id and q.row_id = r.row_id;

    -- The others are ready, or leased for a few seconds to a worker that is gone.
    update embedding.queue set available_at = now()
    where failed_at is null and leased_at is null and available_at between now() and now() + interval '1 hour';

    update embedding.queue set failed_at = now() + interval '10 years' where failed_at is not null;
    update music_knowledge set created_at = now() + interval '10 years', updated_at = now() + interval '10 years';
    update embedding.runs
    set started_at = now() + interval '10 years', begun_at = now() + interval '10 years', reported_at = now() + interval '10 years'
    where finished_at is null;
"""


@dataclass
class _Rows:
    """The rows of a collection before they are repaired."""

    texts: dict[str, str | None] = field(default_factory=dict)
    # Rows whose vector belongs to their text, and the texts that must be paid for.
    good: list[str] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)
    # How many have the vector of a former text: only a write without triggers leaves one.
    stale: int = 0


@dataclass
class _Sum:
    """What happened in all rounds."""

    rows: int = 0
    embedded: int = 0
    wrong: int = 0
    paid: int = 0
    kept: int = 0
    entries: int = 0


def restore(cluster: Cluster, length: Length) -> Finding:
    """Dump and restore a half-embedded database, disturb it, repair it, and count what the provider was asked for."""
    finding, total, rows = Finding(), _Sum(), ROWS[length]
    with open_cluster() as other, open_site(cluster) as source:
        fresh = _texts()
        with source.connect() as owner, ProtocolServer() as first:
            owner.execute(NOTES)
            for name, (insert, _) in TABLES.items():
                owner.execute(insert, [[f"{name} {next(fresh)}" for _ in range(rows)]])
            finding.expect(_run(source, first) == 0, "the first backfill fails")
            old_queue = _interrupt(source, first, rows // 2, fresh)
        with closing(Site(other, _prepare(other), source.folder)) as target:
            urls = {"OLD_URL": source.url.get_secret_value(), "DATABASE_URL": target.url.get_secret_value()}
            run_script(documented("Dump and restore"), source.folder, {"PATH": PROGRAMS, **urls})
            rights = target.ask(
                "select rolsuper or rolcreaterole or rolbypassrls from pg_roles where rolname = current_user"
            )
            finding.expect(rights is False, "the owner has special rights, so the drill tested little")
            for number in range(ROUNDS[length]):
                with ProtocolServer() as provider:
                    if number:
                        old_queue = _interrupt(target, provider, rows // 2, fresh)
                    provider.calls.clear()
                    _disturb(other, target, old_queue, fresh)
                    _repair(finding, target, provider, total)
    finding.done = (
        f"a database of {len(TABLES)} collections with leased, failed and waiting rows was dumped and restored by an owner"
        " without special rights; then rows were written with `session_replication_role = replica`, the queue was replaced by an"
        f" older one, and times were set to those of a clock that was ahead (rounds: {ROUNDS[length]})"
    )
    finding.found = (
        f"in all rounds together: `--verify` found {total.wrong:,} rows, and 0 after `--repair` and another run;"
        f" {total.embedded:,} of {total.rows:,} rows were embedded; the provider got each of {total.paid:,} texts once, and no text"
        f" of {total.kept:,} rows that had their vector; {total.entries:,} entries of old queues were worked off or removed"
    )
    return finding


def _texts() -> Iterator[str]:
    """Texts that are all different."""
    for number in count():
        yield f"fresh number{number}"


def _run(site: Site, server: ProtocolServer, *arguments: str) -> int:
    """Run `scripts/backfill.py` for all collections; the exit code."""
    environment = site.environment(server)
    return site.start(str(ROOT / "scripts/backfill.py"), *arguments, environment=environment).finish(300)


def _interrupt(site: Site, server: ProtocolServer, rows: int, fresh: Iterator[str]) -> Path:
    """Leave leased, waiting and failed rows behind, twice, with a backfill in between; returns a dump of the first queue."""
    dump = site.folder / "queue.dump"
    _queue_rows(site, rows, fresh)
    script = 'pg_dump --dbname "$URL" --format custom --data-only --table embedding.queue --file "$DUMP"'
    run_script(script, site.folder, {"PATH": PROGRAMS, "URL": site.url.get_secret_value(), "DUMP": dump})
    with site.connect() as owner:
        # When that queue is restored, its failed rows of two collections have their vectors, and every third row is gone.
        owner.execute("select retry_failed_embeddings('datasets'), retry_failed_embeddings('notes')")
        for name in TABLES:
            owner.execute(
                f"delete from {name} where id in (select id from (select s.id, row_number() over (order by q.row_id) as place"
                f" from {name} s join embedding.queue q on q.row_id = s.id::text) p where place % 3 = 0)"
            )
    _run(site, server)
    _queue_rows(site, rows, fresh)
    return dump


def _queue_rows(site: Site, rows: int, fresh: Iterator[str]) -> None:
    """Insert rows; a worker leases half of them, reports that some of these failed, and disappears."""
    with site.connect() as owner:
        for name, (insert, _) in TABLES.items():
            owner.execute(insert, [[f"{name} {next(fresh)}" for _ in range(rows)]])
            claim = "select row_id from claim_embeddings(%s, %s, %s)"
            wanted = [name, min(rows // 2, MOST_CLAIMED), LEASE_SECONDS]
            claimed = [row[0] for row in owner.execute(claim, wanted).fetchall()]
            refused = [
                {"row_id": row_id, "error": "refused", "final": place % 4 == 1}
                for place, row_id in enumerate(claimed)
                if place % 2
            ]
            owner.execute("select fail_embeddings(%s, %s)", [name, Jsonb(refused)])
        owner.execute("select record_embedding_run(collection => 'notes', status => 'running')")


def _prepare(other: Cluster) -> SecretStr:
    """The owner's URL of a database that an administrator prepared with the documented statements."""
    (in_server,) = documented_sql("Dump and restore")
    (in_database,) = documented_sql("An owner without special rights", page="configuration.md")
    for database, statements in (("postgres", in_server), ("tonnetz", in_database)):
        with psycopg.connect(other.url(database), autocommit=True) as administrator:
            for statement in filter(str.strip, statements.split(";")):
                administrator.execute(statement)
    return SecretStr(other.url("tonnetz", user="app"))


def _disturb(other: Cluster, target: Site, old_queue: Path, fresh: Iterator[str]) -> None:
    """Write without triggers, replace the queue by the old one, and set times as a clock does that was ahead."""
    with psycopg.connect(other.url(target.url), autocommit=True) as administrator:
        administrator.execute("set session_replication_role = replica")
        for name in TABLES:
            _write(administrator, name, fresh)
        administrator.execute("update notes set fts = null where id % 7 = 0")
        script = """
            psql --no-psqlrc --quiet --dbname "$URL" --command 'truncate embedding.queue'
            pg_restore --dbname "$URL" --data-only --exit-on-error "$DUMP"
        """
        run_script(script, target.folder, {"PATH": PROGRAMS, "URL": target.url.get_secret_value(), "DUMP": old_queue})
        administrator.execute(CLOCK)


def _write(replica: Connection, name: str, fresh: Iterator[str]) -> None:
    """Insert, change and delete rows of a collection; some get the text of a row that keeps its vector."""
    insert, column = TABLES[name]
    # Only texts of a single row: the vector of a changed row may otherwise be the one of another row's text.
    single = f"select id, count(*) over (partition by embedding_hash) as rows from {name} where embedding is not null"
    embedded = [
        row[0] for row in replica.execute(f"select id::text from ({single}) u where rows = 1 order by 1").fetchall()
    ]
    pending = [
        row[0] for row in replica.execute(f"select id::text from {name} where embedding is null order by 1").fetchall()
    ]
    share = max(len(embedded) // 10, 2)
    (kept,) = replica.execute(f"select {column} from {name} where id::text = %s", [embedded[-1]]).fetchone() or ("",)
    twice = f"{name} {next(fresh)}"
    # A blank text needs no vector. A dataset must have a title.
    blank = [""] if name != "datasets" else []
    replica.execute(insert, [[*(f"{name} {next(fresh)}" for _ in range(share)), twice, twice, kept, *blank]])
    parts = [embedded[place * share : (place + 1) * share] for place in range(3)]
    for place, row_id in enumerate(parts[0]):
        text = kept if place == 0 else f"{name} {next(fresh)}"
        replica.execute(f"update {name} set {column} = %s where id::text = %s", [text, row_id])
    replica.execute(f"update {name} set embedding = null where id::text = any (%s)", [parts[1]])
    replica.execute(f"delete from {name} where id::text = any (%s)", [[*parts[2], *pending[::4]]])


def _read(site: Site, name: str) -> _Rows:
    """The rows as they are now."""
    found = _Rows()
    with site.connect() as owner:
        for row_id, text, held, good in owner.execute(
            f"select t.id::text, embedding.present_text(embedding.document_text(t)), t.embedding is not null, coalesce("
            f"substring(t.embedding_hash for 32) = embedding.text_hash(embedding.document_text(t)), false) from {name} t"
        ):
            found.texts[row_id] = text
            found.stale += held and not good
            if held and good:
                found.good.append(row_id)
            elif text is not None:
                found.needed.add(text)
    found.needed -= {found.texts[row_id] for row_id in found.good}
    return found


def _repair(finding: Finding, site: Site, provider: ProtocolServer, total: _Sum) -> None:
    """Run the commands of the documentation, and check the rows, the queue and the provider's calls."""
    before = {name: _read(site, name) for name in TABLES}
    total.entries += site.ask("select count(*) from embedding.queue")
    ahead = site.ask("select count(*) from embedding.queue where available_at > now() + interval '1 hour'")
    finding.expect(ahead, "no time of the queue is in the future, so the drill tested little")
    codes = [_run(site, provider, "--verify")]
    total.wrong += sum(site.ask("select verify_embeddings(%s)", name) for name in TABLES)
    codes += [_run(site, provider, *flags) for flags in (["--repair"], ["--retry-failed", "--verify"])]
    finding.expect(codes == [1, 1, 0], f"verify, repair and the last run exit {codes}, not [1, 1, 0]")
    for name, rows in before.items():
        total.embedded += _judge_rows(finding, site, name, rows)
        total.rows += sum(text is not None for text in rows.texts.values())
        total.kept += len(rows.good)
        finding.expect(rows.stale, f"{name}: no row had the vector of a former text, so the drill tested little")
        total.paid += len(rows.needed)
    needed = set().union(*(rows.needed for rows in before.values()))
    sent = texts_sent([provider])
    finding.expect(needed, "no text needed a vector, so the drill tested nothing")
    again = [text for text, times in sent.items() if times > 1]
    finding.expect(not again, f"{len(again)} texts were paid twice, such as {again[:1]}")
    needless = sorted(set(sent) - needed)
    finding.expect(not needless, f"{len(needless)} texts were paid that had a vector, such as {needless[:1]}")
    finding.expect(not needed - set(sent), f"{len(needed - set(sent))} texts were not sent")
    left = site.ask("select count(*) from embedding.queue")
    finding.expect(left == 0, f"{left} entries are left in the queue")
    finding.expect(site.ask("select has_ready_embeddings()") is False, "the schedule would start another run")
    alive = site.ask("select count(*) from list_embedding_runs(max_rows => null) where status = 'running'")
    finding.expect(alive == 0, f"{alive} runs are shown as running")


def _judge_rows(finding: Finding, site: Site, name: str, before: _Rows) -> int:
    """Expect the same rows, each with the vector of its text, and found by its words; returns how many have a vector."""
    with site.connect() as owner:
        rows = owner.execute(
            f"select t.id::text, embedding.present_text(embedding.document_text(t)), t.embedding::text from {name} t"
        ).fetchall()
    finding.expect({row_id: text for row_id, text, _ in rows} == before.texts, f"{name}: rows were lost or changed")
    missing = [text for _, text, vector in rows if text is not None and vector is None]
    finding.expect(not missing, f"{name}: {len(missing)} rows have no vector, such as {missing[:1]}")
    wrong = [text for _, text, vector in rows if vector is not None and not (text and is_vector_of(vector, text))]
    finding.expect(not wrong, f"{name}: {len(wrong)} vectors belong to another text, such as {wrong[:1]}")
    mismatched = site.ask("select verify_embeddings(%s)", name)
    finding.expect(mismatched == 0, f"{name}: verify_embeddings finds {mismatched} rows at the end")
    with_text = [(row_id, text) for row_id, text, _ in rows if text]
    for row_id, text in with_text[:: len(with_text) // SEARCHED + 1]:
        hits = site.ask("select array_agg(row_id) from embedding.search_hits(%s, %s)", name, text.split()[-1])
        finding.expect(row_id in (hits or []), f"{name}: full-text search does not find {text!r}")
    return len(with_text) - len(missing)
