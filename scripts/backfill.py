#!/usr/bin/env python3
"""Embed what is pending: rows without a vector, or whose text has changed.

Exit code: 0 all embedded, 1 some rows failed or the run ended early, 2 wrong configuration, 130 interrupted.
"""

import argparse
import json
import sys
import threading
from contextlib import closing
from dataclasses import asdict

import command

from shared.database.base import Database
from shared.database.queue import EmbeddingQueue, embedding_coverage
from shared.errors import (
    ConfigurationError,
    DatabaseContractError,
    ProviderInputRejected,
    ProviderRejected,
    ProviderWidthError,
)
from shared.models import BackfillReport
from shared.providers.base import EmbeddingProvider
from shared.services.backfill import BackfillOptions, BackfillOutcome, Progress, backfill, estimate
from shared.settings import load_settings
from shared.wiring import default_workers, get_database, get_provider


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", metavar="NAME", help="only this one (default: every tracked table)")
    parser.add_argument(
        "--batch-size", type=int, default=50, metavar="N", help="rows a claim and a request (default: 50)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="requests under way at once (default: by provider)")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N rows")
    parser.add_argument(
        "--dry-run", action="store_true", help="print rows, tokens and cost; call nobody, change nothing"
    )
    parser.add_argument("--max-cost", type=float, metavar="USD", help="stop before the run would cost more")
    parser.add_argument("--retry-failed", action="store_true", help="first queue the parked rows again")
    parser.add_argument(
        "--reconcile", action="store_true", help="first queue pending rows that slipped past the triggers"
    )
    parser.add_argument(
        "--verify", action="store_true", help="afterwards compare every vector with its row's text and model"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    settings = load_settings()
    workers = arguments.workers or default_workers(settings)
    # Checked before anything is started or loaded.
    BackfillOptions("", arguments.batch_size, workers, arguments.limit, arguments.max_cost)
    with get_database(settings, max_connections=8) as database:
        collections = choose_collections(database, arguments.collection)
        with closing(get_provider(settings)) as provider:
            if arguments.dry_run:
                return max(dry_run(database, provider, name, as_json=arguments.json) for name in collections)
            stop = command.stop_on_signal()
            codes = []
            for name in collections:
                codes.append(run_one(database, provider, name, workers, arguments, stop))
                if stop.is_set():
                    break
            return max(codes)


def choose_collections(database: Database, name: str | None) -> list[str]:
    if name is not None:
        return [name]
    names = [coverage.collection for coverage in embedding_coverage(database)]
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
) -> int:
    work = EmbeddingQueue(database, name)
    if arguments.retry_failed:
        say(f"{name}: {work.retry_failed_embeddings():,} parked rows queued again")
    if arguments.reconcile:
        say(f"{name}: {work.reconcile_embeddings():,} rows had slipped past the triggers")
    options = BackfillOptions(name, arguments.batch_size, workers, arguments.limit, arguments.max_cost)
    with ProgressBar(name) as bar:
        outcome = backfill(database, provider, options, stop=stop, on_progress=bar.show)
    if arguments.json:
        print(json.dumps(asdict(outcome.report)))
    else:
        print(describe(outcome.report, provider.price_per_million_tokens))
    code = explain(work, outcome)
    if arguments.verify:
        code = max(code, verify(work))
    return code


def describe(report: BackfillReport, price: float) -> str:
    rate = report.embedded / report.seconds if report.seconds else 0.0
    parts = [
        f"{report.embedded:,} embedded",
        f"{report.failed:,} failed",
        *([f"{report.stale:,} changed meanwhile"] if report.stale else []),
        *([f"{report.reused:,} of them reused"] if report.reused else []),
        *([f"{report.truncated:,} truncated"] if report.truncated else []),
        f"{report.tokens:,} tokens",
        *([f"${report.cost_usd:.4f}"] if price else []),
        f"{report.seconds:.1f} s",
        *([f"{rate:,.0f} rows/s"] if report.embedded else []),
    ]
    return f"{report.collection} ({report.model}): " + ", ".join(parts)


def explain(work: EmbeddingQueue, outcome: BackfillOutcome) -> int:
    """Say on stderr what is left and why; return the exit code."""
    left = outcome.left
    code = 0
    if left.failed or left.waiting or outcome.report.failed:
        code = 1
        if left.waiting:
            say(f"{left.waiting:,} rows failed and will be tried again by a later run")
        if left.failed:
            say(f"{left.failed:,} rows are parked; after mending them: backfill.py --retry-failed. The latest:")
            for row in work.list_failed_embeddings(5):
                say(f"  {row['row_id']}: {row['error']}")
    if outcome.over_budget:
        code = 1
        say(f"stopped before --max-cost would be passed; {left.pending:,} rows are left")
    if outcome.error is not None:
        code = 1
        say(f"error: {outcome.error.message} ({left.pending:,} rows are left)")
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


def verify(work: EmbeddingQueue) -> int:
    wrong = work.verify_embeddings()
    say(f"{work.collection}: {wrong:,} vectors do not belong to their text or model")
    for row in work.mismatched_embeddings(10) if wrong else []:
        say(f"  {row['row_id']}: {row['reason']}")
    return 1 if wrong else 0


def dry_run(database: Database, provider: EmbeddingProvider, name: str, *, as_json: bool) -> int:
    expected = estimate(database, provider, name)
    if as_json:
        print(json.dumps({"collection": name, "model": provider.model, **asdict(expected)}))
    else:
        print(
            f"{name} ({provider.model}): {expected.rows:,} rows, "
            f"about {expected.tokens:,} tokens, ${expected.cost_usd:.4f}"
        )
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr)


class ProgressBar:
    """Rows, rate and time left on stderr; on a terminal it moves, elsewhere nothing is drawn."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(name, total=None, rate="")
        self._name = name

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        done = progress.report.embedded + progress.report.failed + progress.report.stale
        rate = done / progress.report.seconds if progress.report.seconds > 0.5 else 0.0
        waiting = (
            f", waiting for {progress.waiting_for_others} rows of another worker" if progress.waiting_for_others else ""
        )
        self._bar.update(
            self._task,
            completed=done,
            total=progress.expected or None,
            rate=f"{rate:,.0f} rows/s{waiting}" if rate else waiting.removeprefix(", "),
        )


if __name__ == "__main__":
    command.run(main)
