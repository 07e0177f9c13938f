"""The shipped collections. Each is optional in a database."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.database.base import Database
from shared.embedding.collection import list_embedding_collections
from shared.errors import DatabaseContractError, NotFound

SHIPPED = ("music_knowledge", "mir_synonyms", "datasets", "code_chunks")


@contextmanager
def needs_collection(database: Database, collection: str) -> Iterator[None]:
    """If the block fails because this database lacks the collection, raises NotFound with the command that adds it.

    The database is asked only after a failure, so success costs nothing.
    """
    try:
        yield
    except (DatabaseContractError, NotFound):
        if collection in SHIPPED and collection not in list_embedding_collections(database):
            raise NotFound(
                f"collection: this database was set up without {collection!r}; "
                f"add it with scripts/migrate.py --collections {collection}"
            ) from None
        raise
