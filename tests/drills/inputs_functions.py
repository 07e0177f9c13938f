"""Every SQL function that a client can call, read from the catalogue, and arguments that each would accept."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from tests.database.rows import MUSIC, Connection
from tests.drills.inputs_rows import LEASED_HASH, LEASED_ID, SYNONYMS
from tests.fake_provider import DIMENSIONS

_VECTOR = "[" + ",".join(["0.25"] * DIMENSIONS) + "]"

# The search function that docs/your-own-table.md tells a user to write, with all arguments of search_hits.
_A_USERS_SEARCH = """
create function public.search_as_a_user(query_text text, query_embedding extensions.vector, match_count int, filter jsonb,
  full_text_weight float8, semantic_weight float8, embedding_model text, query_embeddings jsonb, fusion text)
returns table (id uuid, topic text, score float8) language sql stable set search_path = '' as $$
  select m.id, m.topic, h.score
  from embedding.search_hits('public.music_knowledge', query_text, query_embedding, match_count, filter, full_text_weight,
    semantic_weight, embedding_model, query_embeddings, fusion) h
  join public.music_knowledge m on m.id::text = h.row_id order by h.score desc
$$;
grant execute on function public.search_as_a_user to anon, authenticated, service_role;
"""

# Columns of every type and missing columns, each with a filter value.
_COLUMNS = (
    "id",
    "topic",
    "content",
    "category",
    "created_at",
    "fts",
    "embedding",
    "embedding_hash",
    "xmin",
    "",
    '"; --',
)
_OPERATORS = ("equals", "prefix", "like", "contains", "within", "' or true --")
_WANTED: tuple[object, ...] = (
    None,
    True,
    -1,
    10**40,
    "",
    "x",
    "'",
    "%\\",
    "{x",
    "'; drop table public.datasets; --",
    ["x"],
    {},
)
FILTERS = tuple(
    json.dumps(filter)
    for column in _COLUMNS
    for wanted in _WANTED
    for filter in ({column: wanted}, *({column: {operator: wanted}} for operator in _OPERATORS))
)


@dataclass(frozen=True)
class Argument:
    name: str
    kind: str
    optional: bool


@dataclass(frozen=True)
class Function:
    """An SQL function. `callers` are those of the roles service_role and anon that may call it."""

    name: str
    arguments: tuple[Argument, ...]
    callers: tuple[str, ...]

    def query(self, given: Mapping[str, object]) -> sql.Composed:
        """A call with these arguments by name, each a parameter of its type. It returns JSON, like the answer to a client."""
        kinds = {argument.name: argument.kind for argument in self.arguments}
        return sql.SQL("select to_json(r)::text from public.{}({}) r").format(
            sql.Identifier(self.name),
            sql.SQL(", ").join(
                sql.SQL("{} => {}::{}").format(sql.Identifier(name), sql.Placeholder(name), sql.SQL(kinds[name]))
                for name in given
            ),
        )


def public_functions(connection: Connection) -> list[Function]:
    """All functions of schema public except trigger functions."""
    found = connection.execute(
        """
        select p.proname, coalesce(array_agg(a.name order by a.place) filter (where a.name is not null), '{}'),
          coalesce(array_agg(format_type(a.kind, null) order by a.place) filter (where a.name is not null), '{}'),
          p.pronargs - p.pronargdefaults,
          array(select r from unnest(array['service_role', 'anon']) r where has_function_privilege(r, p.oid, 'execute'))
        from pg_proc p
        left join lateral (
          select p.proargnames[k.place] as name, k.kind, k.place
          from unnest(p.proargtypes::oid[]) with ordinality k (kind, place)) a on true
        where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
        group by p.oid, p.proname, p.pronargs, p.pronargdefaults
        order by 1
        """
    ).fetchall()
    return [
        Function(
            str(name),
            tuple(Argument(*one, place >= required) for place, one in enumerate(zip(names, kinds, strict=True))),
            tuple(callers),
        )
        for name, names, kinds, required, callers in found
    ]


def write_as_a_user(owner: Connection) -> None:
    """Create a user's search function, because API clients cannot call search_hits itself."""
    owner.execute(_A_USERS_SEARCH)


def filled(value: Any, text: str) -> Iterator[Any]:
    """Yield a valid JSON value with each of its texts in turn replaced by the given text."""
    if isinstance(value, str):
        yield text
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from ([*value[:place], new, *value[place + 1 :]] for new in filled(one, text))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from ({**value, name: new} for new in filled(one, text))


# A valid value for each name of an argument.
_BY_NAME: Mapping[str, object] = {
    "after": LEASED_ID,
    "batch_size": 5,
    "client_vectors": True,
    "collection": MUSIC,
    "confidence": 0.5,
    "decay_weight": 0.1,
    "caller": "anon",
    "category_column": None,
    "days": 7,
    "details": True,
    "dimensions": DIMENSIONS,
    "document": "Ten violins",
    "document_embedding": _VECTOR,
    "document_prefix": "d: ",
    "ef_construction": 64,
    "embedding_model": "fake",
    "error": "no answer",
    "expected_updated_at": None,
    "filter": '{"category": "", "topic": {"prefix": ""}}',
    "filter_category": "",
    "filter_path": "src/",
    "filter_tag": "x",
    "filter_tag_type": "genre",
    "final": False,
    "force": False,
    "full_text_weight": 0.3,
    "fusion": "weighted",
    "half_life_days": 365.0,
    "index_min_rows": 10_000,
    "is_active": True,
    "kind": "embedding",
    "known_version": None,
    "lease_seconds": 60,
    "m": 8,
    "made_here": True,
    "match_count": 5,
    "max_attempts": 3,
    "max_rows": 10,
    "max_tokens": 256,
    "min_rows": 2,
    "model": "fake",
    "name": "fake",
    "of_collection": MUSIC,
    "of_run": None,
    "provider": "fake",
    "query": "violins",
    "query_embedding": _VECTOR,
    "query_embeddings": json.dumps({"fake": _VECTOR}),
    "query_prefix": "q: ",
    "query_text": "gain staging",
    "replace_foreign": False,
    "retry_after_seconds": 5,
    "reuse": "none",
    "row_ids": [LEASED_ID],
    "run_id": LEASED_ID,
    "sample_size": 10,
    "secret_name": "a_secret",
    "semantic_weight": 0.7,
    "silent_seconds": 30,
    "source": "public.music_knowledge",
    "spent_usd": 0.01,
    "static_weight": 0.1,
    "status": "running",
    "synonyms": SYNONYMS,
    "synonyms_id": 1,
    "tag_id": 1,
    "tag_ids": [1],
    "tag_name": "Zouk",
    "tag_type": "genre",
    "text_config": "english",
    "url": "https://example.org/hook",
}
_REPORT = '{"processed": 2, "embedded": 1, "failed": 1, "tokens": 9, "cost_usd": 0.01, "error": null}'
# Valid rows, which differ for each function.
_BY_FUNCTION: Mapping[tuple[str, str], object] = {
    ("create_synonyms", "tag_id"): 2,
    ("fail_embeddings", "rows"): [{"row_id": LEASED_ID, "error": "no", "final": False}],
    ("finish_embedding_run", "report"): _REPORT,
    ("record_embedding_run", "report"): _REPORT,
    ("reuse_embeddings", "rows"): [{"row_id": LEASED_ID, "text_hash": LEASED_HASH}],
    ("save_embeddings", "rows"): [{"row_id": LEASED_ID, "text_hash": LEASED_HASH, "embedding": _VECTOR}],
    ("set_dataset_scores", "rows"): [{"id": LEASED_ID, "static_score": 0.5}],
    ("store_code_chunks", "rows"): [
        {"id": "c2", "path": "a.py", "content": "x = 1", "language": "python", "metadata": {}, "embedding": _VECTOR}
    ],
    ("store_generated_synonyms", "tag_id"): 2,
    ("upsert_datasets", "rows"): [
        {
            "external_id": "d2",
            "title": "Bells",
            "description": "",
            "url": None,
            "tags": ["x"],
            "metadata": {},
            "enrichment_status": "enriched",
            "is_active": True,
            "published_at": "2026-01-01T00:00:00Z",
            "static_score": 0.5,
        }
    ],
}


def valid(function: Function) -> dict[str, object]:
    """Arguments that the function accepts, as psycopg sends them; add those of a new function here."""
    given: dict[str, object] = {}
    for argument in function.arguments:
        key = (function.name, argument.name)
        assert key in _BY_FUNCTION or argument.name in _BY_NAME, (
            f"{function.name} has an argument {argument.name}: say in {__name__} what a valid one is"
        )
        value = _BY_FUNCTION.get(key, _BY_NAME.get(argument.name))
        given[argument.name] = json.dumps(value) if argument.kind == "jsonb" and not isinstance(value, str) else value
    return given
