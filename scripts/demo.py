#!/usr/bin/env python3
"""Sets up the database, loads sample rows, embeds them and searches three times."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import command
from backfill_output import describe, progress_bar
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.database.base import Database
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import embedding_coverage, list_embedding_collections
from shared.embedding.model_providers import ModelProviders
from shared.errors import ConfigurationError
from shared.models import Hit
from shared.search.search import SearchService
from shared.settings import Settings, load_settings
from shared.wiring import WORKERS, get_database, get_provider, migrate_database

COLLECTION = "music_knowledge"
QUERIES = ("why does my vocal sound boomy up close", "loudness for streaming services", "tritone substitution")

# A step that takes more seconds reports its progress.
QUIET_SECONDS = 4.0


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print a line to stderr every few seconds until the block ends."""
    done = threading.Event()
    started = time.monotonic()

    def report() -> None:
        while not done.wait(QUIET_SECONDS):
            print(f"  {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=report, name="demo-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("--yes", action="store_true", help="write into DATABASE_URL or SUPABASE_URL, if one is set")
    arguments = parser.parse_args()
    started = time.monotonic()
    console = Console(highlight=False, width=None if Console().is_terminal else 110)
    settings = load_settings()
    if not arguments.yes:
        refuse_other_databases(settings)
    if settings.supabase_url is None:
        with step("setting up the database"):
            applied = migrate_database(settings, seed=True)
        embedded = f"an embedded PostgreSQL in {command.shown(settings.tonnetz_data_dir)}/"
        place = "DATABASE_URL" if settings.database_url else embedded
        state = f"{len(applied)} migrations applied" if applied else "up to date"
        console.print(f"database: {place}, {state}, sample rows loaded")
    with get_database(settings) as database, closing(get_provider(settings)) as provider:
        with step("loading the model"):
            dimensions = provider.dimensions
        console.print(f"model: {provider.model} ({provider.name}), {dimensions} dimensions")
        stop = command.stop_on_signal()
        complete = True
        for coverage in embedding_coverage(database):
            options = BackfillOptions(coverage.collection, workers=WORKERS[settings.embedding_provider])
            with step(f"embedding {coverage.collection}"), progress_bar(coverage.collection) as show:
                outcome = backfill(database, provider, options, stop=stop, on_progress=show)
            if outcome.error is not None:
                raise outcome.error
            complete = complete and outcome.complete
            if coverage.total:
                console.print("backfill: " + describe(outcome.report, provider.price_per_million_tokens))
        console.print(coverage_table(database))
        search = SearchService(database, ModelProviders(lambda: provider))
        if COLLECTION in list_embedding_collections(database):
            for query in QUERIES:
                with step("searching"):
                    result = search.search(COLLECTION, query, match_count=3)
                console.print(hits_table(query, result.hits, result.took_ms))
        else:
            console.print(
                f"no searches: there is no {COLLECTION}; scripts/migrate.py --collections {COLLECTION} adds it"
            )
    console.print(f"done in {time.monotonic() - started:.1f} s. Next: make serve, or scripts/backfill.py --help")
    return 0 if complete else 1


def refuse_other_databases(settings: Settings) -> None:
    """Raise ConfigurationError for another database than the embedded one, unless --yes allows to write sample rows."""
    if settings.supabase_url is not None:
        raise ConfigurationError(
            "SUPABASE_URL: the demo would embed every row of this project; allow it with --yes, or unset it"
        )
    if settings.database_url is not None:
        raise ConfigurationError(
            "DATABASE_URL: the demo would write tables and sample rows into this database; allow it with --yes, "
            "or unset it to use the embedded database"
        )


def coverage_table(database: Database) -> Table:
    table = Table(title="Coverage", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("collection", "model"):
        table.add_column(name)
    for name in ("rows", "embedded", "pending", "failed"):
        table.add_column(name, justify="right")
    for row in embedding_coverage(database):
        about = "about " if row.estimated else ""
        counts = (f"{about}{count:,}" for count in (row.total, row.embedded, row.pending))
        table.add_row(row.collection, row.model or "-", *counts, f"{row.failed:,}")
    return table


def hits_table(query: str, hits: Sequence[Hit], took_ms: float) -> Table:
    table = Table(title=f"“{query}” ({took_ms:.0f} ms)", title_justify="left", box=box.SIMPLE_HEAD, expand=False)
    table.add_column("score", justify="right")
    table.add_column("found")
    table.add_column("found by")
    for hit in hits:
        content = str(hit.row["content"])
        found = Text.assemble(
            (str(hit.row["topic"]), "bold"), f" ({hit.row['category']})\n{content[:90].rsplit(' ', 1)[0]} …"
        )
        table.add_row(f"{hit.score:.3f}", found, reason(hit))
    return table


def reason(hit: Hit) -> str:
    """Why a hit was found: its rank and its score in each ranking."""
    rankings = []
    if hit.full_text_rank is not None:
        rankings.append(f"full-text #{hit.full_text_rank} ({hit.full_text_score:.2f})")
    if hit.semantic_rank is not None:
        rankings.append(f"semantic  #{hit.semantic_rank} ({hit.semantic_score:.2f})")
    return "\n".join(rankings)


if __name__ == "__main__":
    command.run(main)
