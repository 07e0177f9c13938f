"""Describes to users what is wrong with a server's providers, and how to fix it."""

import logging

from pydantic import BaseModel, Field

from functions.services import Services
from shared.embedding.model_providers import Failure
from shared.errors import AppError, BudgetSpent, ConfigurationError, DatabaseError, ProviderUnavailable

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Something that is missing, and how to fix it."""

    code: str = Field(examples=["database_gone"])
    message: str = Field(examples=["The database does not answer."])
    fix: str


_START_PROVIDER = {
    "onnx": "The model runs inside the server; the server's log says why it could not be used.",
    "ollama": "Start it with ollama serve, pull the model, and check that OLLAMA_URL leads to it.",
    "openai": "Check the connection and OPENAI_BASE_URL.",
}


def provider_problems(services: Services) -> list[Problem]:
    """The providers that fail, each with its model. An error of the database, which stores the budget, is left out.

    The text of the error and the affected collections are included only if the server needs no key.
    """
    failures = [failure for failure in services.providers.failures() if not isinstance(failure.error, DatabaseError)]
    return [_provider_problem(services, failure) for failure in failures]


def _provider_problem(services: Services, failure: Failure) -> Problem:
    error, spec, settings = failure.error, failure.spec, services.settings
    kind: str = spec.provider if spec else settings.embedding_provider
    name = f"{kind} of the model {spec.name}" if spec else kind
    effect = "search is full-text only, and nothing is embedded"
    if isinstance(error, ConfigurationError):
        message = f"The provider {name} is not set up."
        fix = "Check EMBEDDING_PROVIDER, EMBEDDING_MODEL and its key, then start the server again. Its log has the reason."
    elif isinstance(error, BudgetSpent):
        message = f"The budget of the day does not allow the next call of {name}: {effect}."
        fix = (
            "It starts again at 00:00 UTC. To go on before, raise EMBEDDING_BUDGET_PER_DAY and start the server again."
        )
    elif isinstance(error, ProviderUnavailable):
        message = f"The provider {name} cannot be reached: {effect}."
        fix = _START_PROVIDER.get(kind, "The server's log has the reason.")
    else:
        message = f"The provider {name} does not answer correctly: {effect}."
        fix = "The server's log has the reason."
    if not services.needs_key and not isinstance(error, BudgetSpent):
        tables = _collections(services, spec.name) if spec else []
        concerned = f" (collections: {', '.join(tables)})" if tables else ""
        fix = f"{fix} The error: {error.message}{concerned}"
    return Problem(code=error.code, message=message, fix=fix)


def _collections(services: Services, model: str) -> list[str]:
    try:
        rows = services.database.call("list_embedding_collections")
    except AppError as error:
        log.warning("cannot name the collections of a model: %s", error.message)
        return []
    return [row["collection"] for row in rows if row["model"] == model]
