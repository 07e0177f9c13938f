"""Tests that hidden rows do not change the hits of a caller."""

from collections.abc import Callable
from typing import Any

from tests.database.rows import Connection
from tests.database.search_rows import EAST, add_notes, hits, trio


def test_hidden_rows_change_neither_hits_nor_scores(notes: Connection, role: Callable[..., Any]) -> None:
    trio(notes)
    notes.execute("alter table notes enable row level security")
    notes.execute("create policy p on notes for select to anon using (kind <> 'secret')")

    def asked() -> list[Any]:
        with role("anon") as anon:
            return [
                hits(anon, text, vector, fusion=fusion)
                for text in ("piano", "piano sonata zither", "zither", "quiet drums")
                for vector in (None, EAST)
                for fusion in ("weighted", "rrf")
            ]

    notes.execute("analyze notes")
    before = asked()
    add_notes(
        notes,
        *((100 + row, "zither piano sonata quiet quiet", "secret", 1, "[1,0.1,0]", "tiny") for row in range(2500)),
    )
    assert asked() == before
    notes.execute("analyze notes")
    assert asked() == before


def test_statistics_are_returned_only_to_a_role_that_sees_every_row(
    notes: Connection, role: Callable[..., Any]
) -> None:
    trio(notes)
    notes.execute("analyze notes")

    def has_statistics(name: str) -> bool:
        with role(name) as caller:
            found = caller.execute("select * from embedding.lexeme_statistics('notes', '{piano}')").fetchall()
        return bool(found)

    assert has_statistics("anon")
    notes.execute("alter table notes enable row level security")
    assert not has_statistics("anon")
    assert has_statistics("service_role")
    notes.execute("create policy part on notes for select to anon using (kind <> 'secret')")
    assert not has_statistics("anon")
    notes.execute("create policy whole on notes for select to anon using (true)")
    assert has_statistics("anon")
    notes.execute("create policy less on notes as restrictive for select to anon using (kind <> 'secret')")
    assert not has_statistics("anon")
    notes.execute("drop policy less on notes; revoke select on notes from anon")
    assert not has_statistics("anon")
