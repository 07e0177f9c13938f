"""Tests the five steps of docs/supabase.md, as printed, for a project with migrations of its own."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from shared.embedded.copies import copy_migrations
from shared.embedded.migrations import MIGRATIONS, PROJECT, migrate
from shared.errors import ConfigurationError
from tests.commands.conftest import Command
from tests.documents import blocks
from tests.supabase_cli.conftest import Hosted
from tests.unit.small_bert import write_model

PAGE = PROJECT / "docs" / "supabase.md"
# The blocks are in the order of the page.
COPY, PUSH, TRACK, EMBED, SEARCH = (block.text for block in blocks(PAGE) if block.test and "own_project" in block.test)


def test_the_documented_steps_end_in_a_hit_and_the_next_push_of_the_project_works(
    hosted: Hosted, project: Path, supabase: Callable[..., str], tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TONNETZ": str(PROJECT)}
    ended = subprocess.run(
        ["bash", "-euc", COPY], cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    (copied,) = sorted((project / "supabase" / "migrations").iterdir())[3:]
    assert ended.stdout == f"copied supabase/migrations/{copied.name}\n"

    assert PUSH == "supabase db push\n"
    supabase(project, *PUSH.split()[1:], "--yes")
    with psycopg.connect(hosted.url.get_secret_value(), autocommit=True) as owner:
        owner.execute(TRACK)
        assert ".venv/bin/python scripts/backfill.py --verify\n" in EMBED
        model = write_model(tmp_path / "small-bert")
        backfill = Command(tmp_path, {"DATABASE_URL": hosted.url.get_secret_value(), "ONNX_MODEL": str(model)})
        result = backfill("backfill.py", "--verify")
        assert result.code == 0, result.stderr
        assert owner.execute("select count(*) from articles where embedding is not null").fetchone() == (1,)
        assert [row[0] for row in owner.execute(SEARCH)] == ["Tuning a guitar"]

    # A second copy has nothing new, and migrate.py has nothing to do.
    (again,) = copy_migrations(project / "supabase" / "migrations")
    assert (again.path.name, again.new) == (copied.name, False)
    assert migrate(hosted.url) == []
    (project / "supabase" / "migrations" / "20990101000000_next.sql").write_text("create table orders (id bigint);")
    assert "20990101000000_next.sql" in supabase(project, "db", "push", "--yes")
    listed = supabase(project, "migration", "list")
    assert listed.count(copied.name[:14]) >= 2

    # A shipped collection that is added later sorts after everything.
    *_, added = copy_migrations(project / "supabase" / "migrations", ["datasets"])
    assert (added.path.name, added.new) == ("20990101000001_tonnetz_datasets.sql", True)
    with pytest.raises(ConfigurationError, match="then in that project: supabase db push"):
        migrate(hosted.url, collections=["datasets"])
    supabase(project, "db", "push", "--yes")
    assert migrate(hosted.url, seed=True) == []

    # For a version that it does not know, the CLI suggests this command. A user may run it by mistake.
    supabase(project, "migration", "repair", "--status", "reverted", copied.name[:14])
    with pytest.raises(ConfigurationError, match=r"supabase migration repair --status applied VERSIONS"):
        migrate(hosted.url)
    supabase(project, "migration", "repair", "--status", "applied", copied.name[:14])
    assert migrate(hosted.url) == []


@pytest.mark.parametrize("folder", [MIGRATIONS, PROJECT / "nowhere", PROJECT / "README.md"])
def test_a_folder_that_is_no_other_projects_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="--copy-to"):
        copy_migrations(folder)


def test_copies_have_names_of_their_own(tmp_path: Path) -> None:
    """A project may have a migration of its own that is called datasets."""
    folder = tmp_path / "migrations"
    copied = copy_migrations(folder)
    assert [path.path for path in copied] == sorted(folder.iterdir())
    assert all(path.path.stem[15:].startswith("tonnetz") for path in copied)
    assert len(copied) == len(list(MIGRATIONS.iterdir()))
    assert not any(one.new for one in copy_migrations(folder))
