"""What scripts/backfill.py prints: the report for a person, as JSON, and progress on a terminal."""

import dataclasses
import sys
from collections.abc import Sequence

from shared.embedding.backfill import Progress
from shared.embedding.estimate import Estimate
from shared.models import BackfillReport

REPORT_FIELDS = tuple(field.name for field in dataclasses.fields(BackfillReport))
ESTIMATE_FIELDS = ("collection", "model", "rows", "texts", "tokens", "cost_usd")


def say(line: str) -> None:
    print(line, file=sys.stderr)


def as_json(reports: Sequence[BackfillReport | Estimate]) -> dict[str, object]:
    """The sums over all collections, and each collection's own report under `collections`."""
    fields = ESTIMATE_FIELDS if any(isinstance(report, Estimate) for report in reports) else REPORT_FIELDS
    every = [{name: getattr(report, name) for name in fields} for report in reports]
    whole: dict[str, object] = {}
    for name in fields:
        values = [report[name] for report in every]
        if name in ("collection", "model"):
            whole[name] = values[0] if len(set(values)) == 1 else None
        else:
            whole[name] = None if None in values else round(sum(values), 6)
    return {**whole, "collections": every}


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
