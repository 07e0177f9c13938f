"""Names the shipped collections, which a database may lack, and explains errors that follow if it lacks one."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.database.base import Database
from shared.embedding.collection import list_embedding_collections
from shared.errors import DatabaseContractError, NotFound

SHIPPED = ("music_knowledge", "mir_synonyms", "datasets", "code_chunks")


@contextmanager
def needs_collection(database: Database, collection: str) -> Iterator[None]:
    """If the block fails because the database lacks the collection, raise NotFound with the command that adds it.

    The database is queried only after an error, so a block without an error takes no extra time.
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
