"""Helpers of the contract tests."""

from shared.database.base import Database
from shared.embedding.collection import Collection
from tests.database.rows import MUSIC
from tests.fake_provider import FakeProvider


def register(database: Database, provider: FakeProvider) -> Collection:
    work = Collection(database, MUSIC)
    work.register_embedding_model(provider.spec)
    return work
