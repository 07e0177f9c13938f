"""Compares random operations on tags and synonyms with a model in memory: no answer is stale."""

from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from shared.cache import Cache
from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.errors import Conflict, NotFound
from shared.search.search import SearchService
from shared.synonyms.service import SynonymService
from shared.synonyms.store import SynonymStore
from tests.database.rows import Connection, embed_all
from tests.fake_provider import FakeProvider

# Words that have the same stem in both languages and occur in no other tag.
NAMES = ("zouk", "polka", "tango", "salsa")
WORDS = ("karibik", "drumkit", "flugel", "bongo", "kazoo")


@dataclass
class Row:
    """The model's state of a tag."""

    name: str
    words: tuple[str, ...] | None = None
    active: bool = False
    renamed_from: str | None = None
    synonyms_id: int | None = None
    embedded: bool = field(default=False)


class Operations(RuleBasedStateMachine):
    owner: Connection
    database: PostgresDatabase
    provider: FakeProvider

    def __init__(self) -> None:
        super().__init__()
        self.owner.execute("delete from genre_tags")
        self.work = Collection(self.database, "mir_synonyms")
        self.work.register_embedding_model(self.provider.spec)
        # Register the model first, because a search reads the models of a collection only every two seconds.
        self.work.register_embedding_model(self.provider.spec, use=True)
        # Use one service for all operations, as a server does.
        self.store = SynonymStore(self.database)
        self.service = SynonymService(
            self.database, SearchService(self.database, ModelProviders(lambda: self.provider)), Cache()
        )
        self.tags: dict[int, Row] = {}

    def pick(self, number: int) -> tuple[int, Row]:
        keys = sorted(self.tags)
        key = keys[number % len(keys)]
        return key, self.tags[key]

    def free(self, name: str) -> bool:
        return name not in {row.name for row in self.tags.values()}

    @rule(name=st.sampled_from(NAMES))
    def insert(self, name: str) -> None:
        if self.free(name):
            ((key,),) = self.owner.execute("insert into genre_tags (name) values (%s) returning id", [name]).fetchall()
            self.tags[int(key)] = Row(name)

    @precondition(lambda self: self.tags)
    @rule(number=st.integers(0, 3), words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=2, unique=True))
    def write(self, number: int, words: list[str]) -> None:
        key, row = self.pick(number)
        try:
            stored = self.store.create_synonyms("genre", {"search_terms": words}, tag_id=key)
        except Conflict:
            assert row.active
            return
        assert not row.active
        row.words, row.active, row.renamed_from, row.synonyms_id, row.embedded = (
            tuple(words),
            True,
            None,
            stored["id"],
            False,
        )

    @precondition(lambda self: self.tags)
    @rule(number=st.integers(0, 3), words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=2, unique=True))
    def edit(self, number: int, words: list[str]) -> None:
        _, row = self.pick(number)
        if row.synonyms_id is None:
            with pytest.raises(NotFound):
                self.store.update_synonyms(10**12, synonyms={"search_terms": words})
            return
        self.store.update_synonyms(row.synonyms_id, synonyms={"search_terms": words})
        row.active = row.active or row.renamed_from is not None
        row.renamed_from = None if row.active else row.renamed_from
        row.embedded = row.embedded and row.words == tuple(words)
        row.words = tuple(words)

    @precondition(lambda self: self.tags)
    @rule(number=st.integers(0, 3), active=st.booleans())
    def switch(self, number: int, active: bool) -> None:
        _, row = self.pick(number)
        if row.synonyms_id is None:
            return
        if active:
            self.store.update_synonyms(row.synonyms_id, is_active=True)
            row.active, row.renamed_from = True, None
        else:
            self.store.update_synonyms(row.synonyms_id, is_active=False)
            row.active, row.embedded = False, False

    @precondition(lambda self: self.tags)
    @rule(number=st.integers(0, 3), name=st.sampled_from(NAMES))
    def rename(self, number: int, name: str) -> None:
        key, row = self.pick(number)
        if name != row.name and not self.free(name):
            with pytest.raises(psycopg.errors.UniqueViolation):
                self.owner.execute("update genre_tags set name = %s where id = %s", [name, key])
            return
        self.owner.execute("update genre_tags set name = %s where id = %s", [name, key])
        if name == row.name or row.synonyms_id is None:
            row.name = name
            return
        if row.active:
            row.active, row.renamed_from, row.embedded = False, row.name, False
        elif row.renamed_from == name:
            row.active, row.renamed_from = True, None
        row.name = name

    @precondition(lambda self: self.tags)
    @rule(number=st.integers(0, 3))
    def delete(self, number: int) -> None:
        key, _ = self.pick(number)
        self.owner.execute("delete from genre_tags where id = %s", [key])
        del self.tags[key]

    @rule()
    def embed(self) -> None:
        embed_all(self.work, self.provider)
        for row in self.tags.values():
            row.embedded = row.active

    @invariant()
    def every_answer_is_the_models(self) -> None:
        for name in NAMES:
            expected = next((row for row in self.tags.values() if row.name == name and row.active), None)
            if expected is None:
                with pytest.raises(NotFound):
                    self.service.get("genre", name)
            else:
                assert tuple(self.service.get("genre", name)["synonyms"]["search_terms"]) == expected.words
        for word in (*NAMES, *WORDS):
            hits = self.service.search(word, limit=50).hits
            by_full_text = {hit["tag_name"] for hit in hits if hit["full_text_rank"] is not None}
            by_semantic = {hit["tag_name"] for hit in hits if hit["semantic_rank"] is not None}
            active = [row for row in self.tags.values() if row.active]
            assert by_full_text == {row.name for row in active if word == row.name or word in (row.words or ())}
            assert by_semantic == {row.name for row in active if row.embedded}

    @invariant()
    def no_vector_is_of_another_text(self) -> None:
        assert self.work.verify_embeddings() == 0
        held = self.owner.execute("select tag_name from mir_synonyms where embedding is not null").fetchall()
        assert {row[0] for row in held} == {row.name for row in self.tags.values() if row.embedded}


def test_no_stale_synonym_vector_or_cached_answer_is_ever_given(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    Operations.owner, Operations.database, Operations.provider = owner, database, provider
    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
