#!/usr/bin/env python3
"""Loads datasets from a CSV file with a header, or from JSONL.

Fields: title (required), id, description, url, tags, published_at (a date or a year), score (0 to 1). Other fields are
kept as metadata. A row is identified by its id, else its url, else its title, so loading the same file again changes
nothing. A row with a description counts as enriched. A row that is not valid is skipped and reported with its line.

Exit code: 0 all rows loaded, 1 some were skipped, 2 wrong configuration.
"""

import csv
import datetime as dates
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import command

from shared.database.base import Database
from shared.embedding.shipped import needs_collection
from shared.errors import ConfigurationError, DatabaseRejected
from shared.settings import load_settings
from shared.wiring import get_database

BATCH_SIZE = 500


class BadRow(Exception):
    """A row that cannot be loaded; the message says why, in one line."""


# The number of a row's first line, and its fields or its error.
Line = tuple[int, dict[str, Any] | BadRow]


def main() -> int:
    parser = command.parser(__doc__, json="print the counts as JSON")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .csv or .jsonl file, UTF-8")
    arguments = parser.parse_args()
    lines = open_file(arguments.file)
    with get_database(load_settings()) as database:
        counts = load(database, lines)
    if arguments.json:
        print(json.dumps(counts))
    else:
        print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
        if counts["inserted"] or counts["updated"]:
            print("next: scripts/backfill.py --collection datasets embeds them")
    return 1 if counts["bad"] else 0


def open_file(path: Path) -> Iterator[Line]:
    """Read the file's rows. Raises ConfigurationError if the file cannot be read at all."""
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    if path.suffix.lower() == ".csv":
        return read_csv(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return read_jsonl(path)
    raise ConfigurationError(f"{path.name}: only .csv and .jsonl files are read")


def read_csv(path: Path) -> Iterator[Line]:
    # Descriptions may be long; the module's own limit is 128 KB.
    csv.field_size_limit(10_000_000)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if not reader.fieldnames or "title" not in reader.fieldnames:
            raise ConfigurationError(f"{path.name}: the first line must name the columns, title among them")
        while True:
            # A quoted field may span several lines: report the first line of the row.
            number = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, BadRow(f"not CSV: {error}")
                continue
            if None in row or None in row.values():
                yield (
                    number,
                    BadRow(f"the header has {len(reader.fieldnames)} columns, but this row has another number"),
                )
            else:
                yield number, dict(row)


def read_jsonl(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError):
                yield number, BadRow("not JSON")
                continue
            yield number, fields if isinstance(fields, dict) else BadRow("not an object")


def load(database: Database, lines: Iterator[Line]) -> dict[str, int]:
    """Write the rows in batches; returns how many were inserted, updated, unchanged and bad."""
    counts = {"inserted": 0, "updated": 0, "unchanged": 0, "bad": 0}
    # If a file contains two rows with the same key, the later one is used.
    batch: dict[str, tuple[int, dict[str, Any]]] = {}

    def flush() -> None:
        write(database, list(batch.values()), counts)
        batch.clear()

    for number, fields in lines:
        try:
            row = read_row(fields)
        except BadRow as problem:
            report(number, str(problem), counts)
            continue
        if row["external_id"] in batch:
            flush()
        batch[row["external_id"]] = (number, row)
        if len(batch) >= BATCH_SIZE:
            flush()
    flush()
    return counts


def read_row(fields: dict[str, Any] | BadRow) -> dict[str, Any]:
    """Convert a row to the arguments of upsert_datasets. Raises BadRow."""
    if isinstance(fields, BadRow):
        raise fields
    problems: list[str] = []

    row: dict[str, Any] = {}
    for name, read in READERS.items():
        try:
            row[name] = read(fields.get(name))
        except BadRow as problem:
            problems.append(f"{name}: {problem}")
    if row.get("title") == "":
        problems.append("title: is missing")
    if problems:
        raise BadRow("; ".join(problems))
    key, score = row.pop("id"), row.pop("score")
    return {
        **row,
        "external_id": key or row["url"] or f"title:{row['title']}",
        "url": row["url"] or None,
        "enrichment_status": "enriched" if row["description"] else "pending",
        "static_score": score,
        "metadata": {name: value for name, value in fields.items() if name not in READERS},
    }


def read_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        raise BadRow("is not a text")
    text = str(value).strip()
    if "\0" in text:
        raise BadRow("contains a NUL character, which PostgreSQL cannot store")
    # Invalid bytes were read as U+FFFD, and half of a surrogate pair cannot be encoded.
    if "\ufffd" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRow("is not valid UTF-8")
    return text


def read_tags(value: Any) -> list[str]:
    # In CSV, tags are one text: one;two or one,two.
    parts: Sequence[Any] = value.replace(";", ",").split(",") if isinstance(value, str) else (value or [])
    if not isinstance(parts, list) or not all(isinstance(tag, str) for tag in parts):
        raise BadRow("is not a list of texts")
    return list(dict.fromkeys(tag.strip() for tag in parts if tag.strip()))


def read_date(value: Any) -> str | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if len(text) == 4 and text.isdecimal():
        text = f"{text}-01-01"
    try:
        moment = dates.datetime.fromisoformat(text)
    except ValueError:
        raise BadRow("is not a year or a date such as 2026-05-17 or 2026-05-17T09:30:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dates.UTC)).isoformat()


def read_score(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise BadRow("is not a number") from None
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise BadRow("is not between 0 and 1")
    return score


READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("id", "title", "description", "url"), read_text),
    **{"tags": read_tags, "published_at": read_date, "score": read_score},
}


def write(database: Database, batch: list[tuple[int, dict[str, Any]]], counts: dict[str, int]) -> None:
    """Write a batch; if the database refuses it, halve it until the bad row is alone."""
    if not batch:
        return
    try:
        with needs_collection(database, "datasets"):
            written = database.call("upsert_datasets", {"rows": [row for _, row in batch]})[0]
    except DatabaseRejected as error:
        if len(batch) == 1:
            report(batch[0][0], error.message, counts)
            return
        middle = len(batch) // 2
        write(database, batch[:middle], counts)
        write(database, batch[middle:], counts)
        return
    for name, count in written.items():
        counts[name] += count


def report(number: int, problem: str, counts: dict[str, int]) -> None:
    counts["bad"] += 1
    print(f"line {number}: {problem}", file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
