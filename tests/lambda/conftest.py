"""Fixtures that run the handlers under Lambda's runtime client."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from tests.functions.conftest import API_KEY, HIDDEN, JWT_SECRET, WEBHOOK_SECRET
from tests.lambda_runtime import LambdaFunction, Start
from tests.protocol_server import ProtocolServer


@pytest.fixture
def openai_server() -> Iterator[ProtocolServer]:
    with ProtocolServer() as server:
        yield server


@pytest.fixture
def start(database_url: SecretStr, openai_server: ProtocolServer) -> Iterator[Start]:
    """`start("search")` runs the function under awslambdaric; its output is scanned for secrets at the end."""
    started: list[LambdaFunction] = []
    with ExitStack() as stack:

        def begin(name: str, **environment: str) -> LambdaFunction:
            settings = {
                "DATABASE_URL": database_url.get_secret_value(),
                "EMBEDDING_PROVIDER": "openai",
                "OPENAI_BASE_URL": openai_server.openai_url,
                "FUNCTIONS_API_KEY": API_KEY,
                "WEBHOOK_SECRET": WEBHOOK_SECRET,
                "SUPABASE_JWT_SECRET": JWT_SECRET,
                **environment,
            }
            function = stack.enter_context(LambdaFunction(f"functions.{name}.handler", settings))
            started.append(function)
            return function

        yield begin
    for function in started:
        for secret in HIDDEN:
            assert secret not in function.output, "a secret came out"
