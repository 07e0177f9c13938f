"""Hostile values for each SQL type of an argument."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fake_provider import DIMENSIONS

# Each has an effect if it is interpreted as SQL, as a format string, as a pattern or as a full-text query.
SQL = (
    "'; drop table public.music_knowledge; --",
    '"; drop table public.music_knowledge; --',
    "music_knowledge'::regclass; truncate embedding.queue; select '",
    "x' or true or 'x' = '",
    "$sql$; drop schema embedding cascade; $sql$",
    "$1 %s %I %L %1$s %5$I %%",
    "\\'; alter role anon superuser; --",
    "music_knowledge' union select secret from vault.secrets --",
    "'english'); drop table public.datasets; --",
    "a') and pg_sleep(9) is null and ('a' = 'a",
    "public.music_knowledge; drop table public.datasets",
    "{1,2}}'); delete from public.genre_tags; --",
)
_NOISE = random.Random(7)
TEXTS = (
    *SQL,
    "",
    " \t\r\n",
    "null",
    "a & | ! ( ) : * <-> 'b",
    "\\",
    "%" * 200,
    "((((a+)+)+)+)+$",
    "\u202e\u0301\ufeff\U0001f941\U0010ffff",
    "İıſK" * 30,
    "x" * 128,
    # This text cannot be compressed, so an index entry with it would be too large.
    "".join(chr(_NOISE.randrange(0x4E00, 0x9FFF)) for _ in range(20_000)),
)
# 10 MB of different words: more than a tsvector can contain.
HUGE_TEXT = " ".join(f"gain{number:x}" for number in range(1_050_000))
# Values that PostgreSQL cannot store; the adapters have to raise an error.
UNSTORABLE = ("nul\0inside", "\0", "half \ud800 a pair", "\udfff")

INTEGERS = (-1, 0, 1, -(2**31), 2**31 - 1, 2**31, -(2**63), 2**63 - 1, 2**64, 10**40)
FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e308, -1e308, 1e-300)
VECTORS = (
    "",
    "[]",
    "[NaN]",
    "not a vector",
    "[1,2,3]",
    "[" + ",".join(["NaN"] * DIMENSIONS) + "]",
    "[" + ",".join(["Infinity"] * DIMENSIONS) + "]",
    "[" + ",".join(["1e39"] * DIMENSIONS) + "]",
    "[" + ",".join(["3e38"] * DIMENSIONS) + "]",
    "[" + ",".join(["1e-45"] * DIMENSIONS) + "]",
    "[" + ",".join(["0"] * DIMENSIONS) + "]",
    "[" + ",".join(["1"] * 16_001) + "]",
    "[1" + "; drop table public.music_knowledge" + "]",
)
TIMES = ("infinity", "-infinity", "yesterday'", "4714-01-01 BC", "294276-12-31", "294277-01-01", "now()")
UUIDS = ("", "x", "00000000-0000-0000-0000-000000000000", "{00000000-0000-0000-0000-00000000000'")
JSON = (
    "null",
    "true",
    "[]",
    "{}",
    '"text"',
    "-1e400",
    "1" * 5000,
    "[null]",
    "[[]]",
    "[1, 2]",
    '[{}, {"row_id": null}]',
    '{"a": NaN}',
    '["\\u0000"]',
    '["\\ud800"]',
    "{",
    "[" * 200 + "]" * 200,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    json.dumps({sql: sql for sql in SQL}),
    json.dumps({"fake": "[NaN]", "x' or true --": "[1]"}),
    json.dumps({"fake": "[" + ",".join(["0"] * DIMENSIONS) + "]"}),
    json.dumps({"fake": {"a": 1}}),
    json.dumps({"fake": None}),
)
# How a value is written in place of one field of a valid row or report.
FIELDS: Sequence[object] = (
    None,
    True,
    -1,
    2**63,
    -(10**40),
    1e308,
    "NaN",
    "Infinity",
    "-Infinity",
    "",
    "zz",
    "infinity",
    "[NaN]",
    [],
    {},
    [[[[]]]],
    *SQL,
    TEXTS[-1],
)

BY_TYPE: Mapping[str, Sequence[object]] = {
    "text": TEXTS,
    "integer": INTEGERS,
    "bigint": INTEGERS,
    "double precision": FLOATS,
    "boolean": (),
    "extensions.vector": VECTORS,
    "uuid": UUIDS,
    "timestamp with time zone": TIMES,
    "jsonb": JSON,
    "text[]": ([], [None], ["x"] * 10_001, [""], list(SQL), list(TEXTS)),
    "bigint[]": ([], [None], [-1], [2**63 - 1], list(range(10_001))),
    "regclass": (*SQL, "", "a.b.c.d", "pg_catalog.pg_authid", "embedding.queue", "no_such_table", "0", "9" * 12),
    "regconfig": (*SQL, "", "a.b.c.d", "no_such_language", "9" * 12),
}


def spoiled(value: Any) -> list[object]:
    """Yield a valid JSON value (rows, a report, synonyms) with each field in turn replaced by a hostile value."""
    if isinstance(value, list):
        return [[*value[:index], bad, *value[index + 1 :]] for index, one in enumerate(value) for bad in spoiled(one)]
    if isinstance(value, dict):
        found: list[object] = [{**value, name: bad} for name, one in value.items() for bad in [*FIELDS, *spoiled(one)]]
        return [*found, *({k: v for k, v in value.items() if k != name} for name in value)]
    return []


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)
# Random values of hypothesis, in addition to the lists.
_DRAWN: Mapping[str, st.SearchStrategy[object]] = {
    "text": _text,
    "integer": st.integers(),
    "bigint": st.integers(),
    "double precision": st.floats(),
    "boolean": st.none() | st.booleans(),
    "extensions.vector": st.lists(st.floats(), max_size=20).map(str),
    "jsonb": _json.map(json.dumps),
    "text[]": st.lists(st.none() | _text, max_size=5),
    "bigint[]": st.lists(st.none() | st.integers(), max_size=5),
}


def hostile(kind: str) -> st.SearchStrategy[object]:
    """A strategy for an argument of this type; None (null) is one of its values."""
    choices: list[st.SearchStrategy[object]] = [st.none()]
    if BY_TYPE[kind]:
        choices.append(st.sampled_from(BY_TYPE[kind]))
    if kind in _DRAWN:
        choices.append(_DRAWN[kind])
    return st.one_of(choices)
