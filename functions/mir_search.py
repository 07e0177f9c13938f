"""POST /api/mir/synonyms/search: tags by what people call them."""

from fastapi import APIRouter
from mangum import Mangum

from functions.edge.app import create_app
from functions.edge.auth import OPTIONAL_TOKEN, CallerOf, ProcessOf
from functions.edge.schemas import Body
from functions.edge.synonym_schemas import Limit, Question, SynonymAnswer, TagType, synonym_answer

router = APIRouter(prefix="/api/mir/synonyms", tags=["synonyms"])


class SynonymSearch(Body):
    query: Question
    tag_type: TagType | None = None
    limit: Limit = 10


@router.post("/search", openapi_extra=OPTIONAL_TOKEN)
def search_mir_synonyms(body: SynonymSearch, process: ProcessOf, caller: CallerOf) -> SynonymAnswer:
    """Genres and moods by words and by meaning, in English or French, with every part of the score."""
    found = process.synonyms.search(body.query, tag_type=body.tag_type, limit=body.limit, caller=caller)
    return synonym_answer(body.query, found)


app = create_app("mir_search", router)
handler = Mangum(app, lifespan="off")
