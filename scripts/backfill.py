#!/usr/bin/env python3
"""Embed what is pending: rows without a vector, or whose text has changed."""

import argparse
import json
import sys
import threading
from contextlib import closing, nullcontext

import command
from backfill_output import ProgressBar, as_json, describe, say

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
exit code: 0 all embedded; 1 some rows failed, --verify found wrong vectors, or the run ended early;
2 wrong configuration; 130 interrupted.

--json prints one object: collection, model, processed, embedded, failed, stale, reused, truncated, tokens,
cost_usd and seconds are of the whole run, and `collections` holds the same of each collection. With --dry-run
they are collection, model, rows, texts, tokens and cost_usd (null: the price is not known). collection and model
are null where the collections differ.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collection", metavar="NAME", help="only this one (default: every tracked table)")
    parser.add_argument(
        "--batch-size", type=int, default=50, metavar="N", help="rows a claim and a request (default: 50)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="requests under way at once (default: by provider)")
    parser.add_argument(
        "--lease-seconds",
        type=int,
        default=60,
        metavar="N",
        help="how long the rows of a killed run stay out of reach (default: 60)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N rows")
    parser.add_argument("--dry-run", action="store_true", help="print rows, tokens and cost; no request, no change")
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop before the run would cost more")
    parser.add_argument("--retry-failed", action="store_true", help="first queue the failed rows again")
    parser.add_argument(
        "--reconcile", action="store_true", help="first queue pending rows that slipped past the triggers"
    )
    parser.add_argument(
        "--verify", action="store_true", help="afterwards compare every vector with its row's text and model"
    )
    parser.add_argument(
        "--repair", action="store_true", help="as --verify, and remove the wrong vectors: the next run embeds the rows"
    )
    parser.add_argument(
        "--switch-model",
        metavar="PROVIDER:MODEL",
        help="move the collection to another model, such as ollama:nomic-embed-text; it stays searchable meanwhile",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    settings = load_settings()
    if arguments.switch_model:
        if not arguments.collection:
            raise ConfigurationError("--switch-model: name the collection to move with --collection")
        settings = settings_for_model(settings, arguments.switch_model)
    workers = WORKERS[settings.embedding_provider] if arguments.workers is None else arguments.workers
    # Checked before anything is started or loaded.
    options_for("", workers, arguments)
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
                        code = dry_run(database, provider, name, arguments, reports, price_is_set)
                    else:
                        code = run_one(database, provider, name, workers, arguments, stop, reports)
                except AppError:
                    code = say_broken(database, name)
                    if code == 0:
                        raise
                    if not arguments.dry_run:
                        reports.append(BackfillReport(name, provider.model))
                codes.append(code)
                if stop.is_set():
                    break
            if arguments.json:
                print(json.dumps(as_json(reports)))
            return max(codes)


def options_for(name: str, workers: int, arguments: argparse.Namespace) -> BackfillOptions:
    """The options of the command line for one collection. Raises ConfigurationError naming the flag."""
    return BackfillOptions(
        name,
        arguments.batch_size,
        workers,
        arguments.limit,
        arguments.max_cost,
        lease_seconds=arguments.lease_seconds,
    )


def settings_for_model(settings: Settings, target: str) -> Settings:
    """The settings with the provider and model of `openai:text-embedding-3-small`; checked like any others."""
    provider, separator, model = target.partition(":")
    if provider not in WORKERS or not separator or not model:
        raise ConfigurationError(
            f"--switch-model: {target!r} is not PROVIDER:MODEL with PROVIDER one of {', '.join(WORKERS)}, "
            "such as ollama:nomic-embed-text"
        )
    name, width = split_model_name(model)
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
    database: Database,
    provider: EmbeddingProvider,
    name: str,
    workers: int,
    arguments: argparse.Namespace,
    stop: threading.Event,
    reports: list[BackfillReport | Estimate],
) -> int:
    work = Collection(database, name)
    if arguments.retry_failed:
        say(f"{name}: {work.retry_failed_embeddings():,} failed rows queued again")
    if arguments.reconcile:
        say(f"{name}: {work.reconcile_embeddings():,} rows had slipped past the triggers")
    if arguments.switch_model:
        say(f"{name}: {switch_model(database, provider, name):,} rows move to {provider.model}")
    options = options_for(name, workers, arguments)
    with ProgressBar(name) if sys.stderr.isatty() else nullcontext() as bar:
        outcome = backfill(database, provider, options, stop=stop, on_progress=bar.show if bar else None)
    reports.append(outcome.report)
    if outcome.error and say_broken(database, name):
        return 1
    if not arguments.json:
        print(describe(outcome.report, provider.price_per_million_tokens))
    code = explain(work, outcome)
    if code == 0 and outcome.report.embedded:
        code = index(database, name)
    if arguments.switch_model:
        say(f"set EMBEDDING_PROVIDER={provider.name} and EMBEDDING_MODEL={provider.model} for the runs to come")
    if arguments.verify or arguments.repair:
        code = max(code, verify(work, repair=arguments.repair))
    return code


def say_broken(database: Database, name: str) -> int:
    """Say why no row of the collection can be read; returns the exit code, 0 where rows can be read."""
    try:
        problem = broken_embedding_collections(database).get(name)
    except AppError:
        return 0
    if problem is None:
        return 0
    say(f"{name} cannot be read: {problem}")
    return 1


def explain(work: Collection, outcome: BackfillOutcome) -> int:
    """Say on stderr what is left and why; return the exit code."""
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
        say(f"stopped before --max-cost would be passed; {left.pending:,} rows are left")
    if outcome.error is not None:
        code = 1
        # A database that is gone cannot be asked how many there are.
        say(f"error: {outcome.error.message}" + (f" ({left.pending:,} rows are left)" if left.pending else ""))
        about_a_text = isinstance(outcome.error, ProviderInputRejected)
        if (
            isinstance(outcome.error, (ConfigurationError, ProviderRejected, ProviderWidthError, DatabaseContractError))
            and not about_a_text
        ):
            code = command.EXIT_CONFIGURATION
    if outcome.interrupted:
        code = command.EXIT_INTERRUPTED
        say(f"interrupted; {left.pending:,} rows are left")
    return code


def index(database: Database, name: str) -> int:
    try:
        built = Collection(database, name).create_embedding_index(min_rows=INDEX_MIN_ROWS)
    except DatabaseTimeout:
        say(
            f"{name} is large enough for a vector index, which takes longer than the API allows: "
            f"connect with DATABASE_URL and run select create_embedding_index('{name}')"
        )
    else:
        if built:
            say(f"{name}: built the index {built}")
    return 0


def verify(work: Collection, *, repair: bool) -> int:
    wrong = work.verify_embeddings()
    say(f"{work.collection}: {wrong:,} vectors do not belong to their text or model")
    for row in work.mismatched_embeddings(10) if wrong else []:
        say(f"  {row['row_id']}: {row['reason']}")
    if wrong and repair:
        say(f"{work.collection}: {work.repair_embeddings():,} rows queued; the next run embeds them")
    return 1 if wrong else 0


def dry_run(
    database: Database,
    provider: EmbeddingProvider,
    name: str,
    arguments: argparse.Namespace,
    reports: list[BackfillReport | Estimate],
    price_is_set: bool,
) -> int:
    expected = estimate(database, provider, name, switching=bool(arguments.switch_model), price_is_set=price_is_set)
    reports.append(expected)
    if not arguments.json:
        cost = "price not known" if expected.cost_usd is None else f"${expected.cost_usd:.4f}"
        print(f"{name} ({provider.model}): {expected.rows:,} rows, about {expected.tokens:,} tokens, {cost}")
    return 0


if __name__ == "__main__":
    command.run(main)
