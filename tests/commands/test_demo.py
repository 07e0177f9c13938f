"""`make demo` prints what docs/collections.md shows."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.embedded.migrations import migrate
from tests.commands.conftest import ROOT, Command
from tests.postgres_cluster import Cluster, make_directory, remove

PAGE = ROOT / "docs" / "collections.md"
CUT = "[two more searches]"


def shape(line: str) -> str:
    """The line without times and scores, which differ from machine to machine."""
    line = re.sub(r"[\d.,]+ (s|ms|rows/s)\b", r"N \1", line)
    return re.sub(r"\b\d\.\d+\b", "N", line).rstrip()


def lines_of(text: str) -> list[str]:
    return [shape(line) for line in text.splitlines() if line.strip()]


@pytest.fixture
def checkout() -> Iterator[Path]:
    folder = make_directory("tonnetz-demo-")
    yield folder
    remove(folder)


def test_the_demo_prints_what_its_page_shows(tmp_path: Path, checkout: Path) -> None:
    block = next(part for part in PAGE.read_text("utf-8").split("```") if CUT in part).removeprefix("text\n")
    # Use a separate checkout, because without settings the database is in the checkout.
    for folder in ("shared", "functions", "scripts", "supabase"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__", "bench"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    command = Command(tmp_path, {"TONNETZ_ENV_FILE": "<unset>"})
    try:
        result = command.finish(command.start(str(checkout / "scripts" / "demo.py")), timeout=240)
    finally:
        command.close()
    assert result.code == 0, result.stderr
    assert (checkout / ".tonnetz").is_dir()
    assert not (tmp_path / ".tonnetz").exists()
    before, after = block.split(CUT)
    printed = lines_of(result.stdout)
    assert printed[: len(lines_of(before))] == lines_of(before)
    assert printed[-1:] == lines_of(after)
    # On a slow machine stderr has progress and warnings. The output above is the same.
    assert "Traceback" not in result.stderr


def test_the_demo_of_a_database_without_collections_says_what_it_lacks(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.empty() as url:
        migrate(url, collections=[])
        command = Command(tmp_path, {"DATABASE_URL": url.get_secret_value()})
        try:
            refused = command("demo.py")
            result = command.finish(command.start("demo.py", "--yes"), timeout=240)
        finally:
            command.close()
    assert refused.code == 2
    assert refused.stderr.splitlines() == [
        "error: DATABASE_URL: the demo would write tables and sample rows into this database; "
        "allow it with --yes, or unset it to use the embedded database"
    ]
    assert result.code == 0, result.stderr
    assert "no searches: there is no music_knowledge; scripts/migrate.py --collections music_knowledge adds it" in (
        " ".join(result.stdout.split())
    )
