"""POST /api/webhooks/synonyms: generates synonyms when a tag was inserted or renamed."""

from fastapi import APIRouter

from functions.http.app import create_function
from functions.http.auth import NeedsWebhookSecret, ServicesOf
from functions.http.routes import Route, takes_large_body
from functions.http.schemas import DatabaseWebhook
from functions.http.synonym_schemas import GenerationAccepted, accepted, skipped
from shared.errors import InvalidRequest
from shared.synonyms.store import TagType

router = APIRouter(tags=["webhooks"], dependencies=[NeedsWebhookSecret], route_class=Route)

TABLES: dict[str, TagType] = {"genre_tags": "genre", "mood_tags": "mood"}


@router.post("/api/webhooks/synonyms", status_code=202)
@takes_large_body
def receive_tag(body: DatabaseWebhook, services: ServicesOf) -> GenerationAccepted:
    """Generate synonyms for the tag's current name in the background; a late or repeated delivery does no harm."""
    tag_type = TABLES.get(body.table)
    if tag_type is None or body.schema_name != "public":
        raise InvalidRequest(f"table: this webhook is for public.{' and public.'.join(TABLES)}, not {body.table!r}")
    tag_id = (body.record or {}).get("id")
    if body.type == "DELETE":
        return skipped("the tag was deleted together with its synonyms")
    if not isinstance(tag_id, int) or isinstance(tag_id, bool):
        raise InvalidRequest("record.id: the tag's key is missing")
    if not services.synonym_requests.has_generator:
        return skipped("no generator is set up; write its synonyms with POST /api/synonyms")
    return accepted(*services.synonym_requests.start(tag_type, [tag_id]))


app, handler = create_function("synonyms_webhook", router)
