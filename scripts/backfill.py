#!/usr/bin/env python3
"""Embeds the pending rows: rows without a vector, and rows whose text has changed."""

import argparse
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial

import command
from backfill_output import as_json, describe, progress_bar, say

from shared.database.base import Database
from shared.embedding.backfill import INDEX_MIN_ROWS, BackfillOptions, BackfillOutcome, backfill
from shared.embedding.collection import Collection, broken_embedding_collections, list_embedding_collections
from shared.embedding.embedding_job import DEFAULT_WORKERS
from shared.embedding.estimate import Estimate, estimate
from shared.embedding.model_providers import ModelProviders
from shared.embedding.model_switch import switch_model
from shared.embedding.runs import record_run
from shared.errors import (
    AppError,
    ConfigurationError,
    DatabaseContractError,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
    ProviderInputRejected,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import BackfillReport, split_model_name
from shared.providers.base import EmbeddingProvider
from shared.settings import Settings, load_settings
from shared.wiring import WORKERS, get_database, get_model_providers

EPILOG = """\
exit code: 0 every row is embedded; 1 some rows or some collections failed, --verify found wrong rows, or the run ended
early; 2 wrong configuration, so that no collection could be embedded; 130 interrupted.

Each collection is embedded with its own model. A collection without a model gets the model of the settings.

--json prints one object with the fields collection, model, processed, embedded, failed, stale, reused, truncated, tokens,
cost_usd and seconds. The numbers are sums over all collections; `collections` has an object with the same fields for
each collection. With --dry-run the fields are collection, model, rows, rows_estimated, texts, tokens and cost_usd.
rows_estimated is true if rows and texts are estimated from a sample of a large table. cost_usd is null if the price is
not known. collection and model are null if the collections differ.
"""
# Errors that end every run until the configuration is changed.
WRONG_SETTINGS = (ConfigurationError, ProviderRejected, ProviderWidthError, DatabaseContractError)

# The provider of a collection, or the error why it has none, or None if there is nothing to embed.
Choice = EmbeddingProvider | AppError | None


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
    flag("--verify", help="afterwards compare the vector, fts and queue entry of every row with its text")
    flag("--repair", help="like --verify, and also repair the rows: the next run embeds those without a vector")
    target = "move the collection to another model, such as ollama:nomic-embed-text; searches go on during the move"
    add("--switch-model", metavar="PROVIDER:MODEL", help=target)
    flag("--replace-foreign", help="also replace the vectors of models that no provider here makes")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    settings = load_settings()
    if arguments.switch_model:
        if not arguments.collection:
            raise ConfigurationError("--switch-model: name the collection to move with --collection")
        settings = settings_for_model(settings, arguments.switch_model)
    # Check the flags before anything is started or loaded.
    options_for("", arguments, DEFAULT_WORKERS)
    database = get_database(settings, max_connections=8)
    with database, closing(get_model_providers(settings, database)) as providers:
        names = choose_collections(database, arguments.collection)
        chosen = choose_providers(database, providers, names, arguments)
        stop = command.stop_on_signal()
        codes: list[int] = []
        reports: list[BackfillReport | Estimate] = []
        for name, provider in chosen.items():
            report, code = run_or_report(database, provider, name, arguments, stop)
            codes.append(code)
            if report is not None:
                reports.append(report)
            if stop.is_set():
                break
        if arguments.json:
            print(json.dumps(as_json(reports)))
        return exit_code(codes)


def exit_code(codes: Sequence[int]) -> int:
    """The code for all collections: 2 only if the configuration let none of them be embedded."""
    if command.EXIT_INTERRUPTED in codes:
        return command.EXIT_INTERRUPTED
    return max(codes) if len(set(codes)) == 1 else 1


def options_for(name: str, arguments: argparse.Namespace, workers: int) -> BackfillOptions:
    """The options of the command line for one collection. Raises ConfigurationError, which names the wrong flag."""
    flags = ("batch_size", "limit", "max_cost", "lease_seconds")
    given = {flag: getattr(arguments, flag) for flag in flags}
    return BackfillOptions(name, workers=workers if arguments.workers is None else arguments.workers, **given)


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


def choose_providers(
    database: Database, providers: ModelProviders, names: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Choice]:
    """The provider of each collection: that of its model, or the target of --switch-model.

    Prints the collections whose provider cannot be created, with the fix. Raises ConfigurationError if this is true of all.
    """
    chosen: dict[str, Choice] = {}
    problems: dict[str, list[str]] = {}
    for name in names:
        try:
            work = Collection(database, name)
            if arguments.switch_model:
                provider: EmbeddingProvider | None = providers.for_model()
            else:
                provider = providers.for_backfill(work, look=not arguments.dry_run)
            if provider is not None and arguments.max_cost is not None and not provider.price_is_known:
                raise ConfigurationError(
                    f"--max-cost: the price of {provider.model} is not known; set EMBEDDING_PRICE_PER_MILLION"
                )
            chosen[name] = provider
        except ConfigurationError as error:
            chosen[name] = error
            problems.setdefault(error.message, []).append(name)
    lines = [f"{', '.join(of)}: {message}" for message, of in problems.items()]
    if all(isinstance(choice, AppError) for choice in chosen.values()):
        raise ConfigurationError("\n".join(lines))
    for line in lines:
        say(f"error: {line}")
    if others := with_another_model(providers, chosen):
        say(f"{', '.join(others)}: the model is not the one of the settings; --switch-model moves a collection")
    return chosen


def with_another_model(providers: ModelProviders, chosen: Mapping[str, Choice]) -> list[str]:
    """The collections whose provider has another model than the one in the settings."""
    try:
        model = providers.for_model().model
    except ConfigurationError:
        return []
    return [name for name, one in chosen.items() if isinstance(one, EmbeddingProvider) and one.model != model]


def run_or_report(
    database: Database, choice: Choice, name: str, arguments: argparse.Namespace, stop: threading.Event
) -> tuple[BackfillReport | Estimate | None, int]:
    """Embed one collection, or estimate its cost. An error that concerns only this collection does not end the command."""
    if isinstance(choice, AppError):
        return skip(database, name, choice, arguments), command.EXIT_CONFIGURATION
    if choice is None:
        # Another program writes the vectors.
        work = Collection(database, name)
        code = verify(work, repair=arguments.repair) if arguments.verify or arguments.repair else 0
        return None if arguments.dry_run else empty_report(work), code
    try:
        if arguments.dry_run:
            return dry_run(database, choice, name, arguments), 0
        return run_one(database, choice, name, arguments, stop)
    except AppError as error:
        if is_broken(database, name):
            return None if arguments.dry_run else BackfillReport(name, choice.model), 1
        concerns_all = isinstance(error, DatabaseError) and not isinstance(error, DatabaseRejected)
        if arguments.collection is not None or concerns_all:
            raise
        say(f"error: {name}: {error.message}")
        return skip(database, name, error, arguments), command.EXIT_CONFIGURATION


def skip(database: Database, name: str, error: AppError, arguments: argparse.Namespace) -> BackfillReport | None:
    """Record a run that failed before its first row, and return its report. A dry run records and returns nothing."""
    if arguments.dry_run:
        return None
    report = empty_report(Collection(database, name))
    record_run(database, None, name, "failed", {"model": report.model, "error": error.message})
    return report


def empty_report(work: Collection) -> BackfillReport:
    """The report of a collection without a claimed row."""
    models = work.collection_models()
    return BackfillReport(work.collection, models[0].name if models else "")


def run_one(
    database: Database, provider: EmbeddingProvider, name: str, arguments: argparse.Namespace, stop: threading.Event
) -> tuple[BackfillReport, int]:
    """Embed the pending rows of a collection; returns the report and the exit code."""
    work = Collection(database, name)
    if arguments.retry_failed:
        say(f"{name}: {work.retry_failed_embeddings():,} failed rows queued again")
    if arguments.reconcile:
        say(f"{name}: {work.reconcile_embeddings():,} pending rows queued that the triggers had not seen")
    if arguments.switch_model or arguments.replace_foreign:
        moved = switch_model(database, provider, name, replace_foreign=arguments.replace_foreign)
        say(f"{name}: {moved:,} rows move to {provider.model}")
    options = options_for(name, arguments, WORKERS[provider.name])
    with progress_bar(name) as show:
        outcome = backfill(database, provider, options, stop=stop, on_progress=show)
    if outcome.error and is_broken(database, name):
        return outcome.report, 1
    if not arguments.json:
        print(describe(outcome.report, provider.price_per_million_tokens))
    code = explain(work, outcome)
    if code == 0 and outcome.left.lacks_index:
        index(work)
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
    for model, rows in left.foreign_vectors.items():
        say(
            f"{work.collection}: {rows:,} rows have vectors of the model {model}, which no provider here makes; "
            "--replace-foreign replaces them"
        )
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


def index(work: Collection) -> None:
    name = work.collection
    try:
        if built := work.create_embedding_index(min_rows=INDEX_MIN_ROWS):
            say(f"{name}: built the index {built}")
    except DatabaseTimeout:
        say(
            f"{name} is large enough for a vector index, which takes longer than the API allows: "
            f"connect with DATABASE_URL and run select create_embedding_index('{name}')"
        )


def verify(work: Collection, *, repair: bool) -> int:
    wrong = work.verify_embeddings()
    say(f"{work.collection}: {wrong:,} rows have a wrong vector, fts or queue entry")
    for row in work.mismatched_embeddings(10) if wrong else []:
        say(f"  {row['row_id']}: {row['reason']}")
    if wrong and repair:
        say(
            f"{work.collection}: {work.repair_embeddings():,} rows repaired; the next run embeds those without a vector"
        )
    return 1 if wrong else 0


def dry_run(database: Database, provider: EmbeddingProvider, name: str, arguments: argparse.Namespace) -> Estimate:
    expected = estimate(database, provider, name, switching=bool(arguments.switch_model))
    if not arguments.json:
        cost = "price not known" if expected.cost_usd is None else f"${expected.cost_usd:.4f}"
        rows = f"{'about ' if expected.rows_estimated else ''}{expected.rows:,} rows"
        print(f"{name} ({provider.model}): {rows}, about {expected.tokens:,} tokens, {cost}")
    return expected


if __name__ == "__main__":
    command.run(main)
