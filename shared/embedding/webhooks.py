"""Embeds the row that a database webhook reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.database.base import Database
from shared.deadline import Deadline
from shared.embedding.collection import list_embedding_collections
from shared.embedding.rows import RowEmbedder, RowToEmbed
from shared.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RowEvent:
    """An event that Supabase sends. `kind` is INSERT, UPDATE or DELETE; `record` is the row, or None after a delete."""

    kind: str
    schema: str
    table: str
    record: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class EventReport:
    """The result of an event. `message` describes it; `failed` contains (id, reason) if the provider refused the text."""

    processed: int
    updated: int
    failed: Sequence[tuple[str, str]]
    message: str


def embed_event(
    database: Database, embedder: RowEmbedder, event: RowEvent, batch_id: str, *, deadline: Deadline | None = None
) -> EventReport:
    """Embed the row of an event if it is still pending.

    A repeated or late event does no harm, because the row's current text is embedded. Raises InvalidRequest for a table
    that is not tracked, and the errors of RowEmbedder.embed_rows.
    """
    collection = event.table if event.schema == "public" else f"{event.schema}.{event.table}"
    collections = list_embedding_collections(database)
    if collection not in collections:
        raise InvalidRequest(
            f"table: {collection!r} is not tracked; track it with select track_embeddings('{collection}')"
        )
    if event.kind == "DELETE":
        return EventReport(0, 0, [], "the row was deleted, and its vector with it")
    key = collections[collection]
    row_id = (event.record or {}).get(key)
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        raise InvalidRequest(f"record.{key}: the row's key is missing")
    report = embedder.embed_rows(collection, [RowToEmbed(str(row_id))], batch_id, deadline=deadline)
    # Report only a refused text as failed. If the row was deleted, has no text, or is leased to another worker, a second
    # delivery of the event would not help.
    failed = [(row, text) for row, text in report.failed if row in report.refused]
    message = "the row has a new vector" if report.updated else "the row had its vector already"
    for row, text in report.failed:
        message = f"the row is not embedded: {text}" if row in report.refused else text
    return EventReport(report.processed, report.updated, failed, message)
