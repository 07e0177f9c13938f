"""Prints the report of scripts/backfill.py as text or JSON, and its progress on a terminal."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shared.embedding.backfill import Progress
from shared.embedding.estimate import Estimate
from shared.models import BackfillReport

REPORT_FIELDS = tuple(field.name for field in dataclasses.fields(BackfillReport))
ESTIMATE_FIELDS = ("collection", "model", "rows", "rows_estimated", "texts", "tokens", "cost_usd")


def say(line: str) -> None:
    print(line, file=sys.stderr)


def as_json(reports: Sequence[BackfillReport | Estimate]) -> dict[str, object]:
    """The sums over all collections, and each collection's own report under `collections`."""
    fields = ESTIMATE_FIELDS if any(isinstance(report, Estimate) for report in reports) else REPORT_FIELDS
    every: list[dict[str, Any]] = [{name: getattr(report, name) for name in fields} for report in reports]
    for report in every:
        # A collection that could not be embedded may have no model.
        report["model"] = report["model"] or None
    whole: dict[str, object] = {}
    for name in fields:
        values = [report[name] for report in every]
        if name in ("collection", "model"):
            whole[name] = values[0] if len(set(values)) == 1 else None
        elif name == "rows_estimated":
            whole[name] = any(values)
        else:
            whole[name] = None if None in values else round(sum(values), 6)
    return {**whole, "collections": every}


def describe(report: BackfillReport, price: float) -> str:
    rate = report.embedded / report.seconds if report.seconds else 0.0
    reused = f" ({report.reused:,} with the vector of an equal text)" if report.reused else ""
    parts = [
        f"{report.embedded:,} embedded{reused}",
        f"{report.failed:,} failed",
        *([f"{report.stale:,} changed while they were embedded"] if report.stale else []),
        *([f"{report.truncated:,} truncated"] if report.truncated else []),
        f"{report.tokens:,} tokens",
        *([f"${report.cost_usd:.4f}"] if price else []),
        f"{report.seconds:.1f} s",
        *([f"{rate:,.0f} rows/s"] if report.embedded else []),
    ]
    return f"{report.collection} ({report.model}): " + ", ".join(parts)


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[Progress], None] | None]:
    """Show rows, rate and time left on a terminal's stderr; yields a function that draws them, or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = ("{task.description}", rich.BarColumn(), rich.MofNCompleteColumn(), "{task.fields[rate]}")
    with rich.Progress(*columns, rich.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, rate="")

        def show(progress: Progress) -> None:
            report, waiting = progress.report, progress.waiting_for_others
            done = report.embedded + report.failed + report.stale
            rate = f"{done / report.seconds:,.0f} rows/s" if done and report.seconds > 0.5 else ""
            waits = f"waiting for {waiting} rows of another worker" if waiting else ""
            rate = ", ".join(filter(None, (rate, waits)))
            bar.update(task, completed=done, total=progress.expected or None, rate=rate)

        yield show
