"""Tests the cache of synonym searches, which is valid until the next write."""

from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.functions.conftest import JWT_SECRET, token
from tests.functions.synonym_tags import add_tag, write


def ask(client: httpx.Client, query: str, **headers: str) -> tuple[bool, list[str]]:
    answer = client.post("/api/mir/synonyms/search", json={"query": query}, headers=headers).json()
    return answer["cached"], [hit["tag_name"] for hit in answer["results"]]


def test_an_answer_is_cached_until_the_next_write(client: httpx.Client, owner: Connection) -> None:
    tag_id = add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    assert ask(client, "caribbean") == (False, ["Zouk"])
    assert ask(client, "caribbean") == (True, ["Zouk"])
    writes = [
        ("update mir_synonyms set is_active = false where tag_id = %s", []),
        ("update mir_synonyms set is_active = true where tag_id = %s", ["Zouk"]),
        ("update genre_tags set name = 'zouk!' where id = %s", ["zouk!"]),
        ("update genre_tags set name = 'Polka' where id = %s", []),
        ("delete from genre_tags where id = %s", []),
    ]
    for statement, expected in writes:
        owner.execute(statement, [tag_id])
        assert ask(client, "caribbean") == (False, expected), statement


def test_an_answer_made_during_a_write_is_not_cached_after_the_commit(
    client: httpx.Client, owner: Connection, connect: Any
) -> None:
    tag_id = add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    # The later of two writers commits first. With a counter as the version, the earlier writer would have been missed.
    slow = connect(autocommit=False)
    slow.execute("update mir_synonyms set is_active = false where tag_id = %s", [tag_id])
    add_tag(owner, "Other")
    assert ask(client, "caribbean") == (False, ["Zouk"])
    assert ask(client, "caribbean") == (True, ["Zouk"])
    slow.commit()
    assert ask(client, "caribbean") == (False, [])


def test_callers_do_not_see_each_others_answers(client: httpx.Client, owner: Connection) -> None:
    owner.execute('drop policy "everyone reads" on mir_synonyms')
    owner.execute(
        "create policy mine on mir_synonyms for select to anon, authenticated using ((auth.jwt() ->> 'sub') = 'her')"
    )
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    hers = {"Authorization": f"Bearer {token(secret=JWT_SECRET, sub='her')}"}
    his = {"Authorization": f"Bearer {token(secret=JWT_SECRET, sub='his')}"}
    assert ask(client, "caribbean", **hers) == (False, ["Zouk"])
    assert ask(client, "caribbean", **his) == (False, [])
    assert ask(client, "caribbean") == (False, [])
    assert client.get("/api/synonyms/genre/Zouk", headers=hers).status_code == 200
    assert client.get("/api/synonyms/genre/Zouk", headers=his).status_code == 404


def test_a_cached_answer_is_not_used_after_a_change_of_the_rows_that_a_policy_reads(
    client: httpx.Client, owner: Connection
) -> None:
    """The version does not change if a policy, a grant or a table that a policy reads changes."""
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    owner.execute(
        "create table members (name text); grant select on members to anon; insert into members values ('all')"
    )
    owner.execute('drop policy "everyone reads" on mir_synonyms')
    owner.execute("create policy members on mir_synonyms for select to anon using (exists (select from members))")
    assert [ask(client, "caribbean") for _ in range(2)] == [(False, ["Zouk"]), (False, ["Zouk"])]
    assert client.get("/api/synonyms/genre/Zouk").status_code == 200
    owner.execute("delete from members")
    assert ask(client, "caribbean") == (False, [])
    assert client.get("/api/synonyms/genre/Zouk").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        'alter policy "everyone reads" on mir_synonyms using (false)',
        "create policy narrower on mir_synonyms as restrictive for select to anon using (false)",
        "revoke select on mir_synonyms from anon",
        'drop policy "everyone reads" on genre_tags',
    ],
)
def test_a_cached_answer_is_not_used_after_a_right_was_revoked(
    client: httpx.Client, owner: Connection, change: str
) -> None:
    add_tag(owner, "Zouk")
    write(client, "Zouk", "caribbean dance")
    assert [ask(client, "caribbean") for _ in range(2)] == [(False, ["Zouk"]), (True, ["Zouk"])]
    assert client.get("/api/synonyms/genre/Zouk").status_code == 200
    owner.execute(change)
    assert client.get("/api/synonyms/genre/Zouk").status_code != 200
    answer = client.post("/api/mir/synonyms/search", json={"query": "caribbean"}).json()
    assert not answer.get("cached")
