"""GET /health and GET /ready: liveness and readiness of the server."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from functions.http.app import create_function
from functions.http.auth import ServicesOf
from functions.http.problems import Problem, provider_problems
from functions.http.routes import Route
from functions.services import Services
from shared.errors import AppError, BudgetSpent
from shared.models import EmbeddingModel

router = APIRouter(tags=["health"], route_class=Route)

PROBE_SECONDS = 1.0


class Health(BaseModel):
    """`embedding_dim` and `model` are null while they are unknown, for example until the model is loaded.

    The status is `degraded` if the server answers, but a provider failed in its latest call or cannot be created.
    `problems` names these providers.
    """

    status: Literal["ok", "degraded", "unavailable"]
    model_loaded: bool
    embedding_dim: int | None = Field(examples=[384])
    provider: str = Field(examples=["onnx"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    database: Literal["ok", "unavailable"]
    problems: list[Problem]


UNAVAILABLE: dict[int | str, dict[str, object]] = {
    503: {"model": Health, "description": "The database does not answer."}
}


@router.head("/health", include_in_schema=False)
@router.get("/health", responses=UNAVAILABLE)
def health(services: ServicesOf, response: Response) -> Health:
    """Answer 200 if the process reaches its database, else 503. This loads no model.

    If a provider fails, the answer is still 200, with the status `degraded`: full-text search goes on. With a 503, an
    outage of the provider would take every server out of the load balancer at once.
    """
    up = services.health.database_is_up()
    response.status_code = 200 if up else 503
    settings = services.settings
    problems = provider_problems(services)
    model = _loaded_model(services)
    return Health(
        status="unavailable" if not up else "degraded" if problems else "ok",
        model_loaded=model is not None and services.provider_check.latest().error is None,
        embedding_dim=model.dimensions if model else settings.embedding_dimensions,
        provider=model.provider if model else settings.embedding_provider,
        model=model.name if model else settings.embedding_model,
        database="ok" if up else "unavailable",
        problems=problems,
    )


def _loaded_model(services: Services) -> EmbeddingModel | None:
    if not services.provider_is_made:
        return None
    # Imported here, because a health check on Lambda creates no provider and so does not need it.
    from shared.deadline import Deadline

    try:
        # Ask Ollama for the number of dimensions if it is not known. The time limit lets this route answer if Ollama hangs.
        return services.embedding.spec(Deadline(PROBE_SECONDS))
    except AppError:
        return None


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses=UNAVAILABLE)
def ready(services: ServicesOf, response: Response) -> Health:
    """Like /health, but 503 until the configured provider answers: for load balancers that wait for the model.

    A server whose budget of the day is spent is ready, because it goes on to search by full text.
    """
    provider = services.provider_check.state()
    answer = health(services, response)
    answer.model_loaded = provider.model is not None
    if not answer.model_loaded and not isinstance(provider.error, BudgetSpent):
        response.status_code = 503
        answer.status = "unavailable"
    return answer


app, handler = create_function("health", router)
