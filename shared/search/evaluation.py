"""Measures a ranking with judged queries: nDCG@10, recall@100 and MRR@10, as trec_eval computes them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shared.errors import InvalidRequest

DEPTH = 100


class Scores(NamedTuple):
    """The scores of a ranking, or their means over queries; each is between 0 and 1."""

    ndcg: float
    recall: float
    mrr: float

    def as_dict(self) -> dict[str, float]:
        """The scores by the names that reports use."""
        return {"ndcg@10": round(self.ndcg, 4), "recall@100": round(self.recall, 4), "mrr@10": round(self.mrr, 4)}


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """A corpus (id to title and text), queries by id, and judgements: query id to {document id: grade}."""

    name: str
    corpus: Mapping[str, tuple[str, str]]
    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]


def score_ranking(ranking: Sequence[str], judged: Mapping[str, int]) -> Scores:
    """Score the ids of one query's results, best first, by the query's judgements (a grade above 0 means relevant)."""
    grades = [judged.get(document, 0) for document in ranking[:10]]
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
    relevant = {document for document, grade in judged.items() if grade > 0}
    best = _gain(ideal[:10])
    return Scores(
        ndcg=_gain(grades) / best if best else 0.0,
        recall=len(relevant & set(ranking[:DEPTH])) / len(relevant) if relevant else 0.0,
        mrr=next((1 / place for place, grade in enumerate(grades, 1) if grade > 0), 0.0),
    )


def mean(scores: Iterable[Scores]) -> Scores:
    """The mean over queries, or over sets."""
    every = list(scores) or [Scores(0.0, 0.0, 0.0)]
    return Scores(*(sum(measure) / len(every) for measure in zip(*every, strict=True)))


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades, 1))


def read_judged_set(folder: Path, queries: str | None = None, qrels: str | None = None) -> JudgedSet:
    """Read a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels.tsv or qrels/test.tsv.

    `queries` and `qrels` are names of other files in the folder, or paths of files elsewhere.
    Raises InvalidRequest, which names the file and line that cannot be used.
    """
    corpus_file = _find(folder, "corpus.jsonl")
    query_file = _find(folder, queries or "queries.jsonl")
    qrels_file = _find(folder, qrels) if qrels else _find(folder, "qrels.tsv", "qrels/test.tsv")
    corpus = {row["_id"]: (row.get("title") or "", row.get("text") or "") for row in _rows(corpus_file)}
    texts = {row["_id"]: row.get("text") or "" for row in _rows(query_file)}

    judgements: dict[str, dict[str, int]] = {}
    for number, line in enumerate(qrels_file.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip() or (number == 1 and not fields[-1].strip().lstrip("-").isdigit()):
            continue
        try:
            query, document, grade = fields[0], fields[-2], int(fields[-1])
        except (IndexError, ValueError):
            raise InvalidRequest(f"{qrels_file.name}, line {number}: is not query, document, grade") from None
        if query in texts:
            judgements.setdefault(query, {})[document] = grade
    judgements = {query: judged for query, judged in judgements.items() if any(grade > 0 for grade in judged.values())}
    if not judgements:
        raise InvalidRequest(f"{qrels_file.name}: judges none of the queries of {query_file.name}")
    name = folder.resolve().name + (f" ({qrels_file.stem})" if qrels else "")
    return JudgedSet(name, corpus, {query: texts[query] for query in judgements}, judgements)


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, Path(name)):
            if path.is_file():
                return path
    raise InvalidRequest(f"{folder}: has no {' or '.join(names)}; see BEIR's layout")


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                row["_id"] = str(row["_id"])
            except (ValueError, KeyError, TypeError):
                raise InvalidRequest(f"{path.name}, line {number}: is not an object with _id and text") from None
            yield row
