"""Who gets in: all functions and tables as all roles, SQL in names, a user's own table, forged tokens, SECURITY.md."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from functions.edge.process import Process
from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.queue import EmbeddingQueue, vector_text
from shared.database.supabase import SupabaseDatabase
from shared.errors import AppError, NotFound
from shared.models import ANON, Caller, EmbeddingModel
from tests.database.rows import Connection, embed_all
from tests.drills.inputs_hostile import SQL
from tests.drills.inputs_rows import fingerprint, furnish
from tests.drills.privileges_trials import ROLES, golden, nobody, permitted, trials
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.functions.conftest import JWT_SECRET, SERVICE_KEY, make_settings, serving, token
from tests.gateway import Gateway
from tests.postgrest_server import Postgrest

ROOT = Path(__file__).resolve().parents[2]
ANNA, BERT = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
Role = Callable[..., AbstractContextManager[Connection]]

# The matrix


def test_every_role_may_do_what_the_golden_file_says_and_nothing_else(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    furnish(owner, database, provider)
    before = fingerprint(owner)
    expected = golden()
    found: dict[str, frozenset[str]] = {}
    with nobody(owner):
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
def test_no_role_of_the_api_reaches_beyond_its_functions_and_tables(owner: Connection, statement: str) -> None:
    with nobody(owner):
        for role in ROLES:
            with owner.transaction(force_rollback=True):
                owner.execute(f"set local role {role}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    owner.execute(statement)


# What a role may make in its own session: code that tells when it is run as somebody else.
LURES = """
    create function pg_temp.tell(anything anyelement) returns boolean language plpgsql as $$
    begin
      if current_user <> {role} then raise exception using errcode = 'ZZ001', message = 'run as ' || current_user; end if;
      return true;
    end $$;
    create function pg_temp.tell_row() returns trigger language plpgsql as $$
    begin perform pg_temp.tell(true); return new; end $$;
    create view pg_temp.lure as select 1::bigint as id, 'a text' as s, null::extensions.vector as embedding,
      case when not t.told then 'fake' end as embedding_model from (select pg_temp.tell(true) as told offset 0) t;
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
# In each a function that runs as its owner is given something of the caller's to run.
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
        f"select embedding.enqueue_pending({_COLLECTION})",
    ),
    "a collection that lies elsewhere": (
        "create table pg_temp.mine (like public.notes); create trigger embedding_check_insert after insert on pg_temp.mine"
        " referencing new table as new_rows for each statement execute function embedding.check_vectors('1')",
        "update embedding.collections set retiring_models = '{fake}' where name = 'notes'",
        "select retire_models('notes')",
    ),
    "a collection of one's own": (
        "insert into embedding.collections (name, key_column, key_type, retiring_models) values ('mine', 'id', 'bigint', '{fake}')",
        "select retire_models('mine')",
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
    """Rows in every table, and tables of a user's whose functions are written with less care than ours."""
    furnish(owner, database, provider)
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


def told(session: Connection, step: str) -> str | None:
    """Whom the lures were run as by this statement, if by somebody else; however it ends otherwise."""
    try:
        with session.transaction():
            session.execute(step)
    except psycopg.Error as error:
        if error.sqlstate == "ZZ001":
            return f"{step}: {error.diag.message_primary}"
    return None


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_callers_is_run_as_the_owner(lured: Connection, database_url: SecretStr, way: str) -> None:
    # Tables of a user's are open to these roles as Supabase opens them.
    for name in ("anon", "authenticated", "service_role"):
        for steps in (WAYS[way], WAYS[way][-1:]):
            # Compiled functions stay with a session: each gets one of its own.
            with psycopg.connect(database_url.get_secret_value()) as session:
                session.execute(f"set role {name}")
                session.execute(LURES.format(role=f"'{name}'"))
                ran = [message for step in steps if (message := told(session, step))]
                assert ran == [], name
                session.rollback()


def test_a_secret_of_the_vault_is_sent_nowhere_by_those_who_may_not_read_it(owner: Connection, role: Role) -> None:
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


def test_rows_of_a_table_stay_open_to_those_who_wrote_them(lured: Connection, role: Role) -> None:
    """What is taken from the roles of the API is not the work on the rows."""
    may = """
        select r, array_agg(p order by p)
        from unnest(array['anon', 'service_role']) r, unnest(array['select', 'insert', 'update', 'delete', 'truncate',
          'references', 'trigger', 'maintain']) p
        where has_table_privilege(r, 'public.notes', p) group by 1 order by 1"""
    rows = ["delete", "insert", "select", "update"]
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


# SQL in names and values


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def adapter(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn, able to search as a caller."""
    if request.param == "postgres":
        with PostgresDatabase(database_url) as direct:
            yield direct
        return
    gateway, tokens = request.getfixturevalue("rest"), request.getfixturevalue("tokens")
    with SupabaseDatabase(
        gateway.url, SecretStr(tokens["service_role"]), anon_key=SecretStr(tokens["anon"])
    ) as through_postgrest:
        yield through_postgrest


@pytest.fixture
def as_user(request: pytest.FixtureRequest, adapter: Database) -> Callable[[str], Database]:
    """`as_user(id)`: the adapter as a signed-in user."""

    def sign_in(user_id: str) -> Database:
        claims = {"role": "authenticated", "sub": user_id}
        signed = None
        if isinstance(adapter, SupabaseDatabase):
            signed = token(secret=request.getfixturevalue("jwt_secret"), sub=user_id)
        return adapter.as_caller(Caller("authenticated", claims, signed))

    return sign_in


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# As long as PostgreSQL lets a name be.
NAME = "x'; drop table public.victim; -- \" %s %I $1"
LANGUAGE = "l'); drop table public.victim; -- \" %L"


def test_names_that_are_sql_are_names_all_their_life(
    owner: Connection, adapter: Database, provider: FakeProvider
) -> None:
    owner.execute("create table public.victim (id int)")
    table, key, column = quoted(NAME), quoted(f"k {NAME}"[:60]), quoted(f"c {NAME}"[:60])
    owner.execute(f"create table public.{table} ({key} text primary key, {column} text)")
    owner.execute(
        f"create function embedding.document_text(r public.{table}) returns text language sql immutable return r.{column}"
    )
    owner.execute(f"create text search configuration public.{quoted(LANGUAGE)} (copy = english)")
    owner.execute("select track_embeddings(%s, text_config => %s)", [f"public.{table}", f"public.{quoted(LANGUAGE)}"])
    model = "m'; drop table public.victim; -- %s"
    work = EmbeddingQueue(adapter, NAME)
    hostile_provider = FakeProvider(model)
    work.register_embedding_model(EmbeddingModel(model, SQL[0], DIMENSIONS, SQL[1], SQL[2]))
    for row_id in (*SQL, NAME):
        insert = sql.SQL("insert into public.{} values ({}, {})")
        owner.execute(insert.format(sql.Identifier(NAME), sql.Literal(row_id), sql.Literal(f"a drum kit {row_id}")))
    assert embed_all(work, hostile_provider) == len(SQL) + 1
    work.create_embedding_index()

    vector = vector_text(hostile_provider.embed_query("drum kit"))
    search = (
        "select row_id from embedding.search_hits(%s::regclass, 'drum kits', %s, 50, %s,"
        " query_embeddings => %s, embedding_model => %s)"
    )
    column_name, models = f"c {NAME}"[:60], json.dumps({model: vector})
    for wanted in (*SQL, NAME):
        for test in (
            f"a drum kit {wanted}",
            {"like": f"a drum kit {wanted}".replace("\\", "\\\\").replace("%", "\\%")},
        ):
            found = owner.execute(
                search, [f"public.{table}", vector, json.dumps({column_name: test}), models, model]
            ).fetchall()
            assert wanted in {row[0] for row in found}
            assert isinstance(test, dict) or len(found) == 1
    assert work.verify_embeddings() == 0
    work.register_embedding_model(provider.spec)
    assert work.set_collection_model(provider.model) == len(SQL) + 1
    assert embed_all(work, provider) == len(SQL) + 1
    assert work.retire_models() == [model]
    adapter.call("untrack_embeddings", {"collection": NAME})
    with pytest.raises(NotFound):
        work.verify_embeddings()
    assert owner.execute("select to_regclass('public.victim') is not null").fetchone() == (True,)


@pytest.mark.parametrize("payload", SQL)
def test_sql_in_a_filter_is_a_value(
    owner: Connection, adapter: Database, database: PostgresDatabase, provider: FakeProvider, payload: str
) -> None:
    furnish(owner, database, provider)
    owner.execute("insert into music_knowledge (topic, category, content) values ('', %s, 'drum kit')", [payload])
    owner.execute("insert into code_chunks (id, path, content) values (%s, %s, 'drum kit')", [payload, payload])
    rows = [{"external_id": payload, "title": "drum kit", "tags": [payload], "enrichment_status": "enriched"}]
    database.call("upsert_datasets", {"rows": rows})
    before = fingerprint(owner)
    anybody = adapter.as_caller(ANON)
    for function, name, count in (
        ("search_music_knowledge", "filter_category", 1),
        ("search_code_chunks", "filter_path", 1),
        ("search_datasets", "filter_tag", 1),
        ("search_mir_synonyms", "filter_tag_type", 0),
    ):
        assert len(anybody.call(function, {"query_text": "drum kit", name: payload})) == count, function
        assert anybody.call(function, {"query_text": payload, name: "nothing has this"}) == []
        for argument in ("embedding_model", "fusion"):
            given = {"query_text": "drum", "query_embedding": "[1]", argument: payload}
            with pytest.raises(AppError) as refused:
                anybody.call(function, given)
            assert refused.value.status == 422
    assert fingerprint(owner) == before


# A user's own table


@dataclass
class Notes:
    """Whose note is whose, by id."""

    annas: int
    berts: int
    everyones: int


@pytest.fixture
def notes(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Notes:
    """A table of a user's own, tracked and published as docs/your-own-table.md says, with policies of its own."""
    owner.execute("""
        create table public.notes (id bigint generated always as identity primary key, owner uuid, body text not null);
        create function embedding.document_text(n public.notes) returns text language sql immutable return n.body;
        select track_embeddings('public.notes');
        create function public.search_notes(query_text text default null, query_embedding extensions.vector default null,
          match_count int default 10, filter jsonb default null)
        returns table (id bigint, body text, score float, full_text_rank int, semantic_rank int)
        language sql stable security invoker set search_path = '' as $$
          select n.id, n.body, h.score, h.full_text_rank, h.semantic_rank
          from embedding.search_hits('public.notes', query_text, query_embedding, match_count, filter) h
          join public.notes n on n.id = h.row_id::bigint order by h.score desc, n.id
        $$;
        alter table public.notes enable row level security;
        create policy "own" on public.notes for select to authenticated using (owner = auth.uid());
        create policy "common" on public.notes for select to anon, authenticated using (owner is null);
        grant select on public.notes to anon, authenticated;
        grant execute on function public.search_notes to anon, authenticated, service_role;
        notify pgrst, 'reload schema'
    """)
    ids = [
        row[0]
        for row in owner.execute(
            "insert into notes (owner, body) values (%s, 'the harp of anna'), (%s, 'the harp of bert'), (null, 'the harp of all')"
            " returning id",
            [ANNA, BERT],
        )
    ]
    work = EmbeddingQueue(database, "notes")
    work.register_embedding_model(provider.spec)
    embed_all(work, provider)
    return Notes(*ids)


@pytest.mark.parametrize("legs", ["words", "meaning", "both"])
def test_row_level_security_of_a_tracked_table_holds_in_search(
    notes: Notes, adapter: Database, as_user: Callable[[str], Database], provider: FakeProvider, legs: str
) -> None:
    arguments: dict[str, object] = {}
    if legs != "meaning":
        arguments["query_text"] = "the harp of bert"
    if legs != "words":
        # The very vector of a row that is another's.
        arguments["query_embedding"] = vector_text(provider.embed_query("the harp of bert"))

    def found(caller: Database, **more: object) -> set[int]:
        return {row["id"] for row in caller.call("search_notes", {**arguments, **more})}

    for _ in range(2):
        # In turn over the same connections: nothing of one caller stays for the next.
        assert found(as_user(ANNA)) == {notes.annas, notes.everyones}
        assert found(as_user(BERT)) == {notes.berts, notes.everyones}
        assert found(adapter.as_caller(ANON)) == {notes.everyones}
        assert found(as_user(NOBODY_S_ID)) == {notes.everyones}
    assert found(as_user(ANNA), filter={"owner": BERT}) == set()
    assert found(as_user(ANNA), filter={"body": {"like": "%bert%"}}) == set()
    assert found(adapter) == {notes.annas, notes.berts, notes.everyones}, (
        "service_role, which is the worker's, sees all"
    )


NOBODY_S_ID = "00000000-0000-4000-8000-00000000000c"


# Tokens


def signed(claims: dict[str, object], *, secret: str = JWT_SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm)


def unsigned(claims: dict[str, object]) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def forgeries() -> dict[str, str]:
    """Tokens of which none may open anything, all in the name of Anna."""
    soon = int(time.time()) + 3600
    claims = {"role": "authenticated", "sub": ANNA, "exp": soon, "aud": "authenticated"}
    genuine = signed(claims)
    header, payload, signature = genuine.split(".")
    altered = base64.urlsafe_b64encode(json.dumps({**claims, "sub": BERT}).encode()).rstrip(b"=").decode()
    return {
        "forged": signed(claims, secret="f" * 48),
        "forged service role": signed({**claims, "role": "service_role"}, secret="f" * 48),
        "expired": signed({**claims, "exp": int(time.time()) - 3600}),
        "expired long ago": signed({**claims, "exp": 1}),
        "not yet valid": signed({**claims, "nbf": soon}),
        "not signed": unsigned(claims),
        "payload exchanged": f"{header}.{altered}.{signature}",
        "signature cut": f"{header}.{payload}.",
        "signature shortened": genuine[:-4],
        "genuine, of the service role": signed({**claims, "role": "service_role"}),
        "genuine, of the database's owner": signed({**claims, "role": "postgres"}),
        "genuine, of the authenticator": signed({**claims, "role": "authenticator"}),
        "genuine, of a role with SQL in it": signed({**claims, "role": "anon; set role postgres"}),
        "no token at all": "not.a.token",
        "large": signed({**claims, "more": "x" * 30_000}, secret="f" * 48),
    }


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def server(request: pytest.FixtureRequest, database_url: SecretStr, provider: FakeProvider) -> Iterator[httpx.Client]:
    """A client of the functions, on each adapter."""
    with ExitStack() as stack:
        if request.param == "postgres":
            database: Database = stack.enter_context(PostgresDatabase(database_url))
            settings = make_settings()
        else:
            binary, cluster = request.getfixturevalue("postgrest_binary"), request.getfixturevalue("cluster")
            rest = stack.enter_context(Postgrest(binary, cluster.url(database_url, user="authenticator"), JWT_SECRET))
            anon = token("anon")
            gateway = stack.enter_context(Gateway(rest.port, keys={SERVICE_KEY, anon}))
            settings = make_settings(
                supabase_url=gateway.url, supabase_service_role_key=SERVICE_KEY, supabase_anon_key=anon
            )
            database = stack.enter_context(
                SupabaseDatabase(gateway.url, SecretStr(SERVICE_KEY), anon_key=SecretStr(anon))
            )
        process = Process(settings, database=database, provider=provider, long_lived=True)
        url = stack.enter_context(serving(process))
        yield stack.enter_context(httpx.Client(base_url=url, timeout=60))


def test_no_forged_or_expired_token_opens_anything(
    server: httpx.Client, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    furnish(owner, database, provider)
    before = fingerprint(owner)

    def ask(path: str, key: str) -> httpx.Response:
        return server.get(path, headers={"authorization": f"Bearer {key}"})

    genuine = ask("/api/search/music_knowledge?q=gain", token(sub=ANNA))
    assert genuine.status_code == 200, "the genuine one does"
    assert "gain staging" in genuine.text
    for name, key in forgeries().items():
        for path in ("/api/search/music_knowledge?q=gain", "/api/synonyms/search?q=salsa", "/api/synonyms/genre/Salsa"):
            answer = ask(path, key)
            assert answer.status_code in (401, 403), f"{name} at {path}: {answer.status_code} {answer.text[:200]}"
            assert "gain staging" not in answer.text
        for path in ("/api/collections", "/metrics", "/api/synonyms/generation"):
            assert ask(path, key).status_code == 401, f"{name} at {path}"
    assert fingerprint(owner) == before


@pytest.mark.postgrest
def test_postgrest_itself_lets_none_of_them_in(
    postgrest_binary: object, request: pytest.FixtureRequest, database_url: SecretStr
) -> None:
    """Whoever passes by the functions and asks Supabase at first hand."""
    cluster = request.getfixturevalue("cluster")
    with (
        Postgrest(postgrest_binary, cluster.url(database_url, user="authenticator"), JWT_SECRET) as rest,  # type: ignore[arg-type]
        httpx.Client(base_url=f"http://127.0.0.1:{rest.port}", timeout=30) as client,
    ):

        def call(function: str, key: str, **headers: str) -> int:
            sent = {"authorization": f"Bearer {key}", **headers}
            return client.post(f"/rpc/{function}", json={}, headers=sent).status_code

        assert call("search_music_knowledge", token("anon")) == 200
        for name, key in forgeries().items():
            if not name.startswith("genuine"):
                assert call("search_music_knowledge", key) == 401, name
                assert call("embedding_coverage", key) == 401, name
        assert call("embedding_coverage", token("service_role")) == 200
        for role in ("anon", "authenticated"):
            assert call("embedding_coverage", token(role)) in (401, 403)
            for schema in ("embedding", "extensions", "pg_catalog"):
                exposed = call("get_collection", token("service_role"), **{"content-profile": schema})
                assert exposed == 406, f"{schema} is exposed"


# The document


def test_every_promise_of_the_security_policy_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = text.partition("## What is not promised")[0].splitlines()
    # Without the table's head.
    rows = [line for line in promises if line.startswith("|")][2:]
    assert len(rows) >= 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, f"without a test: {row}"
        for path, name in named:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}" in source, f"{path} has no {name}"
