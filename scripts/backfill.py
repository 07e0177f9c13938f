#!/usr/bin/env python3
"""Embeds the pending rows: rows without a vector, and rows whose text has changed."""

import argparse
import json
import threading
from contextlib import closing
from functools import partial

import command
from backfill_output import as_json, describe, progress_bar, say

from shared.database.base import Database
from shared.embedding.backfill import INDEX_MIN_ROWS, BackfillOptions, BackfillOutcome, backfill, switch_model
from shared.embedding.collection import Collection, broken_embedding_collections, list_embedding_collections
from shared.embedding.estimate import Estimate, estimate
from shared.errors import (
    AppError,
    ConfigurationError,
    DatabaseContractError,
    DatabaseTimeout,
    ProviderInputRejected,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import BackfillReport, split_model_name
from shared.providers.base import EmbeddingProvider
from shared.settings import Settings, load_settings
from shared.wiring import WORKERS, get_database, get_provider

EPILOG = """\
exit code: 0 every row is embedded; 1 some rows failed, --verify found wrong vectors, or the run ended early;
2 wrong configuration; 130 interrupted.

--json prints one object: collection, model, processed, embedded, failed, stale, reused, truncated, tokens,
cost_usd and seconds are sums over all collections, and `collections` has an object with the same fields for each.
With --dry-run the fields are collection, model, rows, rows_estimated (true: rows and texts are from a sample of a
large table), texts, tokens and cost_usd (null: the price is not known).
collection and model are null if the collections differ.
"""
# Errors that end every run until the configuration is changed.
WRONG_SETTINGS = (ConfigurationError, ProviderRejected, ProviderWidthError, DatabaseContractError)


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(__doc__, json="print the report as JSON on stdout")
    parser.epilog = EPILOG
    add = parser.add_argument
    number, flag = partial(add, type=int, metavar="N"), partial(add, action="store_true")
    add("--collection", metavar="NAME", help="embed only this collection (default: every tracked table)")
    number("--batch-size", default=50, help="rows per claim and per request (default: 50)")
    number("--workers", help="concurrent requests (the default depends on the provider)")
    number("--lease-seconds", default=60, help="how long the rows of a killed run stay leased (default: 60)")
    number("--limit", help="stop after N rows")
    flag("--dry-run", help="print rows, tokens and cost; send no request and change nothing")
    add("--max-cost", type=float, metavar="USD", help="stop before the run would cost more")
    flag("--retry-failed", help="first queue the failed rows again")
    flag("--reconcile", help="first queue pending rows that the triggers did not see")
    flag("--verify", help="afterwards compare every vector with its row's text and model")
    flag("--repair", help="like --verify, and also remove the wrong vectors: the next run embeds the rows")
    target = "move the collection to another model, such as ollama:nomic-embed-text; searches go on during the move"
    add("--switch-model", metavar="PROVIDER:MODEL", help=target)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    settings = load_settings()
    if arguments.switch_model:
        if not arguments.collection:
            raise ConfigurationError("--switch-model: name the collection to move with --collection")
        settings = settings_for_model(settings, arguments.switch_model)
    if arguments.workers is None:
        arguments.workers = WORKERS[settings.embedding_provider]
    # Check the flags before anything is started or loaded.
    options_for("", arguments)
    with get_database(settings, max_connections=8) as database:
        collections = choose_collections(database, arguments.collection)
        with closing(get_provider(settings)) as provider:
            price_is_set = settings.embedding_price_per_million is not None
            unpriced = provider.name == "openai" and not provider.price_per_million_tokens and not price_is_set
            if unpriced and arguments.max_cost is not None:
                raise ConfigurationError(
                    f"--max-cost: the price of {provider.model} is not known; set EMBEDDING_PRICE_PER_MILLION"
                )
            stop = command.stop_on_signal()
            codes: list[int] = []
            reports: list[BackfillReport | Estimate] = []
            for name in collections:
                try:
                    if arguments.dry_run:
                        reports.append(dry_run(database, provider, name, arguments, price_is_set))
                        codes.append(0)
                    else:
                        report, code = run_one(database, provider, name, arguments, stop)
                        reports.append(report)
                        codes.append(code)
                except AppError:
                    if not is_broken(database, name):
                        raise
                    codes.append(1)
                    if not arguments.dry_run:
                        reports.append(BackfillReport(name, provider.model))
                if stop.is_set():
                    break
            if arguments.json:
                print(json.dumps(as_json(reports)))
            return max(codes)


def options_for(name: str, arguments: argparse.Namespace) -> BackfillOptions:
    """The options of the command line for one collection. Raises ConfigurationError naming the flag."""
    flags = ("batch_size", "workers", "limit", "max_cost", "lease_seconds")
    return BackfillOptions(name, **{flag: getattr(arguments, flag) for flag in flags})


def settings_for_model(settings: Settings, target: str) -> Settings:
    """The settings for a target such as `openai:text-embedding-3-small`, validated like those of the environment."""
    provider, separator, model = target.partition(":")
    if provider not in WORKERS or not separator or not model:
        raise ConfigurationError(
            f"--switch-model: {target!r} is not PROVIDER:MODEL with PROVIDER one of {', '.join(WORKERS)}, "
            "such as ollama:nomic-embed-text"
        )
    name, width, *_ = split_model_name(model)
    onnx = provider == "onnx"
    return load_settings(
        embedding_provider=provider,
        embedding_model=None if onnx else name,
        onnx_model=(None if name == "all-MiniLM-L6-v2" else name) if onnx else settings.onnx_model,
        embedding_dimensions=width,
    )


def choose_collections(database: Database, name: str | None) -> list[str]:
    if name is not None:
        return [name]
    names = list(list_embedding_collections(database))
    if not names:
        raise ConfigurationError("no table is tracked; track one with select track_embeddings('table_name')")
    return names


def run_one(
    database: Database, provider: EmbeddingProvider, name: str, arguments: argparse.Namespace, stop: threading.Event
) -> tuple[BackfillReport, int]:
    """Embed the pending rows of a collection; returns the report and the exit code."""
    work = Collection(database, name)
    if arguments.retry_failed:
        say(f"{name}: {work.retry_failed_embeddings():,} failed rows queued again")
    if arguments.reconcile:
        say(f"{name}: {work.reconcile_embeddings():,} pending rows queued that the triggers had not seen")
    if arguments.switch_model:
        say(f"{name}: {switch_model(database, provider, name):,} rows move to {provider.model}")
    with progress_bar(name) as show:
        outcome = backfill(database, provider, options_for(name, arguments), stop=stop, on_progress=show)
    if outcome.error and is_broken(database, name):
        return outcome.report, 1
    if not arguments.json:
        print(describe(outcome.report, provider.price_per_million_tokens))
    code = explain(work, outcome)
    if code == 0 and outcome.report.embedded:
        index(database, name)
    if arguments.switch_model:
        say(f"set EMBEDDING_PROVIDER={provider.name} and EMBEDDING_MODEL={provider.model} for later runs")
    if arguments.verify or arguments.repair:
        code = max(code, verify(work, repair=arguments.repair))
    return outcome.report, code


def is_broken(database: Database, name: str) -> bool:
    """Whether the rows of the collection cannot be read; prints the reason."""
    try:
        problem = broken_embedding_collections(database).get(name)
    except AppError:
        return False
    if problem is not None:
        say(f"{name} cannot be read: {problem}")
    return problem is not None


def explain(work: Collection, outcome: BackfillOutcome) -> int:
    """Print the remaining rows and the reason to stderr; return the exit code."""
    left = outcome.left
    code = 0
    if left.failed or left.waiting or outcome.report.failed:
        code = 1
        if left.waiting:
            say(f"{left.waiting:,} rows failed and will be tried again by a later run")
        if left.failed:
            say(f"{left.failed:,} rows failed. Fix them, then run backfill.py --retry-failed. The latest:")
            for row in work.list_failed_embeddings(5):
                say(f"  {row['row_id']}: {row['error']}")
    if outcome.over_budget:
        code = 1
        say(f"stopped before the cost would exceed --max-cost; {left.pending:,} rows are left")
    if outcome.error is not None:
        code = 1
        # Without the database, the number of rows is unknown.
        say(f"error: {outcome.error.message}" + (f" ({left.pending:,} rows are left)" if left.pending else ""))
        if isinstance(outcome.error, WRONG_SETTINGS) and not isinstance(outcome.error, ProviderInputRejected):
            code = command.EXIT_CONFIGURATION
    if outcome.interrupted:
        code = command.EXIT_INTERRUPTED
        say(f"interrupted; {left.pending:,} rows are left")
    return code


def index(database: Database, name: str) -> None:
    try:
        if built := Collection(database, name).create_embedding_index(min_rows=INDEX_MIN_ROWS):
            say(f"{name}: built the index {built}")
    except DatabaseTimeout:
        say(
            f"{name} is large enough for a vector index, which takes longer than the API allows: "
            f"connect with DATABASE_URL and run select create_embedding_index('{name}')"
        )


def verify(work: Collection, *, repair: bool) -> int:
    wrong = work.verify_embeddings()
    say(f"{work.collection}: {wrong:,} vectors do not belong to their text or model")
    for row in work.mismatched_embeddings(10) if wrong else []:
        say(f"  {row['row_id']}: {row['reason']}")
    if wrong and repair:
        say(f"{work.collection}: {work.repair_embeddings():,} rows queued; the next run embeds them")
    return 1 if wrong else 0


def dry_run(
    database: Database, provider: EmbeddingProvider, name: str, arguments: argparse.Namespace, price_is_set: bool
) -> Estimate:
    expected = estimate(database, provider, name, switching=bool(arguments.switch_model), price_is_set=price_is_set)
    if not arguments.json:
        cost = "price not known" if expected.cost_usd is None else f"${expected.cost_usd:.4f}"
        rows = f"{'about ' if expected.rows_estimated else ''}{expected.rows:,} rows"
        print(f"{name} ({provider.model}): {rows}, about {expected.tokens:,} tokens, {cost}")
    return expected


if __name__ == "__main__":
    command.run(main)
