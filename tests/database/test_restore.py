"""Tests that an owner who is not a superuser can restore a dump, with the commands of docs/upgrade.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from tests.database.moved_data import (
    PROGRAMS,
    check_moved,
    documented,
    documented_sql,
    fill,
    full_text,
    refresh_full_text,
    run_script,
)
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster, make_directory, remove

HEADING = "Dump and restore"


@pytest.fixture
def other_cluster() -> Iterator[Cluster]:
    """A new server without the project's roles."""
    directory = make_directory("tonnetz-restore-")
    try:
        with Cluster(directory) as running:
            yield running
    finally:
        remove(directory)


@pytest.fixture
def target(other_cluster: Cluster, tmp_path: Path) -> SecretStr:
    """The owner's URL of a database that an administrator prepared with the documented statements."""
    (in_server,) = documented_sql(HEADING)
    (in_database,) = documented_sql("An owner without special rights", page="configuration.md")
    for database, statements in (("postgres", in_server), ("tonnetz", in_database)):
        script = tmp_path / f"{database}.sql"
        script.write_text(statements)
        psql = 'psql --no-psqlrc --set ON_ERROR_STOP=1 --dbname "$URL" --file "$SCRIPT"'
        run_script(psql, tmp_path, {"PATH": PROGRAMS, "URL": other_cluster.url(database), "SCRIPT": script})
    return SecretStr(other_cluster.url("tonnetz", user="app"))


def test_an_owner_without_special_rights_restores_by_the_documented_commands(
    cluster: Cluster, target: SecretStr, provider: FakeProvider, tmp_path: Path
) -> None:
    with cluster.empty() as source:
        fill(source, provider)
        servers = {
            "PATH": PROGRAMS,
            "OLD_URL": source.get_secret_value(),
            "DATABASE_URL": target.get_secret_value(),
        }
        printed = run_script(documented(HEADING), tmp_path, servers)
        assert printed == "", "an error or a warning was printed"
        before = everything(source)

    with psycopg.connect(target.get_secret_value(), autocommit=True) as owner:
        rights = "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls from pg_roles where rolname = current_user"
        assert owner.execute(rights).fetchone() == (False, False, False, False)
        assert full_text(owner, "adding") == ["adding a reverb"]
        # This simulates lexemes of another stemmer.
        owner.execute("alter table notes disable trigger user")
        owner.execute("update notes set fts = 'ad' where body = 'adding a reverb'")
        owner.execute("alter table notes enable trigger user, enable always trigger touch")
        assert full_text(owner, "adding") == []
        refresh_full_text(target, tmp_path)
        assert full_text(owner, "adding") == ["adding a reverb"]
    assert everything(target) == before, "rows, grants and the state of each trigger"
    check_moved(target, provider)


def everything(url: SecretStr) -> list[tuple[str, ...]]:
    """Each function, table, trigger, policy and index with its grants and comments, and rows of two collections."""
    # The owner is different, and grants have no order.
    grants = """array(select replace(g.entry, current_user || '=', 'owner=')
                from (select split_part(unnest({})::text, '/', 1)) g (entry) order by 1)::text"""
    # A dump leaves out the grants that every object has.
    relacl = """coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))"""
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        found = connection.execute(f"""
            select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid),
              {grants.format("p.proacl")}, obj_description(p.oid)
            from pg_proc p where p.pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)
            union all
            select 'relation', c.oid::regclass::text, c.relkind::text, {grants.format(relacl)}, obj_description(c.oid)
            from pg_class c where c.relnamespace in ('public'::regnamespace, 'embedding'::regnamespace)
            union all
            select 'trigger', t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled::text, null
            from pg_trigger t where not t.tgisinternal
            union all
            select 'policy', p.tablename, p.policyname, p.roles::text, p.qual from pg_policies p
            union all
            select 'index', i.indexname, i.indexdef, null, null
            from pg_indexes i where i.schemaname in ('public', 'embedding')
            union all
            select 'row', n.id::text, n.embedding::text, n.embedding_model, n.fts::text from public.notes n
            union all
            select 'row', m.id::text, m.embedding::text, m.embedding_model, m.fts::text from public.music_knowledge m
            order by 1, 2, 3""").fetchall()
        # A dump leaves out redundant brackets.
        return [tuple(re.sub("[()]", "", str(value)) for value in row) for row in found]
