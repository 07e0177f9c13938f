"""The collections that come with the project, each of which a database may be set up without."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.database.base import Database
from shared.embedding.collection import list_embedding_collections
from shared.errors import DatabaseContractError, NotFound

SHIPPED = ("music_knowledge", "mir_synonyms", "datasets", "code_chunks")


@contextmanager
def needs_collection(database: Database, collection: str) -> Iterator[None]:
    """Raises NotFound with the remedy where something fails because the database was set up without this collection.

    Only a failure is looked into: where all is well this costs nothing.
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
