"""scripts/migrate.py, and the embedded database that migrates itself."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT, Command
from tests.postgres_cluster import make_directory

OLD_LAYOUT = """
import sys
from pathlib import Path

import psycopg

from shared.embedded.server import start_embedded

url = start_embedded(Path(sys.argv[1]))
with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
    owner.execute(
        "create schema supabase_migrations;"
        "create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);"
        "insert into supabase_migrations.schema_migrations (version, name)"
        " values ('20261121090000', 'create_embedding_schema')"
    )
"""


@pytest.fixture
def embedded(small_model: Path) -> Iterator[Command]:
    """Runs commands on a separate embedded database, which stops after each command."""
    folder = make_directory("tonnetz-migrate-")
    command = Command(folder, {"TONNETZ_DATA_DIR": str(folder / "data"), "ONNX_MODEL": str(small_model)})
    yield command
    command.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_data_folder_keeps_the_collections_it_was_set_up_with(embedded: Command) -> None:
    result = embedded("migrate.py", "--seed", "--collections", "datasets")
    assert (result.code, result.stdout, result.stderr) == (0, "applied 2 migrations\n", "")
    # Another command opens the database and migrates it.
    result = embedded("backfill.py", "--json")
    assert result.code == 0, result.stderr
    assert (result.report["collection"], result.report["embedded"]) == ("datasets", 7)
    assert embedded("migrate.py").stdout == "up to date\n"
    assert embedded("migrate.py", "--collections", "none").stdout == "up to date\n"
    assert embedded("migrate.py", "--collections", "code_chunks,datasets").stdout == "applied 1 migration\n"
    reports = embedded("backfill.py", "--json").report["collections"]
    assert {report["collection"] for report in reports} == {"datasets", "code_chunks"}


def test_without_any_collection_the_commands_say_what_is_missing(embedded: Command) -> None:
    assert embedded("migrate.py", "--seed", "--collections", "none").stdout == "applied 1 migration\n"
    result = embedded("backfill.py")
    assert (result.code, result.stderr) == (
        2,
        "error: no table is tracked; track one with select track_embeddings('table_name')\n",
    )
    (embedded.folder / "sets.jsonl").write_text('{"title": "Drum hits"}\n')
    result = embedded("import_datasets.py", "sets.jsonl")
    assert result.code == 2
    assert result.stderr.endswith("add it with scripts/migrate.py --collections datasets\n")


def test_a_collection_that_is_not_shipped_is_refused_before_anything_starts(embedded: Command) -> None:
    result = embedded("migrate.py", "--collections", "datasets,books")
    assert result.code == 2
    assert result.stderr == (
        "error: --collections: 'books' is not a shipped collection; "
        "choose from music_knowledge, mir_synonyms, datasets, code_chunks, or none\n"
    )
    assert not (embedded.folder / "data").exists()


def test_a_data_folder_of_the_unreleased_layout_gets_one_line(embedded: Command) -> None:
    folder = embedded.folder / "data"
    subprocess.run([sys.executable, "-c", OLD_LAYOUT, str(folder)], cwd=ROOT, check=True, timeout=120)
    for script in ("migrate.py", "backfill.py", "demo.py"):
        result = embedded(script)
        assert result.code == 2, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: a version of this program before the first release made the database")
        assert "move the folder .tonnetz (TONNETZ_DATA_DIR) aside" in line
