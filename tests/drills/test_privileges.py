"""Tests which functions and tables each role can use, and that no code of a caller runs as the owner."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from tests.database.rows import Connection
from tests.drills.inputs_rows import fill_database, fingerprint
from tests.drills.privileges_trials import ROLES, golden, permitted, role_without_grants, trials
from tests.fake_provider import FakeProvider

Role = Callable[..., AbstractContextManager[Connection]]


def test_every_role_may_do_what_the_golden_file_says_and_nothing_else(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    fill_database(owner, database, provider)
    before = fingerprint(owner)
    expected = golden()
    found: dict[str, frozenset[str]] = {}
    with role_without_grants(owner):
        for key, name, statements in trials(owner):
            found[key] = frozenset(
                role for role in ROLES if any(permitted(owner, role, name, statement) for statement in statements)
            )
    wrong = [
        f"{key}: {sorted(found.get(key, ()))} may, the golden file says {sorted(expected.get(key, ()))}"
        for key in sorted({*expected, *found})
        if found.get(key) != expected.get(key)
    ]
    assert not wrong, "\n".join(wrong)
    assert len(found) * len(ROLES) > 500
    assert fingerprint(owner) == before


OUT_OF_REACH = (
    "create table public.mine (id int)",
    "create table embedding.mine (id int)",
    "create function public.mine() returns int language sql return 1",
    "create function embedding.document_text(r pg_catalog.pg_class) returns text language sql return ''",
    "create table extensions.mine (id int)",
    "create table auth.mine (id int)",
    "create schema mine",
    "create trigger mine before update on public.music_knowledge for each row"
    " execute function suppress_redundant_updates_trigger()",
    "create trigger mine instead of insert on public.dataset_overview for each row"
    " execute function suppress_redundant_updates_trigger()",
    "truncate public.music_knowledge",
    "reindex table public.music_knowledge",
    "update embedding.collections set key_column = 'title'",
    "insert into embedding.collections (name, key_column, key_type) values ('mine', 'oid', 'oid')",
    "create trigger embedding_check_insert after insert on public.datasets referencing new table as new_rows"
    " for each statement execute function embedding.check_vectors('1')",
    "delete from embedding.collections",
    "alter table public.music_knowledge disable row level security",
    "alter table public.music_knowledge disable trigger all",
    "drop function public.claim_embeddings",
    "drop trigger embedding_check_update on public.music_knowledge",
    "set session_replication_role = replica",
    "alter role anon superuser",
    "grant service_role to anon",
    "select pg_read_file('PG_VERSION')",
    "copy public.music_knowledge to program 'true'",
    "select * from pg_catalog.pg_authid",
    "select * from supabase_migrations.schema_migrations",
    "alter database postgres set work_mem = '1GB'",
)


@pytest.mark.parametrize("statement", OUT_OF_REACH)
def test_api_roles_reach_only_their_functions_and_tables(owner: Connection, statement: str) -> None:
    with role_without_grants(owner):
        for role in ROLES:
            with owner.transaction(force_rollback=True):
                owner.execute(f"set local role {role}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    owner.execute(statement)


# Objects that a role may create in its session: their code raises an error if another role runs it.
LURES = """
    create function pg_temp.tell(anything anyelement) returns boolean language plpgsql as $$
    begin
      if current_user <> {role} then raise exception using errcode = 'ZZ001', message = 'run as ' || current_user; end if;
      return true;
    end $$;
    create function pg_temp.tell_row() returns trigger language plpgsql as $$
    begin perform pg_temp.tell(true); return new; end $$;
    create view pg_temp.lure as select 1::bigint as id, 'a text' as s, null::extensions.vector as embedding,
      case when not t.ran then 'fake' end as embedding_model from (select pg_temp.tell(true) as ran offset 0) t;
"""


_NAMED = "create domain pg_temp.{0} as pg_catalog.{0} check (pg_temp.tell(true))"
_COLLECTION = (
    "jsonb_populate_record(null::embedding.tracked_tables, jsonb_build_object('id', 1, 'name', 'x', 'key_column', 'id',"
    " 'key_type', 'bigint', 'source', 'pg_temp.lure'::regclass::oid::text, 'retiring_models', '{fake}'::text[]))"
)


_FIRED = (
    "update public.music_knowledge set content = content || ' edited'",
    "insert into public.notes values (9, 'x')",
)


_RENAME = "update public.genre_tags set name = upper(name)"
# Each of these tries to make a function that runs as its owner execute code of the caller.
WAYS: dict[str, tuple[str, ...]] = {
    "a trigger on a tracked table": (
        "create trigger mine before update on public.music_knowledge for each row execute function pg_temp.tell_row()",
        *_FIRED,
    ),
    "the condition of a trigger on a tracked table": (
        "create trigger mine before update on public.music_knowledge for each row when (pg_temp.tell(new.id))"
        " execute function suppress_redundant_updates_trigger()",
        *_FIRED,
    ),
    "a trigger on a table that a cascade writes": (
        "create trigger mine before delete on public.dataset_scores for each row execute function pg_temp.tell_row()",
        "delete from public.datasets",
    ),
    "a trigger on a table that follows another": (
        "create trigger mine before update on public.mir_synonyms for each row execute function pg_temp.tell_row()",
        _RENAME,
    ),
    "a trigger on a user's table": (
        "create trigger mine before update on public.notes for each row execute function pg_temp.tell_row()",
        "update public.notes set body = 'edited'",
    ),
    "a trigger on a table that is to be tracked": (
        "create trigger mine before update on public.later for each row execute function pg_temp.tell_row()",
        "select track_embeddings('public.later')",
    ),
    "the condition of a trigger on a table that is to be tracked": (
        "create trigger mine before update on public.later for each row when (pg_temp.tell(new.id))"
        " execute function suppress_redundant_updates_trigger()",
        "select track_embeddings('public.later')",
    ),
    "a collection that is made up": (
        "create cast (pg_temp.lure as text) with inout as implicit",
        f"select embedding.queue_pending_rows({_COLLECTION})",
    ),
    "a collection that lies elsewhere": (
        "create table pg_temp.mine (like public.notes); create trigger embedding_check_insert after insert on pg_temp.mine"
        " referencing new table as new_rows for each statement execute function embedding.check_vectors('1')",
        "update embedding.collections set retiring_models = '{fake}' where name = 'notes'",
        "select embedding.retire_models('notes')",
    ),
    "a collection of the caller": (
        "insert into embedding.collections (name, key_column, key_type, retiring_models) values ('mine', 'id', 'bigint', '{fake}')",
        "select embedding.retire_models('mine')",
    ),
    "a type for a variable of a trigger": (_NAMED.format("text"), *_FIRED),
    "a type for a variable of a search": (
        _NAMED.format("name"),
        "select * from embedding.lexeme_statistics('public.notes', '{a}')",
    ),
    "a type for a variable of tracking": (_NAMED.format("text"), "select track_embeddings('public.notes')"),
    "a type for a variable of untracking": (_NAMED.format("name"), "select untrack_embeddings('notes')"),
    "a type for a variable of an index": (_NAMED.format("name"), "select create_embedding_index('notes', 'fake')"),
    "a type for a generated column": (_NAMED.format("tsvector"), _RENAME),
    "a type for a user's document_text": (_NAMED.format("name"), "insert into public.notes values (9, 'x')"),
    "a type for a user's document_text, renamed once it was compiled": (
        _NAMED.format("name"),
        "select embedding.document_text(n) from public.notes n",
        "alter domain pg_temp.name rename to harmless",
        "insert into public.notes values (9, 'x')",
    ),
    "a type for a user's document_text beside a generated fts": (
        _NAMED.format("name"),
        "insert into public.cards (id, body) values (9, 'x')",
    ),
    "a view for a table that a user's document_text reads": (
        "create view pg_temp.suffixes as select 'x' as suffix where pg_temp.tell(true)",
        "insert into public.notes values (9, 'x')",
    ),
}


@pytest.fixture
def lured(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Connection:
    """A database with rows in every table, and a user's tables with careless functions: their search_path omits pg_temp."""
    fill_database(owner, database, provider)
    owner.execute("""
        create table public.suffixes (suffix text);
        create table public.notes (id bigint primary key, body text);
        create function embedding.document_text(n public.notes) returns text language plpgsql stable set search_path = public as $$
        declare found name := n.body;
        begin return found || coalesce((select string_agg(s.suffix, '') from suffixes s), ''); end $$;
        select track_embeddings('public.notes', model => 'fake');
        insert into public.notes (id, body) select n, 'harp ' || n % 2 from generate_series(1, 8) n;
        update public.notes
        set embedding = (select embedding from public.music_knowledge where embedding is not null limit 1),
            embedding_model = 'fake';
        create table public.cards (like public.notes including all);
        alter table public.cards drop column fts,
          add column fts tsvector generated always as (to_tsvector('english', body)) stored;
        create function embedding.document_text(n public.cards) returns text language plpgsql stable set search_path = public as $$
        declare found name := n.body;
        begin return found; end $$;
        select track_embeddings('public.cards');
        create table public.later (id bigint primary key, body text);
        insert into public.later values (1, 'harp');
        create function embedding.document_text(n public.later) returns text language sql stable return n.body
    """)
    return owner


def ran_as_owner(session: Connection, step: str) -> str | None:
    """The role that ran the caller's code in this statement, if it was another role."""
    try:
        with session.transaction():
            session.execute(step)
    except psycopg.Error as error:
        if error.sqlstate == "ZZ001":
            return f"{step}: {error.diag.message_primary}"
    return None


@pytest.mark.parametrize("way", WAYS)
def test_no_code_of_a_caller_runs_as_the_owner(lured: Connection, database_url: SecretStr, way: str) -> None:
    # These roles have access to a user's tables, as on Supabase.
    for name in ("anon", "authenticated", "service_role"):
        for steps in (WAYS[way], WAYS[way][-1:]):
            # A session keeps compiled functions, so each case gets a new session.
            with psycopg.connect(database_url.get_secret_value()) as session:
                session.execute(f"set role {name}")
                session.execute(LURES.format(role=f"'{name}'"))
                ran = [message for step in steps if (message := ran_as_owner(session, step))]
                assert ran == [], name
                session.rollback()


def test_a_role_without_access_to_the_vault_cannot_send_its_secrets(owner: Connection, role: Role) -> None:
    owner.execute(
        "create schema net; create schema vault;"
        "create table vault.decrypted_secrets (name text, decrypted_secret text);"
    )
    with role("service_role") as service:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="must begin with tonnetz_"):
            service.execute("select create_embedding_webhook('music_knowledge', 'https://a.example', 'other')")
        service.execute("create temp table mine (id int primary key)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(
                "create trigger mine after insert on mine for each row"
                " execute function embedding.post_webhook('https://a.example', 'other')"
            )
        service.execute("select create_embedding_webhook('music_knowledge', 'https://a.example', 'tonnetz_other')")
    owner.execute(
        "grant usage on schema vault to service_role; grant select on vault.decrypted_secrets to service_role"
    )
    with role("service_role") as service:
        service.execute("select create_embedding_webhook('music_knowledge', 'https://a.example', 'other')")


def test_roles_keep_their_privileges_on_the_rows_of_a_tracked_table(lured: Connection, role: Role) -> None:
    """The privileges that tracking revokes from the API roles do not include those on rows."""
    may = """
        select r, array_agg(p order by p)
        from unnest(array['anon', 'service_role']) r, unnest(array['select', 'insert', 'update', 'delete', 'truncate',
          'references', 'trigger', 'maintain']) p
        where has_table_privilege(r, 'public.notes', p) group by 1 order by 1"""
    rows = ["delete", "insert", "select", "update"]
    lured.execute("grant all on notes to anon, service_role")
    lured.execute("select track_embeddings('notes')")
    assert lured.execute(may).fetchall() == [("anon", rows), ("service_role", rows)]
    with role("service_role") as service:
        service.execute("insert into genre_tags (name) values ('of an identity')")
        service.execute("insert into notes values (9, 'x'); update notes set body = 'y'; delete from notes")
        service.execute("create temp table loaded as select 1 as one")
        service.execute("insert into notes values (9, 'x')")


def test_a_view_shows_what_its_reader_may_see(owner: Connection, database: PostgresDatabase, role: Role) -> None:
    database.call("upsert_datasets", {"rows": [{"external_id": "d", "title": "Drums"}]})
    views = [name for (name,) in owner.execute("select viewname from pg_views where schemaname = 'public'")]
    assert views == ["dataset_overview"]
    with role("anon") as anon:
        assert anon.execute("select title from dataset_overview").fetchall() == [("Drums",)]
    owner.execute('drop policy "everyone reads" on datasets')
    with role("anon") as anon:
        assert anon.execute("select title from dataset_overview").fetchall() == []
