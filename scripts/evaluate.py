#!/usr/bin/env python3
"""Measures search quality on judged queries, your own or those of a public set.

It loads a folder in BEIR's layout into a scratch database, embeds it with the configured provider, and calls the real
search function. It prints nDCG@10, recall@100 and MRR@10 of full-text, semantic and hybrid search.
"""

import argparse
import json
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import command
from guide import guide_statement
from pydantic import SecretStr
from scratch import embed_pending, scratch_database

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase, connect
from shared.embedding.backfill import INDEX_MIN_ROWS
from shared.embedding.collection import Collection, vector_text
from shared.errors import ConfigurationError
from shared.models import EmbeddingModel
from shared.providers.base import EmbeddingProvider
from shared.search.evaluation import DEPTH, JudgedSet, Scores, mean, read_judged_set, score_ranking
from shared.settings import Settings, load_settings
from shared.wiring import WORKERS, get_database_url, get_provider

COLLECTIONS = ("music_knowledge", "mir_synonyms")

Search = Callable[[str, str], list[str]]


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(__doc__, json="print one JSON object for each set instead of the table")
    folder = "folder with corpus.jsonl, queries.jsonl and qrels.tsv; may be repeated"
    parser.add_argument("--dataset", type=Path, action="append", required=True, metavar="DIR", help=folder)
    collection = f"the collection that holds the documents (default: {COLLECTIONS[0]})"
    parser.add_argument("--collection", choices=COLLECTIONS, default=COLLECTIONS[0], help=collection)
    parser.add_argument("--queries", metavar="FILE", help="file of the queries in the folder (default: queries.jsonl)")
    qrels = "file of the judgements (default: qrels.tsv); may be repeated"
    parser.add_argument("--qrels", metavar="FILE", action="append", help=qrels)
    parser.add_argument("--limit", type=int, metavar="N", help="ask only the first N judged queries")
    parser.add_argument(
        "--baseline", choices=("guide",), help="also measure the SQL of Supabase's guide to hybrid search"
    )
    fusion = "how the rankings are joined (default: weighted)"
    parser.add_argument("--fusion", choices=("weighted", "rrf"), default="weighted", help=fusion)
    parser.add_argument("--fail-under", type=float, metavar="X", help="exit 1 if hybrid nDCG@10 of a set is below X")
    return parser.parse_args()


def scratch_settings() -> Settings:
    """Load the settings, without a budget, which a scratch database cannot share with other programs.

    Raises ConfigurationError if the settings do not allow to create a scratch database.
    """
    settings = load_settings()
    if settings.supabase_url is not None and settings.database_url is None:
        raise ConfigurationError("SUPABASE_URL: a scratch database is needed; set DATABASE_URL, or unset SUPABASE_URL")
    return settings.model_copy(update={"embedding_budget_per_day": None})


def main() -> int:
    arguments = parse_arguments()
    settings = scratch_settings()
    results: list[dict[str, Scores]] = []
    table = not arguments.json
    if table:
        print(f"{'set':<28} {'ranking':<9} {'nDCG@10':>8} {'recall@100':>11} {'MRR@10':>8}")
    with closing(get_provider(settings)) as provider:
        for folder in arguments.dataset:
            sets = [read_judged_set(folder, arguments.queries, qrels) for qrels in (arguments.qrels or [None])]
            with loaded(sets[0], provider, settings, arguments.collection) as (database, url, ids):
                searches = make_searches(database, ids, arguments.fusion, arguments.collection)
                if arguments.baseline:
                    searches["guide"] = guide_search(url, provider.spec, ids)
                for judged in sets:
                    results.append(run(judged, provider, searches, arguments.limit))
                    show(judged.name, provider.model, results[-1], as_json=arguments.json)
    if table and len(results) > 1:
        every = {ranking: mean(scores[ranking] for scores in results) for ranking in results[0]}
        show("mean", "", every, as_json=False)
    worst = min(scores["hybrid"].ndcg for scores in results)
    if arguments.fail_under is not None and worst < arguments.fail_under:
        print(f"hybrid nDCG@10 is {worst:.4f}, below {arguments.fail_under}", file=sys.stderr)
        return 1
    return 0


def show(name: str, model: str, scores: dict[str, Scores], *, as_json: bool) -> None:
    if as_json:
        report = {ranking: values.as_dict() for ranking, values in scores.items()}
        print(json.dumps({"dataset": name, "model": model, **report}), flush=True)
        return
    for ranking, values in scores.items():
        label = ranking.replace("_", "-")
        print(f"{name:<28} {label:<9} {values.ndcg:>8.4f} {values.recall:>11.4f} {values.mrr:>8.4f}", flush=True)
        name = ""


@contextmanager
def loaded(
    judged: JudgedSet, provider: EmbeddingProvider, settings: Settings, collection: str
) -> Iterator[tuple[Database, SecretStr, dict[str, str]]]:
    """Load the corpus into a scratch database and embed it. Also yields a dict from row id to document id."""
    with scratch_database("tonnetz_evaluate", get_database_url(settings)) as url:
        fill = fill_synonyms if collection == "mir_synonyms" else fill_knowledge
        ids = fill(url, judged)
        with PostgresDatabase(url, max_connections=8) as database:
            print(f"{judged.name}: embedding {len(ids):,} documents with {provider.model}", file=sys.stderr)
            embed_pending(database, provider, collection, WORKERS[settings.embedding_provider])
            Collection(database, collection).create_embedding_index(min_rows=INDEX_MIN_ROWS)
            with connect(url) as owner:
                owner.execute(f"vacuum analyze public.{collection}")
            yield database, url, ids


def fill_knowledge(url: SecretStr, judged: JudgedSet) -> dict[str, str]:
    ids = {str(uuid.uuid5(uuid.NAMESPACE_OID, document)): document for document in judged.corpus}
    rows = "copy public.music_knowledge (id, topic, content) from stdin"
    with connect(url) as owner, owner.cursor().copy(rows) as copy:
        for row_id, document in ids.items():
            title, text = judged.corpus[document]
            copy.write_row((row_id, title.replace("\0", ""), text.replace("\0", "")))
    return ids


def fill_synonyms(url: SecretStr, judged: JudgedSet) -> dict[str, str]:
    """Store each document as a genre: its title becomes the name of the tag, its text the usage_context of the synonyms."""
    ids = {str(number): document for number, document in enumerate(judged.corpus, 1)}
    taken: Counter[str] = Counter()
    with connect(url) as owner:
        for row_id, document in ids.items():
            title, text = (part.replace("\0", "") for part in judged.corpus[document])
            title = title.strip()[:90] or document
            # Make equal titles different, because two tags cannot have the same name.
            taken[title.lower()] += 1
            name = title if taken[title.lower()] == 1 else f"{title} {'·' * taken[title.lower()]}"
            synonyms = json.dumps({"search_terms": [title], "usage_context": text[:2000]})
            owner.execute("insert into public.genre_tags (id, name) values (%s, %s)", [row_id, name])
            owner.execute(
                "insert into public.mir_synonyms (id, tag_type, tag_id, synonyms) values (%s, 'genre', %s, %s)",
                [row_id, row_id, synonyms],
            )
    return ids


def make_searches(database: Database, ids: dict[str, str], fusion: str, collection: str) -> dict[str, Search]:
    def ask(**arguments: object) -> list[str]:
        rows = database.call(f"search_{collection}", {"match_count": DEPTH, "fusion": fusion, **arguments})
        return [ids[str(row["id"])] for row in rows]

    return {
        "full_text": lambda text, _: ask(query_text=text),
        "semantic": lambda _, vector: ask(query_embedding=vector),
        "hybrid": lambda text, vector: ask(query_text=text, query_embedding=vector),
    }


def guide_search(url: SecretStr, spec: EmbeddingModel, ids: dict[str, str]) -> Search:
    """The search of Supabase's hybrid search guide, on the same rows. It finds only rows with all words of a query."""
    owner = connect(url)
    of_width = f"extensions.vector({spec.dimensions})"
    distance = f"embedding::{of_width} operator(extensions.<=>) %(vector)s::{of_width}"
    statement = guide_statement("k.id::text", "websearch_to_tsquery('english', %(text)s)", distance, DEPTH)
    return lambda text, vector: [ids[row[0]] for row in owner.execute(statement, {"text": text, "vector": vector})]


def run(
    judged: JudgedSet, provider: EmbeddingProvider, searches: dict[str, Search], limit: int | None
) -> dict[str, Scores]:
    """The mean scores of each ranking over the judged queries."""
    scores: dict[str, list[Scores]] = {ranking: [] for ranking in searches}
    for query in list(judged.queries)[:limit]:
        text = judged.queries[query]
        vector = vector_text(provider.embed_query(text))
        for ranking, search in searches.items():
            scores[ranking].append(score_ranking(search(text, vector), judged.judgements[query]))
    return {ranking: mean(every) for ranking, every in scores.items()}


if __name__ == "__main__":
    command.run(main)
