"""Tries to make each SECURITY DEFINER function run an object of another role: functions, operators, casts, temporary tables."""

from collections.abc import Iterator, Mapping

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from tests.database.rows import Connection
from tests.drills.inputs_rows import fill_database
from tests.fake_provider import FakeProvider

INTRUDER = "intruder"

# For each function that runs with the rights of its owner: the role, and its call or a statement that fires it.
# Arguments have explicit types: the intruder's functions of the same name would match a literal without a type better.
CALLS: Mapping[str, tuple[str, str]] = {
    "embedding.model_dimensions": ("authenticated", "select embedding.model_dimensions('fake')"),
    "embedding.describe_collection": ("authenticated", "select embedding.describe_collection('public.notes')"),
    "embedding.lexeme_statistics": ("authenticated", "select embedding.lexeme_statistics('public.notes', '{harp}')"),
    "embedding.check_vectors": ("authenticated", "update public.notes set body = 'harps', kind = 'b' where id <> 3"),
    "embedding.refresh_fts": ("authenticated", "insert into public.notes (id, body, kind) values (9, 'bell', 'a')"),
    "embedding.dequeue_deleted": ("authenticated", "delete from public.notes where id = 1"),
    "embedding.post_webhook": ("authenticated", "insert into public.notes (id, body, kind) values (10, 'x', 'a')"),
    "embedding.check_synonyms_tag": (
        "service_role",
        "insert into public.mir_synonyms (tag_type, tag_id, synonyms) select 'mood', id, synonyms"
        " from public.mood_tags, (select synonyms from public.mir_synonyms limit 1) s",
    ),
    "embedding.follow_tag": ("service_role", "update public.genre_tags set name = upper(name)"),
    "embedding.note_synonym_change": ("service_role", "insert into public.genre_tags (name) values ('new')"),
    "embedding.retire_models": ("service_role", "select embedding.retire_models('notes')"),
    "embedding.create_installation_check": ("service_role", "select embedding.create_installation_check()"),
    "public.describe_installation": ("service_role", "select public.describe_installation()"),
    "public.track_embeddings": (
        "service_role",
        "select public.track_embeddings('public.notes'::regclass, null::text, 'english'::regconfig, null::text, null::boolean)",
    ),
    "public.untrack_embeddings": ("service_role", "select public.untrack_embeddings(collection => 'notes')"),
    "public.create_embedding_index": (
        "service_role",
        "select public.create_embedding_index('notes'::text, 'fake'::text, 16, 64, 0)",
    ),
    "public.create_embedding_webhook": (
        "service_role",
        "select public.create_embedding_webhook('notes'::text, 'https://a.example'::text, 'tonnetz_other'::text)",
    ),
}

TABLES = f"""
    create schema net; create schema vault;
    create table vault.decrypted_secrets (name text, decrypted_secret text);
    insert into vault.decrypted_secrets values ('tonnetz_webhook_secret', 's');
    create function net.http_post(url text, body jsonb, headers jsonb, timeout_milliseconds int) returns bigint
      language sql as 'select 1::bigint';
    -- It counts even where the call is rolled back or its error is caught.
    create sequence public.caught; grant usage on sequence public.caught to public;
    grant create, usage on schema public to {INTRUDER}; grant usage on schema extensions to {INTRUDER};
    set role {INTRUDER};
    create type public.kind_of_note as enum ('a', 'b');
    reset role;
    create table public.notes (id bigint primary key, body text, kind public.kind_of_note);
    grant select, insert, update, delete on public.notes to authenticated;
    create function embedding.document_text(n public.notes) returns text language sql stable as
      $$ select case when n.id = 3 then (1 / (n.id - 3))::text end || n.body $$;
    insert into public.notes select n, 'harp ' || n, 'a' from generate_series(1, 4) n where n <> 3;
    select track_embeddings('public.notes', model => 'fake');
    set session_replication_role = replica; insert into public.notes values (3, 'harp', 'a'); reset session_replication_role;
    analyze public.notes;
    select create_embedding_webhook('notes', 'https://a.example');
    update embedding.collections set retiring_models = '{{gone}}' where name = 'notes';
"""
# The objects of the intruder: everything that a role with `create` on the schema public may create.
LURES = """
    create function public.tell() returns void language plpgsql set search_path = '' as $$
      begin if current_user = '{owner}' then perform pg_catalog.nextval('public.caught'::regclass); end if; end $$;
    create function public.tell_json(public.kind_of_note) returns json language plpgsql as $$
      begin perform public.tell(); return '1'; end $$;
    create function public.tell_text(public.kind_of_note) returns text language plpgsql as $$
      begin perform public.tell(); return 'x'; end $$;
    create cast (public.kind_of_note as json) with function public.tell_json(public.kind_of_note) as implicit;
    create cast (public.kind_of_note as text) with function public.tell_text(public.kind_of_note) as implicit;
    do $do$
    declare
      named record;
      arguments text;
      kind text;
      symbol text;
    begin
      for named in
        select distinct p.proname from pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f'
          and exists (select from pg_proc d where d.pronamespace in ('embedding'::regnamespace, 'public'::regnamespace)
            and d.prosrc ~ ('\\m' || p.proname || '\\('))
        union
        select p.proname from pg_proc p where p.pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)
          and p.proname !~ '^tell' and p.prorettype <> 'trigger'::regtype
      loop
        foreach arguments in array array['text', 'regclass', 'text, text', 'text, text, integer', 'anyelement',
          'anyelement, anyelement', 'anyarray', 'record'] loop
          begin
            execute pg_catalog.format('create function public.%I(%s) returns boolean language plpgsql as $f$
              begin perform public.tell(); return true; end $f$', named.proname, arguments);
          exception when others then null;
          end;
        end loop;
      end loop;
      foreach kind in array array['text', 'name', 'bytea', 'oid', 'integer', 'bigint', 'jsonb', 'tsvector', 'regclass',
        'extensions.vector', 'public.kind_of_note', 'anyarray'] loop
        execute pg_catalog.format('create function public.tell_two(%1$s, %1$s) returns boolean language plpgsql as $f$
          begin perform public.tell(); return true; end $f$', kind);
        foreach symbol in array array['=', '<>', '<', '>', '||', '-', '+', '->', '~', '^@', '@>', '@@'] loop
          execute pg_catalog.format('create operator public.%1$s (leftarg = %2$s, rightarg = %2$s, function = public.tell_two)',
            symbol, kind);
        end loop;
      end loop;
    end $do$;
"""
# Temporary objects named like tables and types that the functions use. They may also make a call fail.
SHADOWS = """
    create temp table collections (id int); create temp table queue (id int); create temp table pg_class (oid oid);
    create temp table pg_trigger (tgrelid oid); create temp table pg_attribute (attname name); create temp table notes (id int);
    create view pg_temp.tracked_tables as select 1 as id from (select public.tell() offset 0) t;
    create domain pg_temp.text as pg_catalog.text check (public.tell() is not null);
    create domain pg_temp.regclass as pg_catalog.regclass check (public.tell() is not null);
"""


@pytest.fixture
def lured(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Iterator[Connection]:
    fill_database(owner, database, provider)
    owner.execute(f"create role {INTRUDER} nologin")
    try:
        owner.execute(TABLES)
        owner.execute(f"set role {INTRUDER}")
        owner.execute(LURES.format(owner=owner.info.user))
        owner.execute("reset role")
        yield owner
    finally:
        owner.execute(f"reset role; drop owned by {INTRUDER} cascade; drop role {INTRUDER}")


def caught(owner: Connection) -> bool:
    found = owner.execute("select is_called from public.caught").fetchone()
    return bool(found and found[0])


def test_every_function_with_the_rights_of_its_owner_is_tried(owner: Connection) -> None:
    found = owner.execute(
        "select format('%s.%s', p.pronamespace::regnamespace, p.proname), p.proconfig::text, p.prosrc from pg_proc p"
        " where p.prosecdef and p.pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)"
    ).fetchall()
    assert {name for name, _, _ in found} == set(CALLS)
    # With an empty path, PostgreSQL searches pg_temp first for tables and types. If the path names it last, it is the last.
    assert [name for name, settings, _ in found if "search_path=pg_catalog, pg_temp" not in settings] == []


def test_each_object_of_the_intruder_works(lured: Connection) -> None:
    lured.execute("select public.tell()")
    assert caught(lured)


def test_no_function_runs_an_object_of_another_role(lured: Connection, database_url: SecretStr) -> None:
    for name, (role, statement) in CALLS.items():
        for shadows in (False, True):
            with psycopg.connect(database_url.get_secret_value()) as session:
                session.execute("set track_functions = 'all'")
                session.execute(f"set role {role}")
                session.execute("set search_path = public, pg_temp, pg_catalog, extensions")
                try:
                    if shadows:
                        session.execute("set search_path = pg_catalog, public")
                        session.execute(SHADOWS)
                        session.execute("set search_path = pg_temp, public, pg_catalog, extensions")
                    session.execute(statement)
                    ran = session.execute(
                        "select pg_catalog.format('%s.%s', f.schemaname, f.funcname)"
                        " from pg_catalog.pg_stat_xact_user_functions f"
                    ).fetchall()
                    assert name in {one for (one,) in ran}
                except psycopg.Error:
                    # A session with such temporary objects may be refused.
                    if not shadows:
                        raise
                session.rollback()
            assert not caught(lured), (name, shadows)
