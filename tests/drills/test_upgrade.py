"""Tests upgrades of filled databases: through every migration, and from an older PostgreSQL."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

import shared.embedded.server
import shared.embedded.transfer
from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import list_migrations, migrate
from shared.embedded.server import read_version, start_embedded, stop_embedded
from shared.embedded.transfer import transfer
from shared.embedding.collection import Collection
from shared.embedding.shipped import SHIPPED
from shared.errors import ConfigurationError, DatabaseContractError, DatabaseUnavailable
from tests.database.rows import MUSIC, Connection, embed_all, end_leases
from tests.drills.inputs_rows import SYNONYMS, invalid_states
from tests.drills.upgrade_data import answers, contents, coverage, missing_from
from tests.drills.upgrade_older import (
    ROOT,
    analyzed,
    catalogue,
    documented_commands,
    make_older,
    sequences,
    start,
    stop,
    without_full_text,
)
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster, make_directory

# Upgrades through every migration


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
    """Write rows into every existing table; save one row of each collection and fail one, if the functions exist."""
    present = "select proname from pg_proc where pronamespace = 'public'::regnamespace"
    there = {name for (name,) in owner.execute(present)}
    if "track_embeddings" in there and owner.execute("select to_regclass('public.articles')").fetchone() == (None,):
        owner.execute(OWN_TABLE)
    for table, insert in ROWS.items():
        if owner.execute("select to_regclass(%s)", [table]).fetchone() != (None,):
            # One of the two rows will be saved, and the other one will fail.
            owner.execute(insert.replace("{step}", f"{step}.1"))
            owner.execute(insert.replace("{step}", f"{step}.2"))
    if "save_embeddings" not in there:
        return
    owner.execute("select register_embedding_model(%s, %s, %s)", [provider.model, "fake", provider.dimensions])
    for (collection,) in owner.execute("select name from embedding.collections").fetchall():
        owner.execute("select embedding.check_model(embedding.get_collection(%s), %s)", [collection, provider.model])
        rows = owner.execute(
            "select row_id, text, text_hash from claim_embeddings(%s, 2, 3600)", [collection]
        ).fetchall()
        for place, (row_id, text, text_hash) in enumerate(rows):
            if place:
                failed = json.dumps([{"row_id": row_id, "error": "no", "final": True}])
                owner.execute("select fail_embeddings(%s, %s)", [collection, failed])
            else:
                vector = str(provider.embed_query(text).tolist())
                saved = json.dumps([{"row_id": row_id, "text_hash": text_hash, "embedding": vector}])
                owner.execute("select save_embeddings(%s, %s, %s)", [collection, provider.model, saved])
    if "record_embedding_run" in there:
        owner.execute("select record_embedding_run(status => 'completed')")


def test_every_migration_keeps_what_was_written_before_it(
    cluster: Cluster, provider: FakeProvider, tmp_path: Path
) -> None:
    """Before each migration, rows are written, claimed, saved and failed with the functions that exist then."""
    with cluster.empty() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        for migration in list_migrations():
            schema = owner.execute("select to_regnamespace('embedding') is not null").fetchone()
            if schema == (True,):
                write_something(owner, migration.version, provider)
                before = contents(owner)
            else:
                before = {}
            shutil.copy(migration.path, tmp_path)
            assert migrate(url, collections=SHIPPED, folder=tmp_path) == [migration.version]
            lost = missing_from(before, contents(owner))
            assert not lost, f"{migration.path.name} loses: {lost[:3]}"
        write_something(owner, "the end", provider)
        assert set(ROWS) <= {table for table, rows in contents(owner).items() if rows}
        owner.execute("select retry_failed_embeddings(name) from embedding.collections")
        end_leases(owner)
        with PostgresDatabase(url) as database:
            for (collection,) in owner.execute("select name from embedding.collections").fetchall():
                work = Collection(database, collection)
                assert embed_all(work, provider) > 0
                assert work.verify_embeddings() == 0
            assert [one for one in coverage(database) if one.total != one.embedded] == []  # type: ignore[attr-defined]
        assert invalid_states(owner) == []


# On disk


@pytest.fixture
def data_dir(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A data directory with a server that ends with the test."""
    directory = make_directory("tonnetz-upgrade-")
    yield directory
    if version := read_version(directory / "postgres"):
        stop(directory / "postgres", version)
    shutil.rmtree(directory, ignore_errors=True)


def listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("16", "rename its folder postgres to postgres-16 and run scripts/migrate.py --from"),
        ("17\n", "pg_dump"),
        ("99", "newer"),
        ("9.6", "an unknown version"),
        ("", "an unknown version"),
    ],
)
def test_a_data_directory_of_another_postgresql_is_not_changed_and_the_fix_is_named(
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


def test_a_command_on_another_postgresql_prints_one_line_and_exits_2(tmp_path: Path) -> None:
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
        assert line.startswith("error: TONNETZ_DATA_DIR contains a database of PostgreSQL 16")
        assert "scripts/migrate.py --from" in line
        assert "(docs/upgrade.md)" in line


# From an older PostgreSQL


@pytest.fixture
def older(data_dir: Path, provider: FakeProvider) -> Path:
    """A data directory of the oldest PostgreSQL there is, with rows in every table and state."""
    make_older(data_dir / "postgres", provider)
    return data_dir


@pytest.fixture
def renamed(older: Path) -> Path:
    """The folder postgres of `older`, after its server was stopped and the folder was renamed."""
    stop(older / "postgres")
    return (older / "postgres").rename(older / "renamed")


def test_the_documented_commands_copy_all_data_of_an_older_postgresql(
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
    left = sorted(path.name for path in older.iterdir() if path.suffix != ".lock")
    assert left == ["postgres", "postgres-16"], "no dump is left"

    url = start_embedded(older)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        assert without_full_text(contents(owner)) == without_full_text(before)
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
        # Only rows that were pending, failed or leased have to be embedded, and so paid for.
        end_leases(owner)
        work = Collection(database, MUSIC)
        assert work.retry_failed_embeddings() == 1
        assert embed_all(work, provider) == 3
        for (collection,) in owner.execute("select name from embedding.collections").fetchall():
            assert embed_all(Collection(database, collection), provider) == 0
        assert invalid_states(owner) == []


def run_documented(command: str, data_dir: Path, folder: Path) -> str:
    """Run a command of the page with this interpreter and this data directory; return what it prints."""
    words = [word.replace(".tonnetz/", f"{data_dir}/") for word in shlex.split(command)]
    if words[0] == ".venv/bin/python":
        words[:2] = [sys.executable, str(ROOT / words[1])]
    environment = {"PATH": os.defpath, "HOME": str(folder), "TONNETZ_DATA_DIR": str(data_dir)}
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), words
    return ended.stdout


@pytest.mark.drill
def test_a_failed_copy_is_rolled_back_and_can_be_repeated(
    older: Path, renamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = start_embedded(older)
    failing = tmp_path / "last.sql"
    failing.write_text("select 1 / 0;")
    with monkeypatch.context() as patched:
        patched.setattr(shared.embedded.transfer, "REFRESH_FULL_TEXT", failing)
        with pytest.raises(DatabaseContractError, match="division by zero") as failed:
            transfer(renamed, url)
    assert "\n" not in failed.value.message
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        made = "select count(*) from pg_class where oid >= 16384 union all select count(*) from pg_roles where rolname = 'anon'"
        assert owner.execute(made).fetchall() == [(0,), (0,)]
        transfer(renamed, url)
        assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (3,)
        with pytest.raises(ConfigurationError, match="contains tables"):
            transfer(renamed, url)


@pytest.mark.drill
def test_a_running_server_of_the_old_folder_is_stopped_before_a_copy(older: Path) -> None:
    """The old server uses the address of the new one. If it still ran, the new database would be copied into itself."""
    start_embedded(older / "new")
    stop_embedded(older / "new")
    # This is like a killed program: the server keeps running.
    shared.embedded.server._present.pop(older / "postgres").leave()
    (older / "postgres").rename(older / "renamed")
    (older / "new" / "postgres").rename(older / "postgres")
    with pytest.raises(DatabaseUnavailable, match="still running on the renamed folder"):
        transfer(older / "renamed", start_embedded(older))
    assert not (older / "renamed" / "postmaster.pid").exists(), "it was stopped"
    stop_embedded(older)

    url = start_embedded(older)
    transfer(older / "renamed", url)
    with psycopg.connect(url.get_secret_value()) as owner:
        assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (3,)


def test_a_folder_that_cannot_be_copied_is_an_error_of_one_line(tmp_path: Path, data_dir: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "migrate.py"), "--from", str(tmp_path)],
        cwd=tmp_path,
        env={"DATABASE_URL": "postgresql://user@127.0.0.1:1/none", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: --from fills the embedded database: leave DATABASE_URL and SUPABASE_URL unset\n",
    )
    url = start_embedded(data_dir)
    for version in (None, "", "9.6", "17", "99"):
        if version is not None:
            (tmp_path / "PG_VERSION").write_text(version)
        with pytest.raises(ConfigurationError, match="contains no database of PostgreSQL"):
            transfer(tmp_path, url)
