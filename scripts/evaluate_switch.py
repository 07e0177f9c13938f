#!/usr/bin/env python3
"""Measures search quality before, during and after a move to another embedding model.

It loads a judged set in BEIR's layout like evaluate.py and embeds it with the configured provider. Then it moves the set to
another model, half of the rows first, and measures the quality before the move, midway and after it. During the move,
searches run through the real search service; the program counts those that failed, returned too few hits, or returned hits
of both models. The exit code is 1 if a search failed or returned too few hits. It is also 1 if nDCG@10 midway is lower
than both before and after, by more than --max-loss.
"""

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import command
from backfill import settings_for_model
from evaluate import COLLECTIONS, loaded, scratch_settings
from scratch import embed_pending

from shared.database.postgres import connect
from shared.embedding.model_switch import switch_model
from shared.errors import AppError
from shared.search.evaluation import DEPTH, JudgedSet, Scores, mean, read_judged_set, score_ranking
from shared.search.search import SearchService
from shared.wiring import WORKERS, get_provider, get_search

COLLECTION = COLLECTIONS[0]
ASKED = 10


@dataclass
class Searches:
    """Results of the searches that ran while rows moved. `mixed`: answers with hits of both models."""

    asked: int = 0
    failed: int = 0
    short: int = 0
    degraded: int = 0
    mixed: int = 0
    first_error: str | None = None


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(__doc__, json="print one JSON object instead of the table")
    folder = "folder with corpus.jsonl, queries.jsonl and qrels.tsv"
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help=folder)
    target = "model to move to, such as ollama:nomic-embed-text"
    parser.add_argument("--to", required=True, metavar="PROVIDER:MODEL", help=target)
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N judged queries")
    loss = "largest loss of nDCG@10 while half of the rows have moved (default: 0.05)"
    parser.add_argument("--max-loss", type=float, default=0.05, metavar="X", help=loss)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    settings = scratch_settings()
    target = settings_for_model(settings, arguments.to)
    judged = read_judged_set(arguments.dataset)
    queries = list(judged.queries)[: arguments.limit]
    workers = WORKERS[target.embedding_provider]
    with (
        closing(get_provider(settings)) as old,
        closing(get_provider(target)) as new,
        loaded(judged, old, settings, COLLECTION) as (database, url, ids),
    ):
        service = get_search(target, database=database, provider=new)
        stages = {"before": quality(service, judged, queries, ids)}
        searches = Searches()
        with connect(url) as owner, connect(url) as reader, searching(service, judged, queries, reader, searches):
            rows = switch_model(database, new, COLLECTION)
            embed_pending(database, new, COLLECTION, workers, limit=rows // 2)
            stages["midway"] = quality(service, judged, queries, ids)
            owner.execute(f"vacuum analyze public.{COLLECTION}")
            embed_pending(database, new, COLLECTION, workers)
        stages["after"] = quality(service, judged, queries, ids)
    loss = min(stages["before"].ndcg, stages["after"].ndcg) - stages["midway"].ndcg
    if arguments.json:
        scores = {stage: values.as_dict() for stage, values in stages.items()}
        moved = {"dataset": judged.name, "rows": rows, "from": old.model, "to": new.model}
        print(json.dumps({**moved, **scores, "searches": asdict(searches)}))
    else:
        print(f"{judged.name}: {rows:,} rows from {old.model} to {new.model}")
        show(stages, loss, searches)
    return int(bool(searches.failed or searches.short or loss > arguments.max_loss))


def quality(service: SearchService, judged: JudgedSet, queries: Sequence[str], ids: dict[str, str]) -> Scores:
    """The mean scores of hybrid search."""

    def ranking(query: str) -> list[str]:
        return [ids[hit.id] for hit in service.search(COLLECTION, judged.queries[query], match_count=DEPTH).hits]

    return mean(score_ranking(ranking(query), judged.judgements[query]) for query in queries)


@contextmanager
def searching(
    service: SearchService, judged: JudgedSet, queries: Sequence[str], reader: Any, seen: Searches
) -> Iterator[None]:
    """Run one search after another in a thread until the block ends."""
    stop = threading.Event()

    def run() -> None:
        for query in cycle(queries):
            if stop.is_set():
                return
            seen.asked += 1
            try:
                answer = service.search(COLLECTION, judged.queries[query], match_count=ASKED)
                models = models_of(reader, [hit.id for hit in answer.hits])
            except AppError as error:
                seen.failed += 1
                seen.first_error = seen.first_error or error.message
                continue
            seen.short += len(answer.hits) < min(ASKED, len(judged.corpus))
            seen.degraded += answer.degraded
            seen.mixed += len(models) > 1

    thread = threading.Thread(target=run, name="searches", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def models_of(reader: Any, row_ids: Sequence[str]) -> set[str]:
    rows = reader.execute(
        "select distinct embedding_model from public.music_knowledge where id = any(%s::uuid[])", [list(row_ids)]
    )
    return {row[0] for row in rows}


def show(stages: dict[str, Scores], loss: float, searches: Searches) -> None:
    print(f"{'rows moved':<12} {'nDCG@10':>8} {'recall@100':>11} {'MRR@10':>8}")
    for stage, values in stages.items():
        print(f"{stage:<12} {values.ndcg:>8.4f} {values.recall:>11.4f} {values.mrr:>8.4f}")
    print(f"nDCG@10 midway, compared with the lower of before and after: {-loss:+.4f}")
    print(
        f"searches during the move: {searches.asked:,}, failed {searches.failed}, with too few hits {searches.short}, "
        f"degraded {searches.degraded}, with hits of both models {searches.mixed:,}"
    )
    if searches.first_error:
        print(f"first error: {searches.first_error}", file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
