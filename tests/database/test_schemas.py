"""Tests supabase/schemas: every function is defined once and complete, and the migrations create the same database."""

import re
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from shared.embedded.migrations import BOOTSTRAP, SCHEMAS, migrate
from tests.conftest import Connection
from tests.database.catalog import QUERIES, describe
from tests.postgres_cluster import Cluster

FILES = sorted(SCHEMAS.glob("*.sql"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
NAME = r"((?:public|embedding)\.\w+)"
OURS = """n.nspname in ('public', 'embedding')
  and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
MAX_PUBLIC_FUNCTIONS = 52
MAX_LINES = 120


def definitions() -> Iterator[tuple[str, str, str]]:
    """Yield the file, the name and the text before the body of every function."""
    for file, text in TEXTS.items():
        for match in re.finditer(
            rf"^create (?:or replace )?function {NAME}(.*?)(?:\bas \$|^begin atomic|^return )", text, re.M | re.S
        ):
            yield file, match[1], match[2]


def statements(kind: str) -> set[tuple[str, str]]:
    """The (file, function) pairs that such a statement names: `comment on`, `revoke`, `grant`."""
    found = set()
    for file, text in TEXTS.items():
        for statement in re.findall(rf"^{kind}\b[^;]*?\bon function\b(.*?)(?:;| is\b)", text, re.M | re.S):
            found |= {(file, name) for name in re.findall(NAME, statement)}
    return found


def test_a_file_name_begins_with_two_digits() -> None:
    assert FILES
    assert [path.name for path in FILES if not re.fullmatch(r"\d\d_[a-z0-9_]+\.sql", path.name)] == []


def test_every_function_is_defined_exactly_once() -> None:
    signatures = Counter((name, " ".join(header.split("returns")[0].split())) for _, name, header in definitions())
    assert [name for name, count in signatures.items() if count > 1] == []


def test_no_function_is_changed_after_its_definition() -> None:
    assert [file for file, text in TEXTS.items() if re.search(r"^\s*alter function\b", text, re.M)] == []


def test_the_files_define_the_functions_of_the_catalog(owner: Connection) -> None:
    present = owner.execute(
        f"select n.nspname || '.' || p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {OURS}"
    ).fetchall()
    assert Counter(name for _, name, _ in definitions()) == Counter(str(name) for (name,) in present)


@pytest.mark.parametrize("kind", ["comment", "revoke"])
def test_every_function_has_its_comment_in_its_own_file(kind: str) -> None:
    assert {(file, name) for file, name, _ in definitions()} - statements(kind) == set()


def test_every_public_function_is_granted_in_its_own_file() -> None:
    called = {(file, name) for file, name, header in definitions() if name.startswith("public.")}
    assert called - statements("grant") == set()


def test_every_function_sets_its_search_path() -> None:
    assert [(file, name) for file, name, header in definitions() if "set search_path = " not in header] == []


def test_schemas_and_migrations_make_the_same_database(cluster: Cluster) -> None:
    with cluster.empty() as by_schemas, cluster.empty() as by_migrations:
        with psycopg.connect(by_schemas.get_secret_value(), autocommit=True) as owner:
            for path in (BOOTSTRAP, *FILES):
                owner.execute(path.read_text(encoding="utf-8"))
            wanted = describe(owner)
        migrate(by_migrations)
        with psycopg.connect(by_migrations.get_secret_value(), autocommit=True) as owner:
            found = describe(owner)
    assert wanted["functions"]
    for name in QUERIES:
        assert found[name] == wanted[name], name


def test_there_are_few_public_functions(owner: Connection) -> None:
    names = owner.execute(
        f"""select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'public' and {OURS} order by 1"""
    ).fetchall()
    assert len(names) <= MAX_PUBLIC_FUNCTIONS, [name for (name,) in names]


def test_no_function_is_longer_than_120_lines(owner: Connection) -> None:
    functions = owner.execute(
        f"""select p.oid::regprocedure::text, pg_get_functiondef(p.oid)
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.prokind = 'f' and {OURS}"""
    ).fetchall()
    assert functions
    lines = {name: len(str(text).splitlines()) for name, text in functions}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
