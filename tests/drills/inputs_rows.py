"""Fills a small database with rows in every table and state, and computes a digest of all of it."""

import hashlib
from collections.abc import Iterator

from shared.database.base import Database
from shared.embedding.collection import Collection
from tests.database.rows import MUSIC, Connection, embed_all, save
from tests.fake_provider import FakeProvider

EMBEDDED_ID = "00000000-0000-4000-8000-000000000001"
# The leased row, and the vector that would be saved for it.
LEASED_ID = "00000000-0000-4000-8000-000000000005"
LEASED_TEXT = "leased"
LEASED_HASH = hashlib.sha256(LEASED_TEXT.encode()).hexdigest()
SYNONYMS = '{"search_terms": ["cuban dance", "salsa dura", "son", "mambo", "timba"], "translations": {"fr": ["salsa"]}}'


def fill_database(owner: Connection, database: Database, provider: FakeProvider) -> list[str]:
    """Insert embedded, pending, leased and failed rows, tags with synonyms, chunks and a run; return ids of music rows."""
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(1, 7)]
    texts = ["gain staging", "tritone substitution", "room modes", "pending", LEASED_TEXT, "failed"]
    for row_id, text in zip(ids, texts, strict=True):
        owner.execute("insert into music_knowledge (id, topic, content) values (%s, '', %s)", [row_id, text])
    owner.execute("insert into genre_tags (name, description) values ('Salsa', 'dance'), ('Zouk', '')")
    owner.execute("insert into mood_tags (name) values ('calm')")
    owner.execute("insert into mir_synonyms (tag_type, tag_id, synonyms) values ('genre', 1, %s)", [SYNONYMS])
    database.call_scalar("request_synonyms", {})
    database.call("claim_synonym_tags", {"batch_size": 1})
    title = {"external_id": "d1", "title": "Drums", "enrichment_status": "enriched", "static_score": 0.5, "tags": ["x"]}
    database.call("upsert_datasets", {"rows": [title]})
    owner.execute("insert into code_chunks (id, path, content) values ('c1', 'src/a.py', 'def parse(x)')")
    work = Collection(database, MUSIC)
    work.register_embedding_model(provider.spec)
    for collection in ("mir_synonyms", "datasets", "code_chunks"):
        embed_all(Collection(database, collection), provider)

    work.register_embedding_model(provider.spec, use=True)
    rows = {row.row_id: row for row in work.claim_embeddings(100, 3600)}
    save(work, provider, [rows[row_id] for row_id in ids[:3]])
    work.release_embeddings([ids[3]])
    work.fail_embeddings([(ids[5], "the provider refused it", True)])
    work.record_embedding_run(None, provider.model, "completed", {"processed": 4, "embedded": 3, "failed": 1})
    return ids


def tables(owner: Connection) -> Iterator[str]:
    """Every table of the project, by its quoted name."""
    for (name,) in owner.execute(
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('public', 'embedding') and c.relkind = 'r' order by 1"
    ).fetchall():
        yield str(name)


def fingerprint(owner: Connection) -> str:
    """A digest of all rows, tables, functions, triggers, policies, roles and grants."""
    rows = " union all ".join(
        f"select '{name}', md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from {name} t"
        for name in tables(owner)
    )
    catalogue = """
        union all select 'relations', md5(string_agg(concat(c.oid, c.relname, c.relacl, c.relrowsecurity), '' order by c.oid))
          from pg_class c where c.relnamespace in ('public'::regnamespace, 'embedding'::regnamespace)
        union all select 'functions', md5(string_agg(concat(p.oid, p.proname, p.proacl, p.prosrc), '' order by p.oid))
          from pg_proc p where p.pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)
        union all select 'triggers', md5(string_agg(concat(t.tgrelid, t.tgname, t.tgenabled), '' order by t.oid)) from pg_trigger t
        union all select 'policies', coalesce(md5(string_agg(concat(p.oid, p.polname), '' order by p.oid)), '') from pg_policy p
        union all select 'roles', md5(string_agg(concat(r.rolname, r.rolsuper, r.rolbypassrls), '' order by r.oid)) from pg_roles r
        union all select 'members', md5(string_agg(concat(m.roleid, ' ', m.member), '' order by m.oid)) from pg_auth_members m"""
    found = owner.execute(rows + catalogue).fetchall()
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


def invalid_states(owner: Connection) -> list[str]:
    """Lists invalid states: vectors of another text, NaN, negative counts, endless leases."""
    problems = []
    for (collection,) in owner.execute("select name from embedding.collections").fetchall():
        if owner.execute("select verify_embeddings(%s)", [collection]).fetchone() != (0,):
            problems.append(f"{collection} holds vectors that do not belong to their text")
    columns = owner.execute(
        "select format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), a.atttypid::regtype::text"
        " from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('public', 'embedding') and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped"
    ).fetchall()
    tests = []
    for table, column, kind in columns:
        if kind in ("double precision", "real", "numeric"):
            tests.append((table, column, f"{column}::text in ('NaN', 'Infinity', '-Infinity')"))
        if kind == "timestamp with time zone":
            tests.append((table, column, f"not isfinite({column})"))
        if table == "embedding.runs" and kind in ("bigint", "numeric"):
            tests.append((table, column, f"{column} < 0"))
        if column == "available_at":
            tests.append(
                (table, column, f"{column} not between now() - interval '1 day' and now() + interval '25 hours'")
            )
    query = " union all ".join(f"select '{table}.{column}' from {table} where {test}" for table, column, test in tests)
    problems += [f"{name} holds a value that is not allowed" for (name,) in owner.execute(query).fetchall()]
    return problems
