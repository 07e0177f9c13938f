"""Tests that pg_upgrade moves a filled database to the next PostgreSQL, with the commands of docs/upgrade.md."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.embedded.account import choose_account
from shared.embedded.binaries import binaries
from tests.database.moved_data import check_moved, documented, fill, full_text, refresh_full_text, run_script
from tests.drills.upgrade_older import start, stop
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import make_directory, remove

OLD, NEW = min(binaries()), max(binaries())


@pytest.fixture
def folder() -> Iterator[Path]:
    directory = make_directory("tonnetz-pg-")
    yield directory
    for version in (OLD, NEW):
        if (directory / str(version) / "postmaster.pid").exists():
            stop(directory / str(version), version)
    remove(directory)


def test_a_filled_database_is_upgraded_by_the_documented_commands(folder: Path, provider: FakeProvider) -> None:
    old, new = folder / str(OLD), folder / str(NEW)
    fill(start(old, OLD), provider)
    user = server_user(old)
    stop(old, OLD)

    # The commands run as the user that owns the server's files. This user must be able to write to these folders.
    for directory in (folder / "work", new):
        directory.mkdir()
        shutil.chown(directory, user=user or directory.owner())
    servers = {"OLD_BIN": binaries()[OLD], "NEW_BIN": binaries()[NEW], "OLD_DATA": old, "NEW_DATA": new}
    (folder / "work").chmod(0o755)
    printed = run_script(documented("pg_upgrade"), folder / "work", servers, user=user)
    assert "Upgrade Complete" in printed

    url = start(new, NEW)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        assert owner.execute("select current_setting('server_version_num')::int / 10000").fetchone() == (NEW,)
        kept = all_but_fts(owner)
        # PostgreSQL 16 stems "adding" to "ad", 18 to "add": full-text search does not find the old lexemes.
        assert full_text(owner, "adding") == []
        refresh_full_text(url, folder)
        assert full_text(owner, "adding") == ["adding a reverb"]
        found = owner.execute("select content from search_music_knowledge('adding')").fetchall()
        assert found == [("adding a chord",)], "generated columns are refreshed too"
        assert all_but_fts(owner) == kept, "vectors and updated_at stay"
    check_moved(url, provider)


def server_user(directory: Path) -> str | None:
    account = choose_account(directory)
    return account.name if account.other else None


def all_but_fts(owner: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Rows of two collections. In one of them fts is a generated column, in the other a trigger computes it."""
    rows = "select to_jsonb({0}) - 'fts' from {0}"
    asked = f"{rows.format('notes')} union all {rows.format('music_knowledge')} order by 1"
    return [row[0] for row in owner.execute(asked)]
