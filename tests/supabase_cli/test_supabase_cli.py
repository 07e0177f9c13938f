"""Tests the Supabase CLI on a database of Tonnetz, and the migrations of Tonnetz in a project with its own."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from shared.embedded.migrations import list_migrations, migrate
from shared.errors import ConfigurationError
from tests.supabase_cli.conftest import Hosted

VERSIONS = [migration.version for migration in list_migrations()]
Supabase = Callable[..., str]


def recorded(hosted: Hosted) -> list[str]:
    with psycopg.connect(hosted.url.get_secret_value()) as connection:
        query = "select version from supabase_migrations.schema_migrations order by 1"
        return [row[0] for row in connection.execute(query)]


def count(hosted: Hosted, table: str) -> int:
    with psycopg.connect(hosted.url.get_secret_value()) as connection:
        (rows,) = connection.execute(f"select count(*) from {table}").fetchone() or (0,)
        return int(rows)


def test_db_push_sets_up_an_empty_project_with_the_sample_rows(
    hosted: Hosted, checkout: Path, supabase: Supabase
) -> None:
    supabase(checkout, "db", "push", "--include-seed", "--yes")
    assert recorded(hosted) == VERSIONS
    rows = count(hosted, "music_knowledge")
    assert rows >= 60
    assert "up to date" in supabase(checkout, "db", "push", "--yes")
    assert migrate(hosted.url, seed=True) == []
    assert count(hosted, "music_knowledge") == rows
    listed = supabase(checkout, "migration", "list")
    for version in VERSIONS:
        assert listed.count(version) >= 2, "as a local and as a remote version"
    advice = ("db", "advisors", "--level", "warn", "--fail-on", "warn")
    assert "No issues found" in supabase(checkout, *advice)
    # If there is a difference, the command finds it.
    with psycopg.connect(hosted.url.get_secret_value(), autocommit=True) as owner:
        owner.execute("create table public.open (id regconfig); grant select on public.open to anon")
    assert "public.open" in supabase(checkout, *advice, code=1)


def test_db_push_after_migrate_has_nothing_to_do(hosted: Hosted, checkout: Path, supabase: Supabase) -> None:
    assert migrate(hosted.url, seed=True) == VERSIONS
    rows = count(hosted, "music_knowledge")
    assert "up to date" in supabase(checkout, "db", "push", "--include-seed", "--yes")
    assert count(hosted, "music_knowledge") == rows


def test_migrate_records_again_what_the_cli_has_marked_as_reverted(
    hosted: Hosted, checkout: Path, supabase: Supabase
) -> None:
    migrate(hosted.url, collections=["datasets"])
    before = recorded(hosted)
    supabase(checkout, "migration", "repair", "--status", "reverted", *before)
    assert recorded(hosted) == []
    assert migrate(hosted.url) == []
    assert recorded(hosted) == before
    assert migrate(hosted.url, collections=["code_chunks"]) == VERSIONS[-1:]


def test_migrate_does_not_break_the_pushes_of_a_project_with_migrations_of_its_own(
    hosted: Hosted, project: Path, supabase: Supabase
) -> None:
    with pytest.raises(ConfigurationError, match=r"--copy-to .*, then in that project: supabase db push"):
        migrate(hosted.url)
    assert "up to date" in supabase(project, "db", "push", "--yes")
