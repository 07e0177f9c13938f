"""Tests the SQL condition of a filter, and the filters that are refused."""

import psycopg
import pytest

from tests.database.rows import Connection


def condition_of(owner: Connection, table: str, filter_: str) -> str:
    row = owner.execute("select embedding.filter_condition(%s, %s)", [table, filter_]).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("filter_", "condition"),
    [
        ('{"topic": "a"}', " and s.topic = 'a'"),
        ('{"topic": {"equals": "a"}}', " and s.topic = 'a'"),
        ('{"topic": {"prefix": "o\'b"}}', " and s.topic ^@ 'o''b'"),
        ('{"topic": {"like": "%x"}}', " and s.topic like '%x'"),
        ('{"metadata": {"contains": null}, "id": null}', ""),
        ('{"topic": {"prefix": null}, "category": null}', ""),
    ],
)
def test_filters_support_prefix_and_pattern(owner: Connection, filter_: str, condition: str) -> None:
    assert condition_of(owner, "music_knowledge", filter_) == condition


def test_contains_filters_an_array(owner: Connection) -> None:
    condition = condition_of(owner, "datasets", '{"tags": {"contains": "x"}}')
    assert condition == " and s.tags @> '{x}'"


@pytest.mark.parametrize("filter_", ['{"topic": {"regex": "a"}}', '{"nothing": "a"}', '["a"]'])
def test_an_invalid_filter_is_refused(owner: Connection, filter_: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        condition_of(owner, "music_knowledge", filter_)
