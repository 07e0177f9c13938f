"""Tests rules for portable SQL: for PostgreSQL 15 to 18, pg_upgrade, and a restore by an owner who is not a superuser."""

import re
from pathlib import Path

import pytest

from shared.embedded.migrations import PROJECT
from tests.database.portability_rules import RULES, breaches
from tests.database.rows import Connection

SCHEMAS = sorted((PROJECT / "supabase" / "schemas").glob("*.sql"))
TEACHING = [
    PROJECT / "README.md",
    PROJECT / "ARCHITECTURE.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *SCHEMAS,
]


@pytest.mark.parametrize("name", RULES)
def test_the_database_holds_nothing_that_is_not_portable(owner: Connection, name: str) -> None:
    rule = RULES[name]
    found = [row[0] for row in owner.execute(rule.query)]
    assert not found, f"{name}: {rule.reason}"


@pytest.mark.parametrize("name", RULES)
def test_each_rule_finds_what_breaks_it(owner: Connection, name: str) -> None:
    rule = RULES[name]
    before = {row[0] for row in owner.execute(rule.query)}
    owner.execute(rule.breach)
    assert {row[0] for row in owner.execute(rule.query)} - before == {rule.found}


def test_no_setting_of_an_extension_is_kept_for_a_role_or_a_database(owner: Connection) -> None:
    kept = "select s.setting from pg_db_role_setting, unnest(setconfig) s (setting) where s.setting like '%.%=%'"
    assert owner.execute(kept).fetchall() == []


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_the_schemas_hold_nothing_that_is_not_portable(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8")) == []


HEAD = "create function public.f(a public.t) returns text language sql"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{HEAD} set search_path = '' return a.b;", "no quoted body"),
        (f"{HEAD} set search_path = '' begin atomic select a.b; end;", "no quoted body"),
        (f"{HEAD} as $$ select a.b $$;", "search_path"),
        (f"{HEAD} set search_path = public, pg_temp as $$ select a.b $$;", "search_path"),
        (f"{HEAD} set search_path = pg_catalog as $$ select a.b $$;", "search_path"),
        (f"{HEAD} set search_path = pg_catalog, pg_temp, public as $$ select a.b $$;", "search_path"),
        (f"{HEAD} set search_path = '' set hnsw.ef_search = 100 as $$ select a.b $$;", "hnsw.ef_search"),
        ("select a <=> b from t;", "operator(extensions.<=>)"),
        ("select * from a join b on a.embedding <> b.embedding;", "operator(extensions.<>)"),
        ("do $$ begin execute 'select a <-> b from t'; end $$;", "operator(extensions.<->)"),
        ("create table t (id int, language regconfig);", "regconfig in a stored column"),
        ("alter table t add column parent regclass[];", "regclass in a stored column"),
    ],
)
def test_each_rule_finds_what_breaks_it_in_a_text(script: str, reason: str) -> None:
    (found,) = breaches(script)
    assert reason in found


def test_the_rules_accept_portable_sql() -> None:
    script = f"""
        -- a <=> b, set hnsw.ef_search = 1
        {HEAD} set search_path = pg_catalog, pg_temp as $body$
          select 'a;b' where a.embedding operator(extensions.<=>) b < 1 and set_config('hnsw.ef_search', '200', true) <> ''
        $body$;
        create table t (id int, f tsvector generated always as (to_tsvector('english'::regconfig, 'x')) stored);
        {HEAD.replace("public.t", "regclass")}
        set search_path = '' as $$ select 1 $$;
    """
    assert breaches(script) == []


def test_the_documentation_uses_quoted_function_bodies() -> None:
    """On PostgreSQL 15, a document_text with the body `return ...` would make it impossible to alter the table."""
    taught = re.compile(r"language sql[^;$]*?\breturn\s+(?!next|query)\S+", re.IGNORECASE)
    assert taught.search("create function f(t x) returns text language sql immutable return t.title;")
    found = {path.name: match[0] for path in TEACHING if (match := taught.search(path.read_text(encoding="utf-8")))}
    assert found == {}
