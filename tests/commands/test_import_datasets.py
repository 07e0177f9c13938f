"""Tests scripts/import_datasets.py: several formats, repeated imports, a line for each bad row."""

import csv
import json
from pathlib import Path

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from tests.commands.conftest import Command
from tests.conftest import Connection
from tests.database.rows import embed_all
from tests.fake_provider import FakeProvider


def run(command: Command, path: Path) -> tuple[int, dict[str, int], list[str]]:
    result = command("import_datasets.py", str(path), "--json")
    return result.code, json.loads(result.stdout), result.stderr.splitlines()


def test_importing_ten_thousand_rows_twice_adds_none_and_embeds_none_again(
    command: Command, tmp_path: Path, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(10_000):
            row = {
                "title": f"Dataset {number}",
                "description": f"about {number % 97}",
                "url": f"https://example.org/{number}",
                "tags": ["a", f"t{number % 5}"],
                "published_at": "2025-03-04",
                "score": number % 100 / 100,
            }
            file.write(json.dumps(row) + "\n")
    assert run(command, path) == (0, {"inserted": 10_000, "updated": 0, "unchanged": 0, "bad": 0}, [])
    work = Collection(database, "datasets")
    work.register_embedding_model(provider.spec)
    assert embed_all(work, provider) == 10_000
    sent = len(provider.wire.texts)
    versions = "select count(*), md5(string_agg(id::text || xmin::text || ctid::text, ',' order by id)) from datasets"
    before = owner.execute(versions).fetchone()

    assert run(command, path) == (0, {"inserted": 0, "updated": 0, "unchanged": 10_000, "bad": 0}, [])
    assert owner.execute(versions).fetchone() == before
    assert work.embedding_queue().pending == 0
    assert embed_all(work, provider) == 0
    assert len(provider.wire.texts) == sent


def test_a_csv_with_long_and_quoted_fields_is_read(command: Command, tmp_path: Path, owner: Connection) -> None:
    path = tmp_path / "some.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "description", "url", "tags", "published_at", "score", "licence"])
        writer.writerow(
            ["Drums", 'two lines\nand "quotes", é', "https://e.org/1", "a; b;a", "2025-03-04T10:00:00Z", "0.5", "MIT"]
        )
        writer.writerow(["Bass", "x" * 200_000, "", "", "", "", ""])
        writer.writerow(["No words yet", "", "", "", "", "", ""])
    assert run(command, path)[:2] == (0, {"inserted": 3, "updated": 0, "unchanged": 0, "bad": 0})
    rows = owner.execute(
        "select title, description, tags, published_at::text, static_score, enrichment_status, metadata ->> 'licence'"
        " from dataset_overview where title = 'Drums'"
    ).fetchone()
    assert rows is not None
    assert rows[:3] == ("Drums", 'two lines\nand "quotes", é', ["a", "b"])
    assert rows[4:] == (0.5, "enriched", "MIT")
    assert owner.execute("select enrichment_status from datasets where title = 'No words yet'").fetchone() == (
        "pending",
    )


def test_each_bad_row_is_reported_with_its_line_and_the_others_are_loaded(
    command: Command, tmp_path: Path, owner: Connection
) -> None:
    lines = [
        '{"title": "Good one", "description": "a"}',
        "{broken",
        "[1, 2]",
        '{"description": "no title"}',
        '{"title": "a", "score": "high"}',
        '{"title": "b", "score": 7}',
        '{"title": "c", "published_at": "yesterday"}',
        '{"title": "d", "tags": [1]}',
        '{"title": "e\\u0000"}',
        '{"title": "f", "description": "\\ud800"}',
        "",
        '{"title": "g", "score": NaN}',
        '{"title": "h", "surplus": "\\u0000"}',
        '{"title": "Good two", "description": "b"}',
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(lines))
    code, counts, said = run(command, path)
    assert code == 1
    assert counts == {"inserted": 2, "updated": 0, "unchanged": 0, "bad": 11}
    assert sorted(int(line.split()[1].rstrip(":")) for line in said) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13]
    assert "line 6: score: is not between 0 and 1" in said
    assert "line 9: title: contains a NUL character, which PostgreSQL cannot store" in said
    assert {row[0] for row in owner.execute("select title from datasets")} == {"Good one", "Good two"}


def test_a_year_is_accepted_as_a_date_and_every_invalid_field_is_named(
    command: Command, tmp_path: Path, owner: Connection
) -> None:
    path = tmp_path / "years.csv"
    path.write_text("title,published_at,score\nCensus,2023,\n,soon,2\n")
    result = command("import_datasets.py", str(path))
    assert result.stdout.splitlines() == [
        "1 inserted, 0 updated, 0 unchanged, 1 bad",
        "next: scripts/backfill.py --collection datasets embeds them",
    ]
    assert result.stderr.splitlines() == [
        "line 3: published_at: is not a year or a date such as 2026-05-17 or 2026-05-17T09:30:00Z; "
        "score: is not between 0 and 1; title: is missing"
    ]
    years = owner.execute("select (published_at at time zone 'UTC')::date::text from datasets").fetchall()
    assert years == [("2023-01-01",)]


def test_a_csv_row_with_another_number_of_columns_is_refused(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text('title,description\na,b,c\nd\n"e","f"\n')
    code, counts, said = run(command, path)
    assert (code, counts["inserted"], counts["bad"]) == (1, 1, 2)
    assert [line.split(":")[0] for line in said] == ["line 2", "line 3"]


def test_two_rows_of_a_file_with_one_key_become_one_row_with_the_later_values(
    command: Command, tmp_path: Path, owner: Connection
) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"id": "x", "title": title}) + "\n" for title in ("first", "second")))
    assert run(command, path)[1] == {"inserted": 1, "updated": 1, "unchanged": 0, "bad": 0}
    assert owner.execute("select title from datasets").fetchall() == [("second",)]


@pytest.mark.parametrize(
    ("name", "content"), [("missing.csv", None), ("notes.txt", "x"), ("empty.csv", ""), ("other.csv", "a,b\n")]
)
def test_a_file_that_cannot_be_read_at_all_is_named(
    command: Command, tmp_path: Path, name: str, content: str | None
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    result = command("import_datasets.py", str(tmp_path / name))
    assert result.code == 2
    assert name in result.stderr
